//! Care of tables: compaction, clustering, vacuum, the log. Whatever happens beside it, the rows stay.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use silversmith::run::RunError;
use silversmith::run::care::{Options, TableCare, compact};
use silversmith::silver::LiveFile;

use crate::faults::assert_intents_without_gaps;
use crate::parallel::{Growing, start};
use crate::stores::{Fault, Faulty, Hooked, Late};
use crate::support::{Random, assert_same, assert_same_contract, etl, generate, run};
use crate::world::{World, rows, texts};

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id"],
  "properties": {
    "id": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "value": {"type": "integer"},
    "note": {"type": "string"}, "place": {"type": "object", "properties": {"x": {"type": "number"}, "tags": {"type": "array", "items": {"type": "string"}}}}
  }
}"#;

/// A table of this kind is closed at once and never compacted by runs, unless the job says so.
const BY_HAND: &str = "compact: {after_run: false, only_partitions_older_than: 0 d}";

fn world(folder: &Path, job: &str) -> World {
    World::new(folder, "Thing", &format!("{job}\nkey: [id]\nevent_time: at\nlease: {{duration: 60 s}}"), SCHEMA)
}

fn thing(id: usize, value: usize) -> String {
    let mut thing = json!({"id": format!("k{id}"), "value": value, "at": format!("2024-03-{:02}T00:00:{:02}Z", id % 3 + 1, id % 60)});
    if id.is_multiple_of(4) {
        thing["place"] = json!({"x": id as f64 / 3.0, "tags": [format!("t{}", id % 7), "é"]});
    }
    if id.is_multiple_of(5) {
        thing["note"] = json!(format!("note of {id}, with a quote \" and a new line \n"));
    }
    thing.to_string()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn force() -> Options {
    Options { force: true, ..Options::default() }
}

async fn compacted(world: &World, options: &Options) -> Result<BTreeMap<String, TableCare>, RunError> {
    let done = compact(&world.settings(), &world.entity, options).await?;
    Ok(done.into_iter().map(|care| (care.table.clone(), care)).collect())
}

async fn files(world: &World) -> Vec<LiveFile> {
    world.table().live_files(|_| true).await.unwrap()
}

/// Small objects, a run for each.
async fn many_runs(world: &World, objects: usize) {
    for object in 0..objects {
        let lines: Vec<String> = (0..9).map(|n| thing(object * 7 + n, object / 3)).collect();
        world.put(&format!("year=2024/month=03/day=01/o{object:03}"), &(lines.join("\n") + "\nnot json\n")).await;
        let report = world.run().await;
        assert_eq!(report.exit, 0, "{report:?}");
    }
}

#[test]
fn every_row_of_every_table_is_there_after_a_compaction_and_a_second_one_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let orders =
        ["", "cluster_by: [id]", "cluster_by: [value, id]", "cluster_by: {z_order: [id, at]}", "cluster_by: {z_order: [value, id, at]}"];
    for mode in ["append", "upsert", "snapshot"] {
        for order in orders {
            let world = world(folder.path(), &format!("mode: {mode}\n{BY_HAND}\n{order}")).with_silver(Arc::new(InMemory::new()));
            runtime().block_on(async {
                many_runs(&world, 12).await;
                let tables = silversmith::run::tables_of(&world.store(), &world.job());
                let mut before = Vec::new();
                for table in tables.all() {
                    before.push(rows(table, &[]).await);
                }
                let many = files(&world).await.len();
                let done = compacted(&world, &force()).await.unwrap();
                assert!(done["Thing"].files_removed > 3 || mode == "snapshot", "{done:?}");
                for (table, before) in tables.all().zip(before) {
                    assert_eq!(rows(table, &[]).await, before, "{mode} {order} {}", table.name);
                }
                let few = files(&world).await;
                assert!(few.len() <= 3 && (few.len() < many || mode == "snapshot"), "{mode}: {many} files became {}", few.len());
                if !order.is_empty() {
                    assert!(few.iter().all(|file| file.clustered.is_some()), "{few:?}");
                }
                let again = compacted(&world, &force()).await.unwrap();
                assert!(again.values().all(|care| care.versions.is_empty()), "{again:?}");
                // Statistics still tell files apart, and a run still knows every row.
                assert!(few.iter().all(|file| file.stats().unwrap()["minValues"]["id"].is_string()));
                world.put("year=2024/month=03/day=01/again", &thing(0, 0)).await;
                let report = world.run().await;
                assert_eq!(report.exit, 0, "{report:?}");
                if mode == "append" {
                    assert_eq!(report.jobs[0].records.duplicate, 1);
                }
            });
        }
    }
}

