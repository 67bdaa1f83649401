//! One Delta table: created safely by whoever comes first, checked before anything is written to it.
//!
//! Version 0 is put create-only as one object, so of two creators one wins and the other finds its table there (delta-rs's own
//! creation would commit the loser's metadata again). Tables are protocol (1,2) with no features. A contract that only adds
//! columns becomes a metadata commit of its own; anything else is refused by name and left to a planned rewrite.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::schema::{MetadataValue, StructField, StructType};
use delta_kernel::snapshot::{Snapshot, SnapshotRef};
use deltalake::DeltaTable;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use serde_json::json;

use super::SilverError;
use super::features::{CLUSTERING, Writer, check, has};
use crate::plan::compact::PartitionValues;
use crate::store::Store;

const CONTRACT_VERSION: &str = "etl.contractVersion";
/// The tag of files whose rows were put in order.
pub(super) const CLUSTERED: &str = "etl.clustered";

/// What a table is to look like.
#[derive(Debug, Clone)]
pub struct TableShape {
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    /// Column comments.
    pub comments: BTreeMap<String, String>,
    /// Newest contract version, for tables that have one.
    pub contract_version: Option<u32>,
    /// Older versions whose tables need new columns only.
    pub additive_from: BTreeSet<u32>,
    pub description: Option<String>,
}

/// A data file of the current snapshot.
#[derive(Debug, Clone)]
pub struct LiveFile {
    pub path: String,
    pub size: u64,
    pub partition_values: HashMap<String, Option<String>>,
    /// Delta's statistics as they stand in the log: parsed they take several times the memory, and files may be many.
    pub stats: Option<Box<str>>,
    /// How its rows lie, if the file says so.
    pub clustered: Option<String>,
}

impl LiveFile {
    pub fn partition(&self) -> PartitionValues {
        self.partition_values.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    pub fn rows(&self) -> Option<u64> {
        self.stats()?.get("numRecords")?.as_u64()
    }

    /// Delta's statistics.
    pub fn stats(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.stats.as_deref()?).ok()
    }
}

#[derive(Clone)]
pub struct Table {
    pub name: String,
    pub(super) store: Store,
    silver: Store,
    pub(super) log: LogStoreRef,
    /// The newest snapshot seen; the next one reads only what came after it.
    seen: Arc<Mutex<Option<SnapshotRef>>>,
    /// The files of the newest version that was asked for them; updated from the commits that follow it.
    files: Arc<tokio::sync::Mutex<Option<DeltaTable>>>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.store.address())
    }
}

impl Table {
    /// The table `<silver>/<name>`, whether it exists or not.
    pub fn at(silver: &Store, name: &str) -> Self {
        let store = silver.folder(name);
        let log = default_logstore(store.here(), store.root(), store.url(), &StorageConfig::default());
        Self { name: name.to_owned(), store, silver: silver.clone(), log, seen: Arc::default(), files: Arc::default() }
    }

    /// For programs that read or keep the table with delta-rs.
    pub fn log_store(&self) -> LogStoreRef {
        self.log.clone()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where lists lie that intents name beside data files.
    pub fn staging(&self) -> Store {
        self.silver.folder("_etl/staging")
    }

    pub(super) fn kernel(&self, source: delta_kernel::Error) -> SilverError {
        SilverError::Kernel { table: self.name.clone(), source: Box::new(source) }
    }

    pub(super) fn delta(&self, source: deltalake::DeltaTableError) -> SilverError {
        SilverError::Delta { table: self.name.clone(), source: Box::new(source) }
    }

    /// Runs kernel code, which blocks, away from the async threads.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Table) -> Result<T, SilverError> + Send + 'static,
    ) -> Result<T, SilverError> {
        let table = self.clone();
        let joined = tokio::task::spawn_blocking(move || work(&table)).await;
        joined.unwrap_or_else(|error| Err(SilverError::Task { table: self.name.clone(), message: error.to_string() }))
    }

    pub async fn exists(&self) -> Result<bool, SilverError> {
        self.log.is_delta_table_location().await.map_err(|source| self.delta(source))
    }

