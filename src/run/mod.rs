//! Runs: one job from discovery to report. The only module that decides to retry, to skip or to stop.
//!
//! A run of several entities and countries is a run of each, one after the other; one that fails does not stop the others.
//! For each source: load job and contract → make sure of the tables → finish what an earlier run intended → give back what
//! dead runs claimed → list → compare with the ledger → cut batches → [`batch::run_batch`] for each.

pub mod batch;
pub mod care;
pub mod cluster;
mod error;
pub mod gate;
pub mod inspect;
pub mod lateness;
pub mod memory;
pub mod metrics;
pub mod migrate;
mod prepare;
pub mod register;
pub mod report;
pub mod reprocess;
mod revisit;
pub mod script;
mod stock;
pub mod stop;
pub mod vacuum;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::bronze::{self, Listing, Selection};
use crate::domain::{BronzeObject, Source};
use crate::engine::local::{Engine, RejectSummary, Tables};
use crate::engine::spark::client::Session;
use crate::job::Job;
use crate::ledger::{Intent, Ledger, TableIntent};
use crate::plan::{SourcePlan, cut_batches};
use crate::silver::{Committed, Table};
use crate::store::{ARCHIVED, CHANGED, Requests, Store};

use batch::BatchEnd;
pub use error::RunError;
pub use prepare::{load, load_files, tables_of};
use report::{JobReport, Outcome, RunReport, reject_counts};
use revisit::Visit;
use stop::Stop;

/// How long a living run is left alone with the intent that it wrote.
const OWNER_FIRST: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// Files of a dead run that are looked for at the same time.
const LOOKED_FOR_AT_ONCE: usize = 16;

/// What all jobs of a run share.
#[derive(Debug, Clone)]
pub struct Settings {
    pub run_id: String,
    pub engine: Engine,
    pub silver: Store,
    pub jobs: PathBuf,
    pub schemas: PathBuf,
    pub selection: Selection,
    /// Instead of the job's `limits.batch` and `limits.batch_objects`.
    pub batch_bytes: Option<u64>,
    pub batch_objects: Option<usize>,
    /// Bytes that the process may use: [`memory`].
    pub memory: Option<u64>,
    /// List folders of days of any age, though the job leaves old ones out.
    pub revisit: bool,
    /// Raised by a signal.
    pub stop: Stop,
    /// Where batches are carried out, if not here.
    pub cluster: Option<cluster::Remote>,
}

impl Settings {
    /// Of bronze and silver so far.
    pub fn requests(&self) -> Requests {
        self.engine.bronze.requests().and(self.silver.requests())
    }
}

/// One entity and country that a run was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub entity: String,
    pub country: String,
}

/// Told before a job begins, with the bytes that it will read, and after it ended.
pub trait Observer: Sync {
    fn begin(&self, request: &Request, new_bytes: u64);
    fn end(&self, report: &JobReport);
    fn mistake(&self, error: &RunError);
}

/// Runs every request and reports on all of them.
pub async fn run(settings: &Settings, requests: &[Request], observer: &dyn Observer) -> RunReport {
    let mut jobs = Vec::with_capacity(requests.len());
    for request in requests {
        let started = Instant::now();
        let mut report = JobReport::new(&request.entity, &request.country);
        let requests_before = settings.requests();
        if settings.stop.is_asked() {
            report.terminated();
        } else if let Err(error) = Box::pin(run_source(settings, request, &mut report, observer)).await {
            observer.mistake(&error);
            report.outcome = Outcome::Failed;
            report.exit = error.exit_code();
            report.error = Some(error.text());
        }
        report.requested(settings.requests().since(requests_before));
        report.seconds = started.elapsed().as_secs_f64();
        observer.end(&report);
        jobs.push(report);
    }
    RunReport::of(settings.run_id.clone(), jobs)
}

/// Where the refusals of stopped batches are kept.
pub fn stopped_folder(silver: &Store, source: &Source) -> Store {
    silver.folder(&format!("_etl/stopped/{}/{}", source.entity, source.database))
}