#[test]
fn sorted_files_are_in_order_and_z_ordered_ones_narrow_both_columns() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new("orders of rows");
    // Full files are tiny, so that one partition has many.
    let tiny = "table: {file: 12 KiB, row_group: 4 KiB}\npartition_by: [database]";
    for order in ["[id]", "{z_order: [id, value]}"] {
        let job = format!("{BY_HAND}\n{tiny}\ncluster_by: {order}");
        let world = world(folder.path(), &job).with_silver(Arc::new(InMemory::new()));
        runtime().block_on(async {
            for object in 0..6 {
                let mut ids: Vec<usize> = (0..60_000).filter(|id| id % 6 == object).collect();
                random.shuffle(&mut ids);
                let lines = ids.iter().map(|id| {
                    let value = (id * 7919) % 60_000;
                    json!({"id": format!("k{id:05}"), "value": value, "at": "2024-03-01T00:00:00Z", "note": format!("{:x}", id * 77_773 % 997)})
                });
                let lines: Vec<String> = lines.map(|line| line.to_string()).collect();
                world.put(&format!("year=2024/month=03/day=01/o{object}"), &lines.join("\n")).await;
                assert_eq!(world.run().await.exit, 0);
            }
            let share = |files: &[LiveFile], column: &str, value: &Value| {
                let less = |a: &Value, b: &Value| match (a.as_i64(), b.as_i64()) {
                    (Some(a), Some(b)) => a <= b,
                    _ => a.as_str() <= b.as_str(),
                };
                let may = files.iter().filter(|file| {
                    let stats = file.stats().unwrap();
                    less(&stats["minValues"][column], value) && less(value, &stats["maxValues"][column])
                });
                may.count() as f64 / files.len() as f64
            };
            let before = files(&world).await;
            assert!(before.len() > 5);
            let (id, value) = (json!("k30001"), json!(30_001));
            assert!(share(&before, "id", &id) > 0.9 && share(&before, "value", &value) > 0.9);
            let contents = rows(&world.table(), &[]).await;
            compacted(&world, &force()).await.unwrap();
            assert_eq!(rows(&world.table(), &[]).await, contents);
            let after = files(&world).await;
            assert!(after.len() >= 7, "{}", after.len());
            let (by_id, by_value) = (share(&after, "id", &id), share(&after, "value", &value));
            eprintln!("{order}: {} files, of which {by_id:.2} may hold an id and {by_value:.2} a value", after.len());
            if order == "[id]" {
                assert!(by_id < 0.26 && by_value > 0.9);
            } else {
                assert!(by_id < 0.7 && by_value < 0.7);
            }
        });
    }
}

#[test]
fn young_partitions_wait_and_the_policy_decides() {
    let folder = tempfile::tempdir().unwrap();
    let job = "compact: {after_run: true, every: 4, when: small_files > 2, only_partitions_older_than: 2 d}";
    let world = world(folder.path(), job);
    runtime().block_on(async {
        let today = chrono_today();
        let mut cared = Vec::new();
        for object in 0..8 {
            let old = thing(object * 3, 1);
            let young = json!({"id": format!("y{object}"), "at": format!("{today}T00:00:00Z")}).to_string();
            world.put(&format!("year=2024/month=03/day=01/o{object}"), &format!("{old}\n{young}")).await;
            let report = world.run().await;
            assert_eq!((report.exit, report.jobs[0].warnings.len()), (0, 0), "{report:?}");
            cared.extend(report.jobs[0].care.clone());
        }
        let silver: Vec<&TableCare> = cared.iter().filter(|care| care.table == "Thing").collect();
        assert!(!silver.is_empty() && silver.iter().all(|care| care.partitions == 1 && care.open_partitions == 1), "{cared:?}");
        let left = files(&world).await;
        let of_day = |day: &str| left.iter().filter(|file| file.partition_values["event_date"].as_deref() == Some(day)).count();
        assert_eq!(of_day(&today), 8);
        assert!(of_day("2024-03-01") < 8);
    });
}

