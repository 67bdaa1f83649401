//! Jobs: `jobs/<Entity>.yaml` as written ([`written`]) → settings as meant ([`Job`]). The border between the two is [`Job::load`].
//!
//! Defaults live in `written`; everything behind the border is checked, typed and unit-bearing. A job is then checked against
//! its contract ([`Job::check_against`]): keys, event time and derivations must name properties of the right type.

pub mod care;
pub mod deploy;
mod written;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::contract::predicate::Predicate;
use crate::contract::{Contract, Type};
use crate::domain::{Mistake, PartitionColumn, Source};

pub use care::{ClusterBy, Compact};
pub use deploy::Deploy;

#[derive(Debug, thiserror::Error)]
pub enum LoadJobError {
    #[error("no job for entity `{entity}`: {} does not exist (known entities: {})", path.display(), known.join(", "))]
    UnknownEntity { entity: String, path: PathBuf, known: Vec<String> },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Mistake(Box<Mistake>),
    #[error("{} is the job of entity `{found}`, by its name it is that of `{entity}`: rename one of them", path.display())]
    OtherEntity { path: PathBuf, entity: String, found: String },
    #[error("there is no job in {}: --jobs names the folder of the job files", path.display())]
    None { path: PathBuf },
    #[error("job `{entity}` knows no country `{country}` (known: {})", known.join(", "))]
    UnknownCountry { entity: String, country: String, known: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    Path,
    Payload,
    Either,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    Quarantine,
    Path,
    Payload,
}

/// The truth about one column that may stand in the path, in the payload or in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRule {
    pub place: Where,
    pub on_conflict: OnConflict,
    /// A TIMESTAMP property to take it from if neither has it.
    pub derive: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    Rescue,
    Ignore,
    Quarantine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChangedObject {
    Reread,
    Ignore,
    Stop,
}

/// What a record does to the row of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Records never change: the first one stays, an equal one is a duplicate, another one a conflict.
    Append,
    /// The latest record of a key is its row.
    Upsert(Upsert),
    /// The records of one path day replace a database's rows.
    Snapshot {
        /// Time after the end of a path day from which on it is read.
        settle_after: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upsert {
    /// Properties that say which of two records of a key is later, before arrival does.
    pub order_by: Vec<String>,
    /// An SQL condition over contract properties that makes a record a delete.
    pub delete_when: Option<String>,
    /// How long a delete is remembered.
    pub tombstone_retention: Duration,
}

/// When a batch is not committed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Rejects ÷ records read.
    pub max_reject_share: f64,
    /// The share stops nothing below this many rejects.
    pub share_from: u64,
    pub max_reject_count: Option<u64>,
    pub warn_share: f64,
}

/// Which folders of days a run lists anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revisit {
    /// A day that was over for longer than this is left out …
    pub within: Duration,
    /// … but by every n-th run of a source.
    pub every: u64,
}

/// The bounds of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one record.
    pub record: u64,
    /// Levels of one record.
    pub nesting: usize,
    /// Decoded bytes of one object, at most.
    pub decoded: u64,
    /// Decoded bytes that every object may have, whatever its ratio.
    pub decoded_floor: u64,
    /// Decoded ÷ stored bytes.
    pub decoded_ratio: u64,
    /// Stored bytes of a zip object.
    pub archive: u64,
    /// Stored bytes of one batch.
    pub batch: u64,
    pub batch_objects: usize,
    /// Parquet files open at once.
    pub open_partitions: usize,
    /// Bytes of a row group while that many files are open, where memory allows no more.
    pub row_group: u64,
    /// Bytes of a batch's rows that wait in memory until all of them are read; the rest waits on local disk.
    pub spool: u64,
    /// Bytes that the table's keys may take which an append batch is compared with; where they are more the batch is read twice.
    pub table_keys: u64,
}

impl Limits {
    /// Decoded bytes that an object of `stored` bytes may have.
    pub fn decoded_of(&self, stored: u64) -> u64 {
        self.decoded.min(self.decoded_floor.max(self.decoded_ratio.saturating_mul(stored)))
    }
}

/// How silver's files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Bytes at which a file is closed.
    pub file: u64,
    /// Encoded bytes of a row group.
    pub row_group: u64,
    /// The same in files whose rows are clustered: a search that a row group's bounds rule out need not read it.
    pub clustered_row_group: u64,
    /// Of ZSTD.
    pub compression_level: i32,
    /// The same in files that were put together, which are written once and read often.
    pub compaction_level: i32,
    /// Rows of a page at most; until a page is full each of its texts costs eight bytes, in every open file.
    pub page_rows: usize,
    /// Commits after which the log is folded into a checkpoint.
    pub checkpoint_every: u64,
    /// How long versions stay readable: older commits that a checkpoint covers leave the log.
    pub log_retention: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// A claim that is not renewed for this long may be taken over.
    pub duration: Duration,
    /// How long a commit is tried against other writers.
    pub commit_deadline: Duration,
}

