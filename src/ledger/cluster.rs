//! A cluster has a table to itself: what it commits carries no `txn` of ours, and its way of making a commit exclusive may not be ours.
//!
//! It holds the lease of maintenance, which keeps compactions and other clusters away, and writes down beside it that it does, where a
//! local run looks with one request once it has a claim. The cluster looks at claims once it has written that down. So of the two that
//! begin at the same time at least one sees the other.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::maintenance::{self, Held, TableLease};
use super::{Ledger, LedgerError, SHORTEST_RENEWAL};
use crate::store::Store;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sign {
    run: String,
    since: DateTime<Utc>,
    expires: DateTime<Utc>,
}

/// The table, to ourselves.
#[derive(Debug)]
pub struct ClusterLease {
    store: Store,
    table: TableLease,
    renewing: tokio::task::JoinHandle<()>,
}

impl Drop for ClusterLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

const SIGN: &str = "cluster.json";

fn folder(silver: &Store, table: &str) -> Store {
    silver.folder(&format!("_etl/maintenance/{table}"))
}

async fn sign(store: &Store, run: &str, since: DateTime<Utc>, lease: Duration) -> Result<(), LedgerError> {
    let sign = Sign { run: run.to_owned(), since, expires: Utc::now() + lease };
    let bytes = serde_json::to_vec(&sign).map_err(|source| LedgerError::Parse { path: SIGN.to_owned(), source })?;
    Ok(store.put(SIGN, bytes.into()).await?)
}

/// Which cluster has the table now.
pub async fn held(silver: &Store, table: &str) -> Result<Option<Held>, LedgerError> {
    let Some(bytes) = folder(silver, table).get(SIGN).await? else { return Ok(None) };
    let sign: Sign = serde_json::from_slice(&bytes).map_err(|source| LedgerError::Parse { path: SIGN.to_owned(), source })?;
    Ok((sign.expires >= Utc::now()).then_some(Held { run: sign.run, token: 0, since: sign.since, expires: sign.expires }))
}

/// Takes the table from everybody else; `Err` inside names whoever has it, or a part of it.
pub async fn take(silver: &Store, entity: &str, run: &str, lease: Duration) -> Result<Result<ClusterLease, Held>, LedgerError> {
    let table = match maintenance::take(silver, entity, run, lease).await? {
        Ok(table) => table,
        Err(held) => return Ok(Err(held)),
    };
    let (store, since) = (folder(silver, entity), Utc::now());
    sign(&store, run, since, lease).await?;
    let renewing = {
        let (store, run) = (store.clone(), run.to_owned());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep((lease / 3).max(SHORTEST_RENEWAL)).await;
                if let Err(error) = sign(&store, &run, since, lease).await {
                    tracing::warn!(%error, "the lease of the table could not be renewed; trying again");
                }
            }
        })
    };
    let ours = ClusterLease { store, table, renewing };
    match writer(silver, entity, run, lease).await? {
        None => Ok(Ok(ours)),
        Some(held) => {
            ours.release().await?;
            Ok(Err(held))
        }
    }
}

/// A run other than `run` that has objects of the entity in hand.
async fn writer(silver: &Store, entity: &str, run: &str, lease: Duration) -> Result<Option<Held>, LedgerError> {
    for source in Ledger::sources(silver, entity).await? {
        let ledger = Ledger::open(silver, &source, lease).await?;
        for claim in ledger.open_claims().filter(|claim| claim.run != run) {
            let expires = ledger.expires(claim).await?;
            if expires >= Utc::now() {
                return Ok(Some(Held { run: claim.run.clone(), token: 0, since: claim.at, expires }));
            }
        }
        if let Some(intent) = ledger.last_intent()
            && intent.run != run
            && ledger.owner_lives(intent).await?
        {
            let now = Utc::now();
            return Ok(Some(Held { run: intent.run.clone(), token: 0, since: now, expires: now + lease }));
        }
    }
    Ok(None)
}

impl ClusterLease {
    /// Whether nobody has taken the table over.
    pub async fn stands(&self) -> Result<bool, LedgerError> {
        self.table.stands().await
    }

    pub async fn release(self) -> Result<(), LedgerError> {
        let Self { store, .. } = &self;
        self.renewing.abort();
        store.delete(SIGN).await?;
        self.table.give_back().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BronzeObject, Layout, PathValues, Source};
    use crate::ledger::Taking;

    const LEASE: Duration = Duration::from_mins(1);

    fn silver() -> Store {
        Store::over(std::sync::Arc::new(object_store::memory::InMemory::new()), url::Url::parse("memory:///silver/").unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_cluster_and_a_writer_see_each_other() {
        let silver = silver();
        let source = Source { entity: "E".to_owned(), database: "d".to_owned() };
        let object =
            BronzeObject { key: "k".to_owned(), version: "1".to_owned(), size: 1, layout: Layout::Firehose, path: PathValues::default() };
        let mut ledger = Ledger::open(&silver, &source, LEASE).await.unwrap();
        ledger.claim("c", "local", &[object], Taking::Free).await.unwrap();
        let busy = take(&silver, "E", "cluster", LEASE).await.unwrap().unwrap_err();
        assert_eq!(busy.run, "local");
        // It took nothing with it.
        assert_eq!(held(&silver, "E").await.unwrap(), None);
        let ours = take(&silver, "E", "local", LEASE).await.unwrap().unwrap();
        assert_eq!(held(&silver, "E").await.unwrap().unwrap().run, "local");
        assert_eq!(take(&silver, "E", "another", LEASE).await.unwrap().unwrap_err().run, "local");
        assert!(ours.stands().await.unwrap());
        ours.release().await.unwrap();
        assert_eq!(held(&silver, "E").await.unwrap(), None);
        ledger.release("c", "local", "done").await.unwrap();
        assert!(take(&silver, "E", "cluster", LEASE).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_sign_that_ran_out_holds_nobody_up() {
        let silver = silver();
        let ours = take(&silver, "E", "dead", Duration::from_millis(30)).await.unwrap().unwrap();
        ours.renewing.abort();
        drop(ours);
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert_eq!(held(&silver, "E").await.unwrap(), None);
        assert!(take(&silver, "E", "next", LEASE).await.unwrap().is_ok());
    }
}