fn chrono_today() -> String {
    let days = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    silversmith::plan::order::date_text(days as i32)
}

/// A value that is not `Sync` to be handed to a hook once.
fn once(
    hook: impl Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
) -> impl Fn() -> futures::future::BoxFuture<'static, ()> {
    let done = AtomicBool::new(false);
    move || if done.swap(true, Ordering::SeqCst) { Box::pin(async {}) } else { hook() }
}

#[test]
fn a_writer_that_is_faster_than_a_compaction_keeps_its_changes() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), &format!("mode: upsert\n{BY_HAND}"));
    runtime().block_on(async {
        for object in 0..4 {
            let lines: Vec<String> = (0..6).map(|n| thing(object * 6 + n, 1)).collect();
            world.put(&format!("year=2024/month=03/day=01/{object}"), &lines.join("\n")).await;
            assert_eq!(world.run().await.exit, 0);
        }
        // Rows of one day change, of the two other days nothing.
        let lines: Vec<String> = (0..24).step_by(3).map(|id| thing(id, 2)).collect();
        world.put("year=2024/month=03/day=02/update", &lines.join("\n")).await;
        let writer = world.clone();
        let hook = once(move || {
            let world = writer.clone();
            Box::pin(async move { assert_eq!(world.run().await.jobs[0].records.updated, 8) })
        });
        let interposed = world.with_silver(Arc::new(Hooked::interposed(world.silver.clone(), "silver/Thing/_delta_log/", hook)));
        let done = compacted(&interposed, &force()).await.unwrap();
        assert_eq!((done["Thing"].outdated, done["Thing"].versions.len()), (1, 1), "{done:?}");
        let found = world.table().query(|frame| frame.select_columns(&["id", "value"])).await.unwrap();
        let mut expected: Vec<String> = (0..24).map(|id| format!("k{id}|{}", if id % 3 == 0 { 2 } else { 1 })).collect();
        expected.sort();
        assert_eq!(texts(&found, &[]), expected);
    });
}

#[test]
fn of_two_maintainers_one_works_and_one_that_was_taken_for_dead_commits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for lease in ["60 s", "1 ms"] {
        let job = format!("{BY_HAND}\nkey: [id]\nevent_time: at\nlease: {{duration: {lease}}}");
        let world = World::new(folder.path(), "Thing", &job, SCHEMA);
        runtime().block_on(async {
            many_runs(&world, 6).await;
            let before = rows(&world.table(), &[]).await;
            let other = world.clone();
            let busy = Arc::new(AtomicBool::new(false));
            let was_busy = busy.clone();
            // Just before the first one's commit another one begins; a lease that is renewed in time is waited out.
            let hook = once(move || {
                let (world, busy) = (other.clone(), was_busy.clone());
                Box::pin(async move {
                    loop {
                        match compacted(&world, &force()).await {
                            Err(RunError::Maintained { .. }) if lease == "1 ms" => tokio::time::sleep(Duration::from_millis(1)).await,
                            Err(RunError::Maintained { .. }) => break busy.store(true, Ordering::SeqCst),
                            done => break assert!(!done.unwrap()["Thing"].versions.is_empty()),
                        }
                    }
                })
            });
            let first = world.with_silver(Arc::new(Hooked::interposed(world.silver.clone(), "silver/Thing/_delta_log/", hook)));
            let ended = compacted(&first, &force()).await;
            if lease == "60 s" {
                assert!(busy.load(Ordering::SeqCst) && ended.is_ok(), "{ended:?}");
            } else {
                let error = ended.unwrap_err();
                assert_eq!(error.exit_code(), 4, "{error}");
                assert!(error.to_string().contains("took over"), "{error}");
            }
            assert_eq!(rows(&world.table(), &[]).await, before, "{lease}");
            assert!(files(&world).await.len() <= 3);
        });
    }
}

