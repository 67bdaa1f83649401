//! Few large files instead of many small ones: rows of live files written anew, and the commit that exchanges them.
//!
//! **Rewriting** reads the files of one bin in their order, or sorted where the job clusters, and writes files of full size. Small
//! files are fetched whole, a few ahead and decoded side by side, so that thousands of them cost one request each. Before anything is
//! committed the keys of the new files are read back: as many rows, and the same sum over hashes of their keys, as were read from the
//! old ones.
//!
//! **Committing** builds on a snapshot in which every removed file is live: a bin of which a writer changed a file meanwhile is given
//! up, and its rows stay where they are. delta-rs lets two OPTIMIZE runs over the same files both commit, which doubles their rows;
//! hence the check, the maintainer's token in every commit (`ledger::maintenance`), and commits of our own. The other program's run is
//! kept from committing by removes that are marked as a change of data, which its own check does look at; a job whose table nobody
//! else optimizes may do without, so that streaming readers pass compactions by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::schema::PrimitiveType;
use delta_kernel::snapshot::SnapshotRef;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde_json::json;

use super::attempt::Attempt;
use super::cluster::{self, Memory};
use super::commit::{FIRST_BACKOFF, LAST_BACKOFF, jitter};
use super::encoding::choices;
use super::features::{Writer, check};
use super::file::{DataFile, row_hashes, whole_file};
use super::replace::{Exchange, partition_types, partition_values, paths};
use super::table::{CLUSTERED, engine_info, fingerprint};
use super::write::{partition_writer, remove_staged};
use super::{GUARDED, LiveFile, SilverError, Table};
use crate::job::{self, ClusterBy};
use crate::ledger::maintenance::{APP_ID, TableLease};
use crate::plan::compact::{Bin, Candidate, Compaction, PartitionValues, Wanted, compaction};

/// Files that are read at the same time for one bin.
const AHEAD: usize = 4;
/// Footers that are looked at at the same time.
const FOOTERS_AHEAD: usize = 16;
/// Files up to this size are fetched in one request and decoded at once.
const WHOLE: u64 = 8 << 20;
/// Rows that are handed to the encoder at once.
const ROWS: usize = 8192;
/// Batches of more rows than this are handed over as they are.
const LARGE_ROWS: usize = 1024;
/// Rows of a page: more than in fresh files, for only few files are open.
const PAGE_ROWS: usize = 20_000;

/// How a table is to be compacted.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Names of the columns that tell its rows apart.
    pub key: Vec<String>,
    pub cluster: Option<ClusterBy>,
    /// Whether its files may have other columns than each other: its contract has had several versions.
    pub evolves: bool,
    /// Whether removed files are marked as a change of data.
    pub guarded: bool,
    pub settings: job::Table,
}

/// What the table is at a version: what a compaction is planned on.
#[derive(Debug, Clone)]
pub struct Planned {
    pub files: Vec<LiveFile>,
    pub compaction: Compaction,
    pub version: u64,
    /// The newest one.
    pub checkpoint: Option<u64>,
    schema: SchemaRef,
    types: Vec<(String, PrimitiveType)>,
    fingerprint: String,
}

/// A bin written anew, and not committed yet.
#[derive(Debug)]
pub struct Rewritten {
    exchange: Exchange,
    pub rows: u64,
}

impl Rewritten {
    pub fn files(&self) -> (u64, u64) {
        (self.exchange.removed.len() as u64, self.exchange.added.len() as u64)
    }

    /// Read and written.
    pub fn bytes(&self) -> (u64, u64) {
        let written = self.exchange.added.iter().map(|add| add.size.max(0) as u64).sum();
        (self.exchange.removed.iter().map(|file| file.size).sum(), written)
    }
}

/// How a commit of rewritten bins ended.
#[derive(Debug)]
pub struct Compacted {
    /// `None` where nothing was left to commit.
    pub version: Option<u64>,
    pub committed: Vec<Rewritten>,
    /// Bins given up because a writer changed their files.
    pub outdated: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checksum {
    rows: u64,
    keys: u128,
}

impl Checksum {
    const NONE: Self = Self { rows: 0, keys: 0 };