/// One source on its way through a run.
pub struct SourceRun<'s> {
    pub settings: &'s Settings,
    pub plan: SourcePlan,
    pub ledger: Ledger,
    pub tables: Tables,
    pub rejects: RejectSummary,
    pub report: JobReport,
    visit: Option<Visit>,
    /// The newest intent that this process saw in all of its tables.
    settled: i64,
    /// The tables' shapes when they were last compared with the contract.
    ensured: Vec<String>,
    session: Option<Session>,
}

/// What a batch is staged on: the next intent's number and the tables' shapes.
pub struct Basis {
    pub k: i64,
    pub shapes: Vec<String>,
}

async fn run_source(settings: &Settings, request: &Request, report: &mut JobReport, observer: &dyn Observer) -> Result<(), RunError> {
    let prepared = tokio::select! {
        prepared = prepare::prepare(settings, request, report) => prepared?,
        () = settings.stop.time_is_up() => {
            report.terminated();
            return Ok(());
        }
    };
    let (mut run, listing) = prepared;
    let began = run.tables.silver.version_seen();
    let ended = tokio::select! {
        ended = run.all_batches(request, listing, observer) => ended,
        () = settings.stop.time_is_up() => {
            run.give_up().await;
            Ok(())
        }
    };
    if ended.is_ok() && run.report.outcome == Outcome::Committed {
        care::after_run(&mut run, began).await;
    }
    if let Some(visit) = &run.visit {
        let left = [CHANGED, ARCHIVED].iter().any(|reason| run.report.skipped.contains_key(reason));
        visit.count(ended.is_ok() && run.report.exit == 0 && !left).await;
    }
    run.report.rejects = reject_counts(&run.rejects);
    *report = run.report;
    if let Some(session) = run.session {
        Box::pin(session.close()).await;
    }
    ended
}

/// Commits what an intent names and its tables do not have yet, in order.
async fn commit_intent(
    settings: &Settings,
    job: &Job,
    tables: &Tables,
    intent: &Intent,
    session: Option<&Session>,
) -> Result<Vec<(TableIntent, Committed)>, RunError> {
    let mut commits = Vec::with_capacity(intent.tables.len());
    for part in &intent.tables {
        let table = tables.named(&part.table).unwrap_or_else(|| Table::at(&settings.silver, &part.table));
        cluster::carry_out(part, &table, session, job.lease.commit_deadline).await?;
        let committed = table.commit(part, &job.table, job.lease.commit_deadline).await?;
        commits.push((part.clone(), committed));
    }
    for replaced in intent.tables.iter().filter_map(|part| part.replaces.as_ref()) {
        if let Err(error) = tables.silver.staging().delete(&replaced.list).await {
            tracing::warn!(list = replaced.list, %error, "a list of a committed intent was left behind; vacuum removes it");
        }
    }
    Ok(commits)
}

