//! Many writers at once, and writers that are killed: what is there in the end is what one writer alone would have left.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use deltalake::DeltaTable;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use silversmith::ledger::Ledger;

use crate::faults::assert_intents_without_gaps;
use crate::stores::{Fault, Faulty, Hooked};
use crate::support::{Random, assert_same_contract, etl, generate, jobs_with, ran, run};
use crate::world::{PROVENANCE, World, rows, texts};

pub fn start(bronze: &Path, silver: &Path, args: &[&str]) -> Child {
    let mut command = etl(&["run", "--output", "json"]);
    command.arg("--bronze").arg(bronze).arg("--silver").arg(silver).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Processes at once, each with its own further arguments; then one run that finds nothing left to do or finishes what is.
fn together(bronze: &Path, silver: &Path, common: &[&str], each: &[Vec<String>]) {
    let children: Vec<Child> = each
        .iter()
        .map(|own| {
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            start(bronze, silver, &[common, &own].concat())
        })
        .collect();
    for child in children {
        let ran = ran(&child.wait_with_output().unwrap());
        assert!([0, 4].contains(&ran.code), "exit {}: {}\n{}", ran.code, ran.report, ran.stderr);
    }
    let rest = run(bronze, silver, common);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    assert_eq!(run(bronze, silver, common).report["outcome"], "nothing_to_do");
}

#[test]
fn eight_processes_on_one_source_and_shards_of_two_kinds_equal_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    let args = ["--entities", "LogRecord,FaultData", "--countries", "de", "--records", "600", "--duplicates", "0.1", "--mess", "0.02"];
    generate(&bronze, &[&args[..], &["--object-bytes", "6KiB", "--seed", "21"]].concat());
    let alone = folder.path().join("alone");
    let common = ["--entity", "LogRecord,FaultData", "--country", "de", "--batch-objects", "3"];
    assert_eq!(run(&bronze, &alone, &common).code, 0);
    let shard = |i: usize, n: usize| vec!["--shard".to_owned(), format!("{i}/{n}")];
    let eight = vec![Vec::new(); 8];
    let shards: Vec<_> = (1..=3).map(|i| shard(i, 3)).chain((1..=5).map(|i| shard(i, 5))).collect();
    for (name, each) in [("eight", eight), ("shards", shards)] {
        let silver = folder.path().join(name);
        together(&bronze, &silver, &common, &each);
        assert_same_contract(&[&alone, &silver]);
        assert_intents_without_gaps(&silver.join("LogRecord"));
        assert_intents_without_gaps(&silver.join("FaultData"));
    }
}

/// Bronze that grows while runs are killed: inserts, updates and duplicates of few keys.
pub struct Growing {
    pub bronze: PathBuf,
    pub objects: usize,
}

impl Growing {
    pub fn grow(&mut self, random: &mut Random) {
        for _ in 0..=random.below(4) {
            self.objects += 1;
            for entity in ["LogRecord", "FaultData"] {
                let day = random.below(4) + 1;
                let folder = self.bronze.join(format!("database=fleetdb_de/entity={entity}/year=2025/month=01/day={day:02}"));
                std::fs::create_dir_all(&folder).unwrap();
                let records: Vec<String> = (0..random.below(30)).map(|_| Self::record(entity, random).to_string()).collect();
                std::fs::write(folder.join(format!("o-{:05}", self.objects)), records.join("\n")).unwrap();
            }
        }
    }

    fn record(entity: &str, random: &mut Random) -> Value {
        let id = random.below(400);
        let at = format!("2025-01-{:02}T10:00:00.000Z", id % 5 + 1);
        if entity == "LogRecord" {
            return json!({"id": format!("b{id:X}"), "dateTime": at, "device": {"id": "b1"}, "latitude": 50.0, "longitude": 8.0, "speed": 1});
        }
        json!({"id": format!("b{id:X}"), "dateTime": at, "device": {"id": "b1"}, "diagnostic": {"id": "d1"}, "failureMode": "NoFailureModeId",
               "controller": "ControllerNoneId", "count": random.below(5)})
    }
}

