//! What a table's folder holds that nobody needs any more: files that no commit names, files that were removed by a commit long ago,
//! and commits that a checkpoint covers.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use deltalake::DeltaTable;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::features::{Writer, check};
use super::{SilverError, Table};
use crate::store::Store;

/// Deletions at the same time.
const AT_ONCE: usize = 16;

/// Why a file is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No commit names it: a batch died or was stopped, or a compaction was.
    Orphan,
    /// A commit removed it: only readers of older versions would look for it.
    Removed,
    /// A commit or checkpoint that a later checkpoint covers.
    OldLog,
    /// An entry or snapshot of the ledger that a later snapshot covers.
    OldLedger,
}

/// A file that is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waste {
    pub path: String,
    pub bytes: u64,
    pub modified: DateTime<Utc>,
    pub why: Why,
}

impl Waste {
    pub fn of(path: String, meta: &object_store::ObjectMeta, why: Why) -> Self {
        Self { path, bytes: meta.size, modified: meta.last_modified, why }
    }
}

/// Deletes; what is not there any more is deleted.
pub async fn delete(store: &Store, files: &[Waste]) -> Result<(), SilverError> {
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let deletions = paths.into_iter().map(|path| async move { store.delete(&path).await });
    let deleted = futures::stream::iter(deletions).buffer_unordered(AT_ONCE);
    Ok(deleted.try_collect::<()>().await?)
}

impl Table {
    /// Data files last written before `older_than` that are neither live, nor removed by a commit since then, nor `named` by an
    /// intent.
    pub async fn waste(&self, older_than: DateTime<Utc>, named: &HashSet<String>) -> Result<Vec<Waste>, SilverError> {
        let mut found = Vec::new();
        if !self.exists().await? {
            return Ok(found);
        }
        check(&self.name, self.snapshot().await?.as_ref(), Writer::Cluster)?;
        // Listed before the log is read: a file that is committed in between is known by then.
        let mut entries = self.store.list("");
        while let Some((path, meta)) = entries.try_next().await? {
            let data = path.ends_with(".parquet") && !path.starts_with('_') && !path.starts_with('.');
            if data && meta.last_modified < older_than && !named.contains(&path) {
                found.push(Waste::of(path, &meta, Why::Orphan));
            }
        }
        let (live, removed) = self.known_files().await?;
        found.retain(|file| !live.contains(&file.path));
        found.retain_mut(|file| match removed.get(&file.path) {
            None => true,
            Some(at) => {
                file.why = Why::Removed;
                *at < older_than
            }
        });
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Live files, and those that commits removed with when they did.
    async fn known_files(&self) -> Result<(HashSet<String>, HashMap<String, DateTime<Utc>>), SilverError> {
        let mut table = DeltaTable::new(self.log.clone());
        table.load().await.map_err(|source| self.delta(source))?;
        let state = table.snapshot().map_err(|source| self.delta(source))?;
        let live: HashSet<String> = state.log_data().into_iter().map(|view| view.path().into_owned()).collect();
        let mut tombstones = HashMap::new();
        let mut removed = state.all_tombstones(self.log.as_ref());
        while let Some(tombstone) = removed.try_next().await.map_err(|source| self.delta(source))? {
            // One without a time might be of this moment.
            let at = tombstone.deletion_timestamp().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::<Utc>::MAX_UTC);
            tombstones.insert(tombstone.path().into_owned(), at);
        }
        Ok((live, tombstones))
    }

    /// Parts of the log that only versions older than `kept_since` need: all before the newest checkpoint from which every younger
    /// version can be read.
    pub async fn old_log(&self, kept_since: DateTime<Utc>) -> Result<Vec<Waste>, SilverError> {
        let entries: Vec<(String, object_store::ObjectMeta)> = self.store.list("_delta_log").try_collect().await?;
        Ok(old_log(entries, kept_since))
    }
}

fn old_log(entries: Vec<(String, object_store::ObjectMeta)>, kept_since: DateTime<Utc>) -> Vec<Waste> {
    let versioned = entries.into_iter().filter_map(|(path, meta)| {
        let name = path.rsplit('/').next()?;
        let (version, kind) = name.split_once('.')?;
        let version: u64 = version.parse().ok().filter(|_| version.len() == 20)?;
        let kind = kind.to_owned();
        Some((version, kind, path, meta))
    });
    let versioned: Vec<(u64, String, String, object_store::ObjectMeta)> = versioned.collect();
    let commits = || versioned.iter().filter(|(_, kind, ..)| kind == "json");
    let young = commits().filter(|(.., meta)| meta.last_modified >= kept_since).map(|(version, ..)| *version).min();
    let Some(first_kept) = young.or_else(|| commits().map(|(version, ..)| *version).max()) else { return Vec::new() };
    // Only a checkpoint of one file is surely whole.
    let whole = versioned.iter().filter(|(version, kind, ..)| kind == "checkpoint.parquet" && *version <= first_kept);
    let Some(base) = whole.map(|(version, ..)| *version).max() else { return Vec::new() };
    let mut old: Vec<Waste> = versioned
        .into_iter()
        .filter(|(version, _, _, meta)| *version < base && meta.last_modified < kept_since)
        .map(|(.., path, meta)| Waste::of(path, &meta, Why::OldLog))
        .collect();
    old.sort_by(|a, b| a.path.cmp(&b.path));
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, days_old: i64, now: DateTime<Utc>) -> (String, object_store::ObjectMeta) {
        let path = format!("_delta_log/{name}");
        let meta = object_store::ObjectMeta {
            location: path.as_str().into(),
            last_modified: now - chrono::TimeDelta::days(days_old),
            size: 1,
            e_tag: None,
            version: None,
        };
        (path, meta)
    }

    #[test]
    fn every_young_version_stays_readable() {
        let now = Utc::now();
        let commit = |version: u64| format!("{version:020}.json");
        // Versions 0 to 19, one a day, a checkpoint at every fifth.
        let mut entries: Vec<_> = (0..20).map(|version| entry(&commit(version), 19 - version as i64, now)).collect();
        entries.extend((5..20).step_by(5).map(|version| entry(&format!("{version:020}.checkpoint.parquet"), 19 - version, now)));
        entries.push(entry("_last_checkpoint", 4, now));
        entries.push(entry("00000000000000000003.crc", 16, now));
        let old = old_log(entries.clone(), now - chrono::TimeDelta::days(7));
        // The first version to keep is 12, which is read from the checkpoint of 10.
        let names: Vec<&str> = old.iter().map(|waste| waste.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names.iter().filter(|name| name.len() == 25).count(), 10);
        assert!(names.contains(&"00000000000000000005.checkpoint.parquet") && names.contains(&"00000000000000000003.crc"));
        assert!(!names.contains(&"00000000000000000010.checkpoint.parquet") && !names.contains(&"_last_checkpoint"));
        // Without a checkpoint nothing goes.
        let bare: Vec<_> = entries.into_iter().filter(|(path, _)| !path.contains("checkpoint")).collect();
        assert_eq!(old_log(bare, now), []);
    }
}
