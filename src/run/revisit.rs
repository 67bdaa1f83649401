//! Which folders of days a run lists: the recent ones, and every n-th time all of them (`revisit` of the job).
//!
//! A source of years has very many folders that nothing comes to any more, and a bucket wants a request for each. What still comes
//! to one is late until the next run that lists all. Runs are counted in a small object beside the ledger, one for each share of a
//! source that runs read (`--shard`), and written without any condition: of runs at the same time one may not be counted. It is set
//! back only by a run that read all that it found. Where objects are handed back to later runs, a mark with a new name is put
//! beside the counts; a count that was made under another mark, by a run that was on its way then, says nothing.

use serde::{Deserialize, Serialize};

use super::report::Days;
use super::{RunError, Settings};
use crate::bronze::Selection;
use crate::domain::Source;
use crate::domain::time::{MICROS_PER_DAY, civil_from_days};
use crate::job::Revisit;
use crate::plan::SourcePlan;
use crate::store::Store;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {
    /// Runs since one listed all days.
    runs: u64,
    /// The mark that stood when the run began.
    mark: String,
}

const MARK: &str = "mark";

/// What one run lists, and what it leaves for the next to know.
#[derive(Debug)]
pub struct Visit {
    folder: Store,
    share: String,
    revisit: Revisit,
    runs: u64,
    mark: String,
    /// Days since 1970; `None`: all.
    from: Option<i32>,
}

fn folder(silver: &Store, source: &Source) -> Store {
    silver.folder(&format!("_etl/revisit/{}/{}", source.entity, source.database))
}

impl Visit {
    /// `None` where nothing is left out: the job has no `revisit`, or the run names the days or objects that it wants.
    pub async fn plan(settings: &Settings, plan: &SourcePlan) -> Result<Option<Self>, RunError> {
        let Selection { from, to, only, shard, .. } = &settings.selection;
        let Some(revisit) = plan.job.revisit.filter(|_| from.is_none() && to.is_none() && only.is_none()) else { return Ok(None) };
        let folder = folder(&settings.silver, &plan.source);
        let share = shard.map_or_else(|| "all.json".to_owned(), |(i, n)| format!("{i}-of-{n}.json"));
        let (mark, counted) = tokio::try_join!(folder.get(MARK), folder.get(&share))?;
        let mark = mark.map(|mark| String::from_utf8_lossy(&mark).into_owned()).unwrap_or_default();
        let counted: Option<Counted> = counted.and_then(|text| serde_json::from_slice(&text).ok());
        let runs = counted.filter(|counted| counted.mark == mark).map_or(u64::MAX, |counted| counted.runs);
        let all = settings.revisit || runs.saturating_add(1) >= revisit.every;
        let oldest = chrono::Utc::now().timestamp_micros().saturating_sub(revisit.within.as_micros() as i64);
        let from = (!all).then_some(oldest.div_euclid(MICROS_PER_DAY) as i32);
        Ok(Some(Self { folder, share, revisit, runs, mark, from }))
    }

    pub fn narrow(&self, selection: &mut Selection) {
        selection.revisit_from = self.from;
    }

    pub fn report(&self) -> Days {
        let shown = |day: i32| {
            let (year, month, day) = civil_from_days(i64::from(day));
            format!("{year:04}-{month:02}-{day:02}")
        };
        let counted = if self.from.is_none() { 0 } else { self.runs + 1 };
        Days { from: self.from.map(shown), all_in: (self.revisit.every - 1).saturating_sub(counted) + 1 }
    }

    /// Counts this run, unless it listed all days and left something behind.
    pub async fn count(&self, left_nothing: bool) {
        let runs = match self.from {
            Some(_) => self.runs + 1,
            None if left_nothing => 0,
            None => return,
        };
        let Ok(text) = serde_json::to_vec(&Counted { runs, mark: self.mark.clone() }) else { return };
        if let Err(error) = self.folder.put(&self.share, text.into()).await {
            tracing::warn!(%error, "this run was not counted; all days are listed sooner than the job's revisit says");
        }
    }
}

/// The next run lists all days. To be asked for before objects are handed back.
pub async fn ask_for_all(silver: &Store, source: &Source) -> Result<(), RunError> {
    let mark = uuid::Uuid::new_v4().to_string();
    Ok(folder(silver, source).put(MARK, mark.into()).await?)
}
