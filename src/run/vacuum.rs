//! Removing what dead and stopped batches left in the tables' folders. Dry unless told otherwise.

use std::collections::HashSet;
use std::time::Duration;

use chrono::Utc;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{RunError, Settings, load, tables_of};
use crate::ledger::Ledger;
use crate::silver::Orphan;

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
    let mut named = HashSet::new();
    for country in &job.countries {
        let source = job.source(country)?;
        let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
        if retention < SAFE_RETENTION
            && let Some(claim) = ledger.open_claims().next()
        {
            return Err(RunError::BusyForVacuum { of: source, run: claim.run.clone() });
        }
        let adds = ledger.last_intent().into_iter().flat_map(|intent| &intent.tables).flat_map(|append| &append.adds);
        let paths = adds.filter_map(|add| add.get("path")?.as_str());
        named.extend(paths.map(|path| percent_decode_str(path).decode_utf8_lossy().into_owned()));
    }
    let older_than = Utc::now() - retention;
    let tables = tables_of(&settings.silver, entity);
    let mut reports = Vec::new();
    for table in [&tables.silver, &tables.quarantine] {
        let files = table.orphans(older_than, &named).await?;
        if execute {
            for file in &files {
                table.store().delete(&file.path).await?;
            }
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        reports.push(TableOrphans { table: table.name.clone(), files, bytes, removed: execute });
    }
    Ok(reports)
}
