//! Step 6, dedupe: of the records of one key, which one is the row.
//!
//! Where records never change ([`append`]) chunks pass through: the first record of a key is the row, and is written at once.
//! Where the latest record counts ([`latest`]) it is known only when all of a batch is read: chunks are put aside, every key's
//! latest record is compared with what the table has, and then the rows are written that change something.

mod append;
mod days;
mod later;
mod latest;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields};

use super::decode::Origin;
use super::enrich::{Account, Enriched};
use super::write::{Staged, Tables, Writer};
use super::{Engine, StageError};
use crate::domain::{Records, Reject};
use crate::job::Mode;
use crate::plan::BatchPlan;
use crate::plan::order::source_of;
use crate::silver::keys::{Reread, SOURCE, TableKeys, hashes_of_keys, of_database, sources_of};
use crate::silver::replace::{rows_where, stage_list};
use crate::silver::{SilverError, Table};

/// Rows to write at once, and every refusal of their chunk.
pub struct Unique {
    pub rows: RecordBatch,
    pub accounts: Vec<Account>,
    pub records: Records,
}

pub struct Dedupe {
    way: Way,
    plan: Arc<BatchPlan>,
    /// Of objects that are read once more.
    reread: Arc<Reread>,
}

enum Way {
    Append(Box<append::Append>),
    Latest(Box<latest::Latest>),
}

impl Dedupe {
    pub async fn open(engine: &Engine, plan: &Arc<BatchPlan>, tables: &Tables) -> Result<Self, StageError> {
        let way = match plan.of.job.mode {
            Mode::Append => {
                let limit = plan.of.job.limits.table_keys;
                let keys = TableKeys::open(&tables.silver, plan.of.columns.clone(), &plan.of.source.database, limit).await?;
                Way::Append(Box::new(append::Append::new(keys, plan.of.columns.clone(), later::Later::new(engine, plan))))
            }
            Mode::Upsert(_) | Mode::Snapshot { .. } => Way::Latest(Box::new(latest::Latest::new(engine, plan, tables))),
        };
        Ok(Self { way, plan: plan.clone(), reread: Arc::default() })
    }

    pub async fn dedupe(&mut self, chunk: Enriched) -> Result<Unique, StageError> {
        let first = self.first_met(&chunk);
        let unique = match &mut self.way {
            Way::Append(append) => {
                let unique = append.dedupe(chunk, first, &self.reread).await?;
                Unique { rows: append.later.put_aside(unique.rows).await?, ..unique }
            }
            Way::Latest(latest) => latest.put_aside(chunk).await?,
        };
        for account in unique.accounts.iter().filter(|account| is_again(&self.plan, &account.origin)) {
            Arc::make_mut(&mut self.reread).refuse(&account.origin.file, offsets(&account.rejects));
        }
        Ok(unique)
    }

    /// For each part that is read once more: keys that were not met in its file before.
    fn first_met(&mut self, chunk: &Enriched) -> Vec<Option<HashSet<u128>>> {
        let met = chunk.parts.iter().map(|part| {
            is_again(&self.plan, &part.origin).then(|| {
                let reread = Arc::make_mut(&mut self.reread);
                reread.refuse(&part.origin.file, offsets(&part.rejects));
                reread.accept(&part.origin.file, &chunk.hashes.keys[part.rows.clone()])
            })
        });
        met.collect()
    }

    /// An object of so many stored bytes has been told apart.
    pub fn object_read(&mut self, stored: u64) {
        if let Way::Latest(latest) = &mut self.way {
            latest.object_read(stored);
        }
    }

    /// Whether the batch, which was read to its end, has to be read once more; the table is searched for its keys before.
    pub async fn reads_again(&mut self) -> Result<bool, SilverError> {
        let Way::Append(append) = &mut self.way else { return Ok(false) };
        if !append.has_gathered() {
            return Ok(false);
        }
        tracing::info!(batch = self.plan.batch, "limits.table_keys does not hold the table's keys; the batch is read twice");
        append.search().await?;
        self.reread = Arc::default();
        Ok(true)
    }

