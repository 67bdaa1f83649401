//! Care of an entity's tables: which partitions are put together, by whom, and what it cost.
//!
//! One maintainer per table at a time, by lease and token (`ledger::maintenance`). Bins are rewritten side by side as far as memory
//! allows and committed in groups, so that a compaction that is stopped or dies has done what it has committed; the next one plans
//! anew. Writers are never waited for and never fail because of it: where they were faster, a bin is given up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::StreamExt;
use futures::future::BoxFuture;
use serde::Serialize;

use super::vacuum::before;
use super::{RunError, Settings, SourceRun, load, tables_of};
use crate::contract::Contract;
use crate::domain::time::MICROS_PER_DAY;
use crate::engine::local::Tables;
use crate::job::Job;
use crate::ledger::maintenance::{self, LastMaintenance, TableLease};
use crate::plan::compact::{Compaction, Wanted};
use crate::plan::price::{Estimate, PRICES, Rewrite};
use crate::silver::compact::{Planned, Rewritten, Shape};
use crate::silver::vacuum::delete;
use crate::silver::{LiveFile, Memory, SilverError, Table};

/// Bytes and time after which rewritten bins are committed: what a death costs at most.
const COMMIT_BYTES: u64 = 1 << 30;
const COMMIT_AFTER: Duration = Duration::from_mins(1);
/// Memory of a bin besides its row group: files read ahead, decoded.
const READ_AHEAD: u64 = 96 << 20;
/// Row groups that a bin's encoder holds: the one that is filled, its dictionaries, pages on their way.
const ROW_GROUPS: u64 = 3;
const MOST_SORTED: u64 = 1 << 30;
/// Files whose removal is folded into a checkpoint at once: every reader would read it line by line.
const FOLDED_AT_ONCE: u64 = 1000;
/// Where nobody says what there is.
const USUAL_MEMORY: u64 = 2 << 30;

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Of these databases only.
    pub databases: Option<BTreeSet<String>>,
    /// Every partition that gains anything, whatever the policy says and however young.
    pub force: bool,
    /// Instead of the job's `compact.max_rewrite_bytes`.
    pub max_rewrite: Option<u64>,
    /// Whether commits that a checkpoint covers leave the log, too.
    pub clean_log: bool,
}

/// What was done to one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TableCare {
    pub table: String,
    pub partitions: u64,
    /// Partitions that would be due, but are too young.
    pub open_partitions: u64,
    pub files_removed: u64,
    pub files_added: u64,
    pub bytes_removed: u64,
    pub bytes_added: u64,
    pub rows: u64,
    /// Bins given up because a writer changed their files meanwhile.
    pub outdated: u64,
    /// Due bytes that are left for the next time.
    pub left_bytes: u64,
    pub versions: Vec<u64>,
    /// Commits and checkpoints that left the log.
    pub log_files_removed: u64,
    pub seconds: f64,
}

impl TableCare {
    fn did_anything(&self) -> bool {
        !self.versions.is_empty() || self.log_files_removed > 0
    }

    fn add(&mut self, bins: &[Rewritten]) {
        for bin in bins {
            let ((removed, added), (read, written)) = (bin.files(), bin.bytes());
            self.files_removed += removed;
            self.files_added += added;
            self.bytes_removed += read;
            self.bytes_added += written;
            self.rows += bin.rows;
        }
    }
}

/// What a compaction would do to one table, before it does it.
#[derive(Debug, Clone, Serialize)]
pub struct TablePlan {
    pub table: String,
    pub files: u64,
    pub bytes: u64,
    pub partitions: u64,
    pub open_partitions: u64,
    pub rewrite_files: u64,
    pub rewrite_bytes: u64,
    pub becomes_files: u64,
    pub left_bytes: u64,
    /// Of the job's container task on S3 and Fargate, at list prices.
    pub estimate: Estimate,
}

/// An entity's tables and what is known of them.
#[derive(Debug, Clone)]
pub struct Entity {
    pub job: Arc<Job>,
    pub contract: Arc<Contract>,
    pub tables: Tables,
}

impl Entity {
    pub fn load(settings: &Settings, entity: &str) -> Result<Self, RunError> {
        let (job, contract) = load(settings, entity)?;
        let tables = tables_of(&settings.silver, &job);
        Ok(Self { job, contract, tables })
    }
}

/// How one table's files are to lie.
fn shape(of: &Entity, table: &Table) -> Shape {
    let Entity { job, contract, tables } = of;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (key, cluster) = if table.name == tables.silver.name {
        (job.key.clone(), job.cluster_by.clone())
    } else if table.name == tables.quarantine.name {
        (names(&["source_file", "source_offset", "batch"]), None)
    } else {
        ([job.key.clone(), names(&["order"])].concat(), None)
    };
    let evolves = table.name == tables.silver.name && contract.versions().count() > 1;
    Shape { key, cluster, evolves, guarded: job.compact.guard_against_optimize, settings: job.table }
}

