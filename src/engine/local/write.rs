//! Step 7, write: rows to silver's partitions, refusals to quarantine's, nothing visible yet.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Fields;
use deltalake::kernel::Add;
use serde::{Deserialize, Serialize};

use super::StageError;
use super::dedupe::{Dedupe, Unique};
use super::enrich::{Account, quarantine_rows};
use crate::domain::{Layout, LayoutCount, NO_OFFSET, Records, RejectCode};
use crate::job;
use crate::plan::{BatchPlan, marks_partition, marks_schema, quarantine_schema};
use crate::silver::Table;
use crate::silver::replace::{rows_where, stage_list};
use crate::silver::write::{Complete, TableWriter, remove_staged};

/// Shown beside a code in reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub file: String,
    /// `null` where nobody knows.
    pub offset: Option<u64>,
    pub path: String,
    pub message: String,
}

/// Refusals by code, each with its first example.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectSummary {
    pub by_code: BTreeMap<RejectCode, (u64, Example)>,
}

impl RejectSummary {
    fn add(&mut self, code: RejectCode, example: impl FnOnce() -> Example) {
        self.by_code.entry(code).or_insert_with(|| (0, example())).0 += 1;
    }

    pub fn merge(&mut self, other: Self) {
        for (code, (count, example)) in other.by_code {
            self.by_code.entry(code).or_insert((0, example)).0 += count;
        }
    }
}

/// A batch written and not yet committed.
#[derive(Debug, Default)]
pub struct Staged {
    pub silver: Vec<Add>,
    pub quarantine: Vec<Add>,
    pub marks: Vec<Add>,
    /// List of the rows that leave silver.
    pub replaced: Option<String>,
    /// List of the marks that leave with records that are refused now.
    pub replaced_marks: Option<String>,
    /// List of the refusals that leave quarantine: of objects that were read once more.
    pub replaced_quarantine: Option<String>,
    pub records: Records,
    pub rejects: RejectSummary,
    pub layouts: BTreeMap<Layout, LayoutCount>,
    /// Decoded bytes.
    pub decoded: u64,
    /// What the keys of the batch were, should another batch be committed first.
    pub dedupe: Option<Dedupe>,
    /// Counts that are known only when all of the batch is read.
    late: Records,
}

impl Staged {
    /// Bytes of all staged files.
    pub fn written(&self) -> u64 {
        self.silver.iter().chain(&self.quarantine).chain(&self.marks).map(|add| add.size.max(0) as u64).sum()
    }

    /// Removes every staged file: nothing of the batch will be committed.
    pub async fn discard(&self, tables: &Tables) {
        remove_staged(&tables.quarantine, &self.quarantine).await;
        discard_list(tables, self.replaced_quarantine.as_ref()).await;
        self.discard_rows(tables).await;
    }

    /// The same but for the refused records.
    pub async fn discard_rows(&self, tables: &Tables) {
        remove_staged(&tables.silver, &self.silver).await;
        if let Some(marks) = &tables.marks {
            remove_staged(marks, &self.marks).await;
        }
        discard_list(tables, self.replaced.as_ref()).await;
        discard_list(tables, self.replaced_marks.as_ref()).await;
    }

    /// Other rows for the same records.
    pub fn take_rows(&mut self, other: Self) {
        (self.silver, self.marks, self.replaced) = (other.silver, other.marks, other.replaced);
        self.replaced_marks = other.replaced_marks;
        self.records = self.records.without(&self.late);
        self.records += other.late;
        self.late = other.late;
    }

    /// The second reckoning: rows by the footers of the staged files.
    pub fn footers_agree(&self) -> bool {
        let rows = |adds: &[Add]| -> Option<u64> {
            adds.iter().map(|add| serde_json::from_str::<serde_json::Value>(add.stats.as_deref()?).ok()?.get("numRecords")?.as_u64()).sum()
        };
        rows(&self.silver) == Some(self.records.inserted + self.records.updated) && rows(&self.quarantine) == Some(self.records.quarantined)
    }
}

async fn discard_list(tables: &Tables, list: Option<&String>) {
    if let Some(list) = list
        && let Err(error) = tables.silver.staging().delete(list).await
    {
        tracing::warn!(list, %error, "a staged list could not be removed; vacuum removes it");
    }
}

/// The refusals that earlier readings of the batch's objects left in quarantine, as a list to be replaced.
async fn earlier_refusals(plan: &BatchPlan, quarantine: &Table) -> Result<Option<String>, StageError> {
    if plan.again.is_empty() {
        return Ok(None);
    }
    let schema = quarantine_schema();
    let key: Fields = ["source_file", "source_offset", "batch"]
        .iter()
        .filter_map(|name| schema.fields().find(name))
        .map(|(_, field)| field.clone())
        .collect();
    let of_object = |file: &str| plan.again.get(file.split("!/").next().unwrap_or(file));
    let earlier = |rows: &RecordBatch| {
        let text = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let (Some(files), Some(batches)) = (text("source_file"), text("batch")) else { return Ok(vec![false; rows.num_rows()]) };
        Ok((0..rows.num_rows()).map(|row| of_object(files.value(row)).is_some_and(|batch| batch == batches.value(row))).collect())
    };
    let found = rows_where(quarantine, |_| true, &key, &key, earlier).await?;
    Ok(stage_list(quarantine, &plan.batch, &found).await?)
}