    /// Writes what could not be written before all of the batch was read, and the list of rows that it takes out.
    pub async fn finish(&mut self, writer: &mut Writer<'_>) -> Result<(), StageError> {
        let (mut records, mut replaced) = match &mut self.way {
            Way::Append(append) => {
                append.later.write(writer).await?;
                (Records::default(), append.replaced.clone())
            }
            Way::Latest(latest) => latest.finish(writer, self.reread.clone()).await?,
        };
        let silver = &writer.tables().silver;
        let gone = self.rows_now_refused(silver).await?;
        records.removed += gone.iter().map(|rows| rows.num_rows() as u64).sum::<u64>();
        replaced.extend(gone);
        let list = stage_list(silver, &self.plan.batch, &replaced).await?;
        let marks = self.marks_now_refused(writer.tables()).await?;
        writer.settled(records, list, marks);
        Ok(())
    }

    /// Rows of records that their contract accepted when they were read before, and refuses now: a record is in one place.
    async fn rows_now_refused(&self, silver: &Table) -> Result<Vec<RecordBatch>, SilverError> {
        // A snapshot's day says by its keys which rows stay.
        if self.reread.nothing_refused() || self.plan.extent.is_some() {
            return Ok(Vec::new());
        }
        let columns = &self.plan.of.columns;
        let source: Fields = SOURCE.iter().filter_map(|name| columns.schema.fields().find(name).map(|(_, field)| field.clone())).collect();
        let key = columns.key_fields();
        let refused = |rows: &RecordBatch| {
            let keys = hashes_of_keys(rows, &key)?;
            Ok(sources_of(rows).iter().zip(keys).map(|((file, offset), key)| self.reread.refuses(file, *offset, key)).collect())
        };
        rows_where(silver, of_database(&self.plan.of.source.database), &key, &source, refused).await
    }
}

impl Dedupe {
    /// Marks of such records, as a list to be replaced.
    async fn marks_now_refused(&self, tables: &Tables) -> Result<Option<String>, SilverError> {
        let Some(marks) = tables.marks.as_ref().filter(|_| !self.reread.nothing_refused()) else { return Ok(None) };
        let order = Arc::new(Field::new("order", DataType::Utf8, true));
        let key = self.plan.of.columns.key_fields();
        let listed: Fields = key.iter().cloned().chain([order]).collect();
        let refused = |rows: &RecordBatch| {
            let Some(orders) = rows.column_by_name("order").and_then(|orders| orders.as_string_opt::<i32>()) else {
                return Ok(vec![false; rows.num_rows()]);
            };
            let refuses = |(order, key): (Option<&str>, u128)| {
                order.and_then(source_of).is_some_and(|(file, offset)| self.reread.refuses(file, offset, key))
            };
            Ok(orders.iter().zip(hashes_of_keys(rows, &key)?).map(refuses).collect())
        };
        let found = rows_where(marks, of_database(&self.plan.of.source.database), &listed, &listed, refused).await?;
        stage_list(marks, &self.plan.batch, &found).await
    }
}

fn is_again(plan: &BatchPlan, origin: &Origin) -> bool {
    plan.again.contains_key(&origin.object.key)
}

fn offsets(rejects: &[Reject]) -> impl Iterator<Item = i64> + '_ {
    rejects.iter().map(|reject| reject.offset as i64)
}

impl std::fmt::Debug for Dedupe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dedupe")
    }
}

/// Another intent of the source was committed since `staged` was made: whether it could be made right for the snapshot that is
/// now the newest, without reading bronze again.
pub async fn rebase(staged: &mut Staged, plan: &BatchPlan, tables: &Tables) -> Result<bool, StageError> {
    let Some(mut dedupe) = staged.dedupe.take() else { return Ok(false) };
    // Which day is the newest may be another one now; and rows that leave may be others.
    if plan.extent.is_some() || !plan.again.is_empty() {
        return Ok(false);
    }
    let right = match &mut dedupe.way {
        Way::Append(append) => append.still_right().await?,
        Way::Latest(_) => {
            staged.discard_rows(tables).await;
            let mut writer = Writer::new(plan, tables);
            if let Err(error) = dedupe.finish(&mut writer).await {
                writer.abort().await;
                return Err(error);
            }
            staged.take_rows(writer.close(None).await?);
            true
        }
    };
    staged.dedupe = Some(dedupe);
    Ok(right)
}