#[test]
fn every_operation_of_a_compaction_may_fail_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let job = format!("mode: upsert\n{BY_HAND}\nkey: [id]\nevent_time: at\nlease: {{duration: 1 ms}}");
    let world = World::new(folder.path(), "Thing", &job, SCHEMA);
    runtime().block_on(async {
        let before = Arc::new(InMemory::new());
        let first = world.with_silver(before.clone());
        many_runs(&first, 3).await;
        let state = async |world: &World| {
            let tables = silversmith::run::tables_of(&world.store(), &world.job());
            let mut state = Vec::new();
            for table in tables.all() {
                state.push((rows(table, &[]).await, table.live_files(|_| true).await.unwrap().len()));
            }
            state
        };
        let rows_before: Vec<Vec<String>> = state(&first).await.into_iter().map(|(rows, _)| rows).collect();
        let healthy = Arc::new(before.fork());
        let counted = Arc::new(Faulty::new(healthy.clone(), u64::MAX, Fault::Refused));
        compacted(&world.with_silver(counted.clone()), &force()).await.unwrap();
        let expected = state(&world.with_silver(healthy)).await;
        assert_eq!(expected.iter().map(|(rows, _)| rows.clone()).collect::<Vec<_>>(), rows_before);
        let operations = counted.operations();
        let (mut tried, mut failed) = (0, 0);
        // Each operation in each way by hand; in a test run a third of them, others every time.
        let mut random = Random::new("faults of a compaction");
        let soak = std::env::var("ETL_SOAK").is_ok();
        let every = (1..=operations).flat_map(|at| Fault::ALL.map(|fault| (at, fault))).filter(|_| soak || random.chance(3));
        let every: Vec<_> = every.collect();
        let mut disturbed = futures::stream::iter(every)
            .map(|(at, fault)| {
                let (world, store) = (world.clone(), Arc::new(before.fork()));
                tokio::spawn(async move {
                    let ended = compacted(&world.with_silver(Arc::new(Faulty::new(store.clone(), at, fault))), &force()).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let after = world.with_silver(store);
                    compacted(&after, &force()).await.unwrap();
                    (at, fault, ended.is_err(), after)
                })
            })
            .buffer_unordered(2);
        while let Some(ended) = disturbed.next().await {
            let (at, fault, failing, after) = ended.unwrap();
            assert_eq!(state(&after).await, expected, "{fault:?} at {at} of {operations}");
            failed += u32::from(failing);
            tried += 1;
        }
        eprintln!("compaction: {operations} operations, {tried} faults tried, {failed} of them failed it");
        assert!(failed > 0);
    });
}

#[test]
fn writers_and_maintainers_side_by_side_lose_and_double_nothing() {
    let mut random = Random::new("writers and maintainers");
    let folder = tempfile::tempdir().unwrap();
    for mode in ["append", "upsert"] {
        let job = format!("mode: {mode}\n{BY_HAND}\ncluster_by: {{z_order: [id, at]}}");
        let world = world(folder.path(), &job).with_silver(Arc::new(InMemory::new()));
        runtime().block_on(async {
            let ended = Arc::new(AtomicBool::new(false));
            let caring = {
                let (world, ended) = (world.clone(), ended.clone());
                tokio::spawn(async move {
                    let (mut commits, mut outdated) = (0, 0);
                    while !ended.load(Ordering::SeqCst) {
                        let done = compacted(&world, &force()).await.unwrap();
                        commits += done.values().map(|care| care.versions.len()).sum::<usize>();
                        outdated += done.values().map(|care| care.outdated).sum::<u64>();
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    (commits, outdated)
                })
            };
            let mut expected = BTreeMap::new();
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
            ended.store(true, Ordering::SeqCst);
            let (commits, outdated) = caring.await.unwrap();
            eprintln!("{mode}: {commits} commits of compactions beside 40 runs, {outdated} groups of files given up");
            assert!(commits > 3);
            let found = world.table().query(|frame| frame.select_columns(&["id", "value"])).await.unwrap();
            let mut expected: Vec<String> = expected.into_iter().map(|(id, value)| format!("{id}|{value}")).collect();
            expected.sort();
            assert_eq!(texts(&found, &[]), expected, "{mode}");
        });
    }
}

fn age(path: &Path, by: Duration) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, by);
        } else {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - by).unwrap();
        }
    }
}

