//! A table's rows under another schema: every live file written anew, and one commit that exchanges them all together with the
//! metadata.
//!
//! Files are converted one by one and noted down, so that a migration that died goes on where it was; what is noted is used again
//! only if its file is still live and its new files are there. The commit is made on a snapshot in which every live file has been
//! converted: files that writers add or rewrite meanwhile are converted, too, before it is tried again. It carries the maintainer's
//! token like every commit of maintenance, and says that data changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{Fields, Schema};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::Add;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use super::attempt::Attempt;
use super::commit::{FIRST_BACKOFF, LAST_BACKOFF, jitter};
use super::compact::rows_of_files;
use super::encoding::choices;
use super::features::{Writer, check};
use super::file::DataFile;
use super::replace::{Exchange, partition_types, partition_values, paths};
use super::table::{engine_info, fingerprint};
use super::write::partition_writer;
use super::{LiveFile, SilverError, Table, TableShape};
use crate::contract::convert::Conversion;
use crate::job;
use crate::ledger::maintenance::{APP_ID, TableLease, progress_folder};
use crate::store::Store;

/// What a migration does to a table, before it does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub column: String,
    /// As Delta spells it; nothing where there is no such column.
    pub found: Option<String>,
    pub expected: Option<String>,
}

/// How a table stands to a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    pub contract_version: Option<u32>,
    pub differences: Vec<Difference>,
    /// Whether new columns are all there is.
    pub additive: bool,
    pub fingerprint: String,
}

/// A file and what became of it.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    path: String,
    adds: Vec<Add>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Migrated {
    pub version: u64,
    pub files: u64,
    pub rows: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Files that an earlier attempt had converted.
    pub resumed: u64,
}

/// How rows are converted, and under whose lease.
pub struct Migration<'m> {
    pub shape: &'m TableShape,
    pub conversion: &'m Conversion,
    pub settings: job::Table,
    pub lease: &'m TableLease,
    /// Of the table when it was compared: rows are converted from these columns and no others.
    pub fingerprint: &'m str,
    pub run: &'m str,
    pub at_once: usize,
    /// For the commit against other writers.
    pub deadline: Duration,
}

impl Table {
    /// Compares the newest snapshot with a shape.
    pub async fn compare(&self, shape: &TableShape) -> Result<Comparison, SilverError> {
        let snapshot = self.snapshot().await?;
        let (found, wanted) = (snapshot.schema(), self.delta_schema(shape)?);
        let text = |field: &delta_kernel::schema::StructField| format!("{}", field.data_type());
        let mut differences = Vec::new();
        let mut additive = true;
        for field in wanted.fields() {
            let before = found.field(field.name());
            if before.is_none_or(|before| before.data_type() != field.data_type()) {
                additive &= before.is_none();
                differences.push(Difference { column: field.name().clone(), found: before.map(text), expected: Some(text(field)) });
            }
        }
        for field in found.fields().filter(|field| wanted.field(field.name()).is_none()) {
            additive = false;
            differences.push(Difference { column: field.name().clone(), found: Some(text(field)), expected: None });
        }
        let partitioned = snapshot.table_configuration().metadata().partition_columns().to_vec();
        if partitioned != shape.partition_by {
            return Err(SilverError::PartitioningDiffers {
                table: self.name.clone(),
                found: partitioned.join(", "),
                expected: shape.partition_by.join(", "),
            });
        }
        let contract_version = Self::contract_version(&snapshot);
        Ok(Comparison { contract_version, differences, additive, fingerprint: fingerprint(&snapshot) })
    }

