//! The fault matrix: a run against a store that goes wrong at its n-th operation, for every n and every way of going wrong, then
//! a run on the healthy store. What silver, quarantine and the ledger hold in the end is what an undisturbed run leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use silversmith::run::report::Outcome;
use silversmith::run::tables_of;

use crate::stores::{Fault, Faulty};
use crate::support::Random;
use crate::world::{PER_RUN, World, rows};

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id", "value"],
  "properties": {
    "id": {"type": "string"}, "Op": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "value": {"type": "integer"}
  }
}"#;

/// Everything that must be the same.
#[derive(Debug, PartialEq, Eq)]
struct State {
    silver: Vec<String>,
    quarantine: Vec<String>,
    marks: Vec<String>,
    known: usize,
    claims: usize,
    settled: bool,
    /// Sums over all intents.
    counts: BTreeMap<String, u64>,
}

async fn objects(world: &World, prefix: &str) -> Vec<Value> {
    let listed: Vec<_> = world.silver.list(Some(&prefix.into())).try_collect().await.unwrap();
    let mut paths: Vec<_> = listed.into_iter().map(|meta| meta.location).filter(|path| path.extension() == Some("json")).collect();
    paths.sort();
    let mut values = Vec::new();
    for path in paths {
        let bytes = world.silver.get(&path).await.unwrap().bytes().await.unwrap();
        values.extend(serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>().map(Result::unwrap));
    }
    values
}

/// The intents of the ledger, which must be numbered 1, 2, 3, …
pub async fn intents(world: &World) -> Vec<Value> {
    let source = world.source();
    let entries = objects(world, &format!("silver/_etl/ledger/{}/{}/log", source.entity, source.database)).await;
    let intents: Vec<Value> = entries.into_iter().filter_map(|entry| entry["what"].get("intent").cloned()).collect();
    let numbers: Vec<u64> = intents.iter().map(|intent| intent["k"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=intents.len() as u64).collect::<Vec<_>>());
    intents
}

/// The `txn` versions of a table are those of the intents that concern it, each once and in order.
pub async fn check_txns(world: &World, table: &str, intents: &[Value]) {
    let actions = objects(world, &format!("silver/{table}/_delta_log")).await;
    let found: Vec<u64> = actions.iter().filter_map(|action| action.get("txn")?["version"].as_u64()).collect();
    let concerned = intents.iter().filter(|intent| intent["tables"].as_array().unwrap().iter().any(|part| part["table"] == table));
    assert_eq!(found, concerned.map(|intent| intent["k"].as_u64().unwrap()).collect::<Vec<_>>(), "{table}");
}

async fn state(world: &World) -> State {
    let tables = tables_of(&world.store(), &world.job());
    let intents = intents(world).await;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in intents.iter().flat_map(|intent| intent["records"].as_object().unwrap()) {
        *counts.entry(name.clone()).or_default() += count.as_u64().unwrap();
    }
    for table in [&tables.silver, &tables.quarantine].into_iter().chain(&tables.marks) {
        check_txns(world, &table.name, &intents).await;
    }
    let ledger = world.ledger().await;
    State {
        silver: rows(&tables.silver, PER_RUN).await,
        quarantine: rows(&tables.quarantine, PER_RUN).await,
        marks: match &tables.marks {
            Some(marks) => rows(marks, &["batch", "marked_at", "marked_on"]).await,
            None => Vec::new(),
        },
        known: ledger.known_objects(),
        claims: ledger.open_claims().count(),
        settled: world.settled().await,
        counts,
    }
}

/// A run that goes wrong, then one that does not: the first one's exit code, and what is there in the end.
async fn disturb(world: World, before: InMemory, at: u64, fault: Fault) -> (u64, Fault, u8, State) {
    let store: Arc<InMemory> = Arc::new(before);
    let disturbed = world.with_silver(Arc::new(Faulty::new(store.clone(), at, fault))).run().await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let healthy = world.with_silver(store);
    let after = healthy.run().await;
    assert_eq!(after.exit, 0, "{fault:?} at {at}: {after:?}");
    (at, fault, disturbed.exit, state(&healthy).await)
}

fn record(id: usize, value: usize, day: usize, op: &str) -> String {
    format!("{{\"id\":\"k{id}\",\"value\":{value},\"at\":\"2024-03-{day:02}T00:00:00Z\",\"Op\":\"{op}\"}}\n")
}

async fn first_objects(world: &World) {
    let records = |from: usize, day: usize| (from..from + 6).map(|id| record(id, 1, day, "I")).collect::<String>();
    world.put("year=2024/month=03/day=01/a", &(records(0, 1) + "not json\n")).await;
    world.put("year=2024/month=03/day=01/b", &records(6, 2)).await;
}

