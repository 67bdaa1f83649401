//! Runs: one job from discovery to report. The only module that decides to retry, to skip or to stop.
//!
//! A run of several entities and countries is a run of each, one after the other; one that fails does not stop the others.
//! For each source: load job and contract → make sure of the tables → finish what an earlier run intended → give back what
//! dead runs claimed → list → compare with the ledger → cut batches → [`batch::run_batch`] for each.

pub mod batch;
pub mod care;
pub mod cluster;
pub mod gate;
pub mod inspect;
pub mod lateness;
pub mod metrics;
pub mod migrate;
pub mod report;
pub mod reprocess;
pub mod stop;
pub mod vacuum;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bronze::{self, Listing, Selection};
use crate::contract::convert::Conversion;
use crate::contract::predicate::PredicateError;
use crate::contract::{Contract, LoadContractError};
use crate::domain::time::MICROS_PER_DAY;
use crate::domain::{BronzeObject, Mistake, Records, Source};
use crate::engine::local::{Engine, RejectSummary, StageError, Tables};
use crate::engine::spark::client::{ClientError, Session};
use crate::job::{Job, LoadJobError, Mode, OnChangedObject};
use crate::ledger::{Claimed, Intent, Ledger, LedgerError, Standing, TableIntent};
use crate::plan::{SourcePlan, cut_batches, marks_partition, marks_schema, order, path_date, put_in_order, quarantine_schema};
use crate::silver::{Committed, SilverError, Table, TableShape};
use crate::store::{ARCHIVED, Requests, Store, StoreError, probe};

