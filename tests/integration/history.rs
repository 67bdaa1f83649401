//! Histories of inserts, updates, deletes and duplicates: whatever the order in which objects arrive, and however they are cut into
//! batches and runs, the table ends as a sort says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::Random;
use crate::world::{PROVENANCE, World, rows};

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id"],
  "properties": {
    "id": {"type": "string"}, "part": {"type": "integer"}, "version": {"type": "integer"}, "Op": {"type": "string"},
    "at": {"type": "string", "format": "date-time"}, "value": {"type": "integer"}
  }
}"#;

/// Backfilled records have neither month nor day of their own.
const DERIVE: &str = "partitions: {month: {derive: at}, day: {derive: at}}";

/// An object: its key below the source, and its records.
type Object = (String, Vec<Value>);

/// What decides between two records of a key, as `docs/decisions/0006` has it.
fn order(key: &str, version: Option<i64>, offset: usize) -> (Option<i64>, bool, String, String, String, usize) {
    let firehose = key.contains("/day=");
    let number = |name: &str| {
        let at = key.find(name)? + name.len();
        Some(key[at..].split('/').next()?.to_owned())
    };
    let date = format!(
        "{}-{}-{}",
        number("year=").unwrap_or_default(),
        number("month=").unwrap_or("01".to_owned()),
        number("day=").unwrap_or("01".to_owned())
    );
    let name = key.rsplit('/').next().unwrap();
    let stamp = name.strip_prefix("s-1-").map(|rest| rest[..19].to_owned()).unwrap_or_default();
    (version, firehose, date, stamp, key.to_owned(), offset)
}

fn key_of(random: &mut Random, number: usize) -> String {
    let month = random.below(2) + 1;
    let day = random.below(3) + 1;
    match random.below(3) {
        0 => format!("year=2024/backfill-{number:03}.json"),
        1 => format!("year=2024/month={month:02}/day={day:02}/s-1-2024-{month:02}-{day:02}-10-00-{:02}-{number:03}", random.below(3)),
        _ => format!("year=2024/month={month:02}/day={day:02}/plain-{number:03}"),
    }
}

fn history(random: &mut Random, objects: usize, versions: bool) -> Vec<Object> {
    let object = |number: usize, random: &mut Random| {
        let record = |random: &mut Random| {
            let mut record = json!({"id": format!("k{}", random.below(5)), "part": random.below(2), "value": random.below(3),
                "at": format!("2024-03-{:02}T00:00:00Z", random.below(3) + 1), "Op": *random.pick(&["I", "U", "U", "D"])});
            if versions && !random.chance(4) {
                record["version"] = json!(random.below(4) as i64 - 2);
            }
            record
        };
        let records = (0..=random.below(4)).map(|_| record(random)).collect();
        (key_of(random, number), records)
    };
    (0..objects).map(|number| object(number, random)).collect()
}

