//! One batch: plan → stage → gate → intent → commit → settle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::{Judgement, judge};
use super::report::{CommitReport, Outcome, Stopped, reject_counts};
use super::{Basis, FIRST_PAUSE, RunError, SourceRun, cluster};
use crate::domain::time::MICROS_PER_DAY;
use crate::domain::{BronzeObject, Layout};
use crate::engine::local::{Staged, rebase, stage};
use crate::ledger::{Claim, Expiry, Intended, Intent, Replaced, TableIntent, Taking};
use crate::plan::{BatchPlan, PathDay, order};
use crate::silver::{Committed, jitter};

/// How often a batch is staged anew because another run of the same source came first.
const MAX_RESTAGES: usize = 8;

/// What a waiting batch leaves each older one.
const TURN: Duration = Duration::from_millis(25);
const LONGEST_TURN: Duration = Duration::from_secs(3);

/// How a batch ended, where nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchEnd {
    Committed,
    Stopped,
    /// Other runs hold or have finished all of its objects.
    Taken,
}

pub async fn run_batch(run: &mut SourceRun<'_>, objects: &[BronzeObject]) -> Result<BatchEnd, RunError> {
    let batch = uuid::Uuid::now_v7().to_string();
    let taking = if run.plan.job.is_snapshot() { Taking::Whole } else { Taking::Free };
    let claimed = run.ledger.claim(&batch, &run.settings.run_id, objects, taking).await?;
    run.note_others(&claimed);
    let Some(claim) = claimed.claim else { return Ok(BatchEnd::Taken) };
    let lease = Held(tokio::spawn(run.ledger.renewal(&claim.id).keep()));
    let ended = match run.session {
        Some(_) => Box::pin(cluster::run_claimed(run, &claim, objects)).await,
        None => run_claimed(run, &claim, objects).await,
    };
    drop(lease);
    if ended.is_err() {
        // The error that stopped the batch is the one to report; an unreleased claim runs out by itself.
        let _ = run.ledger.release(&claim.id, &run.settings.run_id, "the batch failed").await;
    }
    ended
}

