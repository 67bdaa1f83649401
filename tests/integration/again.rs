//! Reading objects once more: what was refused becomes a row, what reads otherwise replaces its row, and nothing is doubled.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use object_store::memory::InMemory;
use silversmith::ledger::{Expiry, TableIntent};
use silversmith::run::Request;
use silversmith::run::report::JobReport;
use silversmith::run::reprocess::{Wanted, forget, look, reprocess};
use silversmith::silver::Table;

use crate::stores::{Fault, Faulty};
use crate::support::{etl, ran};
use crate::world::{Silent, World, rows, texts};

const LOOSE: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id"],
  "properties": {"id": {"type": "string"}, "value": {"type": "integer"}, "more": {"type": "string"}}
}"#;
const STRICT: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id", "value"],
  "properties": {"id": {"type": "string"}, "value": {"type": "integer", "maximum": 5}}
}"#;
const OBJECT: &str = "year=2024/month=03/day=01/o";

fn world(folder: &Path, mode: &str, schema: &str) -> World {
    World::new(folder, "Thing", &format!("mode: {mode}\nkey: [id]\nlease: {{duration: 1 ms}}"), schema)
}

fn contract(folder: &Path, schema: &str) {
    std::fs::write(folder.join("schemas/Thing/1.json"), schema).unwrap();
}

fn request() -> Request {
    Request { entity: "Thing".to_owned(), country: "de".to_owned() }
}

async fn fill(world: &World) {
    let lines = ["{\"id\":\"a\",\"value\":1}", "{\"id\":\"b\"}", "{\"id\":\"c\",\"value\":3,\"more\":\"m\"}", "{\"id\":\"d\",\"value\":9}"];
    world.put(OBJECT, &lines.join("\n")).await;
    world.put("year=2024/month=03/day=02/p", "{\"id\":\"e\",\"value\":2}\nrubbish").await;
}

async fn again(world: &World) -> JobReport {
    let wanted = Wanted { objects: vec![format!("database=fleetdb_de/entity=Thing/{OBJECT}")], day: None };
    let found = look(&world.settings(), &request(), &wanted).await.unwrap();
    let keys: BTreeSet<String> = found.into_iter().map(|object| object.key).collect();
    assert_eq!(keys.len(), 1);
    reprocess(&world.settings(), &request(), &keys, &Silent).await.unwrap()
}

async fn ids(world: &World) -> Vec<String> {
    texts(&world.table().query(|frame| frame.select_columns(&["id", "value"])).await.unwrap(), &[])
}