    /// Of the rows' key columns, which come first.
    fn add(&mut self, batch: &RecordBatch, keys: usize) -> Result<(), arrow::error::ArrowError> {
        self.rows += batch.num_rows() as u64;
        for hash in row_hashes(&batch.columns()[..keys])? {
            self.keys = self.keys.wrapping_add(hash);
        }
        Ok(())
    }
}

impl Table {
    /// What is to be rewritten among the files that `keep` takes.
    pub async fn plan_compaction(
        &self,
        shape: &Shape,
        wanted: &Wanted<'_>,
        keep: impl Fn(&LiveFile) -> bool,
    ) -> Result<Planned, SilverError> {
        let (snapshot, files) = self.snapshot_with_files(keep).await?;
        check(&self.name, &snapshot, Writer::OnlyOurs)?;
        let schema: Schema =
            snapshot.schema().as_ref().try_into_arrow().map_err(|source| SilverError::Arrow { table: self.name.clone(), source })?;
        let order = shape.cluster.as_ref().map(ClusterBy::name);
        let mut partitions: BTreeMap<PartitionValues, Vec<Candidate>> = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            let clustered = order.is_some() && file.clustered == order;
            partitions.entry(file.partition()).or_default().push(Candidate { at, bytes: file.size, clustered });
        }
        Ok(Planned {
            compaction: compaction(partitions, wanted),
            files,
            version: snapshot.version(),
            checkpoint: snapshot.log_segment().checkpoint_version,
            schema: Arc::new(schema),
            types: partition_types(&snapshot),
            fingerprint: fingerprint(&snapshot),
        })
    }

