//! What stops a run, in words and as an exit code.

use crate::contract::LoadContractError;
use crate::contract::predicate::PredicateError;
use crate::domain::{Mistake, Records, Source};
use crate::engine::local::StageError;
use crate::engine::spark::client::ClientError;
use crate::job::LoadJobError;
use crate::ledger::LedgerError;
use crate::plan::order::date_text;
use crate::silver::SilverError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Job(#[from] LoadJobError),
    #[error(transparent)]
    Contract(#[from] LoadContractError),
    #[error(transparent)]
    Mistake(Box<Mistake>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Silver(#[from] SilverError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("batch {batch} does not balance ({records:?}); this is a bug, nothing was committed")]
    Unbalanced { batch: String, records: Records },
    #[error(transparent)]
    Condition(#[from] PredicateError),
    #[error("job {entity} is of mode snapshot: a path day is one batch and is never cut by --shard; run it without")]
    SnapshotSharded { entity: String },
    #[error("--from {} is later than --to {}: there is no day between them", date_text(*from), date_text(*to))]
    Dates { from: i32, to: i32 },
    #[error("--engine spark needs the address of a Spark Connect server: --remote sc://host:15002")]
    NoRemote,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the cluster's answer is not readable: {message}")]
    Answer { message: String },
    #[error("{entity} cannot run on a cluster: {reason}; run it with --engine local")]
    NotOnCluster { entity: String, reason: String },
    #[error("{of}: batch {batch} was begun on a cluster and is to be finished there: run with --engine spark")]
    OnCluster { of: String, batch: String },
    #[error("table {table} is not there yet; the first run makes it")]
    NotThere { table: String },
    #[error(
        "table {table} is not there, although batches of {of} were committed: put its folder back; to read everything anew, remove {ledger} as well"
    )]
    TableLost { table: String, of: Source, ledger: String },
    #[error(
        "table {table} has batch {found} of {of}, and the ledger at {ledger} ends with {known}: put back what is missing there; nothing was read"
    )]
    LedgerLost { table: String, of: Source, ledger: String, found: i64, known: i64 },
    #[error(
        "table {table} does not have batch {settled} of {of}, which was committed: put back what was there; to read everything anew, remove the table and {ledger} as well"
    )]
    BatchLost { table: String, of: Source, ledger: String, settled: i64 },
    #[error(
        "batch {batch} was to be committed with {file}, which is not there: put it back; to read everything anew, remove the table and {ledger} as well"
    )]
    FileLost { batch: String, file: String, ledger: String },
    #[error(
        "{name} is a table elsewhere, at {found} and not at {place}: it was left as it is; give --into another schema, or drop it there"
    )]
    NameTaken { name: String, found: String, place: String },
    #[error("table {table} is a cluster's until {}: run {run} writes it; run again then", expires.format("%F %TZ"))]
    Cluster { table: String, run: String, expires: chrono::DateTime<chrono::Utc> },
    #[error("{of}: run {run} has a batch in hand; with a retention below 7 days its files could be taken for orphans")]
    BusyForVacuum { of: Source, run: String },
    #[error("table {table} cannot be migrated: {reason}")]
    CannotMigrate { table: String, reason: String },
    #[error("table {table} is looked after by run {run} until {}; run again then", expires.format("%F %TZ"))]
    Maintained { table: String, run: String, expires: chrono::DateTime<chrono::Utc> },
    #[error("{of}: other runs of this source were always first; run again")]
    Contended { of: Source },
}

impl RunError {
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        let by_silver = |error: &SilverError| match error {
            SilverError::Arrow { .. } | SilverError::Task { .. } => 70,
            error if error.is_users() => 2,
            error if error.is_contention() => 4,
            _ => 5,
        };
        let by_store = |error: &StoreError| if error.is_users() { 2 } else { 5 };
        match self {
            Self::Job(_)
            | Self::Contract(_)
            | Self::Mistake(_)
            | Self::Condition(_)
            | Self::SnapshotSharded { .. }
            | Self::CannotMigrate { .. }
            | Self::Dates { .. }
            | Self::NoRemote
            | Self::NotThere { .. }
            | Self::NameTaken { .. }
            | Self::TableLost { .. }
            | Self::LedgerLost { .. }
            | Self::BatchLost { .. }
            | Self::FileLost { .. }
            | Self::NotOnCluster { .. } => 2,
            Self::Client(error) => error.exit_code(),
            Self::OnCluster { .. } | Self::Cluster { .. } => 4,
            Self::Store(error) => by_store(error),
            Self::Silver(error) => by_silver(error),
            Self::Ledger(LedgerError::Store(error)) => by_store(error),
            Self::Ledger(LedgerError::Format { .. } | LedgerError::Fenced { .. } | LedgerError::Gap { .. }) => 2,
            Self::Ledger(LedgerError::Lost { .. }) | Self::Contended { .. } | Self::BusyForVacuum { .. } | Self::Maintained { .. } => 4,
            Self::Ledger(_) => 5,
            Self::Stage(error) => match error {
                StageError::Store(error) => by_store(error),
                StageError::Silver(error) => by_silver(error),
                StageError::Frame { .. } => error.store().map_or(5, by_store),
                StageError::Spool(_) => 5,
                StageError::Enrich(_) | StageError::Coverage { .. } | StageError::Task { .. } => 70,
            },
            Self::Unbalanced { .. } | Self::Answer { .. } => 70,
        }
    }

    /// The error in words, with the remedy where a store refused something to a library that does not tell it.
    pub fn text(&self) -> String {
        match self {
            Self::Silver(error) | Self::Stage(StageError::Silver(error)) => match error.refusal() {
                Some((table, refusal)) => {
                    format!("table {table}: the store answered {} ({}): {}", refusal.code, refusal.message, refusal.remedy)
                }
                None => self.to_string(),
            },
            _ => self.to_string(),
        }
    }

    /// The object that stopped a batch and may be readable later.
    pub(super) fn left_for_later(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Store(error) => error.left_for_later(),
            Self::Stage(error) => error.store()?.left_for_later(),
            _ => None,
        }
    }

    /// A mistake in a file that a person wrote, to be shown with a caret.
    pub fn mistake(&self) -> Option<&Mistake> {
        match self {
            Self::Job(LoadJobError::Mistake(mistake)) | Self::Contract(LoadContractError::Mistake(mistake)) | Self::Mistake(mistake) => {
                Some(mistake)
            }
            _ => None,
        }
    }
}