fn verb(silver: &Path, args: &[&str]) -> (Option<i32>, Value, String) {
    let output = etl(&[args, &["--output", "json"]].concat()).arg("--silver").arg(silver).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), stderr)
}

#[test]
fn others_read_what_was_compacted_and_vacuum_removes_what_was_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    let jobs = folder.path().join("jobs");
    std::fs::create_dir_all(&jobs).unwrap();
    let settings = "table: {checkpoint_every: 5}\ncompact: {after_run: false}\ncluster_by: {z_order: [device, dateTime]}";
    let own = std::fs::read_to_string(crate::support::root().join("jobs/FaultData.yaml")).unwrap();
    std::fs::write(jobs.join("FaultData.yaml"), format!("{own}\n{settings}\n")).unwrap();
    generate(
        &bronze,
        &["--entities", "FaultData", "--countries", "de,fr", "--records", "3000", "--object-bytes", "8KiB", "--mess", "0.02"],
    );
    let jobs = jobs.to_str().unwrap();
    let of = ["--entity", "FaultData", "--jobs", jobs];
    for shard in 1..=12 {
        let shard = format!("{shard}/12");
        assert_eq!(run(&bronze, &silver, &[&of[..], &["--country", "all", "--shard", &shard]].concat()).code, 0);
    }
    let copy = folder.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-a").arg(&silver).arg(&copy).status().unwrap();
    assert!(copied.success());

    let (_, plan, _) = verb(&silver, &[&["plan", "--compact", "--country", "all"], &of[..]].concat());
    let planned = plan["tables"].as_array().unwrap().iter().find(|table| table["table"] == "FaultData").unwrap().clone();
    let (code, done, stderr) = verb(&silver, &[&["compact"], &of[..]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let done = done["tables"].as_array().unwrap().iter().find(|table| table["table"] == "FaultData").unwrap().clone();
    assert_eq!((&planned["rewrite_files"], &planned["rewrite_bytes"]), (&done["files_removed"], &done["bytes_removed"]));
    assert!(done["files_removed"].as_u64() > Some(100) && done["files_added"] == planned["becomes_files"], "{done}");
    // Python deltalake and DuckDB see the same rows in both.
    assert_same(&[&copy, &silver]);
    let (_, status, _) = verb(&silver, &[&["status", "--country", "de"], &of[..]].concat());
    let health = &status["jobs"][0]["silver"]["health"];
    assert!(health["due_partitions"] == 0 && health["maintainer"].is_null(), "{health}");
    assert_eq!(health["last_maintenance"]["files_removed"], done["files_removed"]);

    // Nothing is old enough yet; then everything that was put together is.
    let (_, young, _) = verb(&silver, &[&["vacuum"], &of[..]].concat());
    assert!(young["tables"].as_array().unwrap().iter().all(|table| table["files"].as_array().unwrap().is_empty()), "{young}");
    let (refused, ..) = verb(&silver, &[&["vacuum", "--retention", "1 d"], &of[..]].concat());
    assert_eq!(refused, Some(2));
    age(&silver.join("_etl/ledger"), Duration::from_hours(40 * 24));
    age(&silver.join("FaultData/_delta_log"), Duration::from_hours(40 * 24));
    let now = ["--retention", "0 s", "--force-retention"];
    let (_, dry, _) = verb(&silver, &[&["vacuum"], &of[..], &now].concat());
    let removed = |report: &Value, why: &str| {
        let files = report["tables"].as_array().unwrap().iter().flat_map(|table| table["files"].as_array().unwrap());
        files.filter(|file| file["why"] == why).count() as u64
    };
    // The rewritten files, and those that the upserts replaced.
    let (gone, orphans) = (removed(&dry, "removed"), removed(&dry, "orphan"));
    assert!(gone >= done["files_removed"].as_u64().unwrap(), "{gone} removed and {orphans} orphans: {done}");
    assert!(removed(&dry, "old_log") > 10);
    assert_same(&[&copy, &silver]);
    let (code, wet, stderr) = verb(&silver, &[&["vacuum", "--execute"], &of[..], &now].concat());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!((removed(&wet, "removed"), removed(&wet, "old_log")), (removed(&dry, "removed"), removed(&dry, "old_log")));
    assert_same(&[&copy, &silver]);
    let parquet = walk(&silver.join("FaultData")).into_iter().filter(|path| path.contains("/database=") && path.ends_with(".parquet"));
    let health_files = |country: &str| {
        let (_, status, _) = verb(&silver, &[&["status", "--country", country], &of[..]].concat());
        status["jobs"][0]["silver"]["files"].as_u64().unwrap()
    };
    assert_eq!(parquet.count() as u64, health_files("de") + health_files("fr"));
    // What was settled before the log was cleaned still is.
    let rest = run(&bronze, &silver, &[&of[..], &["--country", "all"]].concat());
    assert_eq!((rest.code, &rest.report["outcome"]), (0, &json!("nothing_to_do")), "{}", rest.stderr);
    let (_, clean, _) = verb(&silver, &[&["vacuum"], &of[..], &now].concat());
    assert_eq!((removed(&clean, "removed"), removed(&clean, "old_log"), removed(&clean, "orphan")), (0, 0, 0), "{clean}");
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path.to_str().unwrap().to_owned()) }
    }
    found
}

