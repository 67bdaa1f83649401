//! Committing an intent exactly once.
//!
//! delta-rs never compares the versions of a `txn`, and a commit can land although its writer sees an error. So each turn of the
//! loop takes the newest snapshot, asks it whether the intent is already there, checks that the table can still be written
//! safely, and puts version n+1 create-only. Whatever the put says, lost answers included, the next turn's
//! snapshot decides. The actions are written as Delta's JSON directly: it carries the statistics as they are and our own fields
//! in `commitInfo`, and it has no post-commit hooks that could fail after success.

use std::time::{Duration, Instant};

use delta_kernel::snapshot::SnapshotRef;
use serde_json::json;

use super::features::{IN_COMMIT_TIMESTAMPS, Writer, check};
use super::replace::{Exchange, exchange, paths};
use super::table::engine_info;
use super::{GUARDED, SilverError, Table};
use crate::job;
use crate::ledger::TableIntent;

/// Puts without an answer and without an effect until a commit is left to the next run.
pub(super) const TRIES: u32 = 2;
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(10);
pub(super) const LAST_BACKOFF: Duration = Duration::from_millis(2500);

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

    /// The same on a snapshot.
    pub(super) async fn intent_at(&self, snapshot: &SnapshotRef, app_id: &str) -> Result<i64, SilverError> {
        let (snapshot, app_id) = (snapshot.clone(), app_id.to_owned());
        self.blocking(move |table| table.intent_in(&snapshot, &app_id)).await
    }

    pub(super) fn intent_in(&self, snapshot: &SnapshotRef, app_id: &str) -> Result<i64, SilverError> {
        let engine = self.log.engine(None);
        let version = snapshot.get_app_id_version(app_id, engine.as_ref()).map_err(|source| self.kernel(source))?;
        Ok(version.unwrap_or(0))
    }

    /// `settings` say how files are written that lose rows.
    pub async fn commit(&self, intent: &TableIntent, settings: &job::Table, deadline: Duration) -> Result<Committed, SilverError> {
        let started = Instant::now();
        let mut backoff = FIRST_BACKOFF;
        // Versions that were tried and not taken by this commit, as far as was to be seen.
        let mut tried: Vec<u64> = Vec::new();
        let mut failures = 0;
        let mut unanswered = false;
        let mut exchanged: Option<Exchange> = None;
        loop {
            let (now, done) = self.now(&intent.app_id).await?;
            if done >= intent.k && GUARDED {
                // A put without an answer may be the very commit that has the intent: then its files are the table's.
                if unanswered {
                    return Ok(Committed::At(now.version()));
                }
                self.discard(exchanged, &tried, &now).await;
                return Ok(Committed::Before);
            }
            check(&self.name, &now, if intent.statements.is_empty() { Writer::OnlyOurs } else { Writer::Cluster })?;
            if intent.replaces.is_some() || intent.expires.is_some() {
                let (version, files) = self.versioned_files(|_| true).await?;
                if version != now.version() {
                    continue;
                }
                exchanged = Some(match exchanged.take() {
                    Some(exchange) if exchange.fits(&paths(&files)) || !GUARDED => exchange,
                    outdated => {
                        self.discard(outdated, &tried, &now).await;
                        match Box::pin(exchange(self, intent, &now, &files, settings)).await {
                            Ok(exchange) => exchange,
                            // Whoever committed the intent meanwhile has tidied up after it.
                            Err(SilverError::StagedListMissing { .. }) if self.now(&intent.app_id).await?.1 >= intent.k => continue,
                            Err(error) => return Err(error),
                        }
                    }
                });
            }
            let version = now.version() + 1;
            let put = match self.put_version(version, &actions(intent, exchanged.as_ref(), self.in_commit_timestamp(&now).await?)).await {
                Ok(put) => put,
                // It had no effect yet; the next snapshot tells whether it got one.
                Err(error) if failures == TRIES || matches!(&error, SilverError::Store(error) if error.is_users()) => return Err(error),
                Err(_) => {
                    failures += 1;
                    unanswered = true;
                    false
                }
            };
            if put {
                self.checkpoint_if_due(&now, settings.checkpoint_every).await;
                return Ok(Committed::At(version));
            }
            tried.push(version);
            if started.elapsed() > deadline {
                return Err(SilverError::Contended { table: self.name.clone(), seconds: deadline.as_secs() });
            }
            tokio::time::sleep(backoff.mul_f64(jitter())).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// The newest snapshot and the newest intent that it has.
    async fn now(&self, app_id: &str) -> Result<(SnapshotRef, i64), SilverError> {
        let app_id = app_id.to_owned();
        self.blocking(move |table| {
            let now = table.load()?;
            let done = table.intent_in(&now, &app_id)?;
            Ok((now, done))
        })
        .await
    }

    /// The time that the next commit must tell, where the table has commits tell theirs: later than the last one's.
    async fn in_commit_timestamp(&self, now: &SnapshotRef) -> Result<Option<i64>, SilverError> {
        let properties = now.table_configuration().metadata().configuration();
        if properties.get(IN_COMMIT_TIMESTAMPS).is_none_or(|on| !on.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let now = now.clone();
        self.blocking(move |table| {
            let last = now.get_timestamp(table.log.engine(None).as_ref()).map_err(|source| table.kernel(source))?;
            Ok(Some(chrono::Utc::now().timestamp_millis().max(last + 1)))
        })
        .await
    }

    /// Files that no commit names and none can name any more: a put that is still under way may yet take a version that is free.
    async fn discard(&self, exchanged: Option<Exchange>, tried: &[u64], now: &SnapshotRef) {
        if let Some(exchange) = exchanged.filter(|_| tried.iter().all(|version| *version <= now.version())) {
            exchange.discard(self).await;
        }
    }

    /// After a commit on `before`: whoever makes a round version folds the log, or, where that failed, one of those that come later.
    pub(super) async fn checkpoint_if_due(&self, before: &SnapshotRef, every: u64) {
        let version = before.version() + 1;
        let since = version - before.log_segment().checkpoint_version.unwrap_or(0);
        let late = since >= 2 * every && version.is_multiple_of(every.div_ceil(10));
        // Of a table with features whoever writes its rows makes the checkpoints.
        if check(&self.name, before, Writer::OnlyOurs).is_err() {
            return;
        }
        if (version.is_multiple_of(every) || late)
            && let Err(error) = self.checkpoint().await
        {
            tracing::warn!(table = %self.name, %error, "no checkpoint; a later commit tries again");
        }
    }
}

/// From 0.5 to 1: writers that lost together do not come back together.
pub fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}

fn actions(intent: &TableIntent, exchange: Option<&Exchange>, in_commit_timestamp: Option<i64>) -> Vec<serde_json::Value> {
    let now = chrono::Utc::now().timestamp_millis();
    let files = intent.adds.len();
    let exchanged: Vec<serde_json::Value> = exchange.into_iter().flat_map(|exchange| exchange.actions(true)).collect();
    let (operation, parameters) =
        if exchanged.is_empty() { ("WRITE", json!({"mode": "Append"})) } else { ("MERGE", json!({"source": intent.batch})) };
    let mut info = json!({
            "timestamp": now,
            "operation": operation,
            "operationParameters": parameters,
            "isBlindAppend": false,
            "engineInfo": engine_info(),
            "operationMetrics": {"numFiles": files.to_string()},
            "etlRun": intent.run,
            "etlBatch": intent.batch,
            "etlIntent": intent.k,
            // Tells a commit from every other attempt at it.
            "etlAttempt": uuid::Uuid::new_v4().to_string(),
    });
    if let Some(timestamp) = in_commit_timestamp {
        info["inCommitTimestamp"] = json!(timestamp);
    }
    let mut actions = vec![json!({"commitInfo": info}), json!({"txn": {"appId": intent.app_id, "version": intent.k, "lastUpdated": now}})];
    actions.extend(exchanged);
    actions.extend(intent.adds.iter().map(|add| json!({"add": add})));
    actions
}
