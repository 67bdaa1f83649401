//! Bronze and silver in memory, with jobs and contracts of the test's own: thousands of small runs without a disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use silversmith::bronze::Selection;
use silversmith::domain::Source;
use silversmith::engine::local::{Engine, Progress};
use silversmith::job::Job;
use silversmith::ledger::Ledger;
use silversmith::run::report::{JobReport, RunReport};
use silversmith::run::stop::Stop;
use silversmith::run::{Observer, Request, RunError, Settings, tables_of};
use silversmith::silver::Table;
use silversmith::store::Store;

pub struct Silent;

impl Observer for Silent {
    fn begin(&self, _: &Request, _: u64) {}
    fn end(&self, _: &JobReport) {}
    fn mistake(&self, _: &RunError) {}
}

#[derive(Clone)]
pub struct World {
    pub bronze: Arc<InMemory>,
    pub silver: Arc<dyn ObjectStore>,
    pub entity: String,
    jobs: PathBuf,
    schemas: PathBuf,
    pub threads: usize,
    pub batch_objects: Option<usize>,
}

fn over(store: Arc<dyn ObjectStore>, name: &str) -> Store {
    Store::over(store, url::Url::parse(&format!("memory:///{name}/")).unwrap()).unwrap()
}

impl World {
    /// A job and a contract that are written to `folder`.
    pub fn new(folder: &Path, entity: &str, job: &str, schema: &str) -> Self {
        let (jobs, schemas) = (folder.join("jobs"), folder.join("schemas"));
        std::fs::create_dir_all(schemas.join(entity)).unwrap();
        std::fs::create_dir_all(&jobs).unwrap();
        std::fs::write(jobs.join(format!("{entity}.yaml")), format!("entity: {entity}\n{job}\n")).unwrap();
        std::fs::write(schemas.join(entity).join("1.json"), schema).unwrap();
        Self {
            bronze: Arc::new(InMemory::new()),
            silver: Arc::new(InMemory::new()),
            entity: entity.to_owned(),
            jobs,
            schemas,
            threads: 2,
            batch_objects: None,
        }
    }

    /// The same bronze, job and contract, and another silver.
    pub fn with_silver(&self, silver: Arc<dyn ObjectStore>) -> Self {
        Self { silver, ..self.clone() }
    }

    /// Puts an object below `database=…/entity=…/`.
    pub async fn put_in(&self, country: &str, key: &str, text: &str) {
        let path = format!("bronze/database=fleetdb_{country}/entity={}/{key}", self.entity);
        self.bronze.put(&path.into(), text.to_owned().into()).await.unwrap();
    }

    pub async fn put(&self, key: &str, text: &str) {
        self.put_in("de", key, text).await;
    }

    pub fn settings(&self) -> Settings {
        Settings {
            run_id: uuid::Uuid::now_v7().to_string(),
            engine: Engine {
                bronze: over(self.bronze.clone(), "bronze"),
                threads: self.threads,
                chunk: 1 << 20,
                spill: std::env::temp_dir(),
                progress: Progress(Arc::new(|_| {})),
            },
            silver: self.store(),
            jobs: self.jobs.clone(),
            schemas: self.schemas.clone(),
            selection: Selection::default(),
            batch_bytes: None,
            batch_objects: self.batch_objects,
            memory: None,
            revisit: false,
            stop: Stop::default(),
            cluster: None,
        }
    }

    pub fn store(&self) -> Store {
        over(self.silver.clone(), "silver")
    }

    pub async fn run(&self) -> RunReport {
        self.run_country("de").await
    }

    pub async fn run_country(&self, country: &str) -> RunReport {
        let request = Request { entity: self.entity.clone(), country: country.to_owned() };
        silversmith::run::run(&self.settings(), &[request], &Silent).await
    }

    pub fn job(&self) -> Job {
        Job::load(&self.jobs, &self.entity).unwrap()
    }

    pub fn table(&self) -> Table {
        tables_of(&self.store(), &self.job()).silver
    }

    pub fn source(&self) -> Source {
        self.job().source("de").unwrap()
    }

    pub async fn ledger(&self) -> Ledger {
        Ledger::open(&self.store(), &self.source(), self.job().lease.duration).await.unwrap()
    }

    /// Whether the newest intent is in all of its tables.
    pub async fn settled(&self) -> bool {
        let ledger = self.ledger().await;
        let Some(intent) = ledger.last_intent() else { return true };
        for part in &intent.tables {
            if Table::at(&self.store(), &part.table).intent(&part.app_id).await.unwrap() < part.k {
                return false;
            }
        }
        true
    }
}

/// Rows as sorted texts, some columns left out.
pub async fn rows(table: &Table, without: &[&str]) -> Vec<String> {
    texts(&table.query(Ok).await.unwrap(), without)
}

pub fn texts(batches: &[RecordBatch], without: &[&str]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            let columns = schema.fields().iter().zip(batch.columns());
            let kept = columns.filter(|(field, _)| !without.contains(&field.name().as_str()));
            rows.push(kept.map(|(_, column)| array_value_to_string(column, row).unwrap()).collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

/// Columns that another way of running may fill otherwise.
pub const PER_RUN: &[&str] = &["_batch", "_ingested_at", "batch", "quarantined_at"];
/// And those that say which of several equal records survived.
pub const PROVENANCE: &[&str] = &[
    "_batch",
    "_ingested_at",
    "_source_file",
    "_source_offset",
    "_source_length",
    "_schema_version",
    "_order",
    "_rescued",
    "year",
    "month",
    "day",
];