#[test]
fn two_hundred_kills_of_two_writers_against_each_other_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_with(folder.path(), "lease: {duration: 300 ms}");
    let common = ["--entity", "LogRecord,FaultData", "--country", "de", "--batch-objects", "2", "--jobs", jobs.to_str().unwrap()];
    let mut random = Random::new("two hundred kills");
    let mut bronze = Growing { bronze: folder.path().join("bronze"), objects: 0 };
    let silver = folder.path().join("silver");
    let wanted = if std::env::var("ETL_SOAK").is_ok() { 5000 } else { 200 };
    let (mut kills, mut starts) = (0, 0);
    let mut writers: [Option<Child>; 2] = [None, None];
    while kills < wanted {
        if starts % 4 == 0 {
            bronze.grow(&mut random);
        }
        let writer = &mut writers[starts % 2];
        if let Some(mut child) = writer.take() {
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            }
            child.wait().unwrap();
        }
        *writer = Some(start(&bronze.bronze, &silver, &common));
        starts += 1;
        std::thread::sleep(Duration::from_millis(10 + random.next() % 90));
    }
    for mut child in writers.into_iter().flatten() {
        child.wait().unwrap();
    }
    std::thread::sleep(Duration::from_millis(400));
    let last = run(&bronze.bronze, &silver, &common);
    assert_eq!(last.code, 0, "{}", last.stderr);
    assert_eq!(run(&bronze.bronze, &silver, &common).report["outcome"], "nothing_to_do");
    let alone = folder.path().join("alone");
    assert_eq!(run(&bronze.bronze, &alone, &common).code, 0);
    assert_same_contract(&[&alone, &silver]);
    assert_intents_without_gaps(&silver.join("LogRecord"));
    assert_intents_without_gaps(&silver.join("FaultData"));
    let versions = std::fs::read_dir(silver.join("FaultData/_delta_log")).unwrap().count();
    eprintln!("{kills} kills in {starts} starts, {} objects, about {versions} commits of FaultData", bronze.objects);
}

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id"],
  "properties": {"id": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "value": {"type": "integer"}}
}"#;

fn thing(id: usize, value: usize) -> String {
    json!({"id": format!("k{id}"), "value": value, "at": format!("2024-03-{:02}T00:00:00Z", id % 3 + 1)}).to_string()
}

fn world(folder: &Path, mode: &str) -> World {
    World::new(folder, "Thing", &format!("mode: {mode}\nkey: [id]\nevent_time: at\nlease: {{duration: 60 s}}"), SCHEMA)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn sixty_four_small_appenders_on_one_source_all_come_through() {
    let folder = tempfile::tempdir().unwrap();
    for mode in ["append", "upsert"] {
        let world = world(folder.path(), mode);
        let shards = if mode == "append" { 64 } else { 16 };
        runtime().block_on(async {
            for object in 0..64 {
                // Every object shares a key with its neighbour.
                let lines = [thing(object, 0), thing(object + 1, 0)].join("\n");
                world.put(&format!("year=2024/month=03/day=01/o{object:02}"), &lines).await;
            }
            let runs: Vec<_> = (1..=shards)
                .map(|i| {
                    let world = world.clone();
                    tokio::spawn(async move {
                        let mut settings = world.settings();
                        settings.selection.shard = Some((i, shards));
                        let request = silversmith::run::Request { entity: "Thing".to_owned(), country: "de".to_owned() };
                        silversmith::run::run(&settings, &[request], &crate::world::Silent).await
                    })
                })
                .collect();
            for run in runs {
                let report = run.await.unwrap();
                assert_eq!(report.exit, 0, "{report:?}");
            }
            assert_eq!(world.run().await.jobs[0].records.read, 0);
            let expected: std::collections::BTreeSet<String> = (0..65).map(|id| format!("k{id}")).collect();
            let found = rows(&world.table(), &[PROVENANCE, &["value", "at", "database", "event_date"]].concat()).await;
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        });
    }
}

#[test]
fn creators_of_one_table_agree_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), "upsert");
    runtime().block_on(async {
        for country in ["de", "fr", "it"] {
            world.put_in(country, "year=2024/month=03/day=01/o", &thing(1, 1)).await;
        }
        for _ in 0..30 {
            let world = world.with_silver(Arc::new(InMemory::new()));
            let runs: Vec<_> = ["de", "fr", "it"]
                .map(|country| {
                    let world = world.clone();
                    tokio::spawn(async move { world.run_country(country).await })
                })
                .into();
            for run in runs {
                let report = run.await.unwrap();
                assert_eq!(report.exit, 0, "{report:?}");
            }
            assert_eq!(rows(&world.table(), PROVENANCE).await.len(), 3);
        }
    });
}

