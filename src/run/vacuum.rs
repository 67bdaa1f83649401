//! Removing what nobody needs any more. Dry unless told otherwise.
//!
//! Files of dead batches and of commits that are long past, commits that a checkpoint covers, entries of the ledger that a snapshot
//! covers, staged lists that no open intent names. Files of an open intent are never touched, whatever their age.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::care::take_lease;
use super::{RunError, Settings, cluster, load, tables_of};
use crate::job::Job;
use crate::ledger::Ledger;
use crate::silver::vacuum::{Why, delete};
use crate::silver::{Table, Waste};
use crate::store::Store;

/// Readers of an older version and batches in hand may need files younger than this.
pub const SAFE_RETENTION: Duration = Duration::from_hours(7 * 24);

/// What is, or would be, removed from one folder.
#[derive(Debug, Serialize)]
pub struct FolderWaste {
    pub table: String,
    pub files: Vec<Waste>,
    pub bytes: u64,
    /// Whether they were removed.
    pub removed: bool,
}

impl FolderWaste {
    async fn of(table: &str, store: &Store, files: Vec<Waste>, execute: bool) -> Result<Self, RunError> {
        if execute {
            delete(store, &files).await?;
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(Self { table: table.to_owned(), files, bytes, removed: execute })
    }
}

/// What open intents name.
#[derive(Debug, Default)]
struct Named {
    files: HashSet<String>,
    lists: HashSet<String>,
    /// Batches that a cluster has yet to bring into a table, from rows that it staged.
    batches: HashSet<String>,
}

/// Looks at every source of the entity, also those that the job does not name any more. With a short retention nothing may be under
/// way: a batch's files, and those of an intent that is being committed, could be taken for waste.
async fn named(settings: &Settings, job: &Job, short: bool) -> Result<Named, RunError> {
    let mut named = Named::default();
    for source in Ledger::sources(&settings.silver, &job.entity).await? {
        let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
        if let Some(claim) = ledger.open_claims().next().filter(|_| short) {
            return Err(RunError::BusyForVacuum { of: source, run: claim.run.clone() });
        }
        for part in ledger.last_intent().into_iter().flat_map(|intent| &intent.tables) {
            let table = Table::at(&settings.silver, &part.table);
            // What is committed is named by the log, as long as it is anything's.
            if table.exists().await? && table.intent(&part.app_id).await? >= part.k {
                continue;
            }
            if short {
                return Err(RunError::BusyForVacuum { of: source, run: part.run.clone() });
            }
            named.batches.extend(Some(part.batch.clone()).filter(|_| !part.statements.is_empty()));
            named.lists.extend(part.replaces.as_ref().map(|replaced| replaced.list.clone()));
            let paths = part.adds.iter().filter_map(|add| add.get("path")?.as_str());
            named.files.extend(paths.map(|path| percent_decode_str(path).decode_utf8_lossy().into_owned()));
        }
    }
    Ok(named)
}

pub async fn vacuum(settings: &Settings, entity: &str, retention: Duration, execute: bool) -> Result<Vec<FolderWaste>, RunError> {
    let (job, _) = load(settings, entity)?;
    let short = retention < SAFE_RETENTION;
    let older_than = before(retention);
    let mut reports = Vec::new();
    let named_before = named(settings, &job, short).await?;
    for source in Ledger::sources(&settings.silver, entity).await? {
        let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
        let covered = ledger.covered(older_than).await?.into_iter().map(|(path, meta)| Waste::of(path, &meta, Why::OldLedger));
        let name = format!("_etl/ledger/{}/{}", source.entity, source.database);
        reports.push(FolderWaste::of(&name, ledger.store(), covered.collect(), execute).await?);
    }
    let on_cluster = settings.silver.folder(&cluster::staging(entity));
    let is_dead = |path: &str| path.split('/').next().is_none_or(|batch| !named_before.batches.contains(batch));
    reports
        .push(FolderWaste::of(&cluster::staging(entity), &on_cluster, dead(&on_cluster, "", older_than, is_dead).await?, execute).await?);
    reports.retain(|report| !report.files.is_empty());
    let tables = tables_of(&settings.silver, &job);
    for table in tables.all() {
        // A compaction's new files are named by no commit until it makes one.
        let lease = if execute { Some(take_lease(settings, table, &job).await?) } else { None };
        let mut files = table.waste(older_than, &named_before.files).await?;
        files.extend(table.old_log(before(job.table.log_retention)).await?);
        if execute && short {
            // Nobody has begun since.
            named(settings, &job, short).await?;
        }
        reports.push(FolderWaste::of(&table.name, table.store(), files, execute).await?);
        reports.extend(staged_lists(table, &named_before.lists, older_than, execute).await?);
        if let Some(lease) = lease {
            lease.release().await?;
        }
    }
    Ok(reports)
}

/// So long ago; the beginning of time where that is longer.
pub fn before(age: Duration) -> DateTime<Utc> {
    let age = chrono::TimeDelta::from_std(age).unwrap_or(chrono::TimeDelta::MAX);
    Utc::now().checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// Lists of batches that never became an intent, or whose intent is committed.
async fn staged_lists(
    table: &Table,
    named: &HashSet<String>,
    older_than: DateTime<Utc>,
    execute: bool,
) -> Result<Option<FolderWaste>, RunError> {
    let staging = table.staging();
    let files = dead(&staging, &table.name, older_than, |path| !named.contains(path)).await?;
    if files.is_empty() {
        return Ok(None);
    }
    Ok(Some(FolderWaste::of("_etl/staging", &staging, files, execute).await?))
}

/// Files of `store` below `prefix` that were last written before `older_than`, as far as they are of no use.
async fn dead(store: &Store, prefix: &str, older_than: DateTime<Utc>, is_of_no_use: impl Fn(&str) -> bool) -> Result<Vec<Waste>, RunError> {
    let entries: Vec<(String, object_store::ObjectMeta)> = store.list(prefix).try_collect().await?;
    let dead = entries.into_iter().filter(|(path, meta)| meta.last_modified < older_than && is_of_no_use(path));
    Ok(dead.map(|(path, meta)| Waste::of(path, &meta, Why::Orphan)).collect())
}
