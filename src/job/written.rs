//! The job file as people write it, with every default; and the one way from there to what is meant.

use serde::Deserialize;

use super::care::{ClusterByFile, CompactFile};
use super::deploy::DeployFile;
use super::{
    Gate, Job, Lease, Limits, Mode, OnChangedObject, OnConflict, PartitionRule, Revisit, Table, UnknownFields, Upsert, Where, parse_bytes,
    parse_duration_setting,
};
use crate::domain::{Mistake, PartitionColumn};

const MAX_RECORD: u64 = 1 << 30;
const DAY: std::time::Duration = std::time::Duration::from_hours(24);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    entity: String,
    #[serde(default = "default_database")]
    database: String,
    #[serde(default = "default_countries")]
    countries: Vec<String>,
    #[serde(default)]
    mode: ModeFile,
    order_by: Option<Vec<String>>,
    delete_when: Option<String>,
    tombstones: Option<TombstonesFile>,
    settle_after: Option<String>,
    key: Vec<String>,
    event_time: Option<String>,
    partition_by: Option<Vec<String>>,
    #[serde(default)]
    event_time_is_fixed: bool,
    #[serde(default = "default_records_at")]
    records_at: Vec<String>,
    #[serde(default)]
    partitions: PartitionsFile,
    #[serde(default)]
    unknown_fields: UnknownFieldsFile,
    #[serde(default)]
    on_changed_object: OnChangedFile,
    revisit: Option<RevisitFile>,
    #[serde(default)]
    gate: GateFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    table: TableFile,
    #[serde(default)]
    compact: CompactFile,
    cluster_by: Option<ClusterByFile>,
    #[serde(default)]
    lease: LeaseFile,
    #[serde(default)]
    deploy: DeployFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeFile {
    #[default]
    Append,
    Upsert,
    Snapshot,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TombstonesFile {
    retention: String,
}

const TOMBSTONE_RETENTION: &str = "90 d";
const SETTLE_AFTER: &str = "1 h";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionsFile {
    #[serde(default)]
    database: PartitionFile,
    #[serde(default)]
    entity: PartitionFile,
    #[serde(default)]
    year: PartitionFile,
    #[serde(default)]
    month: PartitionFile,
    #[serde(default)]
    day: PartitionFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionFile {
    #[serde(default, rename = "where")]
    place: WhereFile,
    #[serde(default)]
    on_conflict: OnConflictFile,
    derive: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhereFile {
    Path,
    Payload,
    #[default]
    Either,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnConflictFile {
    #[default]
    Quarantine,
    Path,
    Payload,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UnknownFieldsFile {
    #[default]
    Rescue,
    Ignore,
    Quarantine,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnChangedFile {
    #[default]
    Reread,
    Ignore,
    Stop,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevisitFile {
    within: String,
    #[serde(default = "default_every")]
    every: u64,
}

fn default_every() -> u64 {
    24
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GateFile {
    max_reject_share: f64,
    share_from: u64,
    max_reject_count: Option<u64>,
    warn_share: f64,
}

impl Default for GateFile {
    fn default() -> Self {
        Self { max_reject_share: 0.10, share_from: 1000, max_reject_count: None, warn_share: 0.01 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsFile {
    record: String,
    nesting: usize,
    decoded: String,
    decoded_floor: String,
    decoded_ratio: u64,
    archive: String,
    batch: String,
    batch_objects: usize,
    open_partitions: usize,
    spool: String,
    table_keys: String,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            record: "16 MiB".to_owned(),
            nesting: 64,
            decoded: "64 GiB".to_owned(),
            decoded_floor: "64 MiB".to_owned(),
            decoded_ratio: 200,
            archive: "1 GiB".to_owned(),
            batch: "1 GiB".to_owned(),
            batch_objects: 10_000,
            open_partitions: 64,
            spool: "32 MiB".to_owned(),
            table_keys: "256 MiB".to_owned(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TableFile {
    file: String,
    row_group: String,
    clustered_row_group: String,
    compression_level: i32,
    compaction_level: i32,
    page_rows: usize,
    checkpoint_every: u64,
    log_retention: String,
}

impl Default for TableFile {
    fn default() -> Self {
        Self {
            file: "128 MiB".to_owned(),
            row_group: "32 MiB".to_owned(),
            clustered_row_group: "1 MiB".to_owned(),
            compression_level: 1,
            compaction_level: 1,
            page_rows: 8192,
            checkpoint_every: 50,
            log_retention: "30 d".to_owned(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LeaseFile {
    duration: String,
    commit_deadline: String,
}

impl Default for LeaseFile {
    fn default() -> Self {
        Self { duration: "120 s".to_owned(), commit_deadline: "10 min".to_owned() }
    }
}

fn default_database() -> String {
    "fleetdb_{country}".to_owned()
}

fn default_countries() -> Vec<String> {
    ["de", "fr", "it", "es", "uk"].map(str::to_owned).to_vec()
}

fn default_records_at() -> Vec<String> {
    vec!["/result/data".to_owned()]
}

/// A mistake at the first place where the text says `needle`, as a word of its own if there is such a place.
pub fn mistake_at(file: &str, text: &str, needle: &str, message: String, help: Option<&str>) -> Mistake {
    let is_word = |at: &usize| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let after = text.get(at + needle.len()..).and_then(|rest| rest.chars().next());
        !text.get(..*at).is_some_and(|before| before.ends_with(part)) && !after.is_some_and(part)
    };
    let at = text.match_indices(needle).map(|(at, _)| at).find(is_word).or_else(|| text.find(needle));
    let span = at.map_or(0..0, |at| at..at + needle.len());
    Mistake { file: file.to_owned(), text: text.to_owned(), span, message, help: help.map(str::to_owned) }
}

impl JobFile {
    pub fn parse(file: &str, text: &str) -> Result<Self, Mistake> {
        serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            let start = error.location().map_or(0, |location| line_column_offset(text, location.line(), location.column()));
            let end = text[start..].find(['\n', ':', ',', '}']).map_or(text.len(), |length| start + length.max(1));
            let message = error.to_string();
            Mistake {
                file: file.to_owned(),
                text: text.to_owned(),
                span: start..end,
                message: message.split(" at line").next().unwrap_or(&message).to_owned(),
                help: Some("docs/jobs.md lists every setting".to_owned()),
            }
        })
    }

    pub fn meant(self, file: &str, text: String) -> Result<Job, Mistake> {
        let fail = |needle: &str, message: &str, help: &str| mistake_at(file, &text, needle, message.to_owned(), Some(help));
        let size = |needle: &str, written: &str| match parse_bytes(written) {
            Some(bytes) if bytes > 0 => Ok(bytes),
            _ => Err(fail(needle, &format!("`{written}` is no size"), "write it like 16 MiB")),
        };
        let time = |needle: &str, written: &str| match parse_duration_setting(written) {
            Some(duration) => Ok(duration),
            _ => Err(fail(needle, &format!("`{written}` is no time"), "write it like 120 s")),
        };
        let count = |needle: &str, written: usize| match written {
            0 => Err(fail(needle, &format!("`{needle}` must be at least 1"), "docs/jobs.md says what it bounds")),
            count => Ok(count),
        };
        if self.key.is_empty() {
            return Err(fail("key", "a job needs at least one key property", "key: [id]"));
        }
        for (name, share) in [("max_reject_share", self.gate.max_reject_share), ("warn_share", self.gate.warn_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(fail(name, &format!("`{name}` is a share from 0 to 1"), "0.10 means ten percent"));
            }
        }
        if !self.database.contains("{country}") {
            return Err(fail("database", "the database template has no {country}", "database: fleetdb_{country}"));
        }
        if self.database.contains('/') {
            return Err(fail("database", "a database is one folder's name; it has no /", "database: fleetdb_{country}"));
        }
        if let Some(bad) = self.records_at.iter().find(|pointer| !pointer.starts_with('/')) {
            return Err(fail(bad, "records_at takes JSON Pointers", "records_at: [/result/data]"));
        }
        let partition_by = self.partition_by.unwrap_or_else(|| match self.event_time {
            Some(_) => vec!["database".to_owned(), "event_date".to_owned()],
            None => vec!["database".to_owned()],
        });
        match partition_by.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["database"] => {}
            ["database", "event_date"] if self.event_time.is_some() => {}
            ["database", "event_date"] => return Err(fail("partition_by", "event_date needs an event_time", "event_time: dateTime")),
            _ => {
                return Err(fail(
                    "partition_by",
                    "a table is partitioned by database, or by database and event_date",
                    "partition_by: [database, event_date]",
                ));
            }
        }
        if self.event_time_is_fixed && self.event_time.is_none() {
            return Err(fail("event_time_is_fixed", "there is no event_time that could be fixed", "event_time: dateTime"));
        }
        let limits = Limits {
            record: size("record:", &self.limits.record)?,
            nesting: count("nesting", self.limits.nesting)?,
            decoded: size("decoded:", &self.limits.decoded)?,
            decoded_floor: size("decoded_floor", &self.limits.decoded_floor)?,
            decoded_ratio: self.limits.decoded_ratio.max(1),
            archive: size("archive", &self.limits.archive)?,
            batch: size("batch:", &self.limits.batch)?,
            batch_objects: count("batch_objects", self.limits.batch_objects)?,
            open_partitions: count("open_partitions", self.limits.open_partitions)?,
            spool: size("spool", &self.limits.spool)?,
            table_keys: size("table_keys", &self.limits.table_keys)?,
            row_group: u64::MAX,
        };
        if limits.record > MAX_RECORD {
            return Err(fail("record:", "limits.record is at most 1 GiB", "offsets within a record have 32 bits"));
        }
        let table = Table {
            file: size("file:", &self.table.file)?,
            row_group: size("row_group", &self.table.row_group)?,
            clustered_row_group: size("clustered_row_group", &self.table.clustered_row_group)?,
            compression_level: self.table.compression_level,
            compaction_level: self.table.compaction_level,
            page_rows: count("page_rows", self.table.page_rows)?,
            checkpoint_every: self.table.checkpoint_every,
            log_retention: time("log_retention", &self.table.log_retention)?,
        };
        if table.checkpoint_every == 0 {
            return Err(fail("checkpoint_every", "a checkpoint after no commit at all is none", "checkpoint_every: 50"));
        }
        for (name, level) in [("compression_level", table.compression_level), ("compaction_level", table.compaction_level)] {
            if !(1..=22).contains(&level) {
                return Err(fail(name, "ZSTD has levels 1 to 22", &format!("{name}: 1")));
            }
        }
        let lease = Lease {
            duration: time("duration", &self.lease.duration)?,
            commit_deadline: time("commit_deadline", &self.lease.commit_deadline)?,
        };
        if lease.duration.is_zero() {
            return Err(fail("duration", "a lease of no time is no lease", "duration: 120 s"));
        }
        let upsert_only =
            [("order_by", self.order_by.is_some()), ("delete_when", self.delete_when.is_some()), ("tombstones", self.tombstones.is_some())];
        let misplaced = match self.mode {
            ModeFile::Upsert => self.settle_after.as_ref().map(|_| ("settle_after", "snapshot")),
            ModeFile::Append => upsert_only
                .iter()
                .find(|(_, given)| *given)
                .map(|(name, _)| (*name, "upsert"))
                .or(self.settle_after.as_ref().map(|_| ("settle_after", "snapshot"))),
            ModeFile::Snapshot => upsert_only.iter().find(|(_, given)| *given).map(|(name, _)| (*name, "upsert")),
        };
        if let Some((name, mode)) = misplaced {
            return Err(fail(name, &format!("`{name}` means something in mode {mode} only"), &format!("mode: {mode}")));
        }
        let order_by = self.order_by.unwrap_or_default();
        if let Some(name) = order_by.iter().enumerate().find(|(at, name)| order_by[..*at].contains(name)).map(|(_, name)| name) {
            return Err(fail(
                name,
                &format!("order_by names `{name}` twice; the second one decides nothing"),
                &format!("order_by: [{name}]"),
            ));
        }
        let retention = time("retention", self.tombstones.as_ref().map_or(TOMBSTONE_RETENTION, |file| &file.retention))?;
        if retention.is_zero() {
            return Err(fail(
                "retention",
                "a delete that is not remembered at all lets older records bring its row back",
                "retention: 90 d",
            ));
        }
        let mode = match self.mode {
            ModeFile::Append => Mode::Append,
            ModeFile::Upsert => Mode::Upsert(Upsert { order_by, delete_when: self.delete_when, tombstone_retention: retention }),
            ModeFile::Snapshot => {
                Mode::Snapshot { settle_after: time("settle_after", self.settle_after.as_deref().unwrap_or(SETTLE_AFTER))? }
            }
        };
        let revisit = match &self.revisit {
            Some(written) => Some(Revisit { within: time("within", &written.within)?, every: written.every }),
            None => None,
        };
        if revisit.is_some_and(|revisit| revisit.every == 0) {
            return Err(fail("every", "by every 0th run nothing would ever be listed again", "every: 24"));
        }
        if let (Some(revisit), Mode::Snapshot { settle_after }) = (revisit, &mode)
            && revisit.within < *settle_after + DAY
        {
            let message = "a day would be left out before it has settled: `within` must be longer than settle_after by a day";
            return Err(fail("within", message, "revisit: {within: 45 d}"));
        }
        let deploy = self.deploy.meant(&fail)?;
        let compact = self.compact.meant(&fail)?;
        let cluster_by = self.cluster_by.map(|written| written.meant(&fail)).transpose()?;
        let PartitionsFile { database, entity, year, month, day } = self.partitions;
        Ok(Job {
            fingerprint: format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes())),
            entity: self.entity,
            database: self.database,
            countries: self.countries,
            mode,
            key: self.key,
            event_time: self.event_time,
            partition_by,
            event_time_is_fixed: self.event_time_is_fixed,
            records_at: self.records_at.iter().map(|pointer| crate::contract::pointer(pointer)).collect(),
            partitions: [database, entity, year, month, day].map(PartitionFile::meant),
            unknown_fields: match self.unknown_fields {
                UnknownFieldsFile::Rescue => UnknownFields::Rescue,
                UnknownFieldsFile::Ignore => UnknownFields::Ignore,
                UnknownFieldsFile::Quarantine => UnknownFields::Quarantine,
            },
            on_changed_object: match self.on_changed_object {
                OnChangedFile::Reread => OnChangedObject::Reread,
                OnChangedFile::Ignore => OnChangedObject::Ignore,
                OnChangedFile::Stop => OnChangedObject::Stop,
            },
            revisit,
            gate: Gate {
                max_reject_share: self.gate.max_reject_share,
                share_from: self.gate.share_from,
                max_reject_count: self.gate.max_reject_count,
                warn_share: self.gate.warn_share,
            },
            limits,
            table,
            compact,
            cluster_by,
            lease,
            deploy,
            file: file.to_owned(),
            text,
        })
    }
}

impl PartitionFile {
    fn meant(self) -> PartitionRule {
        PartitionRule {
            place: match self.place {
                WhereFile::Path => Where::Path,
                WhereFile::Payload => Where::Payload,
                WhereFile::Either => Where::Either,
            },
            on_conflict: match self.on_conflict {
                OnConflictFile::Quarantine => OnConflict::Quarantine,
                OnConflictFile::Path => OnConflict::Path,
                OnConflictFile::Payload => OnConflict::Payload,
            },
            derive: self.derive,
        }
    }
}

fn line_column_offset(text: &str, line: u64, column: u64) -> usize {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
    let rest = text.get(line_start..).unwrap_or_default();
    let within = rest.char_indices().nth(column.saturating_sub(1) as usize).map_or(rest.len(), |(at, _)| at);
    (line_start + within).min(text.len())
}

// Kept beside the file types so that the order of `partitions` above and of the columns cannot drift apart.
const _: () = assert!(PartitionColumn::Database as usize == 0 && PartitionColumn::Day as usize == 4);
