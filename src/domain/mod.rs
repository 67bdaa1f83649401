//! The vocabulary: newtypes and plain values that every other module speaks in. No I/O, no settings, no decisions.

pub mod json;
pub mod reject;
pub mod time;

use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

pub use reject::{NO_OFFSET, Reject, RejectCode};

/// One (entity, database): the unit that has a ledger, a claim and a sequence of intents.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    pub entity: String,
    pub database: String,
}

impl Source {
    /// The application id under which this source's intents appear as `txn` in the Delta log.
    pub fn app_id(&self) -> String {
        format!("etl/{}/{}", self.entity, self.database)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.entity, self.database)
    }
}

/// Where an object lies: in a leaf day folder that Firehose wrote, or higher up where a backfill task wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Precedes firehose in the order of equal records, hence first.
    YearRoot,
    Firehose,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::YearRoot => "year_root",
            Layout::Firehose => "firehose",
        })
    }
}

/// The columns that may stand in the path, in the payload or in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionColumn {
    Database,
    Entity,
    Year,
    Month,
    Day,
}

impl PartitionColumn {
    pub const ALL: [PartitionColumn; 5] = [Self::Database, Self::Entity, Self::Year, Self::Month, Self::Day];

    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Entity => "entity",
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

/// How Hive writes a partition value that is null.
pub const HIVE_DEFAULT: &str = "__HIVE_DEFAULT_PARTITION__";

/// The partition values as an object's path spells them; `None` where the path has none
/// (Hive's default partition counts as none).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathValues {
    pub database: Option<String>,
    pub entity: Option<String>,
    pub year: Option<String>,
    pub month: Option<String>,
    pub day: Option<String>,
}

impl PathValues {
    pub fn get(&self, column: PartitionColumn) -> Option<&str> {
        match column {
            PartitionColumn::Database => self.database.as_deref(),
            PartitionColumn::Entity => self.entity.as_deref(),
            PartitionColumn::Year => self.year.as_deref(),
            PartitionColumn::Month => self.month.as_deref(),
            PartitionColumn::Day => self.day.as_deref(),
        }
    }
}

/// A bronze object as the listing showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BronzeObject {
    /// Relative to the bronze root; what `_source_file` says.
    pub key: String,
    /// Changes whenever the content does: the ETag, or size and modification time on local disk.
    pub version: String,
    /// Bytes as stored, before decompression.
    pub size: u64,
    pub layout: Layout,
    pub path: PathValues,
}

/// What became of the records of a batch or a run. `removed` is no outcome of a record and stays out of the balance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    pub read: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub duplicate: u64,
    pub quarantined: u64,
    pub removed: u64,
}

impl Records {
    /// Invariant 1: one record in, one outcome out.
    pub fn balances(&self) -> bool {
        self.read == self.inserted + self.updated + self.deleted + self.duplicate + self.quarantined
    }
}

impl Records {
    /// What is left when some of the counts are taken back.
    pub fn without(&self, some: &Self) -> Self {
        Self {
            read: self.read - some.read,
            inserted: self.inserted - some.inserted,
            updated: self.updated - some.updated,
            deleted: self.deleted - some.deleted,
            duplicate: self.duplicate - some.duplicate,
            quarantined: self.quarantined - some.quarantined,
            removed: self.removed - some.removed,
        }
    }
}

impl AddAssign for Records {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.duplicate += other.duplicate;
        self.quarantined += other.quarantined;
        self.removed += other.removed;
    }
}

/// Objects and the records found in them, per layout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutCount {
    pub files: u64,
    pub records: u64,
}

impl AddAssign for LayoutCount {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.records += other.records;
    }
}

/// A mistake in a file that a person wrote: what miette needs to point at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub file: String,
    pub text: String,
    /// Byte range in `text` that the caret points at.
    pub span: std::ops::Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upto = self.text.get(..self.span.start).unwrap_or(&self.text);
        let line = upto.matches('\n').count() + 1;
        let column = upto.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        write!(f, "{}:{line}:{column}: {}", self.file, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}