impl SourceRun<'_> {
    async fn ensure_tables(&mut self) -> Result<(), RunError> {
        prepare::ensure_tables(self.settings, &self.plan, &self.tables, &self.ledger).await?;
        self.ensured = self.basis_seen().await?.shapes;
        Ok(())
    }

    /// Gives back what this run has claimed, as far as there is time; a claim that is left runs out by itself.
    async fn give_up(&mut self) {
        self.report.terminated();
        if let Some(session) = &self.session {
            let _ = tokio::time::timeout(stop::GIVING_UP_TAKES, Box::pin(session.interrupt())).await;
        }
        let ours: Vec<String> =
            self.ledger.open_claims().filter(|claim| claim.run == self.settings.run_id).map(|claim| claim.id.clone()).collect();
        for claim in ours {
            let released = self.ledger.release(&claim, &self.settings.run_id, "the run was told to stop");
            if tokio::time::timeout(stop::GIVING_UP_TAKES, released).await.map_or(true, |released| released.is_err()) {
                tracing::warn!(claim, "the claim could not be given back in time; it runs out by itself");
            }
        }
    }

    pub fn run_id(&self) -> &str {
        &self.settings.run_id
    }

    async fn all_batches(&mut self, request: &Request, listing: Listing, observer: &dyn Observer) -> Result<(), RunError> {
        self.recover().await?;
        let listing = self.settle_archived(listing).await?;
        let Some(new) = self.take_stock(listing) else { return Ok(()) };
        if !new.is_empty() {
            self.connect().await?;
        }
        observer.begin(request, new.iter().map(|object| object.size).sum());
        for objects in cut_batches(new, &self.plan.job) {
            if self.settings.stop.is_asked() {
                self.report.terminated();
                return Ok(());
            }
            match self.run_readable(objects).await? {
                BatchEnd::Committed | BatchEnd::Taken => {}
                BatchEnd::Stopped => {
                    self.report.exit = 3;
                    return Ok(());
                }
            }
        }
        self.note_held();
        Ok(())
    }

    /// A batch without the objects that turn out not to be readable now; a snapshot's day is read as a whole or not at all.
    async fn run_readable(&mut self, mut objects: Vec<BronzeObject>) -> Result<BatchEnd, RunError> {
        while !objects.is_empty() {
            let (files, held) = (self.report.files, self.report.held);
            let error = match Box::pin(batch::run_batch(self, &objects)).await {
                Err(error) if error.left_for_later().is_some() => error,
                ended => return ended,
            };
            let Some((path, reason)) = error.left_for_later() else { return Err(error) };
            // What the claim found is found again.
            (self.report.files, self.report.held) = (files, held);
            let all = objects.len();
            if self.plan.job.is_snapshot() {
                objects.clear();
            } else {
                // Where one cannot be read there may be more: all are asked, so that the batch is begun once more and not once for each.
                objects.retain(|object| object.key != path);
                objects = bronze::readable(&self.settings.engine.bronze, objects).await?.0;
            }
            let left = (all - objects.len()) as u64;
            tracing::warn!(source = %self.plan.source, left, "left for a later run: {error}");
            self.report.warnings.push(format!("{left} left for a later run, the first: {error}"));
            *self.report.skipped.entry(reason).or_default() += left;
            self.report.files.skipped += left;
            self.report.files.new -= left;
        }
        Ok(BatchEnd::Taken)
    }

    /// Finishes or gives back what earlier runs left.
    async fn recover(&mut self) -> Result<(), RunError> {
        if self.ledger.last_intent().is_none() {
            for table in self.tables.clone().all() {
                self.check_ledger(table).await?;
            }
        }
        self.finish_known_intent().await?;
        let run_id = self.settings.run_id.clone();
        if self.plan.job.revisit.is_some() && self.ledger.has_expired().await? {
            revisit::ask_for_all(&self.settings.silver, &self.plan.source).await?;
        }
        for claim in self.ledger.release_expired(&run_id).await? {
            tracing::warn!(source = %self.plan.source, claim = claim.id, run = claim.run, "a run died; its objects are read again");
        }
        Ok(())
    }

    /// Commits what the newest intent names and its tables do not have yet.
    pub async fn finish_open_intent(&mut self) -> Result<(), RunError> {
        self.ledger.refresh().await?;
        self.finish_known_intent().await
    }

    /// The same, as far as this process has read the ledger: right after it was opened, or an entry was appended to it.
    pub async fn finish_known_intent(&mut self) -> Result<(), RunError> {
        let open = self.ledger.last_intent().filter(|intent| intent.k > self.settled).cloned();
        let Some(intent) = open else { return Ok(()) };
        if self.has_seen(&intent).await? {
            self.settled = intent.k;
            return Ok(());
        }
        self.let_owner_finish(&intent).await?;
        cluster::leave_to_others(self, &intent).await?;
        self.connect().await?;
        self.check_files(&intent).await?;
        for (table, committed) in self.commit(&intent).await? {
            if let Committed::At(version) = committed {
                let note = format!("finished intent {} of run {}: {} version {version}", intent.k, intent.run, table.table);
                tracing::warn!(source = %self.plan.source, "{note}");
                self.report.warnings.push(note);
            }
        }
        Ok(())
    }

    /// Whether the snapshots at hand have all of an intent; what they lack newer ones may have.
    async fn has_seen(&mut self, intent: &Intent) -> Result<bool, RunError> {
        for part in &intent.tables {
            let Some(table) = self.tables.named(&part.table) else { return Ok(false) };
            if self.check_ledger(&table).await? < part.k {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The newest intent that is seen in a table. It and the ledger are one another's: a ledger that was lost, or is an old copy, takes what
    /// is there for new, and a table that was what is new for what was there. Asking costs requests, so it is not asked of tables that
    /// the newest intent does not change.
    async fn check_ledger(&mut self, table: &Table) -> Result<i64, RunError> {
        let app_id = self.plan.source.app_id();
        let mut found = table.intent_seen(&app_id).await?;
        if found >= self.ledger.next_intent() {
            // Another run may have gone on since it was read: what is committed stands in it before.
            self.ledger.refresh().await?;
        }
        let (known, settled) = (self.ledger.next_intent() - 1, self.ledger.settled(&table.name));
        if found < settled {
            found = table.intent(&app_id).await?;
        }
        if (settled..=known).contains(&found) {
            return Ok(found);
        }
        let (of, table) = (self.plan.source.clone(), table.name.clone());
        let ledger = Ledger::folder(&self.settings.silver, &of).address();
        Err(if found > known {
            RunError::LedgerLost { table, of, ledger, found, known }
        } else {
            RunError::BatchLost { table, of, ledger, settled }
        })
    }

    /// What a dead run wrote must be there to be committed.
    async fn check_files(&self, intent: &Intent) -> Result<(), RunError> {
        for part in &intent.tables {
            let Some(table) = self.tables.named(&part.table) else { continue };
            if table.intent(&part.app_id).await? >= part.k {
                continue;
            }
            let paths: Vec<String> = part.adds.iter().filter_map(|add| Some(add.get("path")?.as_str()?.to_owned())).collect();
            let looks = paths.into_iter().map(|path| {
                let store = table.store().clone();
                async move {
                    let found = store.is_readable(&path, None).await;
                    (path, found)
                }
            });
            let found = futures::stream::iter(looks);
            let mut found = found.buffer_unordered(LOOKED_FOR_AT_ONCE);
            while let Some((path, there)) = found.next().await {
                if !there? {
                    let ledger = Ledger::folder(&self.settings.silver, &self.plan.source).address();
                    return Err(RunError::FileLost { batch: intent.claim.clone(), file: format!("{}/{path}", table.name), ledger });
                }
            }
        }
        Ok(())
    }

    /// Gives the run that wrote the intent a moment, lest all that wait for it do its work.
    async fn let_owner_finish(&self, intent: &Intent) -> Result<(), RunError> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        while started.elapsed() < OWNER_FIRST && self.ledger.owner_lives(intent).await? {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        Ok(())
    }

    /// To the cluster, where there is one and something to do for it.
    async fn connect(&mut self) -> Result<(), RunError> {
        if self.session.is_none() {
            self.session = cluster::open(self.settings).await?;
        }
        Ok(())
    }

    pub async fn commit(&mut self, intent: &Intent) -> Result<Vec<(TableIntent, Committed)>, RunError> {
        let commits = commit_intent(self.settings, &self.plan.job, &self.tables, intent, self.session.as_ref()).await?;
        self.settled = intent.k;
        Ok(commits)
    }

    pub async fn basis(&self) -> Result<Basis, RunError> {
        let shapes = futures::future::try_join_all(self.all_tables().map(Table::fingerprint)).await?;
        Ok(Basis { k: self.ledger.next_intent(), shapes })
    }

    /// The same as far as this process has seen: what changed meanwhile shows when the intent is written.
    pub async fn basis_seen(&self) -> Result<Basis, RunError> {
        let shapes = futures::future::try_join_all(self.all_tables().map(Table::fingerprint_seen)).await?;
        Ok(Basis { k: self.ledger.next_intent(), shapes })
    }

    fn all_tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.all()
    }
}