use batch::BatchEnd;
use report::{JobReport, Outcome, RunReport, Stopped, reject_counts};
use stop::Stop;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Job(#[from] LoadJobError),
    #[error(transparent)]
    Contract(#[from] LoadContractError),
    #[error(transparent)]
    Mistake(Box<Mistake>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Silver(#[from] SilverError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("batch {batch} does not balance ({records:?}); this is a bug, nothing was committed")]
    Unbalanced { batch: String, records: Records },
    #[error(transparent)]
    Condition(#[from] PredicateError),
    #[error("job {entity} is of mode snapshot: a path day is one batch and is never cut by --shard; run it without")]
    SnapshotSharded { entity: String },
    #[error("--engine spark needs the address of a Spark Connect server: --remote sc://host:15002")]
    NoRemote,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the cluster's answer is not readable: {message}")]
    Answer { message: String },
    #[error("{entity} cannot run on a cluster: {reason}; run it with --engine local")]
    NotOnCluster { entity: String, reason: String },
    #[error("{of}: batch {batch} was begun on a cluster and is to be finished there: run with --engine spark")]
    OnCluster { of: String, batch: String },
    #[error("table {table} is a cluster's until {}: run {run} writes it; run again then", expires.format("%F %TZ"))]
    Cluster { table: String, run: String, expires: chrono::DateTime<chrono::Utc> },
    #[error("{of}: run {run} has a batch in hand; with a retention below 7 days its files could be taken for orphans")]
    BusyForVacuum { of: Source, run: String },
    #[error("table {table} cannot be migrated: {reason}")]
    CannotMigrate { table: String, reason: String },
    #[error("table {table} is looked after by run {run} until {}; run again then", expires.format("%F %TZ"))]
    Maintained { table: String, run: String, expires: chrono::DateTime<chrono::Utc> },
    #[error("{of}: other runs of this source were always first; run again")]
    Contended { of: Source },
}

impl RunError {
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        let by_silver = |error: &SilverError| match error {
            SilverError::Arrow { .. } | SilverError::Task { .. } => 70,
            error if error.is_users() => 2,
            error if error.is_contention() => 4,
            _ => 5,
        };
        let by_store = |error: &StoreError| if error.is_users() { 2 } else { 5 };
        match self {
            Self::Job(_)
            | Self::Contract(_)
            | Self::Mistake(_)
            | Self::Condition(_)
            | Self::SnapshotSharded { .. }
            | Self::CannotMigrate { .. }
            | Self::NoRemote
            | Self::NotOnCluster { .. } => 2,
            Self::Client(error) => error.exit_code(),
            Self::OnCluster { .. } | Self::Cluster { .. } => 4,
            Self::Store(error) => by_store(error),
            Self::Silver(error) => by_silver(error),
            Self::Ledger(LedgerError::Store(error)) => by_store(error),
            Self::Ledger(LedgerError::Format { .. } | LedgerError::Fenced { .. }) => 2,
            Self::Ledger(LedgerError::Lost { .. }) | Self::Contended { .. } | Self::BusyForVacuum { .. } | Self::Maintained { .. } => 4,
            Self::Ledger(_) => 5,
            Self::Stage(error) => match error {
                StageError::Store(error) => by_store(error),
                StageError::Silver(error) => by_silver(error),
                StageError::Frame { .. } | StageError::Spool(_) => 5,
                StageError::Enrich(_) | StageError::Coverage { .. } | StageError::Task { .. } => 70,
            },
            Self::Unbalanced { .. } | Self::Answer { .. } => 70,
        }
    }

    /// The error in words, with the remedy where a store refused something to a library that does not tell it.
    pub fn text(&self) -> String {
        match self {
            Self::Silver(error) | Self::Stage(StageError::Silver(error)) => match error.refusal() {
                Some((table, refusal)) => {
                    format!("table {table}: the store answered {} ({}): {}", refusal.code, refusal.message, refusal.remedy)
                }
                None => self.to_string(),
            },
            _ => self.to_string(),
        }
    }

    /// The object that stopped a batch and may be readable later.
    fn left_for_later(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Store(error) | Self::Stage(StageError::Store(error)) => error.left_for_later(),
            _ => None,
        }
    }

    /// A mistake in a file that a person wrote, to be shown with a caret.
    pub fn mistake(&self) -> Option<&Mistake> {
        match self {
            Self::Job(LoadJobError::Mistake(mistake)) | Self::Contract(LoadContractError::Mistake(mistake)) | Self::Mistake(mistake) => {
                Some(mistake)
            }
            _ => None,
        }
    }
}

/// How long a living run is left alone with the intent that it wrote.
const OWNER_FIRST: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);

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
    /// Bytes that the process may use; bounds how many files are open at once.
    pub memory: Option<u64>,
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

/// A job and its contract, checked against each other.
pub fn load(settings: &Settings, entity: &str) -> Result<(Arc<Job>, Arc<Contract>), RunError> {
    let mut job = Job::load(&settings.jobs, entity)?;
    let contract = Contract::load(&settings.schemas, entity)?;
    job.check_against(&contract).map_err(|mistake| RunError::Mistake(Box::new(mistake)))?;
    job.limits.batch = settings.batch_bytes.unwrap_or(job.limits.batch);
    job.limits.batch_objects = settings.batch_objects.unwrap_or(job.limits.batch_objects);
    if let Some(memory) = settings.memory {
        // An open file holds up to one row group; half of the memory is theirs.
        let fit = usize::try_from(memory / 2 / job.table.row_group).unwrap_or(usize::MAX).max(1);
        job.limits.open_partitions = job.limits.open_partitions.min(fit);
    }
    Ok((Arc::new(job), Arc::new(contract)))
}

/// Where the refusals of stopped batches are kept.
pub fn stopped_folder(silver: &Store, source: &Source) -> Store {
    silver.folder(&format!("_etl/stopped/{}/{}", source.entity, source.database))
}

pub fn tables_of(silver: &Store, job: &Job) -> Tables {
    let entity = &job.entity;
    Tables {
        silver: Table::at(silver, entity),
        quarantine: Table::at(silver, &format!("{entity}_quarantine")),
        marks: job.upsert().map(|_| Table::at(silver, &format!("_etl/tombstones/{entity}"))),
    }
}

/// One source on its way through a run.
pub struct SourceRun<'s> {
    pub settings: &'s Settings,
    pub plan: SourcePlan,
    pub ledger: Ledger,
    pub tables: Tables,
    pub rejects: RejectSummary,
    pub report: JobReport,
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
        prepared = prepare(settings, request, report) => prepared?,
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
    run.report.rejects = reject_counts(&run.rejects);
    *report = run.report;
    if let Some(session) = run.session {
        Box::pin(session.close()).await;
    }
    ended
}