/// What another program does to the table: all small files of a partition into one, rows in another order.
async fn optimize(world: &World) -> Option<u64> {
    let table = world.table();
    if !table.exists().await.unwrap() {
        return None;
    }
    let mut delta = DeltaTable::new(table.log_store());
    delta.load().await.unwrap();
    let ordered = deltalake::operations::optimize::OptimizeType::ZOrder(vec!["value".to_owned()]);
    let done = delta.optimize().with_type(ordered).await.ok()?;
    Some(done.1.num_files_removed)
}

#[test]
fn an_intent_is_finished_although_a_compaction_moved_its_rows() {
    let mut random = Random::new("deaths before compactions");
    let folder = tempfile::tempdir().unwrap();
    let job = "mode: upsert\nkey: [id]\nevent_time: at\nlease: {duration: 1 ms}";
    let world = World::new(folder.path(), "Thing", job, SCHEMA);
    let expected: Vec<String> = {
        let mut rows: Vec<String> =
            (0..40).map(|id| format!("k{id}|2024-03-{:02}T00:00:00Z|fleetdb_de|2024-03-{0:02}|{}", id % 3 + 1, id % 2 + 1)).collect();
        rows.sort();
        rows
    };
    runtime().block_on(async {
        let object = |from: usize, upto: usize, step: usize, value: usize| {
            (from..upto).step_by(step).map(|id| thing(id, value)).collect::<Vec<_>>().join("\n")
        };
        let silver = Arc::new(InMemory::new());
        let first = world.with_silver(silver.clone());
        for (at, name) in [(0, "a"), (10, "b"), (20, "c"), (30, "d")] {
            first.put(&format!("year=2024/month=03/day=01/{name}"), &object(at, at + 10, 1, 1)).await;
            assert_eq!(first.run().await.exit, 0);
        }
        world.put("year=2024/month=03/day=02/update", &object(1, 40, 2, 2)).await;
        // Every third operation; all of them are the fault matrix's.
        let (mut at, mut between) = (random.below(3) as u64, 0);
        loop {
            at += 3;
            let store: Arc<InMemory> = Arc::new(silver.fork());
            let dying = world.with_silver(Arc::new(Faulty::new(store.clone(), at, Fault::DiesBefore))).run().await;
            if dying.exit == 0 {
                break;
            }
            let left = world.with_silver(store);
            let open = !left.settled().await;
            assert!(optimize(&left).await.is_some_and(|removed| removed > 0));
            between += u32::from(open);
            // The lease of a claim that never became an intent is given back at once.
            give_back(&left).await;
            let after = left.run().await;
            assert_eq!(after.exit, 0, "death at {at}: {after:?}");
            assert_eq!(rows(&left.table(), PROVENANCE).await, expected, "death at {at}");
        }
        eprintln!("a compaction after every third death up to {at}, {between} of them between intent and commit");
        assert!(between > 3);
    });
}

async fn give_back(world: &World) {
    let mut ledger = Ledger::open(&world.store(), &world.source(), Duration::ZERO).await.unwrap();
    let open: Vec<String> = ledger.open_claims().map(|claim| claim.id.clone()).collect();
    for claim in open {
        ledger.release(&claim, "test", "its run died").await.unwrap();
    }
}

