//! Who looks after a table: one at a time, by a lease with a fencing token.
//!
//! Tokens are numbered, create-only objects: whoever wants a table reads the newest one, and writes the next if that one's lease was
//! given back or ran out. A maintainer that was taken for dead and wakes up again can do no harm: every commit of his carries his
//! token as the `txn` of [`APP_ID`], and none is made on a snapshot that has a later one, nor once a later token exists.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{FORMAT, LedgerError, Renewal, lease_path, read_lease, seq_of};
use crate::store::Store;

/// The application whose `txn` is the token.
pub const APP_ID: &str = "etl/maintenance";
/// Tokens that are kept to be looked at.
const KEPT: usize = 16;
/// A token younger than this is never removed: nobody decides on what he read longer ago.
const KEPT_FOR: TimeDelta = TimeDelta::days(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct TokenFile {
    format: u32,
    /// Names the lease, and tells our own token from another's where the store's answer was lost.
    lease: String,
    run: String,
    at: DateTime<Utc>,
}

/// Somebody looks after the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    pub run: String,
    pub token: u64,
    pub since: DateTime<Utc>,
    pub expires: DateTime<Utc>,
}

/// What the last one did, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastMaintenance {
    pub run: String,
    pub at: DateTime<Utc>,
    pub seconds: f64,
    pub files_removed: u64,
    pub files_added: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Of the store, in all.
    pub requests: u64,
}

/// The lease of one table, in our hands.
#[derive(Debug)]
pub struct TableLease {
    store: Store,
    pub token: u64,
    lease: String,
    renewing: tokio::task::JoinHandle<()>,
}

impl Drop for TableLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn folder(silver: &Store, table: &str) -> Store {
    silver.folder(&format!("_etl/maintenance/{table}"))
}

/// Where a migration of a table keeps what it has done.
pub fn progress_folder(silver: &Store, table: &str, migration: &str) -> Store {
    silver.folder(&format!("_etl/migration/{table}/{migration}"))
}

fn token_path(token: u64) -> String {
    format!("tokens/{token:020}.json")
}

async fn tokens(store: &Store) -> Result<Vec<(u64, String, DateTime<Utc>)>, LedgerError> {
    let mut tokens: Vec<_> = store.list("tokens").map_ok(|(path, meta)| (seq_of(&path), path, meta.last_modified)).try_collect().await?;
    tokens.sort();
    Ok(tokens)
}

async fn holder(store: &Store, token: u64) -> Result<Option<Held>, LedgerError> {
    let path = token_path(token);
    let Some(bytes) = store.get(&path).await? else { return Ok(None) };
    let file: TokenFile = serde_json::from_slice(&bytes).map_err(|source| LedgerError::Parse { path: path.clone(), source })?;
    if file.format > FORMAT {
        return Err(LedgerError::Format { path, found: file.format });
    }
    // A lease that is not there was given back.
    let Some(lease) = read_lease(store, &file.lease).await? else { return Ok(None) };
    Ok(Some(Held { run: file.run, token, since: file.at, expires: lease.expires }))
}

/// Who has the table's lease, whether or not it ran out.
pub async fn held(silver: &Store, table: &str) -> Result<Option<Held>, LedgerError> {
    let store = folder(silver, table);
    match tokens(&store).await?.last() {
        Some((token, ..)) => holder(&store, *token).await,
        None => Ok(None),
    }
}

