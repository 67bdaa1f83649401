//! One batch on a cluster: plan → stage there → explain here → settle there → gate → intent → commit → report.
//!
//! The ledger is the same, and so is its protocol: the intent says which statements bring the batch into silver and tombstones, and
//! when they are done the table gets the intent's `txn` in a commit of ours, so that "already done" is `txn ≥ k` whichever engine asks.
//! A batch whose run died between the two is finished by the next run on the cluster, whose statements then change nothing; a local
//! run says so and leaves it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};

use super::batch::{BatchEnd, give_back, intent, pass_gate, plan_batch, settle, stop, table_intents};
use super::gate::Judgement;
use super::{RunError, Settings, SourceRun};
use crate::domain::{BronzeObject, Records};
use crate::engine::local::Staged;
use crate::engine::local::codec::Codec;
use crate::engine::local::explain::{Explainer, HEAD, Line, is_one_record, lines_of, offset_at};
use crate::engine::spark::client::{ClientError, Session};
use crate::engine::spark::statements::{self, Own, Places, Statements, settled_schema, staged_schema};
use crate::engine::spark::{Dialect, Patience, condition};
use crate::ledger::cluster::{self, ClusterLease};
use crate::ledger::{Claim, Intended, Intent, TableIntent};
use crate::plan::in_path::InPath;
use crate::plan::{BatchPlan, SourcePlan};
use crate::silver::write::parquet_bytes;
use crate::silver::{Table, TableShape, Writer};
use crate::store::Store;

/// Objects of one statement: plans grow with them.
const OBJECTS_A_STATEMENT: usize = 200;

/// A cluster, and how it names our places where it does so in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub address: String,
    pub bronze: Option<String>,
    pub silver: Option<String>,
    pub patience: Patience,
}

/// What a cluster cannot do at all is said before anything is sent.
pub fn refuse(plan: &SourcePlan) -> Result<(), RunError> {
    let cannot = |reason: String| RunError::NotOnCluster { entity: plan.source.entity.clone(), reason };
    for version in plan.contract.versions() {
        if let Some(rest) = &version.rest {
            let keywords = rest.keywords.join(", ");
            return Err(cannot(format!("version {} of its contract has keywords that SQL cannot check: {keywords}", version.number)));
        }
    }
    if plan.deletes.as_ref().is_some_and(|deletes| !condition::is_decidable(deletes.logical())) {
        return Err(cannot("its delete_when has a form that servers do not read alike".to_owned()));
    }
    Ok(())
}

/// Statements of an intent whose run still has the table are that run's to send.
pub async fn leave_to_others(run: &SourceRun<'_>, intent: &Intent) -> Result<(), RunError> {
    let table = run.plan.source.entity.clone();
    if intent.tables.iter().all(|part| part.statements.is_empty()) {
        return Ok(());
    }
    match cluster::held(&run.settings.silver, &table).await?.filter(|held| held.run != run.run_id()) {
        Some(held) => Err(RunError::Cluster { table, run: held.run, expires: held.expires }),
        None => Ok(()),
    }
}

pub async fn open(settings: &Settings) -> Result<Option<Session>, RunError> {
    let Some(remote) = &settings.cluster else { return Ok(None) };
    Ok(Some(Box::pin(Session::open(&remote.address, &settings.run_id, remote.patience)).await?))
}

/// Where an entity's batches lie on their way through a cluster, one folder each.
pub fn staging(entity: &str) -> String {
    format!("_etl/spark/{entity}")
}

/// What a cluster does for a part of an intent, unless the table has that already. Statements of a run that died may go on there beside
/// these, which are the same: of the two, one is without effect.
pub async fn carry_out(part: &TableIntent, table: &Table, session: Option<&Session>, deadline: Duration) -> Result<(), RunError> {
    if part.statements.is_empty() || table.intent(&part.app_id).await? >= part.k {
        return Ok(());
    }
    let Some(session) = session else {
        return Err(RunError::OnCluster { of: part.app_id.clone(), batch: part.batch.clone() });
    };
    for statement in &part.statements {
        Box::pin(session.execute_beside_others("a statement of the commit", statement, deadline)).await?;
    }
    Ok(())
}