async fn second_objects(world: &World) {
    // Updates, a move to another partition, deletes, an equal record, a late one, a refused one.
    world.put("year=2024/month=03/day=02/c", &(record(0, 2, 1, "U") + &record(1, 2, 2, "U") + &record(2, 1, 1, "D"))).await;
    world.put("year=2024/month=03/day=02/d", &(record(6, 1, 2, "I") + "{\"id\":\"k7\"}\n" + &record(20, 1, 1, "I"))).await;
    world.put("year=2024/month=03/day=03/e", &(record(0, 3, 3, "U") + &record(20, 1, 1, "D") + &record(8, 5, 2, "U"))).await;
    world.put("year=2024/backfill.json", &(record(2, 0, 1, "I") + &record(30, 0, 1, "I"))).await;
}

fn every_fault(name: &str, job: &str, first_run: bool) {
    let folder = tempfile::tempdir().unwrap();
    let job =
        format!("{job}key: [id]\nevent_time: at\npartitions: {{month: {{derive: at}}, day: {{derive: at}}}}\nlease: {{duration: 1 ms}}");
    let mut world = World::new(folder.path(), "Thing", &job, SCHEMA);
    world.batch_objects = Some(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let before = Arc::new(InMemory::new());
        first_objects(&world).await;
        if first_run {
            let ran = world.with_silver(before.clone()).run().await;
            assert_eq!(ran.outcome, Outcome::Committed, "{ran:?}");
        }
        second_objects(&world).await;
        let healthy = Arc::new(before.fork());
        let counted = Arc::new(Faulty::new(healthy.clone(), u64::MAX, Fault::Refused));
        let undisturbed = world.with_silver(counted.clone()).run().await;
        assert_eq!(undisturbed.outcome, Outcome::Committed, "{undisturbed:?}");
        let expected = state(&world.with_silver(healthy)).await;
        assert!(expected.settled && expected.claims == 0 && !expected.quarantine.is_empty(), "{expected:?}");
        let operations = counted.operations();
        let (mut tried, mut failed) = (0, 0);
        let every = (1..=operations).flat_map(|at| Fault::ALL.map(|fault| (at, fault)));
        let mut disturbed = futures::stream::iter(every)
            .map(|(at, fault)| tokio::spawn(disturb(world.clone(), before.fork(), at, fault)))
            .buffer_unordered(2);
        while let Some(ended) = disturbed.next().await {
            let (at, fault, exit, found) = ended.unwrap();
            assert_eq!(found, expected, "{fault:?} at {at} of {operations}");
            failed += u32::from(exit != 0);
            tried += 1;
        }
        eprintln!("{name}: {operations} operations, {tried} faults tried, {failed} of them failed their run");
        assert!(failed > 0);
    });
}

#[test]
fn every_operation_of_an_append_may_fail_in_every_way() {
    every_fault("append", "", false);
}

#[test]
fn every_operation_of_an_upsert_may_fail_in_every_way() {
    every_fault("upsert", "mode: upsert\ndelete_when: Op = 'D'\n", true);
}

#[test]
fn every_operation_of_a_snapshot_may_fail_in_every_way() {
    every_fault("snapshot", "mode: snapshot\n", true);
}

/// A file of several parts.
#[test]
fn every_part_of_an_upload_may_fail_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(
        folder.path(),
        "Thing",
        "key: [id]\nlease: {duration: 1 ms}",
        r#"{
      "$schema": "https://json-schema.org/draft/2020-12/schema",
      "type": "object",
      "properties": {"id": {"type": "string"}, "text": {"type": "string"}}
    }"#,
    );
    let mut random = Random::new("parts of an upload");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // Six of eight bits of each letter stay, however they are compressed.
        let mut text = || (0..1 << 20).map(|_| char::from(b'0' + random.below(64) as u8)).filter(|c| *c != '\\').collect::<String>();
        let lines: Vec<String> = (0..15).map(|id| format!("{{\"id\":\"k{id}\",\"text\":\"{}\"}}", text())).collect();
        world.put("year=2024/month=03/day=01/a", &lines.join("\n")).await;
        let healthy = Arc::new(InMemory::new());
        let counted = Arc::new(Faulty::new(healthy.clone(), u64::MAX, Fault::Refused));
        assert_eq!(world.with_silver(counted.clone()).run().await.outcome, Outcome::Committed);
        let expected = state(&world.with_silver(healthy)).await;
        let uploads = counted.uploads();
        assert!(uploads.len() >= 5, "beginning, three parts and the end: {uploads:?}");
        let mut failed = 0;
        for (at, fault) in uploads.iter().flat_map(|at| Fault::ALL.map(|fault| (*at, fault))) {
            let (_, _, exit, found) = disturb(world.clone(), InMemory::new(), at, fault).await;
            assert!(found == expected, "{fault:?} at {at} of {uploads:?}");
            failed += u32::from(exit != 0);
        }
        eprintln!("operations {uploads:?}, {failed} faults failed their run");
        assert!(failed as usize >= uploads.len());
    });
}