pub async fn plan_table(of: &Entity, table: &Table, options: &Options) -> Result<Planned, RunError> {
    let job = &of.job;
    let mut policy = job.compact.clone();
    policy.max_rewrite = options.max_rewrite.unwrap_or(if options.force { u64::MAX } else { policy.max_rewrite });
    let shape = shape(of, table);
    let wanted = Wanted {
        policy: &policy,
        file: job.table.file,
        today: Utc::now().timestamp_micros().div_euclid(MICROS_PER_DAY) as i32,
        cluster: shape.cluster.is_some(),
        force: options.force,
    };
    let wants = |file: &LiveFile| {
        let database = file.partition_values.get("database").cloned().flatten();
        options.databases.as_ref().is_none_or(|wanted| database.is_some_and(|database| wanted.contains(&database)))
    };
    Ok(table.plan_compaction(&shape, &wanted, wants).await?)
}

/// Writes nothing.
pub async fn plan(settings: &Settings, entity: &str, options: &Options) -> Result<Vec<TablePlan>, RunError> {
    let of = Entity::load(settings, entity)?;
    let mut plans = Vec::new();
    for table in of.tables.all() {
        if !table.exists().await? {
            continue;
        }
        let Planned { files, compaction, .. } = plan_table(&of, table, options).await?;
        plans.push(TablePlan {
            table: table.name.clone(),
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
            partitions: compaction.partitions,
            open_partitions: compaction.open,
            rewrite_files: compaction.files(),
            rewrite_bytes: compaction.bytes(),
            becomes_files: compaction.becomes(),
            left_bytes: compaction.left_bytes,
            estimate: estimate(&of.job, &compaction),
        });
    }
    Ok(plans)
}

fn estimate(job: &Job, compaction: &Compaction) -> Estimate {
    let work = Rewrite {
        files: compaction.files(),
        becomes: compaction.becomes(),
        bytes: compaction.bytes(),
        sorted: job.cluster_by.is_some(),
        commits: compaction.bytes().div_ceil(COMMIT_BYTES),
    };
    PRICES.rewrite(&work, f64::from(job.deploy.cpu) / 1024.0, f64::from(job.deploy.memory) / 1024.0)
}

/// Takes the lease of a table, or says who has it.
pub async fn take_lease(settings: &Settings, table: &Table, job: &Job) -> Result<TableLease, RunError> {
    let taken = maintenance::take(&settings.silver, &table.name, &settings.run_id, job.lease.duration).await?;
    taken.map_err(|held| RunError::Maintained { table: table.name.clone(), run: held.run, expires: held.expires })
}

/// Compacts what is due of all of an entity's tables.
pub async fn compact(settings: &Settings, entity: &str, options: &Options) -> Result<Vec<TableCare>, RunError> {
    let of = Entity::load(settings, entity)?;
    let mut done = Vec::new();
    for table in of.tables.all() {
        if table.exists().await? && !settings.stop.is_asked() {
            let mut care = TableCare { table: table.name.clone(), ..TableCare::default() };
            care_for(settings, &of, table, options, &mut care).await?;
            done.push(care);
        }
    }
    Ok(done)
}

/// After a run that committed something, now and then; what goes wrong is only told.
pub async fn after_run(run: &mut SourceRun<'_>, began: u64) {
    let of = Entity { job: run.plan.job.clone(), contract: run.plan.contract.clone(), tables: run.tables.clone() };
    let (every, silver) = (of.job.compact.every, &run.tables.silver);
    let committed = run.report.commits.iter().filter(|commit| commit.table == silver.name).map(|commit| commit.version);
    let version = committed.chain([silver.version_seen()]).max().unwrap_or(0);
    if !of.job.compact.after_run || version / every == began / every || run.settings.stop.is_asked() {
        return;
    }
    let databases = Some(BTreeSet::from([run.plan.source.database.clone()]));
    let options = Options { databases, ..Options::default() };
    for table in of.tables.all() {
        let mut care = TableCare { table: table.name.clone(), ..TableCare::default() };
        let cared = tokio::select! {
            cared = care_for(run.settings, &of, table, &options, &mut care) => cared,
            () = run.settings.stop.time_is_up() => return,
        };
        if care.did_anything() {
            run.report.care.push(care);
        }
        match cared {
            Ok(()) => {}
            Err(RunError::Maintained { run: other, .. }) => tracing::info!(table = table.name, other, "is looked after by another run"),
            Err(error) => {
                tracing::warn!(table = table.name, "not compacted to the end: {}", error.text());
                run.report.warnings.push(format!("{} was not compacted to the end: {}", table.name, error.text()));
            }
        }
    }
}

fn care_for<'c>(
    settings: &'c Settings,
    of: &'c Entity,
    table: &'c Table,
    options: &'c Options,
    care: &'c mut TableCare,
) -> BoxFuture<'c, Result<(), RunError>> {
    Box::pin(care_for_table(settings, of, table, options, care))
}