/// The entity's tables, to one cluster.
pub async fn alone(silver: &Store, plan: &SourcePlan, run: &str) -> Result<ClusterLease, RunError> {
    let table = plan.source.entity.clone();
    let taken = cluster::take(silver, &table, run, plan.job.lease.duration).await?;
    taken.map_err(|held| RunError::Cluster { table, run: held.run, expires: held.expires })
}

pub async fn run_claimed(run: &mut SourceRun<'_>, claim: &Claim, objects: &[BronzeObject]) -> Result<BatchEnd, RunError> {
    let lease = alone(&run.settings.silver, &run.plan, run.run_id()).await?;
    let ended = Box::pin(run_alone(run, claim, objects, &lease)).await;
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "the lease of the table was not given back; it runs out by itself");
    }
    ended
}

async fn run_alone(run: &mut SourceRun<'_>, claim: &Claim, objects: &[BronzeObject], lease: &ClusterLease) -> Result<BatchEnd, RunError> {
    run.finish_open_intent().await?;
    run.ensure_tables().await?;
    if !run.is_whole_day(objects) {
        return give_back(run, claim).await;
    }
    let plan = plan_batch(run, claim, objects);
    // A snapshot's day is read anew as a whole; its rows come and go by key.
    if !plan.again.is_empty() && plan.extent.is_none() {
        let reason = "objects that were committed before are to be read again".to_owned();
        return Err(RunError::NotOnCluster { entity: plan.of.source.entity.clone(), reason });
    }
    let stage = Stage::new(run, &plan);
    let (staged, fates) = Box::pin(stage.carry_out(run)).await?;
    check_balance(&plan, &staged)?;
    if let Judgement::Stop(reason) = pass_gate(run, &staged) {
        stage.clean_up().await;
        return stop(run, claim, staged, reason).await;
    }
    let mut intent = intent(run, &plan, &staged, run.ledger.next_intent());
    intent.tables = parts(run, &plan, &staged, &fates, &stage, intent.k);
    if !lease.stands().await? || run.ledger.intend(intent.clone()).await? != Intended::Written {
        return Err(RunError::Contended { of: plan.of.source.clone() });
    }
    let commits = run.commit(&intent).await?;
    stage.clean_up().await;
    settle(run, &plan, staged, commits).await
}

/// Invariant 1: every line and record has one outcome, every object was read to its end.
fn check_balance(plan: &BatchPlan, staged: &Staged) -> Result<(), RunError> {
    let by_layout: u64 = staged.layouts.values().map(|count| count.records).sum();
    let files: u64 = staged.layouts.values().map(|count| count.files).sum();
    if staged.records.balances() && by_layout == staged.records.read && files == plan.objects.len() as u64 {
        return Ok(());
    }
    Err(RunError::Unbalanced { batch: plan.batch.clone(), records: staged.records })
}

/// Tombstones, quarantine, silver.
fn parts(run: &SourceRun<'_>, plan: &BatchPlan, staged: &Staged, fates: &Fates, stage: &Stage<'_>, k: i64) -> Vec<TableIntent> {
    let part = |table: &Table, statement: String| TableIntent {
        table: table.name.clone(),
        app_id: plan.of.source.app_id(),
        k,
        adds: Vec::new(),
        replaces: None,
        expires: None,
        statements: vec![statement],
        run: run.run_id().to_owned(),
        batch: plan.batch.clone(),
    };
    let count = |fate: &str| fates.get(fate).copied().unwrap_or(0);
    let remembered = count(statements::DELETE) + count(statements::SAME) > 0;
    let changes = [statements::INSERT, statements::UPDATE, statements::DELETE, statements::REMOVED];
    let changed = changes.into_iter().map(count).sum::<u64>() > 0;
    let statements = stage.statements();
    let marks = run.tables.marks.as_ref().filter(|_| remembered).and_then(|table| Some(part(table, statements.mark()?)));
    let silver = changed.then(|| part(&run.tables.silver, statements.merge()));
    marks.into_iter().chain(table_intents(run, plan, staged, k)).chain(silver).collect()
}