#[test]
fn a_ledger_that_was_cleaned_up_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    generate(&bronze, &["--entities", "LogRecord", "--countries", "de", "--records", "900", "--object-bytes", "1KiB", "--mess", "0"]);
    let common = ["--entity", "LogRecord", "--country", "de", "--batch-objects", "1"];
    let first = run(&bronze, &silver, &common);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let log = silver.join("_etl/ledger/LogRecord/fleetdb_de/log");
    let count = || std::fs::read_dir(&log).unwrap().count();
    let entries = count();
    assert!(entries > 3 * 64, "{entries} entries");
    let (_, ledger, _) = verb(&silver, &["ledger", "show", "--entity", "LogRecord", "--country", "de"]);
    age(&silver.join("_etl/ledger"), Duration::from_hours(8 * 24));
    let (code, _, stderr) = verb(&silver, &["vacuum", "--entity", "LogRecord", "--execute"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(count() < entries - 64, "{} of {entries} entries are left", count());
    let (_, after, _) = verb(&silver, &["ledger", "show", "--entity", "LogRecord", "--country", "de"]);
    assert_eq!(ledger, after);
    let rest = run(&bronze, &silver, &common);
    assert_eq!(rest.report["outcome"], "nothing_to_do");
    let before = rows_on_disk(&silver);
    let day = bronze.join("database=fleetdb_de/entity=LogRecord/year=2025/month=01/day=01");
    std::fs::create_dir_all(&day).unwrap();
    let record =
        json!({"id": "bFFFFFF", "dateTime": "2025-01-01T00:00:00Z", "device": {"id": "b1"}, "latitude": 1.0, "longitude": 1.0, "speed": 1});
    std::fs::write(day.join("one-more"), record.to_string()).unwrap();
    let more = run(&bronze, &silver, &common);
    assert_eq!((more.code, &more.report["jobs"][0]["records"]["inserted"]), (0, &json!(1)), "{}", more.stderr);
    assert_eq!(rows_on_disk(&silver), before + 1);
    assert_intents_without_gaps(&silver.join("LogRecord"));
}

fn rows_on_disk(silver: &Path) -> u64 {
    let (_, status, _) = verb(silver, &["status", "--entity", "LogRecord", "--country", "de"]);
    status["jobs"][0]["silver"]["rows"].as_u64().unwrap()
}

#[test]
fn late_records_are_told_by_how_late_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    let put = |path: &str, records: &[(&str, &str)]| {
        let path = bronze.join("database=fleetdb_de/entity=LogRecord").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let line = |(id, at): &(&str, &str)| {
            json!({"id": id, "dateTime": at, "device": {"id": "b1"}, "latitude": 1.0, "longitude": 1.0, "speed": 1}).to_string()
        };
        std::fs::write(path, records.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    };
    put("year=2025/month=01/day=10/s-1-2025-01-10-12-00-00-a", &[("b1", "2025-01-10T11:30:00Z"), ("b2", "2025-01-10T11:45:00Z")]);
    put("year=2025/month=01/day=11/s-1-2025-01-11-12-00-00-b", &[("b3", "2025-01-11T11:50:00Z"), ("b4", "2025-01-01T12:00:00Z")]);
    put("year=2024/backfill", &[("b5", "2024-05-05T00:00:00Z")]);
    let silver = folder.path().join("silver");
    assert_eq!(run(&bronze, &silver, &["--entity", "LogRecord", "--country", "de", "--batch-objects", "1"]).code, 0);
    let (code, told, stderr) = verb(&silver, &["lateness", "--entity", "LogRecord,User", "--country", "de"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (log, user) = (&told["jobs"][0], &told["jobs"][1]);
    assert!(user["records"].is_null() && user["files"] == 0, "{user}");
    assert_eq!((&log["records"], &log["backfilled"], &log["most_minutes"]), (&json!(4), &json!(1), &json!(10 * 24 * 60)));
    assert_eq!((&log["steps"][0]["records"], &log["steps"][5]["records"]), (&json!(3), &json!(4)));
    assert_eq!((&log["batches"], &log["partitions_per_batch"], &log["partitions_without_late"]), (&json!(2), &json!(1.5), &json!(1.0)));
    let opened: Vec<u64> = log["delays"].as_array().unwrap().iter().map(|delay| delay["reopened"].as_u64().unwrap()).collect();
    assert_eq!(opened, [1, 1, 1, 1, 0, 0]);
}

/// Writers, a maintainer, a vacuum and a reader at once: 15 minutes by hand, 20 seconds in a test run.
#[test]
fn readers_see_every_row_once_while_all_others_work() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = crate::support::jobs_with(folder.path(), "compact: {when: small_files > 1, only_partitions_older_than: 0 d, every: 5}");
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    let of = ["--entity", "LogRecord,FaultData", "--jobs", jobs.to_str().unwrap()];
    let seconds = if std::env::var("ETL_SOAK").is_ok() { 900 } else { 20 };
    let until = std::time::Instant::now() + Duration::from_secs(seconds);
    let mut random = Random::new("everything at once");
    let mut growing = Growing { bronze: bronze.clone(), objects: 0 };
    growing.grow(&mut random);
    let writing = [&of[..], &["--country", "de"]].concat();
    assert_eq!(run(&bronze, &silver, &writing).code, 0);
    let tables = ["LogRecord", "FaultData"].map(|table| silver.join(table).to_str().unwrap().to_owned());
    let reading = std::thread::spawn({
        let (seconds, tables) = (seconds.to_string(), tables.clone());
        move || crate::support::python("reader.py", &[&seconds, "database,id", &tables[0], &tables[1]])
    });
    let caring = std::thread::spawn({
        let (silver, of) = (silver.clone(), of.map(str::to_owned));
        move || {
            let of: Vec<&str> = of.iter().map(String::as_str).collect();
            let mut compactions = 0;
            while std::time::Instant::now() < until {
                // A run's own maintenance may hold the table.
                let (code, done, stderr) = verb(&silver, &[&["compact", "--force"][..], &of].concat());
                assert!(matches!(code, Some(0 | 4)), "{code:?} {stderr}");
                compactions += done["tables"].as_array().map_or(0, Vec::len);
            }
            compactions
        }
    });
    let (mut runs, mut vacuumed) = (0, 0);
    while std::time::Instant::now() < until {
        growing.grow(&mut random);
        let twins = [start(&bronze, &silver, &writing), start(&bronze, &silver, &writing)];
        for twin in twins {
            let ran = crate::support::ran(&twin.wait_with_output().unwrap());
            assert!([0, 4].contains(&ran.code), "exit {}: {}\n{}", ran.code, ran.report, ran.stderr);
            runs += 1;
        }
        // With a retention as short as this it waits until no batch is in hand; the maintainer and the reader go on.
        if runs % 6 == 0 {
            // Readers need what they opened a moment ago.
            let old = ["vacuum", "--retention", "6 s", "--force-retention", "--execute"];
            let (code, done, stderr) = verb(&silver, &[&old[..], &of].concat());
            assert!(matches!(code, Some(0 | 4)), "{code:?} {stderr}");
            let of_table = |table: &Value| table["files"].as_array().unwrap().len();
            vacuumed += done["tables"].as_array().map_or(0, |tables| tables.iter().map(of_table).sum());
        }
    }
    let read = reading.join().unwrap();
    assert!(read.status.success(), "{}{}", String::from_utf8_lossy(&read.stdout), String::from_utf8_lossy(&read.stderr));
    let compactions = caring.join().unwrap();
    eprintln!(
        "{seconds} s: {runs} runs over {} objects, {compactions} compactions of tables, {vacuumed} files vacuumed, {}",
        growing.objects,
        String::from_utf8_lossy(&read.stdout).trim()
    );
    assert!(compactions > 2 && vacuumed > 0);
    let rest = run(&bronze, &silver, &writing);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    let alone = folder.path().join("alone");
    assert_eq!(run(&bronze, &alone, &writing).code, 0);
    assert_same_contract(&[&alone, &silver]);
    assert_intents_without_gaps(&silver.join("LogRecord"));
    assert_intents_without_gaps(&silver.join("FaultData"));
}

#[test]
fn a_commit_that_lands_late_is_known_again_and_its_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), &format!("mode: upsert\n{BY_HAND}"));
    runtime().block_on(async {
        many_runs(&world, 5).await;
        let before = rows(&world.table(), &[]).await;
        let mut late = 0;
        // However many of its own repetitions the store's client makes before it gives up.
        for failing in 1..=8 {
            let store = Arc::new(InMemory::new());
            copy(world.silver.clone(), store.clone()).await;
            let slow = Arc::new(Late::new(store.clone(), "silver/Thing/_delta_log/", failing));
            let done = compacted(&world.with_silver(slow), &force()).await;
            late += u32::from(done.is_ok());
            let after = world.with_silver(store);
            assert_eq!(rows(&after.table(), &[]).await, before, "{failing} puts failed: {done:?}");
        }
        assert!(late > 3, "{late}");
    });
}

