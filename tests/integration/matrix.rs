//! The fault matrix: a run against a store that goes wrong at its n-th operation, for every n and every way of going wrong, then
//! a run on the healthy store. What silver, quarantine and the ledger hold in the end is what an undisturbed run leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arrow::util::display::array_value_to_string;
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use silversmith::bronze::Selection;
use silversmith::domain::Source;
use silversmith::engine::local::{Engine, Progress};
use silversmith::ledger::Ledger;
use silversmith::run::report::{JobReport, Outcome, RunReport};
use silversmith::run::{Observer, Request, RunError, Settings, tables_of};
use silversmith::store::Store;

use crate::stores::{Fault, Faulty};
use crate::support::{generate, jobs_with, root};

struct Silent;

impl Observer for Silent {
    fn begin(&self, _: &Request, _: u64) {}
    fn end(&self, _: &JobReport) {}
    fn mistake(&self, _: &RunError) {}
}

fn silver(store: Arc<dyn ObjectStore>) -> Store {
    Store::over(store, url::Url::parse("memory:///silver/").unwrap()).unwrap()
}

async fn run(bronze: &Path, jobs: &Path, store: Arc<dyn ObjectStore>) -> RunReport {
    let url = url::Url::from_directory_path(bronze).unwrap();
    let settings = Settings {
        run_id: uuid::Uuid::now_v7().to_string(),
        engine: Engine {
            bronze: Store::over(Arc::new(LocalFileSystem::new()), url).unwrap(),
            threads: 2,
            chunk: 1 << 20,
            progress: Progress(Arc::new(|_| {})),
        },
        silver: silver(store),
        jobs: jobs.to_owned(),
        schemas: root().join("schemas"),
        selection: Selection::default(),
        batch_bytes: None,
        batch_objects: Some(4),
        memory: None,
        terminate: Arc::new(AtomicBool::new(false)),
    };
    let request = Request { entity: "LogRecord".to_owned(), country: "de".to_owned() };
    silversmith::run::run(&settings, &[request], &Silent).await
}

/// Everything that must be the same: rows of both tables, objects and claims of the ledger, and whether its intents are in the tables.
#[derive(Debug, PartialEq, Eq)]
struct State {
    silver: Vec<String>,
    quarantine: Vec<String>,
    known: usize,
    claims: usize,
    settled: bool,
}

async fn rows(table: &silversmith::silver::Table) -> Vec<String> {
    let batches = table.query(Ok).await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            let columns = schema.fields().iter().zip(batch.columns());
            let kept = columns.filter(|(field, _)| !["_batch", "_ingested_at", "batch", "quarantined_at"].contains(&field.name().as_str()));
            rows.push(kept.map(|(_, column)| array_value_to_string(column, row).unwrap()).collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

async fn state(store: Arc<dyn ObjectStore>) -> State {
    let silver = silver(store);
    let source = Source { entity: "LogRecord".to_owned(), database: "fleetdb_de".to_owned() };
    let tables = tables_of(&silver, "LogRecord");
    let ledger = Ledger::open(&silver, &source, Duration::from_secs(1)).await.unwrap();
    let mut settled = true;
    for append in &ledger.last_intent().unwrap().tables {
        let table = silversmith::silver::Table::at(&silver, &append.table);
        settled &= table.intent(&source.app_id()).await.unwrap() >= append.k;
    }
    State {
        silver: rows(&tables.silver).await,
        quarantine: rows(&tables.quarantine).await,
        known: ledger.known_objects(),
        claims: ledger.open_claims().count(),
        settled,
    }
}

/// A run that goes wrong, then one that does not: the first one's exit code, and what is there in the end.
async fn disturb(bronze: PathBuf, jobs: PathBuf, at: u64, fault: Fault) -> (u64, Fault, u8, State) {
    let store: Arc<InMemory> = Arc::new(InMemory::new());
    let disturbed = run(&bronze, &jobs, Arc::new(Faulty::new(store.clone(), at, fault))).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let after = run(&bronze, &jobs, store.clone()).await;
    assert_eq!(after.exit, 0, "{fault:?} at {at}: {after:?}");
    (at, fault, disturbed.exit, state(store).await)
}

#[test]
fn every_operation_may_fail_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    generate(
        &bronze,
        &[
            "--entities",
            "LogRecord",
            "--countries",
            "de",
            "--records",
            "120",
            "--days",
            "3",
            "--mess",
            "0.1",
            "--duplicates",
            "0.05",
            "--object-bytes",
            "2KiB",
            "--seed",
            "3",
        ],
    );
    let jobs = jobs_with(folder.path(), "lease: {duration: 1 ms}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let healthy = Arc::new(InMemory::new());
        let counted = Arc::new(Faulty::new(healthy.clone(), u64::MAX, Fault::Refused));
        let undisturbed = run(&bronze, &jobs, counted.clone()).await;
        assert_eq!(undisturbed.outcome, Outcome::Committed, "{undisturbed:?}");
        let expected = state(healthy).await;
        assert!(expected.settled && expected.claims == 0 && !expected.quarantine.is_empty());
        let operations = counted.operations();
        let (mut tried, mut failed) = (0, 0);
        let every = (1..=operations).flat_map(|at| Fault::ALL.map(|fault| (at, fault)));
        let mut disturbed = futures::stream::iter(every)
            .map(|(at, fault)| tokio::spawn(disturb(bronze.clone(), jobs.clone(), at, fault)))
            .buffer_unordered(2);
        while let Some(ended) = disturbed.next().await {
            let (at, fault, exit, found) = ended.unwrap();
            assert_eq!(found, expected, "{fault:?} at {at} of {operations}");
            failed += u32::from(exit != 0);
            tried += 1;
        }
        eprintln!("{operations} operations, {tried} faults tried, {failed} of them failed their run");
        assert!(failed > 0);
    });
}