type Fates = BTreeMap<String, u64>;

/// Where a batch is staged, and with what words.
struct Stage<'p> {
    plan: &'p Arc<BatchPlan>,
    folder: Store,
    staged: Table,
    settled: Table,
    dialect: Dialect,
    places: Places,
}

impl<'p> Stage<'p> {
    fn new(run: &SourceRun<'_>, plan: &'p Arc<BatchPlan>) -> Self {
        let silver = &run.settings.silver;
        let folder = format!("{}/{}", staging(&plan.of.source.entity), plan.batch);
        let remote = run.settings.cluster.as_ref();
        let bronze = remote.and_then(|remote| remote.bronze.clone()).unwrap_or_else(|| place(&run.settings.engine.bronze));
        let root = remote.and_then(|remote| remote.silver.clone()).unwrap_or_else(|| place(silver));
        let at = |name: &str| format!("{}/{name}", root.trim_end_matches('/'));
        let places = Places {
            bronze,
            staged: at(&format!("{folder}/staged")),
            settled: at(&format!("{folder}/settled")),
            explained: None,
            silver: at(&run.tables.silver.name),
            marks: run.tables.marks.as_ref().map(|table| at(&table.name)),
        };
        Self {
            plan,
            staged: Table::at(silver, &format!("{folder}/staged")),
            settled: Table::at(silver, &format!("{folder}/settled")),
            folder: silver.folder(&folder),
            dialect: run.session.as_ref().map_or(Dialect::Spark, Session::dialect),
            places,
        }
    }

