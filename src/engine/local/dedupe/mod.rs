//! Step 6, dedupe: of the records of one key, which one is the row.
//!
//! Where records never change ([`append`]) chunks pass through: the first record of a key is the row, and is written at once.
//! Where the latest record counts ([`latest`]) it is known only when all of a batch is read: chunks are put aside, every key's
//! latest record is compared with what the table has, and then the rows are written that change something.

mod append;
mod latest;

use std::sync::Arc;

use super::decode::Origin;
use super::enrich::Enriched;
use super::write::{Staged, Tables, Writer};
use super::{Engine, StageError};
use crate::domain::{Records, Reject};
use crate::job::Mode;
use crate::plan::BatchPlan;
use crate::silver::keys::TableKeys;

/// Rows to write at once, and every refusal of their chunk.
pub struct Unique {
    pub origin: Origin,
    pub rows: arrow::array::RecordBatch,
    pub rejects: Vec<Reject>,
    pub records: Records,
}

pub enum Dedupe {
    Append(Box<append::Append>),
    Latest(Box<latest::Latest>),
}

impl Dedupe {
    pub async fn open(engine: &Engine, plan: &Arc<BatchPlan>, tables: &Tables) -> Result<Self, StageError> {
        Ok(match plan.of.job.mode {
            Mode::Append => {
                let keys = TableKeys::open(&tables.silver, plan.of.columns.clone(), &plan.of.source.database).await?;
                Self::Append(Box::new(append::Append::new(keys, plan.of.columns.clone())))
            }
            Mode::Upsert(_) | Mode::Snapshot { .. } => Self::Latest(Box::new(latest::Latest::new(engine, plan, tables))),
        })
    }

    pub async fn dedupe(&mut self, chunk: Enriched) -> Result<Unique, StageError> {
        match self {
            Self::Append(append) => Ok(append.dedupe(chunk).await?),
            Self::Latest(latest) => latest.put_aside(chunk),
        }
    }

    /// Writes what could not be written before all of the batch was read.
    pub async fn finish(&mut self, writer: &mut Writer<'_>) -> Result<(), StageError> {
        match self {
            Self::Append(_) => Ok(()),
            Self::Latest(latest) => latest.finish(writer).await,
        }
    }
}

impl std::fmt::Debug for Dedupe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dedupe")
    }
}

/// Another intent of the source was committed since `staged` was made: whether it could be made right for the snapshot that is
/// now the newest, without reading bronze again.
pub async fn rebase(staged: &mut Staged, plan: &BatchPlan, tables: &Tables) -> Result<bool, StageError> {
    match staged.dedupe.take() {
        Some(Dedupe::Append(append)) => {
            let right = append.still_right().await?;
            staged.dedupe = Some(Dedupe::Append(append));
            Ok(right)
        }
        // Which day is the newest may be another one now.
        Some(Dedupe::Latest(_)) if plan.extent.is_some() => Ok(false),
        Some(Dedupe::Latest(mut latest)) => {
            staged.discard_rows(tables).await;
            let mut writer = Writer::new(plan, tables);
            if let Err(error) = latest.finish(&mut writer).await {
                writer.abort().await;
                return Err(error);
            }
            let rows = writer.close().await?;
            staged.take_rows(rows);
            staged.dedupe = Some(Dedupe::Latest(latest));
            Ok(true)
        }
        None => Ok(false),
    }
}
