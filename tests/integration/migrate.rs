//! A contract's next version on a live table: what is rewritten is what reading everything anew would give.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::memory::InMemory;
use serde_json::json;
use silversmith::run::RunError;
use silversmith::run::migrate::{EntityMigration, migrate};

use crate::care::copy;
use crate::stores::{Fault, Faulty, Hooked, Late};
use crate::support::Random;
use crate::world::{PER_RUN, World, rows};

const FIRST: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id", "code"],
  "properties": {
    "id": {"type": "string"}, "Op": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "value": {"type": "integer"},
    "note": {"type": ["string", "null"]}, "code": {"type": "string"}, "flag": {"type": "boolean"},
    "place": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}}
  }
}"#;

/// Another name, another type, a part that moves out, a default, a widened number, and something new.
const SECOND: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Thing, version 2",
  "x-decision": "made for this test",
  "x-default-version": [{"before": "2024-06-01", "version": 1}, {"version": 2}],
  "x-upcast": [
    {"rename": {"from": "note", "to": "remark"}},
    {"cast": {"field": "code", "to": "integer"}},
    {"cast": {"field": "flag", "to": "string"}},
    {"move": {"from": "/place/x", "to": "/x"}},
    {"default": {"field": "kind", "value": "plain"}}
  ],
  "type": "object",
  "required": ["id", "code", "kind"],
  "properties": {
    "id": {"type": "string"}, "Op": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "value": {"type": "number"},
    "remark": {"type": ["string", "null"]}, "code": {"type": "integer"}, "flag": {"type": "string"}, "x": {"type": "number"}, "kind": {"type": "string"},
    "place": {"type": "object", "properties": {"y": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}},
    "extra": {"type": "string"}
  }
}"#;

fn old(id: usize, value: usize) -> String {
    let mut thing = json!({"id": format!("k{id}"), "value": value, "code": format!("{}", id * 11), "at": format!("2024-03-{:02}T00:00:00Z", id % 3 + 1)});
    if id % 2 == 1 {
        thing["place"] = json!({"x": id as f64 / 4.0, "y": id, "tags": ["a", "b"]});
        thing["flag"] = json!(id.is_multiple_of(3));
    }
    if id % 3 == 1 {
        thing["note"] = if id % 2 == 1 { json!(null) } else { json!("é\n") };
    }
    thing.to_string()
}

fn job(mode: &str, lease: &str) -> String {
    format!("mode: {mode}\nkey: [id]\nevent_time: at\ncompact: {{after_run: false}}\nlease: {{duration: {lease}}}\n")
}

/// Two programs over the same bronze and silver: one that knows the first version, one that knows both.
fn programs(folder: &Path, mode: &str, lease: &str) -> (World, World) {
    let before = World::new(&folder.join("before"), "Thing", &job(mode, lease), FIRST);
    let mut after = World::new(&folder.join("after"), "Thing", &job(mode, lease), FIRST);
    std::fs::write(folder.join("after/schemas/Thing/2.json"), SECOND).unwrap();
    (after.bronze, after.silver) = (before.bronze.clone(), before.silver.clone());
    (before, after)
}

async fn migrated(world: &World) -> Result<EntityMigration, RunError> {
    Ok(migrate(&world.settings(), "Thing", true).await?.unwrap())
}

