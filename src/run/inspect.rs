//! Looking without touching: what a run would do, and how a source stands.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::{DataFrame, col, lit};
use futures::TryStreamExt;
use serde::Serialize;

use super::care::{self, Entity, Options};
use super::{RunError, Settings, load, tables_of};
use crate::bronze;
use crate::domain::{BronzeObject, Layout, Source};
use crate::ledger::maintenance::{self, Held, LastMaintenance};
use crate::ledger::{Claim, Ledger, Standing};
use crate::plan::compact::is_small;
use crate::plan::price::{Estimate, PRICES, Work};
use crate::plan::{cut_batches, order, put_in_order};
use crate::silver::compact::Planned;
use crate::silver::{LiveFile, Table};

/// Files below it are one class.
const SMALLEST_CLASS: u64 = 64 << 10;

/// What a run would read.
#[derive(Debug, Serialize)]
pub struct SourcePlanReport {
    pub entity: String,
    pub country: String,
    pub listed: u64,
    pub new: u64,
    pub changed: u64,
    pub known: u64,
    pub held: u64,
    pub skipped: u64,
    pub new_bytes: u64,
    pub firehose: u64,
    pub year_root: u64,
    pub batches: Vec<BatchReport>,
    /// Of the job's container task on S3 and Fargate, at list prices.
    pub estimate: Estimate,
}

#[derive(Debug, Serialize)]
pub struct BatchReport {
    pub objects: u64,
    pub bytes: u64,
    pub first: String,
    pub last: String,
}

/// Writes nothing.
pub async fn plan(settings: &Settings, entity: &str, country: &str) -> Result<SourcePlanReport, RunError> {
    let (job, _) = load(settings, entity)?;
    let source = job.source(country)?;
    settings.engine.bronze.require()?;
    let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
    let listing = bronze::list(&settings.engine.bronze, &source, &settings.selection).await?;
    let skipped = listing.skipped() + listing.archived.len() as u64;
    let held = ledger.held();
    let mut report = SourcePlanReport {
        entity: entity.to_owned(),
        country: country.to_owned(),
        listed: listing.objects.len() as u64 + skipped,
        new: 0,
        changed: 0,
        known: 0,
        held: 0,
        skipped,
        new_bytes: 0,
        firehose: 0,
        year_root: 0,
        batches: Vec::new(),
        estimate: Estimate::default(),
    };
    let mut new: Vec<BronzeObject> = Vec::new();
    for object in listing.objects {
        match ledger.standing(&object, &held) {
            Standing::New => report.new += 1,
            Standing::Changed => report.changed += 1,
            Standing::Known => report.known += 1,
            Standing::Held { .. } => report.held += 1,
        }
        if matches!(ledger.standing(&object, &held), Standing::New | Standing::Changed) {
            report.new_bytes += object.size;
            match object.layout {
                Layout::Firehose => report.firehose += 1,
                Layout::YearRoot => report.year_root += 1,
            }
            new.push(object);
        }
    }
    put_in_order(&mut new);
    let mut work =
        Work { listed: report.listed, objects: new.len() as u64, bytes: report.new_bytes, file_bytes: job.table.file, ..Work::default() };
    work.partitions = new.iter().map(order::extent).collect::<BTreeSet<_>>().len() as u64;
    report.batches = cut_batches(new, &job)
        .into_iter()
        .map(|objects| BatchReport {
            objects: objects.len() as u64,
            bytes: objects.iter().map(|object| object.size).sum(),
            first: objects.first().map(|object| object.key.clone()).unwrap_or_default(),
            last: objects.last().map(|object| object.key.clone()).unwrap_or_default(),
        })
        .collect();
    work.batches = report.batches.len() as u64;
    report.estimate = PRICES.estimate(&work, f64::from(job.deploy.cpu) / 1024.0, f64::from(job.deploy.memory) / 1024.0);
    Ok(report)
}

/// How a source stands.
#[derive(Debug, Serialize)]
pub struct SourceStatus {
    pub entity: String,
    pub country: String,
    pub objects_done: u64,
    pub intents: i64,
    /// Whether the newest intent is in all of its tables.
    pub settled: bool,
    pub open_claims: Vec<ClaimStatus>,
    pub silver: Option<TableStatus>,
    pub quarantine: Option<TableStatus>,
}

/// A batch in somebody's hands.
#[derive(Debug, Serialize)]
pub struct ClaimStatus {
    #[serde(flatten)]
    pub claim: Claim,
    pub age_seconds: i64,
    /// When another run may take its objects over, unless its owner renews it.
    pub expires: chrono::DateTime<chrono::Utc>,
    pub expired: bool,
}

/// Of the rows of one database.
#[derive(Debug, Serialize)]
pub struct TableStatus {
    pub version: u64,
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
    pub health: Health,
}

/// Files of at most this many bytes.
#[derive(Debug, Serialize)]
pub struct SizeClass {
    pub upto: u64,
    pub files: u64,
}

/// What readers of the table have to expect; lease, checkpoint and last maintenance are the whole table's.
#[derive(Debug, Serialize)]
pub struct Health {
    pub partitions: u64,
    /// By size; classes without files are left out.
    pub sizes: Vec<SizeClass>,
    /// Smaller than half of a full file.
    pub small_files: u64,
    /// Partitions that `etl compact` would put together now, and those that it leaves alone until they are older.
    pub due_partitions: u64,
    pub open_partitions: u64,
    pub due_bytes: u64,
    /// Commits since the last checkpoint: what every reader reads one by one.
    pub commits_since_checkpoint: u64,
    pub checkpoint: Option<u64>,
    pub maintainer: Option<Held>,
    pub last_maintenance: Option<LastMaintenance>,
}

