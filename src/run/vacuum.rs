//! Removing what dead and stopped batches left in the tables' folders. Dry unless told otherwise.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{RunError, Settings, load, tables_of};
use crate::ledger::Ledger;
use crate::silver::{Orphan, Table};

/// Readers of an older version and batches in hand may need files younger than this.
pub const SAFE_RETENTION: Duration = Duration::from_hours(7 * 24);

#[derive(Debug, Serialize)]
pub struct TableOrphans {
    pub table: String,
    pub files: Vec<Orphan>,
    pub bytes: u64,
    /// Whether they were removed.
    pub removed: bool,
}

pub async fn vacuum(settings: &Settings, entity: &str, retention: Duration, execute: bool) -> Result<Vec<TableOrphans>, RunError> {
    let (job, _) = load(settings, entity)?;
    let (mut named, mut listed) = (HashSet::new(), HashSet::new());
    for country in &job.countries {
        let source = job.source(country)?;
        let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
        if retention < SAFE_RETENTION
            && let Some(claim) = ledger.open_claims().next()
        {
            return Err(RunError::BusyForVacuum { of: source, run: claim.run.clone() });
        }
        let lists = ledger.last_intent().into_iter().flat_map(|intent| &intent.tables).filter_map(|part| part.replaces.as_ref());
        listed.extend(lists.map(|replaced| replaced.list.clone()));
        let adds = ledger.last_intent().into_iter().flat_map(|intent| &intent.tables).flat_map(|append| &append.adds);
        let paths = adds.filter_map(|add| add.get("path")?.as_str());
        named.extend(paths.map(|path| percent_decode_str(path).decode_utf8_lossy().into_owned()));
    }
    let older_than = Utc::now() - retention;
    let tables = tables_of(&settings.silver, &job);
    let mut reports = Vec::new();
    for table in [&tables.silver, &tables.quarantine].into_iter().chain(&tables.marks) {
        let files = table.orphans(older_than, &named).await?;
        if execute {
            for file in &files {
                table.store().delete(&file.path).await?;
            }
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        reports.push(TableOrphans { table: table.name.clone(), files, bytes, removed: execute });
    }
    for table in [&tables.silver, &tables.quarantine].into_iter().chain(&tables.marks) {
        reports.extend(staged_lists(table, &listed, older_than, execute).await?);
    }
    Ok(reports)
}

/// Lists of batches that never became an intent, or whose intent is committed.
async fn staged_lists(
    silver: &Table,
    named: &HashSet<String>,
    older_than: DateTime<Utc>,
    execute: bool,
) -> Result<Option<TableOrphans>, RunError> {
    let staging = silver.staging();
    let entries: Vec<(String, object_store::ObjectMeta)> = staging.list(&silver.name).try_collect().await?;
    let dead = entries.into_iter().filter(|(path, meta)| meta.last_modified < older_than && !named.contains(path));
    let files: Vec<Orphan> = dead.map(|(path, meta)| Orphan { path, bytes: meta.size, modified: meta.last_modified }).collect();
    if files.is_empty() {
        return Ok(None);
    }
    if execute {
        for file in &files {
            staging.delete(&file.path).await?;
        }
    }
    let bytes = files.iter().map(|file| file.bytes).sum();
    Ok(Some(TableOrphans { table: "_etl/staging".to_owned(), files, bytes, removed: execute }))
}