/// Takes the table's lease; `Err` inside names whoever has it.
pub async fn take(silver: &Store, table: &str, run: &str, lease: Duration) -> Result<Result<TableLease, Held>, LedgerError> {
    let store = folder(silver, table);
    loop {
        let tokens = tokens(&store).await?;
        let newest = tokens.last().map_or(0, |(token, ..)| *token);
        if newest > 0
            && let Some(held) = holder(&store, newest).await?
            && held.expires >= Utc::now()
        {
            return Ok(Err(held));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let renewal = Renewal { store: store.clone(), path: lease_path(&id), lease };
        // The lease is there before the token can be seen, so that nobody takes a fresh one for one that was given back.
        renewal.renew().await?;
        let file = TokenFile { format: FORMAT, lease: id.clone(), run: run.to_owned(), at: Utc::now() };
        let (token, path) = (newest + 1, token_path(newest + 1));
        let bytes = serde_json::to_vec(&file).map_err(|source| LedgerError::Parse { path: path.clone(), source })?;
        if store.create(&path, bytes.into()).await? {
            forget_old(&store, &tokens).await;
            return Ok(Ok(TableLease { store, token, lease: id, renewing: tokio::spawn(renewal.keep()) }));
        }
        store.delete(&lease_path(&id)).await?;
    }
}

/// Best effort: tokens say nothing once there are later ones.
async fn forget_old(store: &Store, tokens: &[(u64, String, DateTime<Utc>)]) {
    let old = tokens.len().saturating_sub(KEPT);
    for (_, path, _) in tokens[..old].iter().filter(|(.., written)| *written < Utc::now() - KEPT_FOR) {
        if let Err(error) = store.delete(path).await {
            tracing::debug!(path, %error, "an old token was left behind");
        }
    }
}

impl TableLease {
    /// Whether nobody has taken the table over, in time or not.
    pub async fn stands(&self) -> Result<bool, LedgerError> {
        Ok(self.store.get(&token_path(self.token + 1)).await?.is_none())
    }

    /// Gives it back.
    pub async fn release(self) -> Result<(), LedgerError> {
        self.give_back().await
    }

    pub(super) async fn give_back(&self) -> Result<(), LedgerError> {
        self.renewing.abort();
        Ok(self.store.delete(&lease_path(&self.lease)).await?)
    }
}

/// Writes down what was done; what is lost of it is missed in `status` only.
pub async fn note(silver: &Store, table: &str, last: &LastMaintenance) {
    let Ok(bytes) = serde_json::to_vec(last) else { return };
    if let Err(error) = folder(silver, table).put("last.json", bytes.into()).await {
        tracing::warn!(table, %error, "what was done was not written down; status shows an older time");
    }
}

pub async fn last(silver: &Store, table: &str) -> Result<Option<LastMaintenance>, LedgerError> {
    let found = folder(silver, table).get("last.json").await?;
    Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silver() -> Store {
        Store::over(std::sync::Arc::new(object_store::memory::InMemory::new()), url::Url::parse("memory:///silver/").unwrap()).unwrap()
    }

    #[tokio::test]
    async fn one_at_a_time_and_tokens_rise() {
        let silver = silver();
        let first = take(&silver, "T", "a", Duration::from_mins(1)).await.unwrap().unwrap();
        let busy = take(&silver, "T", "b", Duration::from_mins(1)).await.unwrap().unwrap_err();
        assert_eq!((busy.run.as_str(), busy.token), ("a", 1));
        assert!(take(&silver, "other", "b", Duration::from_mins(1)).await.unwrap().is_ok());
        assert!(first.stands().await.unwrap());
        first.release().await.unwrap();
        assert_eq!(held(&silver, "T").await.unwrap(), None);
        assert_eq!(take(&silver, "T", "b", Duration::from_mins(1)).await.unwrap().unwrap().token, 2);
    }

    #[tokio::test]
    async fn a_lease_that_ran_out_is_taken_over_and_its_owner_knows() {
        let silver = silver();
        let slow = take(&silver, "T", "slow", Duration::from_millis(30)).await.unwrap().unwrap();
        slow.renewing.abort();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let next = take(&silver, "T", "next", Duration::from_mins(1)).await.unwrap().unwrap();
        assert_eq!(next.token, 2);
        assert!(!slow.stands().await.unwrap() && next.stands().await.unwrap());
    }

    #[tokio::test]
    async fn of_many_at_once_one_gets_it() {
        let silver = silver();
        let takers = (0..16).map(|run| {
            let silver = silver.clone();
            tokio::spawn(async move { take(&silver, "T", &run.to_string(), Duration::from_mins(1)).await.unwrap().ok() })
        });
        let taken = futures::future::join_all(takers).await;
        assert_eq!(taken.iter().filter(|taken| taken.as_ref().unwrap().is_some()).count(), 1);
    }
}