pub async fn copy(from: Arc<dyn object_store::ObjectStore>, to: Arc<InMemory>) {
    use object_store::{ObjectStore, ObjectStoreExt};
    let mut listed = from.list(None);
    while let Some(meta) = listed.next().await {
        let location = meta.unwrap().location;
        to.put(&location, from.get(&location).await.unwrap().bytes().await.unwrap().into()).await.unwrap();
    }
}

#[test]
fn a_file_that_is_older_than_a_column_says_nothing_about_it_after_a_compaction_either() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), BY_HAND);
    let thing =
        |id: usize| json!({"id": format!("k{id}"), "at": "2024-03-01T00:00:00Z", "extra": "told before it had a column"}).to_string();
    runtime().block_on(async {
        for object in 0..4 {
            world.put(&format!("year=2024/month=03/day=01/o{object}"), &thing(object)).await;
            assert_eq!(world.run().await.exit, 0);
        }
        let second = SCHEMA.replace("\"note\":", "\"extra\": {\"type\": \"string\"}, \"note\":");
        std::fs::write(folder.path().join("schemas/Thing/2.json"), second).unwrap();
        for object in 4..8 {
            world.put(&format!("year=2024/month=03/day=01/o{object}"), &thing(object)).await;
            assert_eq!(world.run().await.exit, 0);
        }
        let before = rows(&world.table(), &[]).await;
        let done = compacted(&world, &force()).await.unwrap();
        assert_eq!((done["Thing"].files_removed, done["Thing"].files_added), (8, 2), "{done:?}");
        assert_eq!(rows(&world.table(), &[]).await, before);
        let again = compacted(&world, &force()).await.unwrap();
        assert!(again["Thing"].versions.is_empty(), "{again:?}");
        let all: Vec<String> = (0..8).map(thing).collect();
        world.put("year=2024/month=03/day=02/again", &all.join("\n")).await;
        let report = world.run().await;
        assert_eq!((report.exit, report.jobs[0].records.duplicate), (0, 8), "{report:?}");
    });
}