/// Silver as it is when everything is read anew by a program that knows both versions.
async fn afresh(after: &World) -> Vec<String> {
    let fresh = after.with_silver(Arc::new(InMemory::new()));
    let report = fresh.run().await;
    assert_eq!(report.exit, 0, "{report:?}");
    rows(&fresh.table(), PER_RUN).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn some_runs(world: &World, objects: usize) {
    for object in 0..objects {
        let lines: Vec<String> = (0..7).map(|n| old(object * 5 + n, object)).collect();
        world.put(&format!("year=2024/month=03/day=01/o{object:02}"), &lines.join("\n")).await;
        let report = world.run().await;
        assert_eq!(report.exit, 0, "{report:?}");
    }
}

#[test]
fn a_migrated_table_is_what_reading_everything_anew_gives() {
    let folder = tempfile::tempdir().unwrap();
    for mode in ["append", "upsert", "upsert\ndelete_when: Op = 'D'\norder_by: [at]", "snapshot"] {
        let (before, after) = programs(&folder.path().join(mode.len().to_string()), mode, "60 s");
        let (before, after) = (before.with_silver(Arc::new(InMemory::new())), after);
        let after = after.with_silver(before.silver.clone());
        runtime().block_on(async {
            some_runs(&before, if mode == "snapshot" { 1 } else { 5 }).await;
            // The new program says what is to be done, and does nothing.
            let refused = after.run().await;
            assert_eq!(refused.exit, 2);
            assert!(refused.error.unwrap().contains("etl schema migrate"));
            let looked = migrate(&after.settings(), "Thing", false).await.unwrap().unwrap();
            let silver = looked.tables.iter().find(|table| table.table == "Thing").unwrap();
            assert!(!silver.additive && silver.done.is_none() && silver.rows > 0 && looked.from == Some(1), "{looked:?}");
            let names: Vec<&str> = silver.differences.iter().map(|difference| difference.column.as_str()).collect();
            assert_eq!(names, ["value", "remark", "code", "flag", "x", "kind", "place", "extra", "note"]);

            let done = migrated(&after).await.unwrap();
            assert!(done.tables.iter().any(|table| table.done.is_some()));
            let expected = afresh(&after).await;
            assert_eq!(rows(&after.table(), PER_RUN).await, expected, "{mode}");
            // Once is enough, the old program stops, the new one goes on.
            assert!(!migrate(&after.settings(), "Thing", true).await.unwrap().unwrap().is_needed());
            let stopped = before.run().await;
            assert_eq!(stopped.exit, 2, "{stopped:?}");
            let new = json!({"id": "k2", "value": 1.5, "code": 7, "kind": "new", "at": "2024-07-03T00:00:00Z", "extra": "e"}).to_string();
            after.put("year=2024/month=07/day=03/new", &(old(900, 1) + "\n" + &new)).await;
            let report = after.run().await;
            assert_eq!(report.exit, 0, "{report:?}");
            assert_eq!(report.jobs[0].records.quarantined, if mode == "append" { 2 } else { 1 }, "{report:?}");
        });
    }
}

#[test]
fn a_value_that_cannot_be_converted_stops_before_anything_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = programs(folder.path(), "append", "60 s");
    runtime().block_on(async {
        some_runs(&before, 2).await;
        let odd = json!({"id": "odd", "code": "twelve", "at": "2024-03-01T00:00:00Z"}).to_string();
        before.put("year=2024/month=03/day=01/odd", &odd).await;
        assert_eq!(before.run().await.exit, 0);
        let contents = rows(&before.table(), &[]).await;
        let error = migrated(&after).await.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("`code`") && text.contains("twelve") && text.contains("x-upcast"), "{text}");
        assert_eq!(rows(&before.table(), &[]).await, contents);
        // Nobody was fenced off: the old program goes on.
        before.put("year=2024/month=03/day=01/more", &old(77, 7)).await;
        assert_eq!(before.run().await.exit, 0);
    });
}

#[test]
fn writers_of_both_versions_beside_a_migration_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Before the first files are written, when writers are fenced off, and at the commit itself.
    for (at, part) in ["silver/Thing/database", "_etl/ledger/Thing/fleetdb_fr", "silver/Thing/_delta_log/"].into_iter().enumerate() {
        for mode in ["append", "upsert"] {
            let (before, after) = programs(&folder.path().join(format!("{at}{mode}")), mode, "60 s");
            runtime().block_on(async {
                some_runs(&before, 3).await;
                let (writer, newer) = (before.clone(), after.clone());
                let interposed = Hooked::interposed(before.silver.clone(), part, move || {
                    let (before, after) = (writer.clone(), newer.clone());
                    Box::pin(async move {
                        before.put("year=2024/month=03/day=02/between", &[old(1, 50), old(300, 1)].join("\n")).await;
                        let report = before.run().await;
                        assert!([0, 2].contains(&report.exit), "{report:?}");
                        before.put_in("fr", "year=2024/month=03/day=02/between", &old(400, 1)).await;
                        assert!([0, 2].contains(&before.run_country("fr").await.exit));
                        assert_eq!(after.run().await.exit, 2);
                    })
                });
                migrated(&after.with_silver(Arc::new(interposed))).await.unwrap();
                assert_eq!(after.run().await.exit, 0);
                assert_eq!(after.run_country("fr").await.exit, 0);
                assert_eq!(before.run().await.exit, 2);
                let fresh = after.with_silver(Arc::new(InMemory::new()));
                assert_eq!((fresh.run().await.exit, fresh.run_country("fr").await.exit), (0, 0));
                assert_eq!(rows(&after.table(), PER_RUN).await, rows(&fresh.table(), PER_RUN).await, "{part} {mode}");
            });
        }
    }
}