/// Everything that is settled before the first object is looked for.
async fn prepare<'s>(settings: &'s Settings, request: &Request, report: &JobReport) -> Result<(SourceRun<'s>, Listing), RunError> {
    let (job, contract) = load(settings, &request.entity)?;
    let source = job.source(&request.country)?;
    if job.is_snapshot() && settings.selection.shard.is_some() {
        return Err(RunError::SnapshotSharded { entity: job.entity.clone() });
    }
    settings.engine.bronze.require()?;
    settings.silver.ensure()?;
    let plan = SourcePlan::new(source, job, contract)?;
    let tables = tables_of(&settings.silver, &plan.job);
    let mut selection = settings.selection.clone();
    if plan.job.is_snapshot() {
        // Its day is read as a whole.
        selection.only = None;
    }
    // Side by side: on a bucket each of these is several round trips.
    let ((), ledger, listing, ()) = tokio::try_join!(
        async { Ok(probe::once(&settings.silver).await?) },
        async { Ok(Ledger::open(&settings.silver, &plan.source, plan.job.lease.duration).await?) },
        async { Ok(bronze::list(&settings.engine.bronze, &plan.source, &selection).await?) },
        ensure_tables(&plan, &tables),
    )?;
    let session = cluster::open(settings, &plan).await?;
    let mut report = report.clone();
    if session.is_some() {
        report.engine = "spark";
    }
    let mut run =
        SourceRun { settings, plan, ledger, tables, rejects: RejectSummary::default(), report, settled: 0, ensured: Vec::new(), session };
    run.ensured = run.basis_seen().await?.shapes;
    Ok((run, listing))
}

