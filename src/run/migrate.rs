//! Bringing a contract's next version to a live table: what that would do, and doing it.
//!
//! New columns are one commit of metadata, which a run makes by itself. Anything else rewrites the table. Most of that is done while
//! writers of the old version go on; then they are fenced off in the ledgers of all sources, the intents that they left are finished,
//! what came meanwhile is rewritten, and one commit exchanges everything. So nothing of theirs is lost: a batch is either committed
//! before and rewritten, or it is not committed, and read again by a program that knows the new version. A migration that dies is
//! gone on with by the next one; until it is done, runs of either version stop with exit 2 and say so.

use std::sync::Arc;

use serde::Serialize;

use super::care::take_lease;
use super::prepare::shapes;
use super::{RunError, Settings, commit_intent, load, tables_of};
use crate::contract::Contract;
use crate::contract::convert::{Conversion, ConvertError};
use crate::engine::local::Tables;
use crate::job::Job;
use crate::ledger::Ledger;
use crate::ledger::maintenance::TableLease;
use crate::plan::SourcePlan;
use crate::plan::price::{Estimate, PRICES, Rewrite};
use crate::silver::migrate::{Comparison, Difference, Migrated, Migration};
use crate::silver::{Table, TableShape, Writer};

/// What a migration does, or did, to one table.
#[derive(Debug, Clone, Serialize)]
pub struct TableMigration {
    pub table: String,
    pub differences: Vec<Difference>,
    /// Only metadata changes.
    pub additive: bool,
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
    /// Of the job's container task on S3 and Fargate, at list prices.
    pub estimate: Estimate,
    /// What was done; nothing where it was only looked at.
    pub done: Option<Migrated>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EntityMigration {
    pub entity: String,
    pub from: Option<u32>,
    pub to: u32,
    pub tables: Vec<TableMigration>,
}

impl EntityMigration {
    pub fn is_needed(&self) -> bool {
        self.from != Some(self.to) || self.tables.iter().any(|table| !table.differences.is_empty())
    }