/// One entity's job, as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub entity: String,
    database: String,
    pub countries: Vec<String>,
    pub mode: Mode,
    /// Top-level properties; the database is always part of the key.
    pub key: Vec<String>,
    pub event_time: Option<String>,
    pub partition_by: Vec<String>,
    /// The job vouches that the records of a key all have the same event date.
    pub event_time_is_fixed: bool,
    /// Where an API envelope keeps its records: the tokens of each JSON Pointer.
    pub records_at: Vec<Vec<String>>,
    partitions: [PartitionRule; 5],
    pub unknown_fields: UnknownFields,
    pub on_changed_object: OnChangedObject,
    /// `None`: every run lists all days.
    pub revisit: Option<Revisit>,
    pub gate: Gate,
    pub limits: Limits,
    pub table: Table,
    /// When and how files are put together.
    pub compact: Compact,
    /// How rows lie in compacted files.
    pub cluster_by: Option<ClusterBy>,
    pub lease: Lease,
    /// How its container task runs.
    pub deploy: Deploy,
    /// Changes whenever the file's content does.
    pub fingerprint: String,
    /// The file, for mistakes that only its contract shows.
    file: String,
    text: String,
}

impl Job {
    /// Reads `dir/<entity>.yaml`.
    pub fn load(dir: &Path, entity: &str) -> Result<Self, LoadJobError> {
        let path = dir.join(format!("{entity}.yaml"));
        let plain = entity.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        match std::fs::read_to_string(&path) {
            Ok(text) if plain => {
                let job = Self::from_text(&path.display().to_string(), text).map_err(|mistake| LoadJobError::Mistake(Box::new(mistake)))?;
                if job.entity == entity {
                    Ok(job)
                } else {
                    Err(LoadJobError::OtherEntity { path, entity: entity.to_owned(), found: job.entity })
                }
            }
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(LoadJobError::Read { path, source }),
            _ => Err(LoadJobError::UnknownEntity { entity: entity.to_owned(), known: known_entities(dir).unwrap_or_default(), path }),
        }
    }

    pub fn from_text(file: &str, text: String) -> Result<Self, Mistake> {
        written::JobFile::parse(file, &text)?.meant(file, text)
    }

    /// The source of a country.
    pub fn source(&self, country: &str) -> Result<Source, LoadJobError> {
        if !self.countries.iter().any(|known| known == country) {
            return Err(LoadJobError::UnknownCountry {
                entity: self.entity.clone(),
                country: country.to_owned(),
                known: self.countries.clone(),
            });
        }
        Ok(Source { entity: self.entity.clone(), database: self.database.replace("{country}", country) })
    }

    pub fn partition(&self, column: PartitionColumn) -> &PartitionRule {
        &self.partitions[column as usize]
    }

    /// Upserts keep the order of each row's record in the table.
    pub fn upsert(&self) -> Option<&Upsert> {
        match &self.mode {
            Mode::Upsert(upsert) => Some(upsert),
            _ => None,
        }
    }

    /// One path day is one batch.
    pub fn is_snapshot(&self) -> bool {
        matches!(self.mode, Mode::Snapshot { .. })
    }

    pub fn partitioned_by_date(&self) -> bool {
        self.partition_by.iter().any(|column| column == "event_date")
    }

    /// Every property that the job names exists in the contract's newest version, with a type that serves.
    pub fn check_against(&self, contract: &Contract) -> Result<(), Mistake> {
        let root = &contract.latest().root;
        for name in &self.key {
            match root.property(name).map(|property| &property.shape.ty) {
                None => return Err(self.mistake(name, format!("key property `{name}` is not in the contract of {}", self.entity))),
                Some(Type::Struct(_) | Type::Map(_) | Type::List(_) | Type::Json { .. } | Type::Double) => {
                    return Err(self.mistake(name, format!("key property `{name}` has a type that cannot be a key")));
                }
                Some(_) => {}
            }
        }
        if let Mode::Upsert(upsert) = &self.mode {
            // Columns of the table of tombstones, whose names no key column may have.
            const MARKS: [&str; 6] = ["database", "order", "kind", "batch", "marked_at", "marked_on"];
            if let Some(name) = self.key.iter().find(|name| MARKS.iter().any(|mark| name.eq_ignore_ascii_case(mark))) {
                return Err(self
                    .mistake(name, format!("key property `{name}` has the name of a column of the tombstones; rename it with x-upcast")));
            }
            for name in &upsert.order_by {
                match root.property(name).map(|property| &property.shape.ty) {
                    Some(Type::Timestamp { .. } | Type::Date | Type::Long | Type::Duration | Type::Text) => {}
                    Some(_) => {
                        return Err(self.mistake(
                            name,
                            format!("`{name}` has a type that orders nothing; order_by takes TIMESTAMP, DATE, LONG and STRING"),
                        ));
                    }
                    None => return Err(self.mistake(name, format!("order_by property `{name}` is not in the contract of {}", self.entity))),
                }
            }
            if let Some(condition) = &upsert.delete_when
                && let Err(error) = Predicate::compile(condition, contract)
            {
                return Err(self.mistake(condition, format!("delete_when: {error}")));
            }
        }
        for name in self.cluster_by.iter().flat_map(ClusterBy::columns) {
            match root.property(name).map(|property| &property.shape.ty) {
                None => return Err(self.mistake(name, format!("cluster_by property `{name}` is not in the contract of {}", self.entity))),
                Some(Type::Struct(_) | Type::Map(_) | Type::List(_) | Type::Json { .. }) => {
                    return Err(self.mistake(name, format!("`{name}` has a type that orders nothing; cluster_by takes plain types")));
                }
                Some(_) => {}
            }
        }
        let instants = PartitionColumn::ALL.iter().filter_map(|column| self.partition(*column).derive.as_ref());
        for name in instants.chain(&self.event_time) {
            if !root.property(name).is_some_and(|property| matches!(property.shape.ty, Type::Timestamp { .. })) {
                return Err(self.mistake(name, format!("`{name}` is not a TIMESTAMP property of the contract of {}", self.entity)));
            }
        }
        Ok(())
    }