/// A renewal that ends with the batch, also where that is given up half-way.
struct Held(tokio::task::JoinHandle<()>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run_claimed(run: &mut SourceRun<'_>, claim: &Claim, objects: &[BronzeObject]) -> Result<BatchEnd, RunError> {
    for turn in 0..MAX_RESTAGES {
        let based_on = look_around(run, turn).await?;
        if !run.is_whole_day(objects) {
            return give_back(run, claim).await;
        }
        let plan = plan_batch(run, claim, objects);
        let mut staged = Box::pin(stage(&run.settings.engine, &plan, &run.tables)).await?;
        check_balance(&plan, &staged)?;
        if let Judgement::Stop(reason) = pass_gate(run, &staged) {
            return stop(run, claim, staged, reason).await;
        }
        if let Some(intent) = intend(run, &plan, &mut staged, &based_on).await? {
            let commits = run.commit(&intent).await?;
            return settle(run, &plan, staged, commits).await;
        }
        staged.discard(&run.tables).await;
    }
    Err(RunError::Contended { of: run.plan.source.clone() })
}

/// A cluster that writes the table has it to itself.
async fn keep_clear(run: &SourceRun<'_>) -> Result<(), RunError> {
    let table = &run.plan.source.entity;
    match crate::ledger::cluster::held(&run.settings.silver, table).await? {
        Some(held) => Err(RunError::Cluster { table: table.clone(), run: held.run, expires: held.expires }),
        None => Ok(()),
    }
}

/// What the batch is staged on. The claim was just written, so the ledger is known to its end, and the tables were seen by this run.
async fn look_around(run: &mut SourceRun<'_>, turn: usize) -> Result<Basis, RunError> {
    if turn == 0 {
        run.finish_known_intent().await?;
        let basis = run.basis_seen().await?;
        if basis.shapes == run.ensured {
            return Ok(basis);
        }
    }
    run.finish_open_intent().await?;
    run.ensure_tables().await?;
    run.basis().await
}

/// Another run committed more of the path day meanwhile: the next run reads it as a whole.
pub(super) async fn give_back(run: &mut SourceRun<'_>, claim: &Claim) -> Result<BatchEnd, RunError> {
    run.ledger.release(&claim.id, &run.settings.run_id, "another run has more of this path day").await?;
    run.report.held += claim.objects.len() as u64;
    Ok(BatchEnd::Taken)
}

pub(super) fn plan_batch(run: &SourceRun<'_>, claim: &Claim, objects: &[BronzeObject]) -> Arc<BatchPlan> {
    let taken: std::collections::HashSet<&str> = claim.objects.iter().map(|(key, _)| key.as_str()).collect();
    Arc::new(BatchPlan {
        of: run.plan.clone(),
        batch: claim.id.clone(),
        ingested_at: chrono::Utc::now().timestamp_micros(),
        objects: objects.iter().filter(|object| taken.contains(object.key.as_str())).cloned().collect(),
        again: claim
            .objects
            .iter()
            .filter_map(|(key, version)| Some((key.clone(), run.ledger.committed_by(key, version)?.clone())))
            .collect(),
        extent: path_day(run, objects),
    })
}

/// The path day of a snapshot's objects; an older one than what is committed changes no row.
fn path_day(run: &SourceRun<'_>, objects: &[BronzeObject]) -> Option<PathDay> {
    let name = objects.first().filter(|_| run.plan.job.is_snapshot()).map(order::extent)?;
    let outdated = run.ledger.newest_extent().is_some_and(|newest| newest.as_str() > name.as_str());
    Some(PathDay { name, outdated })
}

/// Invariant 1, by outcomes and once more by the staged files' footers.
fn check_balance(plan: &BatchPlan, staged: &Staged) -> Result<(), RunError> {
    let by_layout: u64 = staged.layouts.values().map(|count| count.records).sum();
    let read_to_the_end: u64 = staged.layouts.values().map(|count| count.files).sum();
    let complete = by_layout == staged.records.read && read_to_the_end == plan.objects.len() as u64;
    if staged.records.balances() && staged.footers_agree() && complete {
        return Ok(());
    }
    Err(RunError::Unbalanced { batch: plan.batch.clone(), records: staged.records })
}

pub(super) fn pass_gate(run: &mut SourceRun<'_>, staged: &Staged) -> Judgement {
    let judgement = judge(&run.plan.job.gate, &staged.records, &run.report.records);
    if let Judgement::Warn(warning) = &judgement {
        tracing::warn!(source = %run.plan.source, "{warning}");
        run.report.warnings.push(warning.clone());
    }
    judgement
}

/// `None` where the tables are not as they were any more, so that the batch must be staged anew. Where another intent of the source
/// only came first, what is staged is compared with what that one brought.
async fn intend(run: &mut SourceRun<'_>, plan: &BatchPlan, staged: &mut Staged, based_on: &Basis) -> Result<Option<Intent>, RunError> {
    // Late, when it costs no time before the first object: the claim stands since long.
    if let Err(error) = keep_clear(run).await {
        staged.discard(&run.tables).await;
        return Err(error);
    }
    let (started, mut k) = (Instant::now(), based_on.k);
    while started.elapsed() < plan.of.job.lease.commit_deadline {
        if run.basis().await?.shapes != based_on.shapes {
            return Ok(None);
        }
        let intent = intent(run, plan, staged, k);
        if run.ledger.intend(intent.clone()).await? == Intended::Written {
            return Ok(Some(intent));
        }
        // Of many that wait the older ones come first, lest all of them look at the tables after every commit.
        let before = u32::try_from(run.ledger.claims_before(&plan.batch)).unwrap_or(u32::MAX);
        let turn = TURN.saturating_mul(before).min(LONGEST_TURN);
        tokio::time::sleep((FIRST_PAUSE + turn).mul_f64(jitter())).await;
        run.finish_open_intent().await?;
        if !Box::pin(rebase(staged, plan, &run.tables)).await? {
            return Ok(None);
        }
        check_balance(plan, staged)?;
        k = run.ledger.next_intent();
    }
    staged.discard(&run.tables).await;
    Err(RunError::Contended { of: run.plan.source.clone() })
}

pub(super) fn intent(run: &SourceRun<'_>, plan: &BatchPlan, staged: &Staged, k: i64) -> Intent {
    Intent {
        k,
        claim: plan.batch.clone(),
        run: run.run_id().to_owned(),
        tables: table_intents(run, plan, staged, k),
        extent: plan.extent.as_ref().filter(|_| staged.records.read > staged.records.quarantined).map(|extent| extent.name.clone()),
        records: staged.records,
        job: plan.of.job.fingerprint.clone(),
        contract: plan.of.contract.fingerprint(),
        contract_version: plan.of.contract.latest().number,
    }
}

/// What the batch does to each table, in the order of commits: marks, quarantine, silver.
pub(super) fn table_intents(run: &SourceRun<'_>, plan: &BatchPlan, staged: &Staged, k: i64) -> Vec<TableIntent> {
    let source = &run.plan.source;
    let intent = |table: &str, adds: &[deltalake::kernel::Add]| TableIntent {
        table: table.to_owned(),
        app_id: source.app_id(),
        k,
        adds: adds.iter().map(|add| serde_json::json!(add)).collect(),
        replaces: None,
        expires: None,
        statements: Vec::new(),
        run: run.run_id().to_owned(),
        batch: plan.batch.clone(),
    };
    let retention = plan.of.job.upsert().map(|upsert| upsert.tombstone_retention);
    let marks = run.tables.marks.as_ref().map(|table| TableIntent {
        expires: retention.map(|retention| Expiry {
            column: "marked_on".to_owned(),
            before: order::date_text((plan.ingested_at - retention.as_micros() as i64).div_euclid(MICROS_PER_DAY) as i32),
        }),
        replaces: staged.replaced_marks.clone().map(|list| Replaced { list, database: Some(source.database.clone()) }),
        ..intent(&table.name, &staged.marks)
    });
    let quarantine = TableIntent {
        // Their partition is the database as the record had it, which may be another one.
        replaces: staged.replaced_quarantine.clone().map(|list| Replaced { list, database: None }),
        ..intent(&run.tables.quarantine.name, &staged.quarantine)
    };
    let silver = TableIntent {
        replaces: staged.replaced.clone().map(|list| Replaced { list, database: Some(source.database.clone()) }),
        ..intent(&run.tables.silver.name, &staged.silver)
    };
    marks.into_iter().chain([quarantine, silver]).filter(TableIntent::changes).collect()
}

pub(super) async fn settle(
    run: &mut SourceRun<'_>,
    plan: &BatchPlan,
    staged: Staged,
    commits: Vec<(TableIntent, Committed)>,
) -> Result<BatchEnd, RunError> {
    if let Err(error) = run.ledger.drop_lease(&plan.batch).await {
        tracing::warn!(%error, "the lease of a committed batch was left behind");
    }
    let report = &mut run.report;
    report.outcome = Outcome::Committed;
    report.files.read += plan.objects.len() as u64;
    report.bytes.read += plan.objects.iter().map(|object| object.size).sum::<u64>();
    report.bytes.decoded += staged.decoded;
    report.bytes.written += staged.written();
    report.records += staged.records;
    let newest = plan.of.job.event_time.as_deref().and_then(|column| newest_event(&staged.silver, column));
    report.newest_record = report.newest_record.max(newest);
    for (layout, count) in &staged.layouts {
        match layout {
            Layout::Firehose => report.layouts.firehose += *count,
            Layout::YearRoot => report.layouts.year_root += *count,
        }
    }
    for (table, committed) in commits {
        if let Committed::At(version) = committed {
            let by_cluster = table.table == run.tables.silver.name && !table.statements.is_empty();
            let rows = if by_cluster { staged.records.inserted + staged.records.updated } else { rows_of(&table.adds) };
            let files = table.adds.len() as u64;
            report.commits.push(CommitReport { table: table.table, version, batch: plan.batch.clone(), files, rows });
        }
    }
    run.rejects.merge(staged.rejects);
    Ok(BatchEnd::Committed)
}

/// By the statistics of the files.
fn newest_event(adds: &[deltalake::kernel::Add], column: &str) -> Option<chrono::DateTime<chrono::Utc>> {
    let newest = |add: &deltalake::kernel::Add| {
        let stats: serde_json::Value = serde_json::from_str(add.stats.as_deref()?).ok()?;
        let text = stats.get("maxValues")?.get(column)?.as_str()?.to_owned();
        chrono::DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc())
    };
    adds.iter().filter_map(newest).max()
}

