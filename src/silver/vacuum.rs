//! Files that no commit names: what dead or stopped batches left behind.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use deltalake::DeltaTable;
use futures::TryStreamExt;
use serde::Serialize;

use super::{SilverError, Table};

/// A data file that the table does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    pub path: String,
    pub bytes: u64,
    pub modified: DateTime<Utc>,
}

impl Table {
    /// Data files last written before `older_than` that are neither live, nor removed by a commit that readers of an older
    /// version may still follow, nor `named` by an intent.
    pub async fn orphans(&self, older_than: DateTime<Utc>, named: &HashSet<String>) -> Result<Vec<Orphan>, SilverError> {
        let mut orphans = Vec::new();
        if !self.exists().await? {
            return Ok(orphans);
        }
        // Listed before the log is read: a file that is committed in between is known by then.
        let mut entries = self.store.list("");
        while let Some((path, meta)) = entries.try_next().await? {
            let data = path.ends_with(".parquet") && !path.starts_with('_') && !path.starts_with('.');
            if data && meta.last_modified < older_than && !named.contains(&path) {
                orphans.push(Orphan { path, bytes: meta.size, modified: meta.last_modified });
            }
        }
        let known = self.known_files().await?;
        orphans.retain(|orphan| !known.contains(&orphan.path));
        orphans.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(orphans)
    }

    async fn known_files(&self) -> Result<HashSet<String>, SilverError> {
        let mut table = DeltaTable::new(self.log.clone());
        table.load().await.map_err(|source| self.delta(source))?;
        let state = table.snapshot().map_err(|source| self.delta(source))?;
        let mut known: HashSet<String> = state.log_data().into_iter().map(|view| view.path().into_owned()).collect();
        let mut removed = state.all_tombstones(self.log.as_ref());
        while let Some(tombstone) = removed.try_next().await.map_err(|source| self.delta(source))? {
            known.insert(tombstone.path().into_owned());
        }
        Ok(known)
    }
}