    /// The newest snapshot. Blocks.
    pub(super) fn load(&self) -> Result<SnapshotRef, SilverError> {
        let engine = self.log.engine(None);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let builder = match seen.take() {
            Some(snapshot) => Snapshot::builder_from(snapshot),
            None => Snapshot::builder_for(self.store.url().as_str()),
        };
        let newest = builder.build(engine.as_ref()).map_err(|source| self.kernel(source))?;
        *seen = Some(newest.clone());
        Ok(newest)
    }

    fn was_seen(&self) -> bool {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    /// The newest version that this process has seen; 0 where it has not looked.
    pub fn version_seen(&self) -> u64 {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref().map_or(0, |snapshot| snapshot.version())
    }

    /// The newest snapshot: protocol, metadata and transactions, no files.
    pub async fn snapshot(&self) -> Result<SnapshotRef, SilverError> {
        self.blocking(Table::load).await
    }

    /// The newest intent of an application as far as this process has seen; 0 where it has not looked.
    pub async fn intent_seen(&self, app_id: &str) -> Result<i64, SilverError> {
        let app_id = app_id.to_owned();
        self.blocking(move |table| {
            let seen = table.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            seen.map_or(Ok(0), |snapshot| table.intent_in(&snapshot, &app_id))
        })
        .await
    }

    /// The fingerprint as far as this process has seen.
    pub async fn fingerprint_seen(&self) -> Result<String, SilverError> {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        match seen {
            Some(snapshot) => Ok(fingerprint(&snapshot)),
            None => self.fingerprint().await,
        }
    }

    /// Changes whenever the table's protocol, schema, partitioning or properties do.
    pub async fn fingerprint(&self) -> Result<String, SilverError> {
        Ok(fingerprint(self.snapshot().await?.as_ref()))
    }

    /// Creates the table if need be, adds columns that the contract added, and refuses what cannot be written safely.
    pub async fn ensure(&self, shape: &TableShape, writer: Writer) -> Result<(), SilverError> {
        self.made_like(shape, writer, true).await.map(drop)
    }

    /// The same, but that it is not made; says whether it is there.
    pub async fn ensure_there(&self, shape: &TableShape, writer: Writer) -> Result<bool, SilverError> {
        self.made_like(shape, writer, false).await
    }

    async fn made_like(&self, shape: &TableShape, writer: Writer, make: bool) -> Result<bool, SilverError> {
        let wanted = Arc::new(self.delta_schema(shape)?);
        // A put that failed may have landed: looking again tells. One that fails again did not.
        let (mut unanswered, mut unreadable) = (false, false);
        for _ in 0..16 {
            let was_seen = self.was_seen();
            let snapshot = match self.snapshot().await {
                Ok(snapshot) => snapshot,
                Err(error) if was_seen || unreadable => return Err(error),
                // Tables are there more often than not, so that is asked only after a failure; another writer may have made it since.
                Err(_) if self.exists().await? => {
                    unreadable = true;
                    continue;
                }
                Err(_) if !make => return Ok(false),
                Err(_) => {
                    match self.create(shape, &wanted).await {
                        Err(error) if unanswered => return Err(error),
                        Err(_) => unanswered = true,
                        Ok(()) => {}
                    }
                    continue;
                }
            };
            check(&self.name, &snapshot, writer)?;
            let found = snapshot.table_configuration().metadata().partition_columns().to_vec();
            // A cluster may have given partitions up for clustering: it is the one that writes such a table.
            if found != shape.partition_by && !(found.is_empty() && has(&snapshot, CLUSTERING)) {
                return Err(SilverError::PartitioningDiffers {
                    table: self.name.clone(),
                    found: found.join(", "),
                    expected: shape.partition_by.join(", "),
                });
            }
            match self.evolve(shape, &wanted, &snapshot).await {
                Ok(false) => return Ok(true),
                Ok(true) => {}
                Err(error @ SilverError::Store(_)) if unanswered => return Err(error),
                Err(SilverError::Store(_)) => unanswered = true,
                Err(error) => return Err(error),
            }
        }
        Err(SilverError::Contended { table: self.name.clone(), seconds: 0 })
    }

    pub(super) fn delta_schema(&self, shape: &TableShape) -> Result<StructType, SilverError> {
        let converted: Result<StructType, _> = shape.schema.as_ref().try_into_kernel();
        let plain = converted.map_err(|source| SilverError::Arrow { table: self.name.clone(), source })?;
        let fields = plain.fields().map(|field| match shape.comments.get(field.name()) {
            Some(comment) => field.clone().with_metadata([("comment", MetadataValue::String(comment.clone()))]),
            None => field.clone(),
        });
        StructType::try_new(fields.collect::<Vec<StructField>>()).map_err(|source| self.kernel(source))
    }

    async fn create(&self, shape: &TableShape, schema: &StructType) -> Result<(), SilverError> {
        let now = chrono::Utc::now().timestamp_millis();
        let actions = [
            json!({"commitInfo": {"timestamp": now, "operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": engine_info()}}),
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            self.metadata(shape, schema, &uuid::Uuid::new_v4().to_string(), now, BTreeMap::new()),
        ];
        // Whoever loses finds the winner's table; `ensure` then compares it with the shape.
        self.put_version(0, &actions).await?;
        Ok(())
    }

    fn metadata(
        &self,
        shape: &TableShape,
        schema: &StructType,
        id: &str,
        created: i64,
        mut configuration: BTreeMap<String, String>,
    ) -> serde_json::Value {
        if let Some(version) = shape.contract_version {
            configuration.insert(CONTRACT_VERSION.to_owned(), version.to_string());
        }
        let schema = serde_json::to_string(schema).unwrap_or_default();
        let mut metadata = json!({
            "id": id,
            "name": self.name,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": schema,
            "partitionColumns": shape.partition_by,
            "configuration": configuration,
            "createdTime": created,
        });
        if let Some(description) = &shape.description {
            metadata["description"] = json!(description);
        }
        json!({"metaData": metadata})
    }

    /// Puts one commit, create-only; `false` where the version is taken.
    pub(super) async fn put_version(&self, version: u64, actions: &[serde_json::Value]) -> Result<bool, SilverError> {
        let lines: Vec<String> = actions.iter().map(serde_json::Value::to_string).collect();
        let path = format!("_delta_log/{version:020}.json");
        Ok(self.store.create(&path, lines.join("\n").into()).await?)
    }

    /// `true` where something was (or may have been) committed, so that the caller looks again.
    async fn evolve(&self, shape: &TableShape, wanted: &StructType, snapshot: &SnapshotRef) -> Result<bool, SilverError> {
        let table_version = Self::contract_version(snapshot);
        if let (Some(table_version), Some(known)) = (table_version, shape.contract_version)
            && table_version > known
        {
            return Err(SilverError::NewerContract { table: self.name.clone(), table_version, known });
        }
        if let (Some(from), Some(to)) = (table_version, shape.contract_version)
            && from < to
            && !shape.additive_from.contains(&from)
        {
            return Err(SilverError::NeedsMigration { table: self.name.clone(), from, to });
        }
        let found = snapshot.schema();
        let mut missing = Vec::new();
        for field in wanted.fields() {
            match found.field(field.name()) {
                None => missing.push(field.clone()),
                Some(existing) if same_type(existing, field) => {}
                Some(existing) => {
                    return Err(SilverError::SchemaDiffers {
                        table: self.name.clone(),
                        column: field.name().clone(),
                        found: format!("{:?}", existing.data_type()),
                        expected: format!("{:?}", field.data_type()),
                    });
                }
            }
        }
        if let Some(extra) = found.fields().find(|field| wanted.field(field.name()).is_none()) {
            return Err(SilverError::SchemaDiffers {
                table: self.name.clone(),
                column: extra.name().clone(),
                found: format!("{:?}", extra.data_type()),
                expected: "absent".to_owned(),
            });
        }
        if missing.is_empty() && (shape.contract_version.is_none() || table_version == shape.contract_version) {
            return Ok(false);
        }
        check(&self.name, snapshot, Writer::OnlyOurs)?;
        // New columns go last: a table's column order is not the contract's to change.
        let fields: Vec<StructField> = found.fields().cloned().chain(missing).collect();
        let schema = StructType::try_new(fields).map_err(|source| self.kernel(source))?;
        let now = chrono::Utc::now().timestamp_millis();
        let metadata = snapshot.table_configuration().metadata();
        let configuration = metadata.configuration().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let actions = [
            json!({"commitInfo": {"timestamp": now, "operation": "ADD COLUMNS", "operationParameters": {}, "engineInfo": engine_info()}}),
            self.metadata(shape, &schema, metadata.id(), metadata.created_time().unwrap_or(now), configuration),
        ];
        self.put_version(snapshot.version() + 1, &actions).await?;
        Ok(true)
    }

    /// The newest contract version that the table was written with.
    pub(super) fn contract_version(snapshot: &SnapshotRef) -> Option<u32> {
        snapshot.table_configuration().metadata().configuration().get(CONTRACT_VERSION)?.parse().ok()
    }

    /// Of columns, as the table has them.
    pub fn comments(snapshot: &SnapshotRef) -> BTreeMap<String, String> {
        let comment = |field: &StructField| match field.metadata().get("comment") {
            Some(MetadataValue::String(comment)) => Some((field.name().clone(), comment.clone())),
            _ => None,
        };
        snapshot.schema().fields().filter_map(comment).collect()
    }

    /// The table's metadata with the columns of another shape.
    pub(super) fn metadata_of(&self, shape: &TableShape, snapshot: &SnapshotRef) -> Result<serde_json::Value, SilverError> {
        let metadata = snapshot.table_configuration().metadata();
        let configuration = metadata.configuration().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let created = metadata.created_time().unwrap_or_else(|| chrono::Utc::now().timestamp_millis());
        Ok(self.metadata(shape, &self.delta_schema(shape)?, metadata.id(), created, configuration))
    }

    /// The data files of the newest snapshot that `keep` takes.
    pub async fn live_files(&self, keep: impl Fn(&LiveFile) -> bool) -> Result<Vec<LiveFile>, SilverError> {
        Ok(self.versioned_files(keep).await?.1)
    }

    /// The same, and the version that has them.
    pub async fn versioned_files(&self, keep: impl Fn(&LiveFile) -> bool) -> Result<(u64, Vec<LiveFile>), SilverError> {
        let mut held = self.files.lock().await;
        // Taken out while it is brought up to date: one that failed half-way is not kept.
        let table = match held.take() {
            Some(mut table) => {
                table.update_state().await.map_err(|source| self.delta(source))?;
                table
            }
            None => {
                let mut table = DeltaTable::new(self.log.clone());
                table.load().await.map_err(|source| self.delta(source))?;
                table
            }
        };
        let state = table.snapshot().map_err(|source| self.delta(source))?;
        let version = state.version();
        let files = state.log_data().into_iter().map(|view| {
            // Nothing else shows a file's tags.
            #[allow(deprecated)]
            let add = view.add_action();
            LiveFile {
                path: add.path,
                size: add.size.max(0) as u64,
                partition_values: add.partition_values,
                stats: add.stats.map(String::into_boxed_str),
                clustered: add.tags.and_then(|mut tags| tags.remove(CLUSTERED)?),
            }
        });
        let files = files.filter(|file| keep(file)).collect();
        *held = Some(table);
        Ok((version as u64, files))
    }

    /// Folds the log into a checkpoint, so that opening the table stays quick.
    pub async fn checkpoint(&self) -> Result<(), SilverError> {
        let mut table = DeltaTable::new(self.log.clone());
        table.load().await.map_err(|source| self.delta(source))?;
        deltalake::checkpoints::create_checkpoint(&table, None).await.map_err(|source| self.delta(source))
    }
}

pub fn engine_info() -> String {
    format!("silversmith/{}", env!("CARGO_PKG_VERSION"))
}

/// What decides how rows must be encoded, as one text to compare.
pub(super) fn fingerprint(snapshot: &Snapshot) -> String {
    let configuration = snapshot.table_configuration();
    let metadata = configuration.metadata();
    let mut properties: Vec<_> = metadata.configuration().iter().collect();
    properties.sort();
    let schema = snapshot.schema();
    // Field metadata lies in hash maps, whose order is not the same twice.
    let fields: Vec<_> = schema.fields().map(|field| (field.name(), field.data_type(), field.is_nullable())).collect();
    format!("{:?} {fields:?} {:?} {properties:?}", configuration.protocol(), metadata.partition_columns())
}

/// Comments and other field metadata aside.
fn same_type(a: &StructField, b: &StructField) -> bool {
    a.data_type() == b.data_type()
}