pub async fn status(settings: &Settings, entity: &str, country: &str) -> Result<SourceStatus, RunError> {
    let of = Entity::load(settings, entity)?;
    let source = of.job.source(country)?;
    let ledger = Ledger::open(&settings.silver, &source, of.job.lease.duration).await?;
    let mut settled = true;
    if let Some(intent) = ledger.last_intent() {
        for append in &intent.tables {
            let table = Table::at(&settings.silver, &append.table);
            settled &= table.intent(&source.app_id()).await? >= intent.k;
        }
    }
    let now = chrono::Utc::now();
    let mut open_claims = Vec::new();
    for claim in ledger.open_claims() {
        let expires = ledger.expires(claim).await?;
        let age_seconds = (now - claim.at).num_seconds();
        open_claims.push(ClaimStatus { claim: claim.clone(), age_seconds, expires, expired: expires < now });
    }
    Ok(SourceStatus {
        entity: entity.to_owned(),
        country: country.to_owned(),
        objects_done: ledger.known_objects() as u64,
        intents: ledger.next_intent() - 1,
        settled,
        open_claims,
        silver: table_status(settings, &of, &of.tables.silver, &source).await?,
        quarantine: table_status(settings, &of, &of.tables.quarantine, &source).await?,
    })
}

async fn table_status(settings: &Settings, of: &Entity, table: &Table, source: &Source) -> Result<Option<TableStatus>, RunError> {
    if !table.exists().await? {
        return Ok(None);
    }
    let options = Options { databases: Some(BTreeSet::from([source.database.clone()])), ..Options::default() };
    let Planned { files, compaction, version, checkpoint, .. } = care::plan_table(of, table, &options).await?;
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    for file in &files {
        *sizes.entry(file.size.max(1).next_power_of_two().max(SMALLEST_CLASS)).or_default() += 1;
    }
    let partitions: BTreeSet<_> = files.iter().map(LiveFile::partition).collect();
    let health = Health {
        partitions: partitions.len() as u64,
        sizes: sizes.into_iter().map(|(upto, files)| SizeClass { upto, files }).collect(),
        small_files: files.iter().filter(|file| is_small(file.size, of.job.table.file)).count() as u64,
        due_partitions: compaction.partitions,
        open_partitions: compaction.open,
        due_bytes: compaction.bytes() + compaction.left_bytes,
        commits_since_checkpoint: version - checkpoint.unwrap_or(0),
        checkpoint,
        maintainer: maintenance::held(&settings.silver, &table.name).await?,
        last_maintenance: maintenance::last(&settings.silver, &table.name).await?,
    };
    let rows = files.iter().filter_map(LiveFile::rows).sum();
    Ok(Some(TableStatus { version, files: files.len() as u64, bytes: files.iter().map(|file| file.size).sum(), rows, health }))
}

/// Which refused records to show.
#[derive(Debug, Clone, Default)]
pub struct QuarantineFilter {
    pub country: Option<String>,
    pub code: Option<String>,
    pub file: Option<String>,
    pub offset: Option<i64>,
    /// Of stopped batches, instead of the table.
    pub stopped: bool,
    pub limit: usize,
}

/// Refused records, in the order of their objects and offsets.
pub async fn quarantined(settings: &Settings, entity: &str, filter: &QuarantineFilter) -> Result<Vec<RecordBatch>, RunError> {
    let (job, _) = load(settings, entity)?;
    let database = filter.country.as_deref().map(|country| job.source(country)).transpose()?.map(|source| source.database);
    let shape = |frame: DataFrame| narrow(frame, filter, database.as_deref());
    let table = tables_of(&settings.silver, &job).quarantine;
    if !filter.stopped {
        return Ok(if table.exists().await? { table.query(shape).await? } else { Vec::new() });
    }
    let folder = settings.silver.folder(&format!("_etl/stopped/{entity}"));
    let files: Vec<String> = folder.list("").map_ok(|(key, _)| key).try_collect().await?;
    let of_country = |key: &&String| database.as_deref().is_none_or(|database| key.starts_with(&format!("{database}/")));
    let urls = files.iter().filter(of_country).map(|key| format!("{}{key}", folder.url()));
    Ok(table.query_files(urls.collect(), |frame| narrow(frame, filter, None)).await?)
}

fn narrow(mut frame: DataFrame, filter: &QuarantineFilter, database: Option<&str>) -> Result<DataFrame, DataFusionError> {
    if let Some(database) = database {
        frame = frame.filter(col("database").eq(lit(database)))?;
    }
    if let Some(code) = &filter.code {
        frame = frame.filter(col("code").eq(lit(code.as_str())))?;
    }
    if let Some(file) = &filter.file {
        frame = frame.filter(col("source_file").eq(lit(file.as_str())))?;
    }
    if let Some(offset) = filter.offset {
        frame = frame.filter(col("source_offset").eq(lit(offset)))?;
    }
    frame.sort(vec![col("source_file").sort(true, false), col("source_offset").sort(true, false)])?.limit(0, Some(filter.limit))
}