    /// Converts every live file that is not converted yet; `converted` maps old paths to new files.
    async fn convert_all(
        &self,
        files: &[LiveFile],
        migration: &Migration<'_>,
        progress: &Store,
        converted: &mut HashMap<String, Vec<Add>>,
    ) -> Result<(), SilverError> {
        let snapshot = self.snapshot().await?;
        if fingerprint(&snapshot) != migration.fingerprint {
            return Err(SilverError::ShapeChanged { table: self.name.clone() });
        }
        let failed = |source| SilverError::Arrow { table: self.name.clone(), source };
        let old: Schema = snapshot.schema().as_ref().try_into_arrow().map_err(failed)?;
        let types = partition_types(&snapshot);
        let in_file = |schema: &Schema| -> Fields {
            schema.fields().iter().filter(|field| types.iter().all(|(name, _)| name != field.name())).cloned().collect()
        };
        let (old, new) = (in_file(&old), in_file(&migration.shape.schema));
        let todo: Vec<LiveFile> = files.iter().filter(|file| !converted.contains_key(&file.path)).cloned().collect();
        let tasks = todo.into_iter().map(|file| {
            let (table, old, new, types) = (self.clone(), old.clone(), new.clone(), types.clone());
            let (conversion, settings, name) = (migration.conversion.clone(), migration.settings, self.name.clone());
            let progress = progress.clone();
            async move {
                let task = tokio::spawn(async move {
                    let adds = table.convert(&file, old, new, &types, &conversion, &settings).await?;
                    let noted = Noted { path: file.path, adds };
                    let bytes = serde_json::to_vec(&noted).unwrap_or_default();
                    progress.put(&format!("{:032x}.json", xxh3_128(noted.path.as_bytes())), bytes.into()).await?;
                    Ok(noted)
                });
                task.await.unwrap_or_else(|error| Err(SilverError::Task { table: name, message: error.to_string() }))
            }
        });
        let mut done = futures::stream::iter(tasks).buffer_unordered(migration.at_once.max(1));
        while let Some(noted) = done.next().await {
            let noted: Noted = noted?;
            converted.insert(noted.path, noted.adds);
        }
        Ok(())
    }

    async fn convert(
        &self,
        file: &LiveFile,
        old: Fields,
        new: Fields,
        types: &[(String, delta_kernel::schema::PrimitiveType)],
        conversion: &Conversion,
        settings: &job::Table,
    ) -> Result<Vec<Add>, SilverError> {
        let schema = Arc::new(Schema::new(new));
        let (mut rows, mut first) = (rows_of_files(self, vec![file.clone()], old), 0_u64);
        let mut writer = None;
        while let Some(batch) = rows.try_next().await? {
            if batch.num_rows() == 0 {
                continue;
            }
            let made = conversion.apply(&batch, &schema).map_err(|source| SilverError::Convert {
                table: self.name.clone(),
                file: file.path.clone(),
                from: first,
                source: Box::new(source),
            })?;
            first += batch.num_rows() as u64;
            if writer.is_none() {
                let values = partition_values(self, file.partition_values.iter().map(|(name, value)| (name, value.as_deref())), types)?;
                writer = Some(partition_writer(self, schema.clone(), values, settings, &choices(std::slice::from_ref(&made))));
            }
            if let Some(writer) = &mut writer {
                writer.write(&made).await?;
            }
        }
        let adds = match writer {
            Some(writer) => writer.close().await?,
            None => Vec::new(),
        };
        let written: u64 = adds.iter().filter_map(rows_in).sum();
        let logged = file.rows().unwrap_or(first);
        if written == first && logged == first {
            return Ok(adds);
        }
        Err(SilverError::RewriteDiffers { table: self.name.clone(), first: file.path.clone(), before: first, after: written, logged })
    }

    /// What an earlier attempt converted, as far as it is still of use.
    async fn noted(&self, progress: &Store, live: &HashSet<&str>) -> Result<HashMap<String, Vec<Add>>, SilverError> {
        let names: Vec<String> = progress.list("").map_ok(|(path, _)| path).try_collect().await?;
        let mut found = HashMap::new();
        for name in names {
            let Some(noted) = progress.get(&name).await?.and_then(|bytes| serde_json::from_slice::<Noted>(&bytes).ok()) else { continue };
            if !live.contains(noted.path.as_str()) {
                continue;
            }
            let mut there = true;
            for add in &noted.adds {
                let file = LiveFile {
                    path: add.path.clone(),
                    size: add.size.max(0) as u64,
                    partition_values: HashMap::new(),
                    stats: None,
                    clustered: None,
                };
                // Vacuum may have taken it for what it was until now: a file that no commit names.
                there &= DataFile::open(self, &file).await.is_ok();
            }
            if there {
                found.insert(noted.path, noted.adds);
            }
        }
        Ok(found)
    }

    /// Converts what is live, before anybody is kept from writing: what is left for [`Table::migrate`] is what comes meanwhile.
    pub async fn convert_ahead(&self, migration: &Migration<'_>, silver: &Store) -> Result<u64, SilverError> {
        let progress = self.progress(migration, silver);
        let files = self.live_files(|_| true).await?;
        let live = paths(&files);
        let mut converted = self.noted(&progress, &live).await?;
        let resumed = converted.len() as u64;
        self.convert_all(&files, migration, &progress, &mut converted).await?;
        Ok(resumed)
    }