/// What silver, quarantine and the tombstones are to look like.
fn shapes(plan: &SourcePlan) -> (TableShape, TableShape, TableShape) {
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

/// All tables exist, have the contract's columns, and can be written safely.
async fn ensure_tables(plan: &SourcePlan, tables: &Tables) -> Result<(), RunError> {
    let (silver, quarantine, marks) = shapes(plan);
    let ensure_marks = async {
        match &tables.marks {
            Some(table) => table.ensure(&marks).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(tables.silver.ensure(&silver), tables.quarantine.ensure(&quarantine), ensure_marks)?;
    Ok(())
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
        cluster::carry_out(part, &table, session).await?;
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
        ensure_tables(&self.plan, &self.tables).await?;
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
        self.finish_known_intent().await?;
        let run_id = self.settings.run_id.clone();
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
    async fn has_seen(&self, intent: &Intent) -> Result<bool, RunError> {
        for part in &intent.tables {
            let Some(table) = self.tables.named(&part.table) else { return Ok(false) };
            if table.intent_seen(&part.app_id).await? < part.k {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// Of objects in an archive class only those matter that are not known: the restored ones are read, the others left alone.
    async fn settle_archived(&mut self, mut listing: Listing) -> Result<Listing, RunError> {
        let bronze = &self.settings.engine.bronze;
        let held = self.ledger.held();
        let (wanted, known): (Vec<_>, Vec<_>) = std::mem::take(&mut listing.archived)
            .into_iter()
            .partition(|object| matches!(self.ledger.standing(object, &held), Standing::New | Standing::Changed));
        listing.objects.extend(known);
        if wanted.is_empty() {
            return Ok(listing);
        }
        let settled = bronze::settle_archived(bronze, wanted).await?;
        listing.objects.extend(settled.restored);
        if let Some(first) = settled.left.first() {
            let restore = bronze.restore_command(&first.key);
            self.report.warnings.push(format!("objects in an archive class were left alone; restore them, the first with: {restore}"));
            listing.skipped.insert(ARCHIVED, settled.left.len() as u64);
        }
        listing.archived = settled.left;
        Ok(listing)
    }

    /// Compares the listing with the ledger: the objects to read, in order; `None` where the job says to stop.
    fn take_stock(&mut self, listing: Listing) -> Option<Vec<BronzeObject>> {
        let held = self.ledger.held();
        let is_snapshot = self.plan.job.is_snapshot();
        let files = &mut self.report.files;
        files.skipped = listing.skipped();
        files.listed = listing.objects.len() as u64 + files.skipped;
        let (mut new, mut known) = (Vec::new(), Vec::new());
        let mut changed = None;
        let (mut held_elsewhere, mut held_days) = (0, BTreeSet::new());
        for object in listing.objects {
            match self.ledger.standing(&object, &held) {
                Standing::New => new.push(object),
                Standing::Known => {
                    files.known += 1;
                    if is_snapshot {
                        known.push(object);
                    }
                }
                Standing::Held { .. } => {
                    held_elsewhere += 1;
                    held_days.insert(order::extent(&object));
                }
                Standing::Changed => match self.plan.job.on_changed_object {
                    OnChangedObject::Reread => new.push(object),
                    OnChangedObject::Ignore => {
                        files.known += 1;
                        if is_snapshot {
                            known.push(object);
                        }
                    }
                    OnChangedObject::Stop => changed = changed.or(Some(object.key.clone())),
                },
            }
        }
        files.new = files.listed - files.known - files.skipped;
        self.report.held = held_elsewhere;
        self.report.skipped = listing.skipped;
        if let Some(key) = changed {
            let reason = format!("{key} has other content than when it was read (on_changed_object: stop)");
            self.report.outcome = Outcome::Stopped;
            self.report.exit = 3;
            self.report.stopped = Some(Stopped { reason, batch: None, records: Records::default(), rejects: Vec::new() });
            return None;
        }
        if let Mode::Snapshot { settle_after } = self.plan.job.mode {
            // A day of which another run has an object is that run's, or is read again when it has ended.
            let all = new.len();
            new.retain(|object| !held_days.contains(&order::extent(object)));
            self.report.held += (all - new.len()) as u64;
            // One that has an archived object waits until that is restored.
            let all = new.len() as u64;
            let archived: BTreeSet<String> = listing.archived.iter().map(order::extent).collect();
            new.retain(|object| !archived.contains(&order::extent(object)));
            let waiting = all - new.len() as u64;
            if waiting > 0 {
                self.report.skipped.insert("day_with_archived_objects", waiting);
                self.report.files.skipped += waiting;
                self.report.files.new -= waiting;
            }
            new = self.whole_days(new, known, settle_after);
        }
        put_in_order(&mut new);
        Some(new)
    }

    /// Snapshots are read by whole path days, and only when a day is over: objects of a day that is not are left for later, and a
    /// day that got another object is read again with all of its objects, unless a later day is the table's content.
    fn whole_days(&mut self, new: Vec<BronzeObject>, known: Vec<BronzeObject>, settle_after: Duration) -> Vec<BronzeObject> {
        let files = &mut self.report.files;
        let settled_at = |object: &BronzeObject| path_date(&object.path).map(|day| (i64::from(day) + 1) * MICROS_PER_DAY);
        let bound = chrono::Utc::now().timestamp_micros() - settle_after.as_micros() as i64;
        let (mut settled, unsettled): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|object| settled_at(object).is_none_or(|at| at <= bound));
        let waiting = unsettled.len() as u64;
        if waiting > 0 {
            self.report.skipped.insert("day_not_settled", waiting);
            files.skipped += waiting;
            files.new -= waiting;
        }
        let current = self.ledger.newest_extent();
        let days: BTreeSet<String> = settled.iter().map(order::extent).filter(|day| current.is_none_or(|current| day >= current)).collect();
        let again: Vec<BronzeObject> = known.into_iter().filter(|object| days.contains(&order::extent(object))).collect();
        files.known -= again.len() as u64;
        files.new += again.len() as u64;
        settled.extend(again);
        settled
    }

    /// Objects that were new when listed and that other runs took since.
    fn note_others(&mut self, claimed: &Claimed) {
        self.report.held += claimed.held;
        self.report.files.known += claimed.known;
        self.report.files.new -= claimed.known;
    }

    /// Whether `objects` are all that the ledger knows of their path day; another run may have committed more of it since they were
    /// listed. A day before the newest one changes no row and need not be whole.
    pub fn is_whole_day(&self, objects: &[BronzeObject]) -> bool {
        let Some(day) = objects.first().filter(|_| self.plan.job.is_snapshot()).map(order::extent) else { return true };
        if self.ledger.newest_extent().is_some_and(|newest| day < *newest) {
            return true;
        }
        let ours: BTreeSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        let mut others = self.ledger.objects().filter(|known| !ours.contains(known.key.as_str()));
        !others.any(|known| bronze::extent_of(&known.key) == day)
    }

    /// What is left because another run holds it is not done: exit 4.
    fn note_held(&mut self) {
        if self.report.held == 0 {
            return;
        }
        let holders: Vec<String> =
            self.ledger.open_claims().map(|claim| format!("{} since {}", claim.run, claim.at.format("%F %TZ"))).collect();
        let reason = format!("{} new objects are held by another run ({})", self.report.held, holders.join(", "));
        self.report.exit = 4;
        if self.report.outcome == Outcome::NothingToDo {
            self.report.outcome = Outcome::Stopped;
        }
        self.report.stopped = Some(Stopped { reason, batch: None, records: Records::default(), rejects: Vec::new() });
    }
}
