//! What is settled before the first object is read: job and contract, the tables and their shapes, the ledger, the listing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::report::JobReport;
use super::revisit::Visit;
use super::{Request, RunError, Settings, SourceRun, cluster, memory};
use crate::bronze::{self, Listing};
use crate::contract::Contract;
use crate::contract::convert::Conversion;
use crate::engine::local::{RejectSummary, Tables};
use crate::job::Job;
use crate::ledger::Ledger;
use crate::plan::{SourcePlan, marks_partition, marks_schema, quarantine_schema};
use crate::silver::{Table, TableShape, Writer};
use crate::store::{Store, probe};

/// A job and its contract, checked against each other.
pub fn load_files(jobs: &Path, schemas: &Path, entity: &str) -> Result<(Job, Contract), RunError> {
    let job = Job::load(jobs, entity)?;
    let contract = Contract::load(schemas, entity)?;
    job.check_against(&contract).map_err(|mistake| RunError::Mistake(Box::new(mistake)))?;
    Ok((job, contract))
}

/// The same with the limits that this run sets.
pub fn load(settings: &Settings, entity: &str) -> Result<(Arc<Job>, Arc<Contract>), RunError> {
    let (mut job, contract) = load_files(&settings.jobs, &settings.schemas, entity)?;
    if let Some(memory) = settings.memory.filter(|_| settings.cluster.is_none()) {
        job = memory::within(memory, job);
    }
    // What the person says outright counts.
    job.limits.batch = settings.batch_bytes.unwrap_or(job.limits.batch);
    job.limits.batch_objects = settings.batch_objects.unwrap_or(job.limits.batch_objects);
    Ok((Arc::new(job), Arc::new(contract)))
}

pub fn tables_of(silver: &Store, job: &Job) -> Tables {
    let entity = &job.entity;
    Tables {
        silver: Table::at(silver, entity),
        quarantine: Table::at(silver, &format!("{entity}_quarantine")),
        marks: job.upsert().map(|_| Table::at(silver, &format!("_etl/tombstones/{entity}"))),
    }
}

/// Everything that is settled before the first object is looked for.
pub(super) async fn prepare<'s>(
    settings: &'s Settings,
    request: &Request,
    report: &JobReport,
) -> Result<(SourceRun<'s>, Listing), RunError> {
    let (job, contract) = load(settings, &request.entity)?;
    let source = job.source(&request.country)?;
    if job.is_snapshot() && settings.selection.shard.is_some() {
        return Err(RunError::SnapshotSharded { entity: job.entity.clone() });
    }
    settings.engine.bronze.require()?;
    settings.silver.ensure()?;
    let plan = SourcePlan::new(source, job, contract)?;
    if settings.cluster.is_some() {
        cluster::refuse(&plan)?;
    }
    let tables = tables_of(&settings.silver, &plan.job);
    let visit = Visit::plan(settings, &plan).await?;
    let mut selection = settings.selection.clone();
    if let Some(visit) = &visit {
        visit.narrow(&mut selection);
    }
    if plan.job.is_snapshot() {
        // Its day is read as a whole.
        selection.only = None;
    }
    // What is known is only counted: there may be very much of it. A snapshot's day is read anew as a whole.
    let (found, listed) = mpsc::channel(bronze::LISTED_AHEAD);
    let compared = async {
        let ledger = Ledger::open(&settings.silver, &plan.source, plan.job.lease.duration).await?;
        let held = ledger.held();
        let is_known = |key: &str, version: &str| !plan.job.is_snapshot() && ledger.knows(key, version, &held);
        let listing = bronze::collect(listed, &plan.source, is_known).await;
        drop(held);
        Ok((ledger, listing))
    };
    // Side by side: on a bucket each of these is several round trips.
    let ((), (ledger, listing), (), missing) = tokio::try_join!(
        async { Ok(probe::once(&settings.silver).await?) },
        compared,
        async { Ok(bronze::send(&settings.engine.bronze, &plan.source, &selection, found).await?) },
        look_at_tables(settings, &plan, &tables),
    )?;
    if !missing.is_empty() {
        ensure_tables(settings, &plan, &tables, &ledger).await?;
    }
    let mut report = report.clone();
    if settings.cluster.is_some() {
        report.engine = "spark";
    }
    report.days = visit.as_ref().map(Visit::report);
    let rejects = RejectSummary::default();
    let mut run = SourceRun { settings, plan, ledger, tables, rejects, report, visit, settled: 0, ensured: Vec::new(), session: None };
    run.ensured = run.basis_seen().await?.shapes;
    Ok((run, listing))
}