    fn mistake(&self, needle: &str, message: String) -> Mistake {
        written::mistake_at(&self.file, &self.text, needle, message, None)
    }
}

/// Entities that have a job file, sorted; there is one at least.
pub fn known_entities(dir: &Path) -> Result<Vec<String>, LoadJobError> {
    let entries = std::fs::read_dir(dir).map_err(|source| LoadJobError::Read { path: dir.to_owned(), source })?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() { Err(LoadJobError::None { path: dir.to_owned() }) } else { Ok(names) }
}

/// Entities as a person names them: `all` is every one that has a job. Each once, in order.
pub fn entities_named(dir: &Path, names: &[String]) -> Result<Vec<String>, LoadJobError> {
    let mut entities: Vec<String> = Vec::new();
    for name in trimmed(names) {
        let named = if name == "all" { known_entities(dir)? } else { vec![name.to_owned()] };
        for entity in named {
            if !entities.contains(&entity) {
                entities.push(entity);
            }
        }
    }
    Ok(entities)
}

/// The names of a list that may have spaces, and a comma too many.
pub fn trimmed(names: &[String]) -> impl Iterator<Item = &str> {
    let is_list = names.iter().any(|name| !name.trim().is_empty());
    names.iter().map(|name| name.trim()).filter(move |name| !is_list || !name.is_empty())
}

/// `16 MiB`, `64KiB`, `1 GB`, `512`: bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}

/// `120 s`, `10 min`, `500 ms`, `1 h`, `7 d`.
pub fn parse_duration_setting(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let millis: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Result<Job, String> {
        Job::from_text("jobs/X.yaml", text.to_owned()).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn entity_and_key_are_enough() {
        let job = job("entity: FaultData\nkey: [id]\n").unwrap();
        assert_eq!(job.source("de").unwrap().database, "fleetdb_de");
        assert_eq!(job.partition_by, ["database"]);
        assert_eq!(job.limits.record, 16 << 20);
        assert!(job.source("xx").is_err());
    }

    #[test]
    fn mistakes_name_their_line() {
        let unknown = job("entity: FaultData\nkey: [id]\nlimits: {recrod: 1 MiB}\n").unwrap_err();
        assert!(unknown.starts_with("jobs/X.yaml:3:"), "{unknown}");
        let unit = job("entity: FaultData\nkey: [id]\nlimits:\n  record: 1 parsec\n").unwrap_err();
        assert!(unit.starts_with("jobs/X.yaml:4:") && unit.contains("16 MiB"), "{unit}");
        let share = job("entity: FaultData\nkey: [id]\ngate:\n  max_reject_share: 3\n").unwrap_err();
        assert!(share.starts_with("jobs/X.yaml:4:"), "{share}");
        let twice = job("entity: FaultData\nkey: [id]\nmode: upsert\norder_by: [v, w, v]\n").unwrap_err();
        assert!(twice.starts_with("jobs/X.yaml:4:") && twice.contains("`v` twice"), "{twice}");
        let forgotten = job("entity: FaultData\nkey: [id]\nmode: upsert\ntombstones: {retention: 0 d}\n").unwrap_err();
        assert!(forgotten.starts_with("jobs/X.yaml:4:"), "{forgotten}");
        let never = job("entity: FaultData\nkey: [id]\nrevisit: {within: 30 d, every: 0}\n").unwrap_err();
        assert!(never.starts_with("jobs/X.yaml:3:"), "{never}");
        let unsettled = job("entity: D\nkey: [id]\nmode: snapshot\nsettle_after: 2 d\nrevisit: {within: 2 d}\n").unwrap_err();
        assert!(unsettled.starts_with("jobs/X.yaml:5:") && unsettled.contains("settled"), "{unsettled}");
        let revisit = job("entity: FaultData\nkey: [id]\nrevisit: {within: 30 d}\n").unwrap().revisit;
        assert_eq!(revisit, Some(Revisit { within: Duration::from_hours(30 * 24), every: 24 }));
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_bytes("16 MiB"), Some(16 << 20));
        assert_eq!(parse_bytes("1.5k"), Some(1536));
        assert_eq!(parse_bytes("1 parsec"), None);
        assert_eq!(parse_duration_setting("2 min"), Some(Duration::from_mins(2)));
        assert_eq!(parse_duration_setting("7"), None);
    }
}
