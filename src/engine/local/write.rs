//! Step 7, write: rows to silver's partitions, refusals to quarantine's, nothing visible yet.

use std::collections::BTreeMap;

use deltalake::kernel::Add;
use serde::{Deserialize, Serialize};

use super::StageError;
use super::dedupe::Unique;
use super::enrich::quarantine_rows;
use crate::domain::{Layout, LayoutCount, Records, RejectCode};
use crate::plan::{BatchPlan, quarantine_schema};
use crate::silver::Table;
use crate::silver::write::{TableWriter, remove_staged};

/// Shown beside a code in reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub file: String,
    pub offset: u64,
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
    pub records: Records,
    pub rejects: RejectSummary,
    pub layouts: BTreeMap<Layout, LayoutCount>,
    /// Decoded bytes.
    pub decoded: u64,
}

impl Staged {
    /// Bytes of all staged files.
    pub fn written(&self) -> u64 {
        self.silver.iter().chain(&self.quarantine).map(|add| add.size.max(0) as u64).sum()
    }

    /// The second reckoning: rows by the footers of the staged files.
    pub fn footers_agree(&self) -> bool {
        let rows = |adds: &[Add]| -> Option<u64> {
            adds.iter().map(|add| serde_json::from_str::<serde_json::Value>(add.stats.as_deref()?).ok()?.get("numRecords")?.as_u64()).sum()
        };
        rows(&self.silver) == Some(self.records.inserted) && rows(&self.quarantine) == Some(self.records.quarantined)
    }
}

pub struct Writer<'p> {
    plan: &'p BatchPlan,
    tables: Tables,
    silver: TableWriter,
    quarantine: TableWriter,
    staged: Staged,
}

/// The two tables of an entity.
#[derive(Debug, Clone)]
pub struct Tables {
    pub silver: Table,
    pub quarantine: Table,
}

impl Tables {
    pub fn named(&self, name: &str) -> Option<Table> {
        [&self.silver, &self.quarantine].into_iter().find(|table| table.name == name).cloned()
    }
}

impl<'p> Writer<'p> {
    pub fn new(plan: &'p BatchPlan, tables: &Tables) -> Self {
        let job = &plan.of.job;
        let columns = &plan.of.columns;
        let open = job.limits.open_partitions;
        Self {
            plan,
            tables: tables.clone(),
            silver: TableWriter::new(&tables.silver, columns.schema.clone(), &columns.partition_by, job.table, open),
            quarantine: TableWriter::new(&tables.quarantine, quarantine_schema(), &["database".to_owned()], job.table, open),
            staged: Staged::default(),
        }
    }

    pub async fn write(&mut self, unique: Unique) -> Result<(), StageError> {
        let Unique { origin, rows, rejects, records } = unique;
        if rows.num_rows() > 0 {
            self.silver.write(&rows).await?;
        }
        if !rejects.is_empty() {
            self.quarantine.write(&quarantine_rows(&rejects, &origin, self.plan)?).await?;
        }
        for reject in &rejects {
            self.staged.rejects.add(reject.code, || Example {
                file: origin.file.to_string(),
                offset: reject.offset,
                path: reject.path.clone(),
                message: reject.message.clone(),
            });
        }
        self.staged.records += records;
        self.staged.layouts.entry(origin.object.layout).or_default().records += records.read;
        Ok(())
    }

    /// An object is read to its end.
    pub fn object_read(&mut self, layout: Layout, decoded: u64) {
        self.staged.layouts.entry(layout).or_default().files += 1;
        self.staged.decoded += decoded;
    }

    pub async fn close(self) -> Result<Staged, StageError> {
        let mut staged = self.staged;
        staged.quarantine = self.quarantine.close().await?;
        match self.silver.close().await {
            Ok(adds) => staged.silver = adds,
            Err(error) => {
                remove_staged(&self.tables.quarantine, &staged.quarantine).await;
                return Err(error.into());
            }
        }
        Ok(staged)
    }

    pub async fn abort(self) {
        self.silver.abort().await;
        self.quarantine.abort().await;
    }
}