#[test]
fn every_operation_of_a_migration_may_fail_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = programs(folder.path(), "upsert\ndelete_when: Op = 'D'", "1 ms");
    runtime().block_on(async {
        some_runs(&before, 2).await;
        let deleted = json!({"id": "k3", "code": "33", "Op": "D", "at": "2024-03-01T00:00:00Z"}).to_string();
        before.put("year=2024/month=03/day=02/delete", &deleted).await;
        assert_eq!(before.run().await.exit, 0);
        let start = Arc::new(InMemory::new());
        copy(before.silver.clone(), start.clone()).await;
        let expected = afresh(&after).await;
        let counted = Arc::new(Faulty::new(Arc::new(start.fork()), u64::MAX, Fault::Refused));
        migrated(&after.with_silver(counted.clone())).await.unwrap();
        let operations = counted.operations();
        let mut random = Random::new("faults of a migration");
        let soak = std::env::var("ETL_SOAK").is_ok();
        // Deaths before and after every operation; the other faults at a third of them, others every time.
        let deaths = [Fault::DiesBefore, Fault::DiesAfter];
        let every = (1..=operations).flat_map(|at| Fault::ALL.map(|fault| (at, fault)));
        let every: Vec<_> = every.filter(|(_, fault)| soak || deaths.contains(fault) || random.chance(3)).collect();
        let (mut tried, mut failed) = (0, 0);
        let mut disturbed = futures::stream::iter(every)
            .map(|(at, fault)| {
                let (before, after, store) = (before.clone(), after.clone(), Arc::new(start.fork()));
                tokio::spawn(async move {
                    let ended = migrated(&after.with_silver(Arc::new(Faulty::new(store.clone(), at, fault)))).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    // Whatever became of it, an old program either goes on or stops; it breaks nothing.
                    let old = before.with_silver(store.clone()).run().await;
                    assert!([0, 2].contains(&old.exit), "{fault:?} at {at}: {old:?}");
                    let healthy = after.with_silver(store);
                    migrated(&healthy).await.unwrap();
                    let report = healthy.run().await;
                    assert_eq!(report.exit, 0, "{fault:?} at {at}: {report:?}");
                    (at, fault, ended.is_err(), rows(&healthy.table(), PER_RUN).await)
                })
            })
            .buffer_unordered(2);
        while let Some(ended) = disturbed.next().await {
            let (at, fault, failing, found) = ended.unwrap();
            assert_eq!(found, expected, "{fault:?} at {at} of {operations}");
            failed += u32::from(failing);
            tried += 1;
        }
        eprintln!("migration: {operations} operations, {tried} faults tried, {failed} of them failed it");
        assert!(failed > 0);
    });
}

#[test]
fn a_second_migration_that_looked_before_the_first_one_ended_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = programs(folder.path(), "upsert", "60 s");
    runtime().block_on(async {
        some_runs(&before, 3).await;
        let other = after.clone();
        let interposed = Hooked::interposed(before.silver.clone(), "silver/_etl/maintenance/Thing/", move || {
            let other = other.clone();
            Box::pin(async move { assert!(migrated(&other).await.unwrap().is_needed()) })
        });
        let error = migrated(&after.with_silver(Arc::new(interposed))).await.unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert_eq!(rows(&after.table(), PER_RUN).await, afresh(&after).await);
        assert!(!migrate(&after.settings(), "Thing", true).await.unwrap().unwrap().is_needed());
    });
}

#[test]
fn a_migration_whose_commit_lands_late_is_not_done_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = programs(folder.path(), "append", "60 s");
    runtime().block_on(async {
        some_runs(&before, 2).await;
        let expected = afresh(&after).await;
        for failing in 1..=8 {
            let store = Arc::new(InMemory::new());
            copy(before.silver.clone(), store.clone()).await;
            let slow = Arc::new(Late::new(store.clone(), "silver/Thing/_delta_log/", failing));
            let _ = migrated(&after.with_silver(slow)).await;
            let healthy = after.with_silver(store);
            migrated(&healthy).await.unwrap();
            assert_eq!(rows(&healthy.table(), PER_RUN).await, expected, "{failing}");
        }
    });
}

#[test]
fn a_column_that_takes_another_ones_name_is_no_mere_addition() {
    let folder = tempfile::tempdir().unwrap();
    let (before, mut after) = programs(folder.path(), "append", "60 s");
    let swapped = FIRST
        .replace("\"type\": \"object\",\n  \"required\"", "\"title\": \"v2\", \"x-decision\": \"test\", \"x-default-version\": [{\"version\": 1}], \"x-upcast\": [{\"rename\": {\"from\": \"note\", \"to\": \"remark\"}}], \"type\": \"object\", \"required\"")
        .replace("\"code\": {", "\"remark\": {\"type\": [\"string\", \"null\"]}, \"code\": {");
    std::fs::write(folder.path().join("after/schemas/Thing/2.json"), swapped).unwrap();
    runtime().block_on(async {
        some_runs(&before, 2).await;
        let refused = after.run().await;
        assert!(refused.exit == 2 && refused.error.as_ref().unwrap().contains("etl schema migrate"), "{refused:?}");
        migrated(&after).await.unwrap();
        assert_eq!(rows(&after.table(), PER_RUN).await, afresh(&after).await);

        // Another partitioning is not for a migration.
        after.silver = before.silver.clone();
        let job = folder.path().join("after/jobs/Thing.yaml");
        let text = std::fs::read_to_string(&job).unwrap();
        std::fs::write(&job, format!("{text}partition_by: [database]\n")).unwrap();
        let error = migrated(&after).await.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("partitioned by"), "{error}");
    });
}
