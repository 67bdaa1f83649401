//! Generated bronze: every count is the manifest's; nothing depends on threads, batches or listing order; equal keys end as a
//! naive sort says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::{Value, json};
use silversmith::bronze::Selection;
use silversmith::engine::local::{Engine, Progress};
use silversmith::run::report::{JobReport, RunReport};
use silversmith::run::stop::Stop;
use silversmith::run::{Observer, Request, RunError, Settings};
use silversmith::store::Store;

use crate::stores::Shuffled;
use crate::support::{Random, assert_same, generate, jobs_with, root, run, total};

/// Differences between what a manifest expects and what a report says.
fn differences(manifest: &Value, report: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for expected in manifest["jobs"].as_array().unwrap() {
        let name = format!("{} {}", expected["entity"], expected["country"]);
        let jobs = report["jobs"].as_array().unwrap();
        let Some(job) = jobs.iter().find(|job| job["entity"] == expected["entity"] && job["country"] == expected["country"]) else {
            found.push(format!("{name}: no such job"));
            continue;
        };
        for group in ["files", "records"] {
            for (key, value) in expected[group].as_object().unwrap() {
                if job[group][key] != *value {
                    found.push(format!("{name}: {group}.{key}: expected {value}, found {}", job[group][key]));
                }
            }
        }
        if job["layouts"] != expected["layouts"] || job["bytes"]["decoded"] != expected["bytes"]["decoded"] {
            found.push(format!(
                "{name}: layouts or bytes: expected {} {}, found {} {}",
                expected["layouts"], expected["bytes"], job["layouts"], job["bytes"]
            ));
        }
        let codes = |list: &Value| -> BTreeMap<String, u64> {
            let list = list.as_array().unwrap().iter();
            list.map(|reject| (reject["code"].as_str().unwrap().to_owned(), reject["count"].as_u64().unwrap())).collect()
        };
        if codes(&job["rejects"]) != codes(&expected["rejects"]) {
            found.push(format!("{name}: rejects: expected {:?}, found {:?}", codes(&expected["rejects"]), codes(&job["rejects"])));
        }
    }
    found
}