    fn progress(&self, migration: &Migration<'_>, silver: &Store) -> Store {
        // Another schema is another migration.
        let schema = format!("{:?}{:?}", migration.shape.schema, migration.conversion);
        progress_folder(silver, &self.name, &format!("{:032x}", xxh3_128(schema.as_bytes())))
    }

    /// Exchanges all files and the metadata in one commit.
    pub async fn migrate(&self, migration: &Migration<'_>, silver: &Store) -> Result<Migrated, SilverError> {
        let progress = self.progress(migration, silver);
        let (started, mut backoff) = (Instant::now(), FIRST_BACKOFF);
        let mut converted: Option<HashMap<String, Vec<Add>>> = None;
        let mut attempt: Option<(Attempt, Migrated)> = None;
        loop {
            let (now, files) = self.snapshot_with_files(|_| true).await?;
            let (mut tried, told) = attempt.take().map_or((None, None), |(tried, told)| (Some(tried), Some(told)));
            if let Some(version) = self.settled(&mut tried, &now).await?
                && let Some(told) = told
            {
                self.forget(&progress).await;
                return Ok(Migrated { version, ..told });
            }
            if !self.still_ours(&now, migration.lease).await? {
                return Err(self.fenced(migration.lease));
            }
            let (mut next, migrated) = match (tried, told) {
                (Some(again), Some(told)) => (again, told),
                _ => {
                    check(&self.name, &now, Writer::OnlyOurs)?;
                    if fingerprint(&now) != migration.fingerprint {
                        return Err(SilverError::ShapeChanged { table: self.name.clone() });
                    }
                    let live = paths(&files);
                    let done = match &mut converted {
                        Some(done) => done,
                        none => none.insert(self.noted(&progress, &live).await?),
                    };
                    let resumed = done.len() as u64;
                    self.convert_all(&files, migration, &progress, done).await?;
                    let added: Vec<Add> = files.iter().filter_map(|file| done.get(&file.path)).flatten().cloned().collect();
                    let migrated = Migrated {
                        version: now.version() + 1,
                        files: files.len() as u64,
                        rows: added.iter().filter_map(rows_in).sum(),
                        bytes_read: files.iter().map(|file| file.size).sum(),
                        bytes_written: added.iter().map(|add| add.size.max(0) as u64).sum(),
                        resumed,
                    };
                    let metadata = self.metadata_of(migration.shape, &now)?;
                    let exchange = Exchange { removed: files, added };
                    (Attempt::after(&now, |id| migration_actions(migration, metadata, &exchange, id)), migrated)
                }
            };
            // Converting may have taken long: whoever took the table over meanwhile may have removed what no commit names yet.
            if !self.still_ours(&now, migration.lease).await? {
                return Err(self.fenced(migration.lease));
            }
            if self.put_attempt(&mut next).await?.is_some() {
                self.forget(&progress).await;
                return Ok(migrated);
            }
            attempt = Some((next, migrated));
            if started.elapsed() > migration.deadline {
                return Err(SilverError::Contended { table: self.name.clone(), seconds: migration.deadline.as_secs() });
            }
            tokio::time::sleep(backoff.mul_f64(jitter())).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Best effort: notes of a migration that is done are of no use.
    async fn forget(&self, progress: &Store) {
        let names: Result<Vec<String>, _> = progress.list("").map_ok(|(path, _)| path).try_collect().await;
        for name in names.unwrap_or_default() {
            let _ = progress.delete(&name).await;
        }
    }
}

fn rows_in(add: &Add) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(add.stats.as_deref()?).ok()?.get("numRecords")?.as_u64()
}

fn migration_actions(migration: &Migration<'_>, metadata: serde_json::Value, exchange: &Exchange, id: &str) -> Vec<serde_json::Value> {
    let at = chrono::Utc::now().timestamp_millis();
    let mut actions = vec![
        json!({"commitInfo": {
            "timestamp": at,
            "operation": "REPLACE TABLE",
            "operationParameters": {"isManaged": "false", "partitionBy": json!(migration.shape.partition_by).to_string()},
            "isBlindAppend": false,
            "engineInfo": engine_info(),
            "etlRun": migration.run,
            "etlAttempt": id,
        }}),
        json!({"txn": {"appId": APP_ID, "version": migration.lease.token, "lastUpdated": at}}),
        metadata,
    ];
    actions.extend(exchange.actions(true));
    actions
}
