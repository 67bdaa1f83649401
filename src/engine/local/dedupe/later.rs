//! Rows of days that have no file open yet, where others are written as they come.
//!
//! As many days as files may be open are written at once; what more there are waits until the batch is read, lest every chunk end the
//! files of the one before ([`super::days`]).

use std::path::PathBuf;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use hashbrown::HashSet;

use super::super::spool::{Aside, Spool};
use super::super::write::Writer;
use super::super::{Engine, StageError};
use super::days::{Days, is_within};
use crate::plan::BatchPlan;
use crate::silver::SilverError;
use crate::silver::together::Together;

/// Rows that are put aside together.
const TOGETHER: usize = 32 << 10;

pub struct Later {
    spill: PathBuf,
    limit: u64,
    open: usize,
    /// Days that are written at once.
    at_once: HashSet<i32>,
    /// Those of the rows that wait.
    days: Days,
    waiting: Option<Aside>,
}

impl Later {
    pub fn new(engine: &Engine, plan: &BatchPlan) -> Self {
        let limits = &plan.of.job.limits;
        let (spill, days) = (engine.spill.clone(), Days::new(&plan.of.columns));
        Self { spill, limit: limits.spool, open: limits.open_partitions, at_once: HashSet::new(), days, waiting: None }
    }

    /// The batch is read once more.
    pub fn begin_anew(&mut self) {
        self.at_once.clear();
        self.days.forget();
        self.waiting = None;
    }

    /// Rows that are written at once; the others wait.
    pub async fn put_aside(&mut self, rows: RecordBatch) -> Result<RecordBatch, StageError> {
        let Some(now) = self.now(&rows) else { return Ok(rows) };
        let failed = |source| StageError::Silver(SilverError::Arrow { table: "silver".to_owned(), source });
        let later = filter_record_batch(&rows, &not(&now).map_err(failed)?).map_err(failed)?;
        self.days.see(&later);
        let (spill, limit) = (&self.spill, self.limit);
        let waiting = self.waiting.get_or_insert_with(|| Aside::new(Spool::new(spill, limit), Together::new(TOGETHER, limit)));
        waiting.push(later).await?;
        filter_record_batch(&rows, &now).map_err(failed)
    }

    /// Which rows are written at once, if not all of them.
    fn now(&mut self, rows: &RecordBatch) -> Option<BooleanArray> {
        let days = self.days.of(rows)?;
        let (at_once, open) = (&mut self.at_once, self.open.max(1));
        let mut last = (i32::MIN, true);
        let mut is_now = |day: i32| {
            if day != last.0 {
                last = (day, at_once.contains(&day) || (at_once.len() < open && at_once.insert(day)));
            }
            last.1
        };
        // Rows without a day are few.
        let now: Vec<bool> = days.iter().map(|day| day.is_none_or(&mut is_now)).collect();
        (!now.iter().all(|now| *now)).then(|| now.into())
    }

    /// Writes what has waited.
    pub async fn write(&mut self, writer: &mut Writer<'_>) -> Result<(), StageError> {
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        for span in self.days.spans(self.open) {
            for rows in waiting.filled().await?.read()? {
                let rows = rows?;
                let days = self.days.of(&rows);
                let positions: Vec<u32> = (0..rows.num_rows() as u32).filter(|at| is_within(&span, days, *at as usize)).collect();
                if !positions.is_empty() {
                    writer.silver(&rows, positions, None).await?;
                }
            }
        }
        Ok(())
    }
}