    fn statements(&self) -> Statements<'_> {
        Statements {
            plan: &self.plan.of,
            dialect: self.dialect,
            places: self.places.clone(),
            tables: Own::There,
            day: self.plan.extent.as_ref(),
        }
    }

    /// Everything up to the gate.
    async fn carry_out(&self, run: &mut SourceRun<'_>) -> Result<(Staged, Fates), RunError> {
        let (plan, tables) = (self.plan, run.tables.clone());
        let Some(session) = &run.session else { return Err(RunError::NoRemote) };
        let schema = staged_schema(&plan.of);
        for (table, schema) in [(&self.staged, schema.clone()), (&self.settled, settled_schema(&plan.of))] {
            table.ensure(&shape(schema), Writer::Cluster).await?;
        }
        let (there, mut here) = self.sort_out(&run.settings.engine.bronze).await?;
        let mut explainer = Explainer::new(plan, &tables, schema);
        let mut elsewhere: BTreeSet<String> = BTreeSet::new();
        let mut told = run.report.cluster.unwrap_or_default();
        let (packed, plain): (Vec<_>, Vec<_>) = there.into_iter().partition(|(object, _)| is_packed(&object.key));
        for group in [plain, packed] {
            match self.stage(session, &group).await {
                Ok(()) => {
                    for found in self.read_back(session, &group).await? {
                        let engine = &run.settings.engine;
                        let explained = if found.bytes > plan.of.job.limits.decoded_of(found.object.size) {
                            // What of it counts is known here.
                            false
                        } else if found.lines.iter().all(|line| is_one_record(&line.text, plan)) {
                            explainer.lines(found.object, &found.lines).await?;
                            true
                        } else {
                            explainer.beside(engine, found.object, &found.lines, found.proven).await?
                        };
                        if explained {
                            explainer.proven(found.object, found.proven);
                            told.objects_there += 1;
                            told.proven += found.proven;
                            told.explained += found.lines.len() as u64;
                        } else {
                            elsewhere.insert(found.object.key.clone());
                            here.push(found.object.clone());
                        }
                    }
                }
                // One damaged object fails its statement.
                Err(error) if error.is_refusal() => {
                    let warning = format!("the cluster could not read {} objects, they were read here: {error}", group.len());
                    tracing::warn!(source = %plan.of.source, "{warning}");
                    run.report.warnings.push(warning);
                    elsewhere.extend(group.iter().map(|(object, _)| object.key.clone()));
                    here.extend(group.into_iter().map(|(object, _)| object));
                }
                Err(error) => return Err(error.into()),
            }
        }
        told.objects_here += here.len() as u64;
        run.report.cluster = Some(told);
        crate::plan::put_in_order(&mut here);
        explainer.objects(&run.settings.engine, here).await?;
        let mut statements = self.statements();
        if let Some(rows) = explainer.rows()? {
            self.folder.put("explained/rows.parquet", parquet_bytes(&self.staged, &rows)?).await?;
            statements.places.explained = Some(format!("{}/explained", self.places.staged.trim_end_matches("/staged")));
        }
        let elsewhere: Vec<String> = elsewhere.into_iter().collect();
        session.execute("settling the keys", &statements.settle(&elsewhere)).await?;
        let fates = counts(session.query("the counts", &statements.fates()).await?)?;
        self.refuse_conflicts(session, &statements, &mut explainer).await?;
        let mut staged = Box::pin(explainer.close()).await?;
        staged.records += by_fate(&fates);
        Ok((staged, fates))
    }

    /// Objects whose lines the cluster can read, and those that are read here.
    async fn sort_out(&self, bronze: &Store) -> Result<(Vec<(BronzeObject, InPath)>, Vec<BronzeObject>), RunError> {
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for object in &self.plan.objects {
            let in_path = InPath::of(&object.path, &self.plan.of).filter(|_| is_plain(&format!("{}{}", self.places.bronze, object.key)));
            match in_path {
                Some(in_path) if self.has_lines(bronze, object).await? => there.push((object.clone(), in_path)),
                _ => here.push(object.clone()),
            }
        }
        Ok((there, here))
    }

    async fn has_lines(&self, bronze: &Store, object: &BronzeObject) -> Result<bool, RunError> {
        let head = bronze.head(&object.key, HEAD as u64).await?;
        Ok(match lines_of(&head, head.len() as u64 == object.size, self.plan) {
            Some(Codec::Plain) => !is_packed(&object.key),
            Some(Codec::Gzip) => self.dialect == Dialect::Spark && object.key.rsplit('.').next() == Some("gz"),
            _ => false,
        })
    }

    async fn stage(&self, session: &Session, there: &[(BronzeObject, InPath)]) -> Result<(), ClientError> {
        for objects in there.chunks(OBJECTS_A_STATEMENT) {
            let statement = self.statements().stage(objects, &self.plan.batch, self.plan.ingested_at);
            session.execute("staging", &statement).await?;
        }
        Ok(())
    }

    /// For each object what of it was proven, and the lines that were not.
    async fn read_back<'o>(&self, session: &Session, there: &'o [(BronzeObject, InPath)]) -> Result<Vec<Found<'o>>, RunError> {
        let mut found: BTreeMap<&str, Found<'o>> =
            there.iter().map(|(object, _)| (object.key.as_str(), Found { object, proven: 0, bytes: 0, lines: Vec::new() })).collect();
        if there.is_empty() {
            return Ok(Vec::new());
        }
        for rows in session.query("what was staged", &self.statements().counted()).await? {
            let (files, proven, bytes) = (texts(rows.column(0))?, longs(rows.column(2))?, longs(rows.column(3))?);
            for ((file, proven), bytes) in files.into_iter().zip(proven).zip(bytes) {
                if let Some(found) = found.get_mut(file.as_str()) {
                    (found.proven, found.bytes) = (proven, bytes);
                }
            }
        }
        for rows in session.query("what was not proven", &self.statements().unproven()).await? {
            let (files, nths, lines) = (texts(rows.column(0))?, texts(rows.column(1))?, texts(rows.column(2))?);
            for ((file, nth), text) in files.into_iter().zip(nths).zip(lines) {
                if let Some(found) = found.get_mut(file.as_str()) {
                    found.lines.push(Line { nth, text });
                }
            }
        }
        Ok(found.into_values().collect())
    }

    async fn refuse_conflicts(
        &self,
        session: &Session,
        statements: &Statements<'_>,
        explainer: &mut Explainer<'_>,
    ) -> Result<(), RunError> {
        let objects: BTreeMap<&str, &BronzeObject> = self.plan.objects.iter().map(|object| (object.key.as_str(), object)).collect();
        for rows in session.query("conflicts", &statements.conflicts()).await? {
            let (files, nths, lines) = (texts(rows.column(0))?, texts(rows.column(1))?, texts(rows.column(2))?);
            let versions = longs(rows.column(4))?;
            for (row, ((file, nth), text)) in files.into_iter().zip(nths).zip(lines).enumerate() {
                // Of an archive's member the object is before the mark.
                let Some(object) = objects.get(file.split("!/").next().unwrap_or(&file)) else { continue };
                let offset = offset_at(rows.column(3), row);
                explainer.conflict(object, &file, Line { nth, text }, offset, versions[row] as u32).await?;
            }
        }
        Ok(())
    }

    /// Best effort; `vacuum` removes what is left.
    async fn clean_up(&self) {
        if let Err(error) = self.folder.delete_all().await {
            tracing::warn!(%error, "the batch's staged rows were left behind; vacuum removes them");
        }
    }
}