    fn rewrites(&self) -> bool {
        self.tables.iter().any(|table| !table.additive)
    }
}

/// A table to be migrated, with its shape and how rows become it.
struct Step {
    table: Table,
    shape: TableShape,
    conversion: Conversion,
    comparison: Comparison,
}

/// Looks; with `execute` also does it.
pub async fn migrate(settings: &Settings, entity: &str, execute: bool) -> Result<Option<EntityMigration>, RunError> {
    let (job, contract) = load(settings, entity)?;
    let tables = tables_of(&settings.silver, &job);
    if !tables.silver.exists().await? {
        return Ok(None);
    }
    let steps = steps(&job, &contract, &tables).await?;
    // Silver's: the last one.
    let from = steps.last().and_then(|step| step.comparison.contract_version);
    let mut report = EntityMigration { entity: entity.to_owned(), from, to: contract.latest().number, tables: Vec::new() };
    for step in &steps {
        report.tables.push(looked_at(&job, step).await?);
    }
    if !execute || !report.is_needed() {
        return Ok(Some(report));
    }
    if report.rewrites() {
        rewrite(settings, &job, &contract, &tables, &steps, &mut report).await?;
    }
    for step in &steps {
        step.table.ensure(&step.shape, Writer::OnlyOurs).await?;
    }
    Ok(Some(report))
}

/// Tables whose columns come from the contract, those first that are committed first.
async fn steps(job: &Arc<Job>, contract: &Arc<Contract>, tables: &Tables) -> Result<Vec<Step>, RunError> {
    let country = job.countries.first().cloned().unwrap_or_default();
    let plan = SourcePlan::new(job.source(&country)?, job.clone(), contract.clone())?;
    let (silver_shape, _, marks_shape) = shapes(&plan);
    let marks_shape = TableShape { contract_version: silver_shape.contract_version, ..marks_shape };
    let silver = tables.silver.compare(&silver_shape).await?;
    let refuse = |reason: String| RunError::CannotMigrate { table: tables.silver.name.clone(), reason };
    let number = silver.contract_version.unwrap_or(contract.latest().number);
    let Some(from) = contract.version(number) else {
        let known: Vec<String> = contract.versions().map(|version| version.number.to_string()).collect();
        return Err(refuse(format!("it has contract version {number}, and the contract only has {}", known.join(", "))));
    };
    let conversion = Conversion::new(contract, from).map_err(|error: ConvertError| refuse(error.to_string()))?;
    let silver = Comparison { additive: silver.additive && conversion.is_plain(&from.root), ..silver };
    let ordering = job.upsert().map(|upsert| upsert.order_by.as_slice()).unwrap_or_default();
    let changed = ordering.iter().chain(&job.event_time).find(|name| !conversion.keeps(name));
    if let Some(name) = changed.filter(|_| !silver.additive) {
        return Err(refuse(format!("`{name}` says when or in which order rows are, and its values change; such a table is made anew")));
    }
    let mut steps = Vec::new();
    if let Some(marks) = &tables.marks
        && marks.exists().await?
    {
        let comparison = marks.compare(&marks_shape).await?;
        // Of its own version: a migration may have died between the two tables, and the contract gone on.
        let number = comparison.contract_version.unwrap_or(number);
        let own = contract.version(number).ok_or_else(|| refuse(format!("{} has contract version {number}", marks.name)))?;
        let conversion = Conversion::new(contract, own).map_err(|error| refuse(error.to_string()))?.only(&job.key);
        let comparison = Comparison { additive: comparison.additive && conversion.is_plain(&own.root), ..comparison };
        steps.push(Step { table: marks.clone(), shape: marks_shape, conversion, comparison });
    }
    steps.push(Step { table: tables.silver.clone(), shape: silver_shape, conversion, comparison: silver });
    Ok(steps)
}

async fn looked_at(job: &Job, step: &Step) -> Result<TableMigration, RunError> {
    let files = step.table.live_files(|_| true).await?;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let work = Rewrite { files: files.len() as u64, becomes: files.len() as u64, bytes, sorted: false, commits: 1 };
    let additive = step.comparison.additive;
    let estimate = if additive {
        Estimate::default()
    } else {
        PRICES.rewrite(&work, f64::from(job.deploy.cpu) / 1024.0, f64::from(job.deploy.memory) / 1024.0)
    };
    Ok(TableMigration {
        table: step.table.name.clone(),
        differences: step.comparison.differences.clone(),
        additive,
        files: files.len() as u64,
        bytes,
        rows: files.iter().filter_map(crate::silver::LiveFile::rows).sum(),
        estimate,
        done: None,
    })
}

async fn rewrite(
    settings: &Settings,
    job: &Arc<Job>,
    contract: &Contract,
    tables: &Tables,
    steps: &[Step],
    report: &mut EntityMigration,
) -> Result<(), RunError> {
    let mut leases = Vec::new();
    for step in steps.iter().filter(|step| !step.comparison.additive) {
        leases.push((step, take_lease(settings, &step.table, job).await?));
    }
    let mut prepared = Vec::new();
    for (step, lease) in &leases {
        let migration = migration_of(settings, job, step, lease);
        prepared.push(step.table.convert_ahead(&migration, &settings.silver).await?);
    }
    // Also of countries that the job does not name any more.
    for source in Ledger::sources(&settings.silver, &job.entity).await? {
        let mut ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
        ledger.fence(&settings.run_id, contract.latest().number).await?;
        // The last one that a writer of the old version could write.
        if let Some(intent) = ledger.last_intent().cloned() {
            commit_intent(settings, job, tables, &intent, None).await?;
        }
    }
    for ((step, lease), resumed) in leases.iter().zip(prepared) {
        let done = step.table.migrate(&migration_of(settings, job, step, lease), &settings.silver).await?;
        if let Some(table) = report.tables.iter_mut().find(|table| table.table == step.table.name) {
            table.done = Some(Migrated { resumed, ..done });
        }
    }
    for (_, lease) in leases {
        lease.release().await?;
    }
    Ok(())
}

fn migration_of<'m>(settings: &'m Settings, job: &Job, step: &'m Step, lease: &'m TableLease) -> Migration<'m> {
    Migration {
        shape: &step.shape,
        conversion: &step.conversion,
        settings: job.table,
        lease,
        fingerprint: &step.comparison.fingerprint,
        run: &settings.run_id,
        at_once: settings.engine.threads,
        deadline: job.lease.commit_deadline,
    }
}
