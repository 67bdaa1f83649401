//! Appending files exactly once.
//!
//! delta-rs never compares the versions of a `txn`, and a commit can land although its writer sees an error. So each turn of the
//! loop takes the newest snapshot, asks it whether the intent is already there, checks that the table can still be written
//! safely, and puts version n+1 create-only. Whatever the put says, lost answers included, the next turn's
//! snapshot decides. The actions are written as Delta's JSON directly: it carries the statistics as they are and our own fields
//! in `commitInfo`, and it has no post-commit hooks that could fail after success.

use std::time::{Duration, Instant};

use delta_kernel::snapshot::SnapshotRef;
use serde_json::json;

use super::table::{check_writable, engine_info};
use super::{SilverError, Table};
use crate::ledger::Append;

/// Commits in a row after which the log is folded into a checkpoint.
const CHECKPOINT_EVERY: u64 = 50;
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_millis(2500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    At(u64),
    /// The table already has this intent.
    Before,
}

impl Table {
    /// The newest intent of an application that the table has; 0 where there is none.
    pub async fn intent(&self, app_id: &str) -> Result<i64, SilverError> {
        let app_id = app_id.to_owned();
        self.blocking(move |table| {
            let snapshot = table.load()?;
            table.intent_in(&snapshot, &app_id)
        })
        .await
    }

    fn intent_in(&self, snapshot: &SnapshotRef, app_id: &str) -> Result<i64, SilverError> {
        let engine = self.log.engine(None);
        let version = snapshot.get_app_id_version(app_id, engine.as_ref()).map_err(|source| self.kernel(source))?;
        Ok(version.unwrap_or(0))
    }

    pub async fn commit(&self, append: &Append, deadline: Duration) -> Result<Committed, SilverError> {
        let started = Instant::now();
        let mut backoff = FIRST_BACKOFF;
        let mut unanswered = false;
        loop {
            let app_id = append.app_id.clone();
            let (now, done) = self
                .blocking(move |table| {
                    let now = table.load()?;
                    let done = table.intent_in(&now, &app_id)?;
                    Ok((now, done))
                })
                .await?;
            if done >= append.k {
                return Ok(if unanswered { Committed::At(now.version()) } else { Committed::Before });
            }
            check_writable(&self.name, &now)?;
            let version = now.version() + 1;
            let put = match self.put_version(version, &actions(append)).await {
                Ok(put) => put,
                // Perhaps it landed: the next snapshot tells.
                Err(error) if unanswered => return Err(error),
                Err(_) => {
                    unanswered = true;
                    false
                }
            };
            if put {
                if version % CHECKPOINT_EVERY == 0
                    && let Err(error) = self.checkpoint().await
                {
                    tracing::warn!(table = %self.name, %error, "no checkpoint; the next one is tried in {CHECKPOINT_EVERY} commits");
                }
                return Ok(Committed::At(version));
            }
            if started.elapsed() > deadline {
                return Err(SilverError::Contended { table: self.name.clone(), seconds: deadline.as_secs() });
            }
            tokio::time::sleep(backoff.mul_f64(jitter())).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }
}

/// From 0.5 to 1: writers that lost together do not come back together.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}

fn actions(append: &Append) -> Vec<serde_json::Value> {
    let now = chrono::Utc::now().timestamp_millis();
    let files = append.adds.len();
    let mut actions = vec![
        json!({"commitInfo": {
            "timestamp": now,
            "operation": "WRITE",
            "operationParameters": {"mode": "Append"},
            "isBlindAppend": false,
            "engineInfo": engine_info(),
            "operationMetrics": {"numFiles": files.to_string()},
            "etlRun": append.run,
            "etlBatch": append.batch,
            "etlIntent": append.k,
        }}),
        json!({"txn": {"appId": append.app_id, "version": append.k, "lastUpdated": now}}),
    ];
    actions.extend(append.adds.iter().map(|add| json!({"add": add})));
    actions
}