/// By the statistics of the files.
fn rows_of(adds: &[serde_json::Value]) -> u64 {
    let rows =
        |add: &serde_json::Value| serde_json::from_str::<serde_json::Value>(add.get("stats")?.as_str()?).ok()?.get("numRecords")?.as_u64();
    adds.iter().filter_map(rows).sum()
}

/// Nothing of the batch is committed; its refusals are kept where `quarantine list --stopped` finds them.
pub(super) async fn stop(run: &mut SourceRun<'_>, claim: &Claim, staged: Staged, reason: String) -> Result<BatchEnd, RunError> {
    let kept = super::stopped_folder(&run.settings.silver, &run.plan.source).folder(&claim.id);
    for add in &staged.quarantine {
        if let Some(bytes) = run.tables.quarantine.store().get(&add.path).await? {
            let name = add.path.rsplit('/').next().unwrap_or(&add.path);
            kept.put(name, bytes).await?;
        }
    }
    staged.discard(&run.tables).await;
    run.ledger.release(&claim.id, &run.settings.run_id, "stopped at the gate").await?;
    run.report.outcome = Outcome::Stopped;
    run.report.stopped =
        Some(Stopped { reason, batch: Some(claim.id.clone()), records: staged.records, rejects: reject_counts(&staged.rejects) });
    Ok(BatchEnd::Stopped)
}