    /// Some columns of all rows of some files, in order.
    pub fn rows_of(&self, files: Vec<LiveFile>, columns: &[(&str, DataType)]) -> BoxStream<'static, Result<RecordBatch, SilverError>> {
        rows_of_files(self, files, columns.iter().map(|(name, ty)| Field::new(*name, ty.clone(), true)).collect())
    }

    /// The newest snapshot and its files, of one version.
    pub(super) async fn snapshot_with_files(&self, keep: impl Fn(&LiveFile) -> bool) -> Result<(SnapshotRef, Vec<LiveFile>), SilverError> {
        loop {
            let snapshot = self.snapshot().await?;
            let (version, files) = self.versioned_files(&keep).await?;
            if version == snapshot.version() {
                return Ok((snapshot, files));
            }
        }
    }

    /// Writes the rows of a bin anew. Nothing is visible yet.
    ///
    /// Files that lack a column have nothing to say about it, which is not the same as NULL to whoever compares records with
    /// rows. So only files with the same columns are put together.
    pub async fn rewrite(&self, planned: &Planned, bin: &Bin, shape: &Shape, memory: Memory) -> Result<Rewritten, SilverError> {
        let files: Vec<LiveFile> = bin.files.iter().filter_map(|at| planned.files.get(*at)).cloned().collect();
        let all = file_fields(&planned.schema, &planned.types, &shape.key);
        let groups = if shape.evolves { self.by_columns(files, &all).await? } else { vec![(all, files)] };
        let mut rewritten = Rewritten { exchange: Exchange::default(), rows: 0 };
        for (fields, files) in groups {
            // A file alone gains only where its rows are put in order.
            if files.len() < 2 && shape.cluster.is_none() {
                continue;
            }
            match self.rewrite_group(planned, &bin.partition, fields, files, shape, memory).await {
                Ok((exchange, rows)) => {
                    rewritten.exchange.removed.extend(exchange.removed);
                    rewritten.exchange.added.extend(exchange.added);
                    rewritten.rows += rows;
                }
                Err(error) => {
                    rewritten.exchange.discard(self).await;
                    return Err(error);
                }
            }
        }
        Ok(rewritten)
    }

    /// Files by the columns that they have.
    async fn by_columns(&self, files: Vec<LiveFile>, all: &Fields) -> Result<Vec<(Fields, Vec<LiveFile>)>, SilverError> {
        let looks = files.into_iter().map(|live| {
            let (table, all) = (self.clone(), all.clone());
            async move {
                let file = DataFile::open(&table, &live).await?;
                let has: Vec<bool> = all.iter().map(|field| file.has(field.name())).collect();
                Ok::<_, SilverError>((has, live))
            }
        });
        let mut looked = futures::stream::iter(looks).buffered(FOOTERS_AHEAD);
        let mut groups: BTreeMap<Vec<bool>, Vec<LiveFile>> = BTreeMap::new();
        while let Some((has, live)) = looked.try_next().await? {
            groups.entry(has).or_default().push(live);
        }
        let fields = |has: &[bool]| all.iter().zip(has).filter(|(_, has)| **has).map(|(field, _)| field.clone()).collect::<Fields>();
        Ok(groups.into_iter().map(|(has, files)| (fields(&has), files)).collect())
    }

    async fn rewrite_group(
        &self,
        planned: &Planned,
        partition: &PartitionValues,
        fields: Fields,
        removed: Vec<LiveFile>,
        shape: &Shape,
        memory: Memory,
    ) -> Result<(Exchange, u64), SilverError> {
        let keys = shape.key.iter().filter(|name| fields.find(name).is_some()).count();
        let mut before = Checksum::NONE;
        let rows = match &shape.cluster {
            Some(by) => cluster::in_order(self, &removed, &fields, by, memory).await?,
            None => rows_of_files(self, removed.clone(), fields.clone()),
        };
        let file_schema = Arc::new(Schema::new(fields));
        let values = partition_values(self, partition.iter().map(|(name, value)| (name, value.as_deref())), &planned.types)?;
        let mut settings = shape.settings;
        if shape.cluster.is_some() {
            settings.row_group = settings.row_group.min(settings.clustered_row_group);
        }
        settings.compression_level = settings.compaction_level;
        settings.page_rows = PAGE_ROWS;
        let (mut writer, mut values) = (None, Some(values));
        let written = async {
            let arrow = |source| SilverError::Arrow { table: self.name.clone(), source };
            let mut rows = rows;
            let mut together = BatchCoalescer::new(file_schema.clone(), ROWS).with_biggest_coalesce_batch_size(Some(LARGE_ROWS));
            loop {
                let batch = rows.try_next().await?;
                let ended = batch.is_none();
                match batch {
                    Some(batch) => {
                        before.add(&batch, keys).map_err(arrow)?;
                        together.push_batch(batch).map_err(arrow)?;
                    }
                    None => together.finish_buffered_batch().map_err(arrow)?,
                }
                while let Some(batch) = together.next_completed_batch() {
                    // Encoding never waits by itself, and others must be heard.
                    tokio::task::yield_now().await;
                    if let Some(values) = values.take() {
                        let choices = choices(std::slice::from_ref(&batch));
                        writer = Some(partition_writer(self, file_schema.clone(), values, &settings, &choices));
                    }
                    if let Some(writer) = &mut writer {
                        writer.write(&batch).await?;
                    }
                }
                if ended {
                    return Ok(());
                }
            }
        };
        let written: Result<(), SilverError> = written.await;
        let mut added = match (written, writer) {
            (Ok(()), Some(writer)) => writer.close().await?,
            (Ok(()), None) => Vec::new(),
            (Err(error), writer) => {
                if let Some(writer) = writer {
                    writer.abort().await;
                }
                return Err(error);
            }
        };
        for add in &mut added {
            add.data_change = false;
            add.tags = shape.cluster.as_ref().map(|by| HashMap::from([(CLUSTERED.to_owned(), Some(by.name()))]));
        }
        let exchange = Exchange { removed, added };
        match self.check_rewritten(&exchange, &file_schema.fields()[..keys].iter().cloned().collect(), before).await {
            Ok(()) => Ok((exchange, before.rows)),
            Err(error) => {
                exchange.discard(self).await;
                Err(error)
            }
        }
    }

    /// What was written holds what was read, and what was read is all that the log says was there.
    async fn check_rewritten(&self, exchange: &Exchange, key: &Fields, before: Checksum) -> Result<(), SilverError> {
        let Exchange { removed, added } = exchange;
        let logged: Option<u64> = removed.iter().map(LiveFile::rows).sum();
        let mut after = Checksum::NONE;
        for add in added {
            let live = LiveFile {
                path: add.path.clone(),
                size: add.size.max(0) as u64,
                partition_values: HashMap::new(),
                stats: None,
                clustered: None,
            };
            let mut batches = DataFile::open(self, &live).await?.read(key, None)?;
            while let Some(batch) = batches.try_next().await? {
                after.add(&batch, key.len()).map_err(|source| SilverError::Arrow { table: self.name.clone(), source })?;
            }
        }
        if before == after && logged.is_none_or(|logged| logged == before.rows) {
            return Ok(());
        }
        Err(SilverError::RewriteDiffers {
            table: self.name.clone(),
            first: removed.first().map(|file| file.path.clone()).unwrap_or_default(),
            before: before.rows,
            after: after.rows,
            logged: logged.unwrap_or(before.rows),
        })
    }

    /// Commits rewritten bins under a maintainer's lease: those whose files are all live still.
    pub async fn commit_rewritten(
        &self,
        lease: &TableLease,
        run: &str,
        planned: &Planned,
        mut bins: Vec<Rewritten>,
        shape: &Shape,
        deadline: Duration,
    ) -> Result<Compacted, SilverError> {
        let (started, mut backoff) = (Instant::now(), FIRST_BACKOFF);
        let mut outdated = 0;
        let mut attempt: Option<Attempt> = None;
        loop {
            let (now, files) = self.snapshot_with_files(|_| true).await?;
            if let Some(version) = self.settled(&mut attempt, &now).await? {
                return Ok(Compacted { version: Some(version), committed: bins, outdated });
            }
            let ours = self.still_ours(&now, lease).await?;
            let mut next = match attempt.take() {
                // What may have been put is left where it is, whoever looks after the table now.
                Some(_) if !ours => return Err(self.fenced(lease)),
                Some(again) => again,
                None => {
                    check(&self.name, &now, Writer::OnlyOurs)?;
                    if !ours || fingerprint(&now) != planned.fingerprint {
                        self.give_up(bins).await;
                        return Err(if ours { SilverError::ShapeChanged { table: self.name.clone() } } else { self.fenced(lease) });
                    }
                    let live = paths(&files);
                    let (fit, rest): (Vec<_>, Vec<_>) = bins.into_iter().partition(|bin| bin.exchange.fits(&live) || !GUARDED);
                    outdated += rest.len() as u64;
                    self.give_up(rest).await;
                    bins = fit;
                    if bins.is_empty() {
                        return Ok(Compacted { version: None, committed: bins, outdated });
                    }
                    Attempt::after(&now, |id| actions(lease.token, run, id, &bins, shape.guarded))
                }
            };
            if let Some(version) = self.put_attempt(&mut next).await? {
                self.checkpoint_if_due(&now, shape.settings.checkpoint_every).await;
                return Ok(Compacted { version: Some(version), committed: bins, outdated });
            }
            attempt = Some(next);
            if started.elapsed() > deadline {
                return Err(SilverError::Contended { table: self.name.clone(), seconds: deadline.as_secs() });
            }
            tokio::time::sleep(backoff.mul_f64(jitter())).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Files that no commit will name.
    pub async fn give_up(&self, bins: Vec<Rewritten>) {
        for bin in bins {
            remove_staged(self, &bin.exchange.added).await;
        }
    }
}

/// The columns of the table's files, the key's first: what tells rows apart is hashed where it lies.
fn file_fields(schema: &Schema, partitions: &[(String, PrimitiveType)], key: &[String]) -> Fields {
    let in_file = |name: &str| partitions.iter().all(|(partition, _)| partition != name);
    let first = key.iter().filter(|name| in_file(name)).filter_map(|name| schema.fields().find(name)).map(|(_, field)| field.clone());
    let rest = schema.fields().iter().filter(|field| in_file(field.name()) && !key.contains(field.name())).cloned();
    first.chain(rest).collect()
}

/// The rows of files one after the other, read ahead.
pub(super) fn rows_of_files(table: &Table, files: Vec<LiveFile>, fields: Fields) -> BoxStream<'static, Result<RecordBatch, SilverError>> {
    let (table, name) = (table.clone(), table.name.clone());
    let opened = futures::stream::iter(files).map(move |file| {
        let (table, fields, name) = (table.clone(), fields.clone(), name.clone());
        let task = tokio::spawn(async move { rows_of_file(&table, &file, &fields).await });
        task.map(move |joined| joined.unwrap_or_else(|error| Err(SilverError::Task { table: name, message: error.to_string() })))
    });
    opened.buffered(AHEAD).try_flatten().boxed()
}