#[test]
fn the_committed_bronze_ends_as_its_manifest_says() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = std::fs::read(root().join("fixtures/bronze.manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let ran = run(&root().join("fixtures/bronze"), &folder.path().join("silver"), &["--entity", "all", "--country", "all"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let differences = differences(&manifest, &ran.report);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(manifest["jobs"].as_array().unwrap().len(), 35);
}

#[test]
fn a_million_records_end_as_the_manifest_says() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    let seed = (Random::new("a million records").next() % 1_000_000).to_string();
    let manifest = generate(
        &bronze,
        &[
            "--entities",
            "all",
            "--countries",
            "de,fr",
            "--records",
            "71429",
            "--mess",
            "0.01",
            "--duplicates",
            "0.01",
            "--unknown-fields",
            "0.01",
            "--shuffled-keys",
            "0.05",
            "--object-bytes",
            "512KiB",
            "--seed",
            &seed,
        ],
    );
    let read: u64 = manifest["jobs"].as_array().unwrap().iter().map(|job| job["records"]["read"].as_u64().unwrap()).sum();
    assert!(read >= 1_000_000);
    let silver = folder.path().join("silver");
    let ran = run(&bronze, &silver, &["--entity", "all", "--country", "de,fr"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let differences = differences(&manifest, &ran.report);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let again = run(&bronze, &silver, &["--entity", "all", "--country", "de,fr"]);
    assert_eq!((again.code, again.report["outcome"].as_str()), (0, Some("nothing_to_do")));
}

struct Quiet;

impl Observer for Quiet {
    fn begin(&self, _: &Request, _: u64) {}
    fn end(&self, _: &JobReport) {}
    fn mistake(&self, error: &RunError) {
        panic!("{error}");
    }
}

struct Way {
    threads: usize,
    batch_bytes: u64,
    chunk: usize,
    shuffled: bool,
}

fn run_in_process(bronze: &Path, silver: &Path, entities: &[&str], way: &Way) -> RunReport {
    let url = url::Url::from_directory_path(bronze).unwrap();
    let store: Arc<dyn ObjectStore> =
        if way.shuffled { Arc::new(Shuffled(Arc::new(LocalFileSystem::new()))) } else { Arc::new(LocalFileSystem::new()) };
    let settings = Settings {
        run_id: "test".to_owned(),
        engine: Engine {
            bronze: Store::over(store, url).unwrap(),
            threads: way.threads,
            chunk: way.chunk,
            spill: std::env::temp_dir(),
            progress: Progress(Arc::new(|_| {})),
        },
        silver: Store::over(Arc::new(LocalFileSystem::new()), url::Url::from_directory_path(silver).unwrap()).unwrap(),
        jobs: root().join("jobs"),
        schemas: root().join("schemas"),
        selection: Selection::default(),
        batch_bytes: Some(way.batch_bytes),
        batch_objects: None,
        memory: None,
        revisit: false,
        stop: Stop::default(),
        cluster: None,
    };
    let requests: Vec<Request> = entities.iter().map(|entity| Request { entity: (*entity).to_owned(), country: "de".to_owned() }).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(way.threads).enable_all().build().unwrap();
    runtime.block_on(silversmith::run::run(&settings, &requests, &Quiet))
}

#[test]
fn threads_batches_and_listing_order_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    let manifest = generate(
        &bronze,
        &[
            "--entities",
            "FaultData,LogRecord,StatusData,Trip",
            "--countries",
            "de",
            "--records",
            "25000",
            "--mess",
            "0.01",
            "--duplicates",
            "0.02",
            "--unknown-fields",
            "0.02",
            "--shuffled-keys",
            "0.05",
            "--object-bytes",
            "96KiB",
            "--seed",
            "11",
        ],
    );
    let mut silvers = Vec::new();
    for (threads, chunk) in [(1, 1 << 20), (2, 100_000), (7, 4096)] {
        for batch_bytes in [u64::MAX, 4 << 20, 300 << 10] {
            let silver = folder.path().join(format!("silver-{threads}-{batch_bytes}"));
            let way = Way { threads, batch_bytes, chunk, shuffled: threads > 1 };
            let report = run_in_process(&bronze, &silver, &["FaultData", "LogRecord", "StatusData", "Trip"], &way);
            let differences = differences(&manifest, &serde_json::to_value(&report).unwrap());
            assert!(differences.is_empty(), "{threads} threads, batches of {batch_bytes}: {}", differences.join("\n"));
            silvers.push(silver);
        }
    }
    assert_same(&silvers.iter().map(std::path::PathBuf::as_path).collect::<Vec<_>>());
}

/// What a naive reading makes of records with few keys and few contents: the first of each key stays.
fn naive(objects: &[(String, Vec<(u64, u64)>)]) -> (u64, u64, u64) {
    let mut sorted: Vec<_> = objects.iter().collect();
    // `year=…/` sorts before `year=…/month=…`: year_root first, then days, then names.
    sorted.sort_by_key(|(key, _)| (key.contains("/day="), key.clone()));
    let mut first: HashMap<u64, u64> = HashMap::new();
    let (mut inserted, mut duplicate, mut conflict) = (0, 0, 0);
    for (key, content) in sorted.into_iter().flat_map(|(_, records)| records) {
        match first.get(key) {
            None => {
                first.insert(*key, *content);
                inserted += 1;
            }
            Some(held) if held == content => duplicate += 1,
            Some(_) => conflict += 1,
        }
    }
    (inserted, duplicate, conflict)
}

#[test]
fn equal_keys_end_as_a_naive_sort_says() {
    let mut random = Random::new("equal keys");
    for round in 0..18 {
        let folder = tempfile::tempdir().unwrap();
        let bronze = folder.path().join("bronze");
        let mut objects: Vec<(String, Vec<(u64, u64)>)> = Vec::new();
        for number in 0..=random.below(12) {
            let place =
                if random.chance(2) { "year=2024".to_owned() } else { format!("year=2024/month=01/day={:02}", random.below(3) + 1) };
            let records = (0..random.below(40)).map(|_| (random.next() % 60, random.next() % 3)).collect();
            objects.push((format!("database=fleetdb_de/entity=LogRecord/{place}/o{number:02}.json"), records));
        }
        for (key, records) in &objects {
            let path = bronze.join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let line = |(key, content): &(u64, u64)| {
                json!({"dateTime": "2024-01-01T10:00:00.000Z", "device": {"id": "b1"}, "id": format!("b{key:X}"), "latitude": 50.0,
                       "longitude": 8.0, "speed": content})
                .to_string()
            };
            std::fs::write(path, records.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
        }
        let silver = folder.path().join("silver");
        let batch = (random.below(5) + 1).to_string();
        // All of the table's keys at hand, none, or a few: then batches are read twice, from their start or from somewhere on.
        let held = ["256 MiB", "1 B", "8 KiB"][random.below(3)];
        let jobs = jobs_with(folder.path(), &format!("limits: {{table_keys: {held}}}"));
        let jobs = jobs.to_str().unwrap();
        let ran = run(&bronze, &silver, &["--entity", "LogRecord", "--country", "de", "--batch-objects", &batch, "--jobs", jobs]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let found = ["inserted", "duplicate", "quarantined"].map(|name| total(&ran.report, "records", name));
        let (inserted, duplicate, conflict) = naive(&objects);
        assert_eq!(found, [inserted, duplicate, conflict], "round {round}, keys held {held}: {objects:?}");
    }
}