/// `care` tells what was done, also where it ended early.
async fn care_for_table(settings: &Settings, of: &Entity, table: &Table, options: &Options, care: &mut TableCare) -> Result<(), RunError> {
    let (started, before_it) = (Instant::now(), settings.requests());
    // A look that costs no lease: mostly there is nothing to do.
    let planned = plan_table(of, table, options).await?;
    (care.open_partitions, care.left_bytes) = (planned.compaction.open, planned.compaction.left_bytes);
    let old_log = if options.clean_log { table.old_log(before(of.job.table.log_retention)).await? } else { Vec::new() };
    if planned.compaction.bins.is_empty() && old_log.is_empty() {
        return Ok(());
    }
    let lease = take_lease(settings, table, &of.job).await?;
    let cared = async {
        care.partitions = planned.compaction.partitions;
        rewrite_all(settings, of, table, &planned, &lease, care).await?;
        if care.files_removed >= FOLDED_AT_ONCE {
            table.checkpoint().await?;
        }
        delete(table.store(), &old_log).await?;
        care.log_files_removed = old_log.len() as u64;
        Ok::<(), RunError>(())
    };
    let cared = cared.await;
    care.seconds = started.elapsed().as_secs_f64();
    if care.did_anything() {
        let last = LastMaintenance {
            run: settings.run_id.clone(),
            at: Utc::now(),
            seconds: care.seconds,
            files_removed: care.files_removed,
            files_added: care.files_added,
            bytes_read: care.bytes_removed,
            bytes_written: care.bytes_added,
            requests: settings.requests().since(before_it).total(),
        };
        maintenance::note(&settings.silver, &table.name, &last).await;
    }
    // A lease that is left runs out by itself.
    if let Err(error) = lease.release().await {
        tracing::warn!(table = table.name, %error, "the lease was left behind; it runs out by itself");
    }
    cared
}

/// Bins that may be in memory at the same time, and what each of them may hold.
fn side_by_side(settings: &Settings, job: &Job, bins: usize) -> (usize, Memory) {
    let memory = settings.memory.unwrap_or(USUAL_MEMORY) / 2;
    let each = ROW_GROUPS * job.table.row_group + READ_AHEAD;
    let fit = usize::try_from(memory / each).unwrap_or(usize::MAX);
    let at_once = fit.clamp(1, settings.engine.threads.max(1)).min(bins.max(1));
    let sort = (memory / at_once as u64).saturating_sub(each).clamp(64 << 20, MOST_SORTED);
    let streams = (settings.engine.threads / at_once).max(1);
    (at_once, Memory { sort: usize::try_from(sort).unwrap_or(usize::MAX), streams })
}

async fn rewrite_all(
    settings: &Settings,
    of: &Entity,
    table: &Table,
    planned: &Planned,
    lease: &TableLease,
    care: &mut TableCare,
) -> Result<(), RunError> {
    let bins = planned.compaction.bins.clone();
    let (at_once, memory) = side_by_side(settings, &of.job, bins.len());
    let (shape, shared, stop) = (shape(of, table), Arc::new(planned.clone()), settings.stop.clone());
    let (by, name) = (table.clone(), table.name.clone());
    let rewrites = bins.into_iter().take_while(move |_| !stop.is_asked()).map(move |bin| {
        let (table, planned, shape, name) = (by.clone(), shared.clone(), shape.clone(), name.clone());
        async move {
            let task = tokio::spawn(async move { table.rewrite(&planned, &bin, &shape, memory).await });
            task.await.unwrap_or_else(|error| Err(SilverError::Task { table: name, message: error.to_string() }))
        }
    });
    let mut rewritten = futures::stream::iter(rewrites).buffer_unordered(at_once);
    let (mut waiting, mut bytes, mut since) = (Vec::new(), 0, Instant::now());
    let mut failed = None;
    loop {
        let next = if failed.is_none() { rewritten.next().await } else { None };
        let ended = next.is_none();
        match next {
            Some(Ok(bin)) if bin.files() == (0, 0) => {}
            Some(Ok(bin)) => {
                bytes += bin.bytes().0;
                waiting.push(bin);
            }
            // Another writer's file that is gone is no bug of theirs: what was rewritten is committed all the same.
            Some(Err(error)) => failed = Some(error),
            None => {}
        }
        if !waiting.is_empty() && (ended || failed.is_some() || bytes >= COMMIT_BYTES || since.elapsed() >= COMMIT_AFTER) {
            commit(settings, of, table, planned, lease, std::mem::take(&mut waiting), care).await?;
            (bytes, since) = (0, Instant::now());
        }
        if ended {
            return failed.map_or(Ok(()), |error| Err(error.into()));
        }
    }
}

async fn commit(
    settings: &Settings,
    of: &Entity,
    table: &Table,
    planned: &Planned,
    lease: &TableLease,
    bins: Vec<Rewritten>,
    care: &mut TableCare,
) -> Result<(), RunError> {
    let done = table.commit_rewritten(lease, &settings.run_id, planned, bins, &shape(of, table), of.job.lease.commit_deadline).await?;
    care.add(&done.committed);
    care.outdated += done.outdated;
    care.versions.extend(done.version);
    Ok(())
}