async fn rows_of_file(
    table: &Table,
    file: &LiveFile,
    fields: &Fields,
) -> Result<BoxStream<'static, Result<RecordBatch, SilverError>>, SilverError> {
    if file.size > WHOLE {
        return DataFile::open(table, file).await?.read(fields, None);
    }
    let batches = whole_file(table, file, fields).await?;
    Ok(futures::stream::iter(batches.into_iter().map(Ok)).boxed())
}

fn actions(token: u64, run: &str, attempt: &str, bins: &[Rewritten], guarded: bool) -> Vec<serde_json::Value> {
    let now = chrono::Utc::now().timestamp_millis();
    let (removed, added) = bins.iter().map(Rewritten::files).fold((0, 0), |(r, a), (removed, added)| (r + removed, a + added));
    let (read, written) = bins.iter().map(Rewritten::bytes).fold((0, 0), |(r, w), (read, written)| (r + read, w + written));
    let mut actions = vec![
        json!({"commitInfo": {
            "timestamp": now,
            "operation": "OPTIMIZE",
            "operationParameters": {"auto": "false", "predicate": "[]"},
            "isBlindAppend": false,
            "engineInfo": engine_info(),
            "operationMetrics": {
                "numRemovedFiles": removed.to_string(),
                "numAddedFiles": added.to_string(),
                "numRemovedBytes": read.to_string(),
                "numAddedBytes": written.to_string(),
            },
            "etlRun": run,
            "etlAttempt": attempt,
        }}),
        json!({"txn": {"appId": APP_ID, "version": token, "lastUpdated": now}}),
    ];
    actions.extend(bins.iter().flat_map(|bin| bin.exchange.actions(guarded)));
    actions
}
