//! Which folders of days a run lists: the recent ones, and every n-th time all of them (`revisit` of the job).
//!
//! A source of years has very many folders that nothing comes to any more, and a bucket wants a request for each. What still comes
//! to one is late until the next run that lists all. Runs are counted in a small object beside the ledger, one for each share of a
//! source that runs read (`--shard`). It is only a hint, written without any condition: where it is missing, cannot be read or was
//! lost to another run's, more is listed rather than less. It is set back only by a run that read all that it found, and removed
//! where objects are handed back to later runs, so that these see them.

use futures::TryStreamExt;
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
}

/// What one run lists, and what it leaves for the next to know.
#[derive(Debug)]
pub struct Visit {
    folder: Store,
    share: String,
    revisit: Revisit,
    runs: u64,
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
        let counted: Option<Counted> = folder.get(&share).await?.and_then(|text| serde_json::from_slice(&text).ok());
        let runs = counted.map_or(u64::MAX, |counted| counted.runs);
        let all = settings.revisit || runs.saturating_add(1) >= revisit.every;
        let oldest = chrono::Utc::now().timestamp_micros().saturating_sub(revisit.within.as_micros() as i64);
        let from = (!all).then_some(oldest.div_euclid(MICROS_PER_DAY) as i32);
        Ok(Some(Self { folder, share, revisit, runs, from }))
    }

    pub fn narrow(&self, selection: &mut Selection) {
        selection.revisit_from = self.from;
    }

    pub fn lists_all(&self) -> bool {
        self.from.is_none()
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
        let Ok(text) = serde_json::to_vec(&Counted { runs }) else { return };
        if let Err(error) = self.folder.put(&self.share, text.into()).await {
            tracing::warn!(%error, "this run was not counted; all days are listed sooner than the job's revisit says");
        }
    }
}

/// The next run lists all days. To be asked for before objects are handed back.
pub async fn ask_for_all(silver: &Store, source: &Source) -> Result<(), RunError> {
    let folder = folder(silver, source);
    let counts: Vec<_> = folder.list("").map_ok(|(key, _)| key).try_collect().await?;
    for count in counts {
        folder.delete(&count).await?;
    }
    Ok(())
}