pub struct Writer<'p> {
    plan: &'p BatchPlan,
    tables: Tables,
    silver: TableWriter,
    quarantine: TableWriter,
    marks: Option<TableWriter>,
    staged: Staged,
}

/// The tables of an entity.
#[derive(Debug, Clone)]
pub struct Tables {
    pub silver: Table,
    pub quarantine: Table,
    /// Where records may change: what is remembered beside silver's rows.
    pub marks: Option<Table>,
}

impl Tables {
    pub fn all(&self) -> impl Iterator<Item = &Table> {
        [&self.silver, &self.quarantine].into_iter().chain(&self.marks)
    }

    pub fn named(&self, name: &str) -> Option<Table> {
        self.all().find(|table| table.name == name).cloned()
    }
}

impl<'p> Writer<'p> {
    pub fn new(plan: &'p BatchPlan, tables: &Tables) -> Self {
        let job = &plan.of.job;
        let columns = &plan.of.columns;
        let open = job.limits.open_partitions;
        let table = job::Table { row_group: job.table.row_group.min(job.limits.row_group), ..job.table };
        Self {
            plan,
            tables: tables.clone(),
            silver: TableWriter::new(&tables.silver, columns.schema.clone(), &columns.partition_by, table, open),
            quarantine: TableWriter::new(&tables.quarantine, quarantine_schema(), &["database".to_owned()], table, open),
            marks: tables.marks.as_ref().map(|marks| TableWriter::new(marks, marks_schema(columns), &marks_partition(), table, open)),
            staged: Staged::default(),
        }
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub async fn write(&mut self, unique: Unique) -> Result<(), StageError> {
        let Unique { rows, accounts, records } = unique;
        if rows.num_rows() > 0 {
            self.silver.write(&rows).await?;
        }
        for account in accounts {
            self.account(account).await?;
        }
        self.staged.records += records;
        Ok(())
    }

    async fn account(&mut self, account: Account) -> Result<(), StageError> {
        let Account { origin, rejects, read } = account;
        if !rejects.is_empty() {
            self.quarantine.write(&quarantine_rows(&rejects, &origin, self.plan)?).await?;
        }
        for reject in &rejects {
            self.staged.rejects.add(reject.code, || Example {
                file: origin.file.to_string(),
                offset: (reject.offset != NO_OFFSET).then_some(reject.offset),
                path: reject.path.clone(),
                message: reject.message.clone(),
            });
        }
        self.staged.layouts.entry(origin.object.layout).or_default().records += read;
        Ok(())
    }

    /// The rows at these positions.
    pub async fn silver(&mut self, rows: &RecordBatch, positions: Vec<u32>, complete: Option<&Complete>) -> Result<(), StageError> {
        Ok(self.silver.write_some(rows, positions.into_iter(), complete).await?)
    }

    pub async fn marks(&mut self, rows: &RecordBatch) -> Result<(), StageError> {
        match &mut self.marks {
            Some(marks) => Ok(marks.write(rows).await?),
            None => Ok(()),
        }
    }

    /// Outcomes that were decided when all of the batch was read, and the list of rows that leave silver.
    pub fn settled(&mut self, records: Records, replaced: Option<String>, replaced_marks: Option<String>) {
        self.staged.replaced_marks = replaced_marks;
        self.staged.records += records;
        self.staged.late = records;
        self.staged.replaced = replaced;
    }

    /// Records of an object that were read elsewhere, to its end.
    pub fn proven(&mut self, layout: Layout, records: u64) {
        let count = self.staged.layouts.entry(layout).or_default();
        count.files += 1;
        count.records += records;
        self.staged.records.read += records;
    }

    /// An object is read to its end.
    pub fn object_read(&mut self, layout: Layout, decoded: u64) {
        self.staged.layouts.entry(layout).or_default().files += 1;
        self.staged.decoded += decoded;
    }

    /// `dedupe` is kept with what is staged.
    pub async fn close(self, dedupe: Option<Dedupe>) -> Result<Staged, StageError> {
        let Self { plan, tables, silver, quarantine, marks, mut staged } = self;
        let mut open = [Some(quarantine), marks, Some(silver)];
        staged.dedupe = dedupe;
        let closed = async {
            for (writer, adds) in open.iter_mut().zip([&mut staged.quarantine, &mut staged.marks, &mut staged.silver]) {
                if let Some(writer) = writer.take() {
                    *adds = writer.close().await?;
                }
            }
            staged.replaced_quarantine = earlier_refusals(plan, &tables.quarantine).await?;
            Ok::<(), StageError>(())
        };
        let closed = closed.await;
        let Err(error) = closed else { return Ok(staged) };
        for writer in open.into_iter().flatten() {
            writer.abort().await;
        }
        staged.discard(&tables).await;
        Err(error)
    }

    pub async fn abort(self) {
        self.silver.abort().await;
        self.quarantine.abort().await;
        if let Some(marks) = self.marks {
            marks.abort().await;
        }
    }
}
