//! Silver: everything that knows Delta.
//!
//! [`Table::ensure`] creates a table so that two creators are safe, and settles its schema before any data is written.
//! [`Table::commit`] appends files under a `txn`, exactly once: the snapshot that is asked whether the intent is already there
//! is the snapshot that the commit builds on. [`write`] makes the files, [`keys`] tells which keys a table already has.

mod attempt;
mod cluster;
mod commit;
pub mod compact;
mod differences;
mod encoding;
mod features;
mod file;
mod file_writer;
mod filter;
mod hybrid;
pub mod keys;
pub mod migrate;
mod query;
pub mod replace;
pub mod selected;
mod stats;
mod table;
mod texts;
pub mod together;
pub mod upsert;
pub mod vacuum;
pub mod write;

pub use cluster::Memory;
pub use commit::{Committed, jitter};
pub use features::Writer;
pub use file::HashedMap;
pub use table::{LiveFile, Table, TableShape};
pub use vacuum::Waste;

use crate::contract::convert::ConvertError;
use crate::store::StoreError;
use crate::store::fault::{self, Refusal};

/// Whether a table is asked what it has before it is written to. Switched off only to show that the tests would notice.
const GUARDED: bool = cfg!(not(feature = "no-guards"));

#[derive(Debug, thiserror::Error)]
pub enum SilverError {
    #[error("table {table}: {}", fault::shown(.source.as_ref()))]
    Delta { table: String, source: Box<deltalake::DeltaTableError> },
    #[error("table {table}: {}", fault::shown(.source.as_ref()))]
    Kernel { table: String, source: Box<delta_kernel::Error> },
    #[error("table {table}: {}", fault::shown(.source))]
    Parquet { table: String, source: parquet::errors::ParquetError },
    #[error("table {table}: {source}")]
    Arrow { table: String, source: arrow::error::ArrowError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("table {table} has {what}, which this program cannot write safely; {remedy}")]
    Unsupported { table: String, what: String, remedy: String },
    #[error(
        "table {table} was written with contract version {table_version}, this program knows {known}; update the program or its schemas"
    )]
    NewerContract { table: String, table_version: u32, known: u32 },
    #[error(
        "table {table}: column `{column}` is {found} in the table and {expected} in the contract; `etl schema migrate` rewrites the table"
    )]
    SchemaDiffers { table: String, column: String, found: String, expected: String },
    #[error("table {table}: partitioned by ({found}), the job says ({expected}); a table is not repartitioned by a run")]
    PartitioningDiffers { table: String, found: String, expected: String },
    #[error(
        "table {table} has contract version {from}, and version {to} says otherwise where its values are; `etl schema migrate` rewrites \
         the table"
    )]
    NeedsMigration { table: String, from: u32, to: u32 },
    #[error("table {table}: other writers were faster for {seconds} s; run again")]
    Contended { table: String, seconds: u64 },
    #[error("table {table}: {}", fault::shown(.source.as_ref()))]
    Query { table: String, source: Box<datafusion::error::DataFusionError> },
    #[error("table {table}: of the {before} rows of {file} {kept} were kept and {taken} taken out; this is a bug, nothing was committed")]
    RowsLost { table: String, file: String, before: u64, kept: u64, taken: usize },
    #[error("table {table}: the staged list {path} that an intent names is gone; restore it, for the intent cannot be finished without")]
    StagedListMissing { table: String, path: String },
    #[error("table {table}: the staged list {path} that an intent names does not say which rows leave the table; restore it")]
    StagedListDamaged { table: String, path: String },
    #[error("table {table}: {file} is live and not there; restore it, or take it out of the table with a tool that repairs tables")]
    FileMissing { table: String, file: String },
    #[error(
        "table {table}: of the files to be put together, {first} first, {before} rows were read, {after} written and {logged} are in \
         the log, or their keys differ; this is a bug or a damaged file, nothing was committed"
    )]
    RewriteDiffers { table: String, first: String, before: u64, after: u64, logged: u64 },
    #[error("table {table}: {file}, rows from {from} on: {source}; nothing was committed: mend the contract's x-upcast, or the rows")]
    Convert { table: String, file: String, from: u64, source: Box<ConvertError> },
    #[error("table {table}: another maintainer took over from the one with token {token}; nothing more was committed")]
    Fenced { table: String, token: u64 },
    #[error("table {table}: its columns or properties changed meanwhile; run again")]
    ShapeChanged { table: String },
    #[error("a task of table {table} ended early: {message}")]
    Task { table: String, message: String },
}

impl SilverError {
    /// Whether the job, the contract or the table's set-up is at fault, rather than the store.
    pub fn is_users(&self) -> bool {
        match self {
            Self::Unsupported { .. }
            | Self::NewerContract { .. }
            | Self::SchemaDiffers { .. }
            | Self::PartitioningDiffers { .. }
            | Self::Convert { .. }
            | Self::NeedsMigration { .. } => true,
            Self::Store(error) => error.is_users(),
            error => error.refusal().is_some_and(|(_, refusal)| refusal.users),
        }
    }

    /// What a store refused to a library that was working on the table.
    pub fn refusal(&self) -> Option<(&str, Refusal)> {
        let (table, source): (_, &(dyn std::error::Error + 'static)) = match self {
            Self::Delta { table, source } => (table, source.as_ref()),
            Self::Kernel { table, source } => (table, source.as_ref()),
            Self::Parquet { table, source } => (table, source),
            Self::Query { table, source } => (table, source.as_ref()),
            _ => return None,
        };
        Some((table, fault::refusal(source)?))
    }

    /// Whether another writer is why.
    pub fn is_contention(&self) -> bool {
        matches!(self, Self::Contended { .. } | Self::Fenced { .. } | Self::ShapeChanged { .. })
    }
}
