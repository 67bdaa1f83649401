//! Reading objects once more: what that would do, and doing it.
//!
//! `forget` only notes in the ledger that objects are to be read again, which the next run does. `reprocess` notes it and runs
//! on just these objects. Either way a record that reads as before is a `duplicate`, one that reads otherwise replaces its row,
//! one that was refused and is sound now becomes a row, and the refusals of the earlier reading leave quarantine.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::prelude::{col, lit};
use serde::Serialize;

use super::report::JobReport;
use super::{Observer, Request, RunError, Settings, load, revisit, tables_of};
use crate::bronze::{self, Selection};
use crate::domain::Source;
use crate::ledger::{Ledger, ObjectRecord};
use crate::plan::path_date;

/// Which objects of a source.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Keys relative to the bronze root.
    pub objects: Vec<String>,
    /// A path day, days since 1970.
    pub day: Option<i32>,
}

impl Wanted {
    fn takes(&self, key: &str) -> bool {
        let named = self.objects.iter().any(|wanted| wanted == key);
        let of_day = || self.day.is_some() && self.day == path_date(&bronze::path_values(key)) && key.contains("day=");
        named || of_day()
    }
}

/// What reading one object again would mean.
#[derive(Debug, Clone, Serialize)]
pub struct Again {
    pub key: String,
    /// Bytes as stored; `None` where bronze does not have it any more.
    pub size: Option<u64>,
    pub batch: Option<String>,
    /// Whether it has other content than when it was read.
    pub changed: bool,
    /// Never committed: a run reads it anyway.
    pub new: bool,
    /// Refusals that leave quarantine.
    pub quarantined: u64,
}

/// Looks only: the objects, sorted.
pub async fn look(settings: &Settings, request: &Request, wanted: &Wanted) -> Result<Vec<Again>, RunError> {
    let (job, _) = load(settings, &request.entity)?;
    let source = job.source(&request.country)?;
    settings.engine.bronze.require()?;
    let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
    let listing = bronze::list(&settings.engine.bronze, &source, &Selection::default()).await?;
    let listed: BTreeMap<String, (u64, String)> =
        listing.objects.into_iter().map(|object| (object.key, (object.size, object.version))).collect();
    let known: BTreeMap<String, ObjectRecord> = ledger.objects().map(|object| (object.key.clone(), object)).collect();
    let keys: BTreeSet<&String> = listed.keys().chain(known.keys()).filter(|key| wanted.takes(key)).collect();
    let refused = refusals(settings, &job, &source).await?;
    let again = keys.into_iter().map(|key| {
        let (now, then) = (listed.get(key), known.get(key));
        Again {
            key: key.clone(),
            size: now.map(|(size, _)| *size),
            batch: then.map(|then| then.batch.clone()),
            changed: matches!((now, then), (Some((_, version)), Some(then)) if *version != then.version),
            new: then.is_none(),
            quarantined: then.and_then(|then| refused.get(&(key.clone(), then.batch.clone()))).copied().unwrap_or(0),
        }
    });
    Ok(again.collect())
}

/// Refused records by object and batch.
async fn refusals(settings: &Settings, job: &crate::job::Job, source: &Source) -> Result<BTreeMap<(String, String), u64>, RunError> {
    let table = tables_of(&settings.silver, job).quarantine;
    let mut refused = BTreeMap::new();
    if !table.exists().await? {
        return Ok(refused);
    }
    let below = format!("database={}/%", source.database);
    let counted = |frame: datafusion::prelude::DataFrame| {
        frame
            .filter(col("source_file").like(lit(below)))?
            .aggregate(vec![col("source_file"), col("batch")], vec![count(lit(1)).alias("records")])?
            .select(vec![
                datafusion::logical_expr::cast(col("source_file"), arrow::datatypes::DataType::Utf8).alias("file"),
                datafusion::logical_expr::cast(col("batch"), arrow::datatypes::DataType::Utf8).alias("batch"),
                col("records"),
            ])
    };
    for rows in table.query(counted).await? {
        let (files, batches) = (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
        let records = rows.column(2).as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let object = files.value(row).split("!/").next().unwrap_or_default().to_owned();
            *refused.entry((object, batches.value(row).to_owned())).or_default() += records.value(row) as u64;
        }
    }
    Ok(refused)
}

/// Notes that objects are to be read again; returns how many were known.
pub async fn forget(settings: &Settings, request: &Request, objects: &BTreeSet<String>) -> Result<usize, RunError> {
    let (job, _) = load(settings, &request.entity)?;
    let source = job.source(&request.country)?;
    revisit::ask_for_all(&settings.silver, &source).await?;
    let mut ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
    Ok(ledger.forget(&settings.run_id, objects).await?)
}

/// Notes it, and runs on just these objects.
pub async fn reprocess(
    settings: &Settings,
    request: &Request,
    objects: &BTreeSet<String>,
    observer: &dyn Observer,
) -> Result<JobReport, RunError> {
    forget(settings, request, objects).await?;
    let selection = Selection { only: Some(objects.clone()), ..Selection::default() };
    let settings = Settings { selection, ..settings.clone() };
    let report = super::run(&settings, std::slice::from_ref(request), observer).await;
    let job = report.jobs.into_iter().next();
    Ok(job.unwrap_or_else(|| JobReport::new(&request.entity, &request.country)))
}

/// What the ledger says of a source's objects, of those whose key begins with `prefix`.
pub async fn objects(settings: &Settings, request: &Request, prefix: &str) -> Result<Vec<ObjectRecord>, RunError> {
    let (job, _) = load(settings, &request.entity)?;
    let source = job.source(&request.country)?;
    let ledger = Ledger::open(&settings.silver, &source, job.lease.duration).await?;
    let mut found: Vec<ObjectRecord> = ledger.objects().filter(|object| object.key.starts_with(prefix)).collect();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}