/// What silver, quarantine and the tombstones are to look like.
pub(super) fn shapes(plan: &SourcePlan) -> (TableShape, TableShape, TableShape) {
    let (job, contract, columns) = (&plan.job, &plan.contract, &plan.columns);
    let properties = &contract.latest().root.properties;
    let comments: BTreeMap<String, String> =
        properties.iter().filter_map(|p| Some((p.name.clone(), p.shape.description.clone()?))).collect();
    let older = || contract.versions().filter(|version| version.number < contract.latest().number);
    let plain = |version: &&crate::contract::Version, only: Option<&[String]>| {
        let conversion = Conversion::new(contract, version);
        conversion.is_ok_and(|conversion| only.map_or(conversion.clone(), |only| conversion.only(only)).is_plain(&version.root))
    };
    let additive_from: BTreeSet<u32> = older().filter(|version| plain(version, None)).map(|version| version.number).collect();
    let of_keys = older().filter(|version| plain(version, Some(&job.key))).map(|version| version.number).collect();
    let silver = TableShape {
        schema: columns.schema.clone(),
        partition_by: columns.partition_by.clone(),
        comments,
        contract_version: Some(contract.latest().number),
        additive_from: additive_from.clone(),
        description: contract.latest().description.clone(),
    };
    let quarantine = TableShape {
        schema: quarantine_schema(),
        partition_by: vec!["database".to_owned()],
        comments: BTreeMap::new(),
        contract_version: None,
        additive_from: BTreeSet::new(),
        description: Some(format!("Records that the contract of {} refused, with their exact bytes.", job.entity)),
    };
    let marks = TableShape {
        schema: marks_schema(columns),
        partition_by: marks_partition(),
        comments: BTreeMap::new(),
        // Only a migration writes it down, which rewrites the tombstones where a key changes.
        contract_version: None,
        additive_from: of_keys,
        description: Some(format!("Deletes of {} and records that changed nothing, against records that come late.", job.entity)),
    };
    (silver, quarantine, marks)
}

/// Which tables are not there. Those that are have the contract's columns and can be written safely.
async fn look_at_tables(settings: &Settings, plan: &SourcePlan, tables: &Tables) -> Result<Vec<(Table, TableShape)>, RunError> {
    let (silver, quarantine, marks) = shapes(plan);
    let mut looks = Vec::new();
    for (table, shape) in tables.all().cloned().zip([silver, quarantine, marks]) {
        let writer = writer_of(settings, tables, &table);
        looks.push(async move { Ok::<_, RunError>((!table.ensure_there(&shape, writer).await?).then_some((table, shape))) });
    }
    Ok(futures::future::try_join_all(looks).await?.into_iter().flatten().collect())
}

/// All tables exist, have the contract's columns, and can be written safely. They are made before a source's first batch: where batches
/// were committed, one that is not there was lost; but marks are new where a job became one of upserts.
pub(super) async fn ensure_tables(settings: &Settings, plan: &SourcePlan, tables: &Tables, ledger: &Ledger) -> Result<(), RunError> {
    let missing = look_at_tables(settings, plan, tables).await?;
    let is_marks = |table: &Table| tables.marks.as_ref().is_some_and(|marks| marks.name == table.name);
    if let Some((table, _)) = missing.iter().find(|(table, _)| ledger.last_intent().is_some() && !is_marks(table)) {
        let (table, of) = (table.name.clone(), plan.source.clone());
        return Err(RunError::TableLost { table, ledger: Ledger::folder(&settings.silver, &of).address(), of });
    }
    let mut made = Vec::new();
    for (table, shape) in missing {
        let writer = writer_of(settings, tables, &table);
        made.push(async move { table.ensure(&shape, writer).await });
    }
    futures::future::try_join_all(made).await?;
    Ok(())
}

fn writer_of(settings: &Settings, tables: &Tables, table: &Table) -> Writer {
    match settings.cluster {
        _ if table.name == tables.quarantine.name => Writer::OnlyOurs,
        Some(_) => Writer::Cluster,
        None => Writer::Ours,
    }
}