/// For each key its latest record, deletes left out, as the table shows it.
fn latest(objects: &[Object], versions: bool) -> Vec<String> {
    let mut newest: BTreeMap<(String, i64), (_, Value)> = BTreeMap::new();
    for (key, records) in objects {
        for (offset, record) in records.iter().enumerate() {
            let version = if versions { record["version"].as_i64() } else { None };
            let order = order(key, version, offset);
            let id = (record["id"].as_str().unwrap().to_owned(), record["part"].as_i64().unwrap());
            match newest.get(&id) {
                Some((held, _)) if *held > order => {}
                _ => {
                    newest.insert(id, (order, record.clone()));
                }
            }
        }
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let live = newest.into_values().map(|(_, record)| record).filter(|record| record["Op"] != "D");
    let mut rows: Vec<String> = live
        .map(|record| {
            let date = record["at"].as_str().unwrap()[..10].to_owned();
            let fields = ["id", "part", "at"].map(|name| text(&record[name]));
            let rest = ["version", "Op", "value"].map(|name| text(&record[name]));
            [&fields[..], &["fleetdb_de".to_owned(), date], &rest[..]].concat().join("|")
        })
        .collect();
    rows.sort();
    rows
}

fn lines(records: &[Value]) -> String {
    records.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn any_order_and_any_cut_of_a_history_ends_in_the_same_table() {
    let mut random = Random::new("histories");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rounds = std::env::var("ETL_SOAK").map_or(40, |_| 1000);
    for round in 0..rounds {
        let versions = random.chance(2);
        let folder = tempfile::tempdir().unwrap();
        let order_by = if versions { "order_by: [version]\n" } else { "" };
        let job = format!(
            "mode: upsert\n{order_by}delete_when: Op = 'D'\nkey: [id, part]\nevent_time: at\n{DERIVE}\nlimits: {{spool: {}}}",
            if random.chance(2) { "1 B" } else { "1 MiB" }
        );
        let number = random.below(10) + 2;
        let objects = history(&mut random, number, versions);
        let expected = latest(&objects, versions);
        for _ in 0..2 {
            let mut world = World::new(folder.path(), "Thing", &job, SCHEMA);
            let mut left = objects.clone();
            random.shuffle(&mut left);
            let mut runs = Vec::new();
            while !left.is_empty() {
                let some = left.len().min(random.below(4) + 1);
                let arrived: Vec<Object> = left.drain(..some).collect();
                world.batch_objects = Some(random.below(3) + 1);
                world.threads = random.below(3) + 1;
                runs.push((world.batch_objects, arrived.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>()));
                runtime.block_on(async {
                    for (key, records) in &arrived {
                        world.put(key, &lines(records)).await;
                    }
                    let report = world.run().await;
                    assert_eq!(report.exit, 0, "{report:?}");
                    let records = report.jobs[0].records;
                    let read: usize = arrived.iter().map(|(_, records)| records.len()).sum();
                    assert!(records.balances() && records.read == read as u64 && records.quarantined == 0, "{records:?}");
                });
            }
            let found = runtime.block_on(rows(&world.table(), PROVENANCE));
            assert_eq!(found, expected, "round {round}, runs {runs:?}, objects {objects:#?}");
        }
    }
    eprintln!("{rounds} histories, each in two orders and cuts");
}

/// Of each day the last record per key; of the days the newest.
fn newest_day(objects: &[Object]) -> Vec<String> {
    let rank = |key: &str| {
        let order = order(key, None, 0);
        (order.1, order.2)
    };
    let Some(newest) = objects.iter().map(|(key, _)| rank(key)).max() else { return Vec::new() };
    let of_day: Vec<Object> = objects.iter().filter(|(key, _)| rank(key) == newest).cloned().collect();
    let plain: Vec<Object> = of_day
        .into_iter()
        .map(|(key, records)| {
            let kept = records.into_iter().map(|mut record| {
                // In a snapshot nothing is a delete.
                record["Op"] = json!("I");
                record
            });
            (key, kept.collect())
        })
        .collect();
    latest(&plain, false)
}

#[test]
fn snapshots_end_as_their_newest_day_in_whatever_order_days_arrive() {
    let mut random = Random::new("snapshots");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for round in 0..25 {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(folder.path(), "Thing", &format!("mode: snapshot\nkey: [id, part]\nevent_time: at\n{DERIVE}"), SCHEMA);
        let number = random.below(8) + 1;
        let mut objects = history(&mut random, number, true);
        for (_, records) in &mut objects {
            for record in records {
                record["Op"] = json!("I");
            }
        }
        random.shuffle(&mut objects);
        let mut arrived: Vec<Object> = Vec::new();
        while arrived.len() < objects.len() {
            let upto = (arrived.len() + random.below(3) + 1).min(objects.len());
            let new = objects[arrived.len()..upto].to_vec();
            arrived.extend(new.clone());
            runtime.block_on(async {
                for (key, records) in &new {
                    world.put(key, &lines(records)).await;
                }
                let report = world.run().await;
                assert_eq!(report.exit, 0, "{report:?}");
                assert_eq!(rows(&world.table(), PROVENANCE).await, newest_day(&arrived), "round {round}: {arrived:#?}");
            });
        }
    }
}