struct Found<'o> {
    object: &'o BronzeObject,
    proven: u64,
    /// Of its lines but for the blank ones: it decodes to no less.
    bytes: u64,
    lines: Vec<Line>,
}

fn shape(schema: SchemaRef) -> TableShape {
    TableShape {
        schema,
        partition_by: Vec::new(),
        comments: BTreeMap::new(),
        contract_version: None,
        additive_from: BTreeSet::new(),
        description: Some("A batch on its way through a cluster.".to_owned()),
    }
}

/// A store as a cluster on the same machine or of the same cloud names it.
pub fn place(store: &Store) -> String {
    match store.url().to_file_path() {
        Ok(path) => format!("file://{}", path.display()),
        Err(()) => store.url().as_str().to_owned(),
    }
    .trim_end_matches('/')
    .to_owned()
        + "/"
}

/// Names that say to a server that the object is compressed.
fn is_packed(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key).to_ascii_lowercase();
    [".gz", ".gzip", ".bz2", ".zst", ".zstd", ".snappy", ".lz4", ".deflate", ".xz", ".zip"].iter().any(|end| name.ends_with(end))
}

/// Names that no server takes for a pattern or a hidden file.
pub(super) fn is_plain(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/=._-+@~:".contains(&byte));
    let name = path.rsplit('/').next().unwrap_or(path);
    plain && !name.starts_with(['_', '.'])
}

fn unreadable(message: String) -> RunError {
    RunError::Answer { message }
}

fn texts(column: &ArrayRef) -> Result<Vec<String>, RunError> {
    let column = cast(column, &DataType::Utf8).map_err(|error| unreadable(error.to_string()))?;
    let column = column.as_string::<i32>();
    Ok((0..column.len()).map(|row| if column.is_valid(row) { column.value(row).to_owned() } else { String::new() }).collect())
}

fn longs(column: &ArrayRef) -> Result<Vec<u64>, RunError> {
    let column = cast(column, &DataType::Int64).map_err(|error| unreadable(error.to_string()))?;
    Ok(column.as_primitive::<Int64Type>().iter().map(|number| number.unwrap_or(0).max(0).cast_unsigned()).collect())
}

fn counts(batches: Vec<RecordBatch>) -> Result<Fates, RunError> {
    let mut counts = Fates::new();
    for rows in batches {
        for (fate, count) in texts(rows.column(0))?.into_iter().zip(longs(rows.column(1))?) {
            *counts.entry(fate).or_default() += count;
        }
    }
    Ok(counts)
}

fn by_fate(fates: &Fates) -> Records {
    let count = |fate: &str| fates.get(fate).copied().unwrap_or(0);
    Records {
        inserted: count(statements::INSERT),
        updated: count(statements::UPDATE),
        deleted: count(statements::DELETE),
        removed: count(statements::REMOVED),
        duplicate: count(statements::OLDER) + count(statements::SAME) + count(statements::SUPERSEDED),
        ..Records::default()
    }
}