#[test]
fn a_compaction_just_before_the_commit_neither_resurrects_nor_doubles_rows() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), "upsert");
    runtime().block_on(async {
        for (object, name) in ["a", "b", "c"].into_iter().enumerate() {
            let lines: Vec<String> = (0..6).map(|id| thing(object * 6 + id, 1)).collect();
            world.put(&format!("year=2024/month=03/day=01/{name}"), &lines.join("\n")).await;
            assert_eq!(world.run().await.exit, 0);
        }
        let lines: Vec<String> = (0..18).step_by(2).map(|id| thing(id, 2)).collect();
        world.put("year=2024/month=03/day=02/update", &lines.join("\n")).await;
        let compacted = world.clone();
        let interposed = Hooked::interposed(world.silver.clone(), "silver/Thing/_delta_log/", move || {
            let world = compacted.clone();
            Box::pin(async move { assert!(optimize(&world).await.is_some_and(|removed| removed > 0)) })
        });
        let report = world.with_silver(Arc::new(interposed)).run().await;
        assert_eq!((report.exit, report.jobs[0].records.updated), (0, 9), "{report:?}");
        let found = world.table().query(|frame| frame.select_columns(&["id", "value"])).await.unwrap();
        let mut expected: Vec<String> = (0..18).map(|id| format!("k{id}|{}", 2 - id % 2)).collect();
        expected.sort();
        assert_eq!(texts(&found, &[]), expected);
    });
}

#[test]
fn writers_and_compactions_side_by_side_lose_and_double_nothing() {
    let mut random = Random::new("compactions");
    let folder = tempfile::tempdir().unwrap();
    for mode in ["append", "upsert"] {
        let world = world(folder.path(), mode);
        runtime().block_on(async {
            let compacting = {
                let world = world.clone();
                tokio::spawn(async move {
                    let mut removed = 0;
                    loop {
                        removed += optimize(&world).await.unwrap_or(0);
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        if removed > 1_000_000 {
                            return;
                        }
                    }
                })
            };
            let mut expected = std::collections::BTreeMap::new();
            for object in 0..40 {
                let ids: Vec<usize> = (0..8).map(|_| random.below(60)).collect();
                let value = if mode == "append" { 0 } else { object };
                for id in &ids {
                    expected.insert(format!("k{id}"), value);
                }
                let lines: Vec<String> = ids.iter().map(|id| thing(*id, value)).collect();
                world.put(&format!("year=2024/month=03/day=01/o{object:02}"), &lines.join("\n")).await;
                let report = world.run().await;
                assert_eq!(report.exit, 0, "{report:?}");
            }
            compacting.abort();
            let _ = compacting.await;
            let found = world.table().query(|frame| frame.select_columns(&["id", "value"])).await.unwrap();
            let mut expected: Vec<String> = expected.into_iter().map(|(id, value)| format!("{id}|{value}")).collect();
            expected.sort();
            assert_eq!(texts(&found, &[]), expected, "{mode}");
        });
    }
}

#[test]
fn lost_answers_on_every_commit_and_claim_commit_once() {
    // Every put-if-absent takes effect and says that it did not.
    let folder = tempfile::tempdir().unwrap();
    for mode in ["append", "upsert", "snapshot"] {
        let world = world(folder.path(), mode);
        runtime().block_on(async {
            for object in 0..6 {
                let lines = [thing(object, object), thing(object + 1, object)].join("\n");
                world.put(&format!("year=2024/month=03/day={:02}/o", object + 1), &lines).await;
            }
            let sound = world.with_silver(Arc::new(InMemory::new()));
            assert_eq!(sound.run().await.exit, 0);
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let mut lossy = world.with_silver(Arc::new(Hooked::losing_answers(store.clone())));
            lossy.batch_objects = Some(2);
            let report = lossy.run().await;
            assert_eq!(report.exit, 0, "{report:?}");
            let found = world.with_silver(store);
            assert_eq!(rows(&found.table(), PROVENANCE).await, rows(&sound.table(), PROVENANCE).await, "{mode}");
            assert!(found.settled().await);
        });
    }
}