async fn refused(world: &World) -> Vec<String> {
    let table = Table::at(&world.store(), "Thing_quarantine");
    texts(&table.query(|frame| frame.select_columns(&["code", "source_offset"])).await.unwrap(), &[])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_looser_contract_lets_refused_records_in_and_a_stricter_one_takes_rows_out() {
    for mode in ["append", "upsert"] {
        let folder = tempfile::tempdir().unwrap();
        let world = world(folder.path(), mode, STRICT);
        runtime().block_on(async {
            fill(&world).await;
            assert_eq!(world.run().await.exit, 0);
            assert_eq!(ids(&world).await, ["a|1", "c|3", "e|2"]);
            assert_eq!(refused(&world).await, ["malformed_json|21", "missing_field|21", "out_of_range|64"]);

            contract(folder.path(), LOOSE);
            let report = again(&world).await;
            let counts = report.records;
            assert_eq!((counts.read, counts.inserted, counts.updated, counts.duplicate, counts.quarantined), (4, 2, 1, 1, 0), "{report:?}");
            assert_eq!(ids(&world).await, ["a|1", "b|", "c|3", "d|9", "e|2"]);
            assert_eq!(refused(&world).await, ["malformed_json|21"]);
            let more = world.table().query(|frame| frame.select_columns(&["id", "more"])).await.unwrap();
            assert_eq!(texts(&more, &[]), ["a|", "b|", "c|m", "d|", "e|"], "{mode}");

            // Once more changes nothing.
            let report = again(&world).await;
            assert_eq!((report.records.duplicate, report.records.quarantined), (4, 0), "{mode} {report:?}");

            let stricter = LOOSE.replace("\"value\": {\"type\": \"integer\"}", "\"value\": {\"type\": \"integer\", \"maximum\": 2}");
            contract(folder.path(), &stricter);
            let report = again(&world).await;
            assert_eq!((report.records.duplicate, report.records.quarantined, report.records.removed), (2, 2, 2), "{mode} {report:?}");
            assert_eq!(ids(&world).await, ["a|1", "b|", "e|2"]);
            assert_eq!(refused(&world).await, ["malformed_json|21", "out_of_range|32", "out_of_range|64"]);
            let report = again(&world).await;
            assert_eq!((report.records.quarantined, report.records.removed), (2, 0), "{mode} {report:?}");
            assert_eq!(refused(&world).await, ["malformed_json|21", "out_of_range|32", "out_of_range|64"]);
        });
    }
}

/// What a batch makes of a row is what its copies in the same batch are compared with.
#[test]
fn a_copy_that_is_read_again_with_its_row_is_its_duplicate() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), "append", STRICT);
    runtime().block_on(async {
        for day in 1..=3 {
            world.put(&format!("year=2024/month=03/day=0{day}/o"), "{\"id\":\"c\",\"value\":3,\"more\":\"m\"}").await;
        }
        let report = world.run().await.jobs.remove(0);
        assert_eq!((report.records.inserted, report.records.duplicate), (1, 2), "{report:?}");
        contract(folder.path(), LOOSE);
        let all: BTreeSet<String> = world.ledger().await.objects().map(|object| object.key).collect();
        let report = reprocess(&world.settings(), &request(), &all, &Silent).await.unwrap();
        assert_eq!((report.records.updated, report.records.duplicate, report.records.quarantined), (1, 2, 0), "{report:?}");
        let more = world.table().query(|frame| frame.select_columns(&["id", "more"])).await.unwrap();
        assert_eq!(texts(&more, &[]), ["c|m"]);
    });
}

#[test]
fn forgetting_lets_the_next_run_read_again_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), "append", STRICT);
    runtime().block_on(async {
        fill(&world).await;
        world.run().await;
        let (before, quarantined) = (ids(&world).await, refused(&world).await);
        let all: BTreeSet<String> = world.ledger().await.objects().map(|object| object.key).collect();
        assert_eq!(forget(&world.settings(), &request(), &all).await.unwrap(), 2);
        let report = world.run().await.jobs.remove(0);
        assert_eq!((report.records.read, report.records.duplicate, report.records.quarantined), (6, 3, 3));
        assert_eq!((ids(&world).await, refused(&world).await), (before, quarantined));
        assert_eq!(world.run().await.jobs[0].records.read, 0);
    });
}

/// Where every record is: file and offset of all rows and refusals.
async fn whereabouts(world: &World) -> Vec<String> {
    let silver = world.table().query(|frame| frame.select_columns(&["_source_file", "_source_offset"])).await.unwrap();
    let quarantine = Table::at(&world.store(), "Thing_quarantine");
    let refused = quarantine.query(|frame| frame.select_columns(&["source_file", "source_offset"])).await.unwrap();
    let mut all = [texts(&silver, &[]), texts(&refused, &[])].concat();
    all.sort();
    all
}

#[test]
fn a_death_followed_by_another_contract_or_job_leaves_every_record_in_one_place() {
    let (append, upsert) = ("mode: append\nkey: [id]\n", "mode: upsert\nkey: [id]\ndelete_when: value = 100\n");
    for (before, after) in [((STRICT, append), (LOOSE, append)), ((LOOSE, append), (STRICT, append)), ((STRICT, append), (STRICT, upsert))]
    {
        let folder = tempfile::tempdir().unwrap();
        let world = world(folder.path(), "append", before.0);
        let become_like = |(schema, job): (&str, &str)| {
            contract(folder.path(), schema);
            std::fs::write(folder.path().join("jobs/Thing.yaml"), format!("entity: Thing\n{job}lease: {{duration: 1 ms}}")).unwrap();
        };
        runtime().block_on(async {
            fill(&world).await;
            let sound = world.with_silver(Arc::new(InMemory::new()));
            assert_eq!(sound.run().await.exit, 0);
            let expected = whereabouts(&sound).await;
            assert_eq!(expected.len(), 6);
            let mut at = 0;
            loop {
                at += 1;
                let store: Arc<InMemory> = Arc::new(InMemory::new());
                become_like(before);
                if world.with_silver(Arc::new(Faulty::new(store.clone(), at, Fault::DiesAfter))).run().await.exit == 0 {
                    break;
                }
                become_like(after);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                let healthy = world.with_silver(store);
                let report = healthy.run().await;
                // A contract that lost a column is refused by name; with the old one all is finished.
                if report.exit == 2 {
                    become_like(before);
                    assert_eq!(healthy.run().await.exit, 0);
                } else {
                    assert_eq!(report.exit, 0, "{report:?}");
                }
                assert_eq!(whereabouts(&healthy).await, expected, "death after {at}");
            }
            eprintln!("another contract or job after each of {at} deaths");
        });
    }
}

#[test]
fn the_command_line_shows_first_and_does_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let silver = folder.path().join("silver");
    let places = ["--entity", "Trip", "--country", "fr", "--silver", silver.to_str().unwrap(), "--output", "json"];
    let call = |args: &[&str]| ran(&etl(&[args, &places].concat()).output().unwrap());
    let first = call(&["run"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let shown = call(&["ledger", "show"]);
    let object = shown.report["objects"][0]["key"].as_str().unwrap().to_owned();
    assert_eq!(call(&["run"]).report["outcome"], "nothing_to_do");
    let dry = call(&["reprocess", "--object", &object]);
    assert_eq!((dry.code, dry.report["executed"].as_bool()), (0, Some(false)));
    assert!(dry.stderr.is_empty() && dry.report["objects"][0]["key"] == object.as_str(), "{} {}", dry.stderr, dry.report);
    assert_eq!(call(&["run"]).report["outcome"], "nothing_to_do");
    let done = call(&["reprocess", "--object", &object, "--execute"]);
    let records = &done.report["jobs"][0]["records"];
    assert_eq!((done.code, records["inserted"].as_u64(), records["updated"].as_u64()), (0, Some(0), Some(0)), "{}", done.report);
    assert!(records["read"].as_u64().unwrap() > 0);
    let forgotten = call(&["ledger", "forget", "--object", &object, "--execute"]);
    assert_eq!(forgotten.report["forgotten"], 1);
    assert_eq!(call(&["run"]).report["jobs"][0]["files"]["read"], 1);
    assert_eq!(etl(&["reprocess", "--entity", "Trip", "--country", "fr"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn refusals_of_a_snapshot_day_that_is_read_again_are_not_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), "snapshot", STRICT);
    runtime().block_on(async {
        world.put("year=2024/month=03/day=01/a", "{\"id\":\"a\",\"value\":1}\nrubbish").await;
        assert_eq!(world.run().await.exit, 0);
        world.put("year=2024/month=03/day=01/b", "{\"id\":\"b\",\"value\":2}").await;
        let report = world.run().await.jobs.remove(0);
        assert_eq!((report.records.read, report.records.inserted, report.records.duplicate), (3, 1, 1), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1", "b|2"]);
        assert_eq!(refused(&world).await.len(), 1);
        assert_eq!(rows(&world.table(), &[]).await.len(), 2);
    });
}

#[test]
fn a_snapshot_day_is_read_as_a_whole_whatever_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), "snapshot", STRICT);
    runtime().block_on(async {
        world.put(OBJECT, "{\"id\":\"a\",\"value\":1}").await;
        world.put("year=2024/month=03/day=01/p", "{\"id\":\"b\",\"value\":2}").await;
        assert_eq!(world.run().await.exit, 0);
        let report = again(&world).await;
        assert_eq!((report.records.read, report.records.duplicate, report.records.removed), (2, 2, 0), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1", "b|2"]);
        // Rows stay by key, also those whose record is refused now.
        contract(folder.path(), &STRICT.replace("\"maximum\": 5", "\"maximum\": 1"));
        let report = again(&world).await;
        assert_eq!((report.records.quarantined, report.records.removed, report.records.duplicate), (1, 1, 1), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1"]);
        contract(folder.path(), STRICT);
        assert_eq!(again(&world).await.records.inserted, 1);
        // An object of the day in other hands: the day waits.
        world.put("year=2024/month=03/day=02/q", "{\"id\":\"c\",\"value\":3}").await;
        let mut ledger =
            silversmith::ledger::Ledger::open(&world.store(), &world.source(), std::time::Duration::from_mins(1)).await.unwrap();
        let key = "database=fleetdb_de/entity=Thing/year=2024/month=03/day=02/q";
        let listed =
            silversmith::bronze::list(&world.settings().engine.bronze, &world.source(), &silversmith::bronze::Selection::default())
                .await
                .unwrap();
        let held: Vec<_> = listed.objects.into_iter().filter(|object| object.key == key).collect();
        ledger.claim("other", "other run", &held, silversmith::ledger::Taking::Free).await.unwrap().claim.unwrap();
        world.put("year=2024/month=03/day=02/r", "{\"id\":\"d\",\"value\":4}").await;
        let report = world.run().await;
        assert_eq!((report.exit, report.jobs[0].held), (4, 2), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1", "b|2"]);
        ledger.release("other", "other run", "done").await.unwrap();
        assert_eq!(world.run().await.exit, 0);
        assert_eq!(ids(&world).await, ["c|3", "d|4"]);
    });
}

#[test]
fn a_row_of_a_refused_record_gives_way_to_an_equal_sound_one() {
    let folder = tempfile::tempdir().unwrap();
    let job = "key: [id]\npartitions: {day: {on_conflict: path}}\nlease: {duration: 1 ms}";
    let world = World::new(folder.path(), "Thing", job, LOOSE);
    runtime().block_on(async {
        // The payload's day contradicts the path's.
        world.put("year=2024/month=03/day=01/a", "{\"id\":\"a\",\"value\":1,\"day\":7}").await;
        world.put("year=2024/month=03/day=02/b", "{\"id\":\"a\",\"value\":1,\"day\":2}").await;
        assert_eq!(world.run().await.exit, 0);
        std::fs::write(folder.path().join("jobs/Thing.yaml"), "entity: Thing\nkey: [id]\nlease: {duration: 1 ms}").unwrap();
        let all: BTreeSet<String> = world.ledger().await.objects().map(|object| object.key).collect();
        let report = reprocess(&world.settings(), &request(), &all, &Silent).await.unwrap();
        assert_eq!((report.records.inserted, report.records.quarantined, report.records.removed), (1, 1, 1), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1"]);
    });
}

#[test]
fn a_record_that_is_refused_now_leaves_nothing_that_speaks_against_a_sound_one() {
    let folder = tempfile::tempdir().unwrap();
    let job = "mode: upsert\nkey: [id]\ndelete_when: value = 9\nlease: {duration: 1 ms}";
    let world = World::new(folder.path(), "Thing", job, LOOSE);
    runtime().block_on(async {
        world.put("year=2024/month=03/day=01/a", "{\"id\":\"a\",\"value\":1}\n{\"id\":\"b\",\"value\":1}").await;
        world.put("year=2024/month=03/day=02/b", "{\"id\":\"a\",\"value\":8}\n{\"id\":\"b\",\"value\":9}").await;
        assert_eq!(world.run().await.exit, 0);
        assert_eq!(ids(&world).await, ["a|8"]);
        contract(folder.path(), &LOOSE.replace("\"value\": {\"type\": \"integer\"}", "\"value\": {\"type\": \"integer\", \"maximum\": 7}"));
        let all: BTreeSet<String> = world.ledger().await.objects().map(|object| object.key).collect();
        let report = reprocess(&world.settings(), &request(), &all, &Silent).await.unwrap();
        let counts = report.records;
        assert_eq!((counts.inserted, counts.quarantined, counts.removed, counts.duplicate), (2, 2, 1, 0), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1", "b|1"]);
        assert!(rows(&Table::at(&world.store(), "_etl/tombstones/Thing"), &[]).await.is_empty());
        let report = reprocess(&world.settings(), &request(), &all, &Silent).await.unwrap();
        assert_eq!((report.records.duplicate, report.records.quarantined, report.records.removed), (2, 2, 0), "{report:?}");
        assert_eq!(ids(&world).await, ["a|1", "b|1"]);
    });
}

#[test]
fn old_marks_leave_with_the_next_ones_and_younger_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let job = "mode: upsert\nkey: [id]\ndelete_when: value = 9\nlease: {duration: 1 ms}";
    let world = World::new(folder.path(), "Thing", job, LOOSE);
    runtime().block_on(async {
        world.put("year=2024/month=03/day=02/a", "{\"id\":\"a\",\"value\":9}\n{\"id\":\"b\",\"value\":9}").await;
        assert_eq!(world.run().await.jobs[0].records.deleted, 2);
        let marks = Table::at(&world.store(), "_etl/tombstones/Thing");
        assert_eq!(rows(&marks, &[]).await.len(), 2);
        // An insert that is older than its delete comes late.
        world.put("year=2024/month=03/day=01/late", "{\"id\":\"a\",\"value\":1}").await;
        assert_eq!(world.run().await.jobs[0].records.duplicate, 1);
        assert!(ids(&world).await.is_empty());
        let today = chrono::Utc::now().date_naive();
        let expire = |before: chrono::NaiveDate, k: i64| TableIntent {
            table: marks.name.clone(),
            app_id: "test".to_owned(),
            k,
            adds: Vec::new(),
            replaces: None,
            statements: Vec::new(),
            expires: Some(Expiry { column: "marked_on".to_owned(), before: before.to_string() }),
            run: "test".to_owned(),
            batch: "test".to_owned(),
        };
        let settings = world.job().table;
        let deadline = std::time::Duration::from_secs(10);
        marks.commit(&expire(today, 1), &settings, deadline).await.unwrap();
        assert_eq!(rows(&marks, &[]).await.len(), 2);
        marks.commit(&expire(today + chrono::Days::new(2), 2), &settings, deadline).await.unwrap();
        assert!(rows(&marks, &[]).await.is_empty());
        // What is forgotten can come back: that is what the retention says.
        world.put("year=2024/month=03/day=01/later", "{\"id\":\"a\",\"value\":2}").await;
        assert_eq!(world.run().await.jobs[0].records.inserted, 1);
        assert_eq!(ids(&world).await, ["a|2"]);
    });
}

#[test]
fn what_an_object_says_now_stands_against_what_it_said() {
    let job = "mode: upsert\nkey: [id]\norder_by: [value]\ndelete_when: more = 'gone'\nlease: {duration: 1 ms}";
    for order_by in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let job = if order_by { job.to_owned() } else { job.replace("order_by: [value]\n", "") };
        let world = World::new(folder.path(), "Thing", &job, LOOSE);
        runtime().block_on(async {
            let said = [
                "{\"id\":\"long before the others\",\"value\":1}",
                "{\"id\":\"a\",\"value\":5}",
                "{\"id\":\"b\",\"value\":5,\"more\":\"gone\"}",
                "{\"id\":\"c\",\"value\":5}",
                "{\"id\":\"d\",\"value\":5}",
            ];
            world.put("year=2024/month=03/day=01/first", "{\"id\":\"d\",\"value\":5}").await;
            assert_eq!(world.run().await.exit, 0);
            world.put("year=2024/month=03/day=02/o", &said.join("\n")).await;
            world.put("year=2024/month=03/day=03/later", "{\"id\":\"c\",\"value\":7}").await;
            assert_eq!(world.run().await.exit, 0);
            assert_eq!(ids(&world).await, ["a|5", "c|7", "d|5", "long before the others|1"]);
            // Each stands before the place that it had, and says less.
            let says =
                ["{\"id\":\"a\",\"value\":4}", "{\"id\":\"b\",\"value\":4}", "{\"id\":\"c\",\"value\":4}", "{\"id\":\"d\",\"value\":4}"];
            world.put("year=2024/month=03/day=02/o", &says.join("\n")).await;
            let report = world.run().await.jobs.remove(0);
            let counts = report.records;
            if order_by {
                // What another object says stands by its value: `d` came from that.
                assert_eq!((counts.updated, counts.inserted, counts.duplicate), (1, 1, 2), "{report:?}");
                assert_eq!(ids(&world).await, ["a|4", "b|4", "c|7", "d|5", "long before the others|1"]);
            } else {
                assert_eq!((counts.updated, counts.inserted, counts.duplicate), (2, 1, 1), "{report:?}");
                assert_eq!(ids(&world).await, ["a|4", "b|4", "c|7", "d|4", "long before the others|1"]);
            }
        });
    }
}
