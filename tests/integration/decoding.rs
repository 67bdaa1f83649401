//! The quick way of decoding against the exact one: whatever the bytes are, both make the same rows and the same refusals.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use silversmith::bronze::path_values;
use silversmith::contract::Contract;
use silversmith::domain::{BronzeObject, Layout};
use silversmith::engine::local::codec;
use silversmith::engine::local::decode::Origin;
use silversmith::engine::local::frame::Framer;
use silversmith::engine::local::rows::{Program, transform};
use silversmith::job::Job;
use silversmith::plan::{BatchPlan, SourcePlan};

use crate::differential::{ENTITIES, UNKNOWN, chunk, compare, examine, plan};
use crate::support::{Random, generate, root};

/// Bytes and pieces that break records in every way.
const PIECES: [&str; 34] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-",
    "0",
    "1e5",
    "1e400",
    "9223372036854775808",
    "-0",
    "1.5",
    "01",
    " ",
    "\n",
    "\t",
    "\\u00e9",
    "\\ud83d",
    "\\n",
    "é",
    "\u{0}",
    "2024-02-30T00:00:00Z",
    "2024-06-30T23:59:60Z",
    "id",
    "\"year\":2023,",
    "\"schemaVersion\":1,",
    "\"schemaVersion\":\"2\",",
    "__HIVE_DEFAULT_PARTITION__",
    "\"extra\":{\"a\":[1,{\"b\":null}]},",
];

/// The records of an object as the framer cuts them.
fn records(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let length = bytes.len() as u64;
    let mut streams = codec::open(Box::new(Cursor::new(bytes)), length, u64::MAX / 2, 1 << 20).unwrap();
    let mut framer = Framer::new(streams.remove(0), &[], 1 << 24);
    let mut records = Vec::new();
    while let Some(frames) = framer.next_frames().unwrap() {
        records.extend(frames.records.iter().map(|range| frames.bytes[range.clone()].to_vec()));
    }
    records
}

fn spoil(record: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(record.len() + 1);
    match random.below(6) {
        0 => {
            record.splice(at..at, random.pick(&PIECES).bytes());
        }
        1 => {
            let end = (at + random.below(12)).min(record.len());
            record.splice(at..end, random.pick(&PIECES).bytes());
        }
        2 => record.truncate(at),
        3 if at < record.len() => record[at] = random.below(256) as u8,
        // A value of another kind, or another field in its place.
        4 => {
            if let Some(colon) = record.iter().skip(at).position(|byte| *byte == b':').map(|found| at + found + 1) {
                let end = record[colon..].iter().position(|byte| b",}".contains(byte)).map_or(record.len(), |found| colon + found);
                record.splice(colon..end, random.pick(&PIECES).bytes());
            }
        }
        _ => {
            let (from, to) = (random.below(record.len() + 1), random.below(record.len() + 1));
            let piece = record[from.min(to)..from.max(to)].to_vec();
            record.splice(at..at, piece);
        }
    }
}

fn campaign(rounds: usize, random: &mut Random) {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    let seed = random.below(1 << 30).to_string();
    let made =
        ["--entities", "all", "--countries", "de", "--records", "300", "--codec", "plain", "--object-bytes", "16KiB", "--seed", &seed];
    generate(&bronze, &[&made[..], &["--mess", "0.05", "--unknown-fields", "0.1", "--shuffled-keys", "0.2"]].concat());
    let (mut quick, mut exact) = (0, 0);
    for entity in ENTITIES {
        let plans: Vec<BatchPlan> = UNKNOWN.iter().map(|unknown| plan(entity, unknown)).collect();
        for (key, layout) in objects(&bronze, entity) {
            let clean = records(std::fs::read(bronze.join(&key)).unwrap());
            for plan in &plans {
                let (q, e) = compare(&clean, &key, layout, plan);
                (quick, exact) = (quick + q, exact + e);
            }
            for _ in 0..rounds {
                let mut spoilt = clean.clone();
                for record in &mut spoilt {
                    for _ in 0..random.below(3) {
                        spoil(record, random);
                    }
                }
                compare(&spoilt, &key, layout, random.pick(&plans));
            }
        }
    }
    eprintln!("undamaged: {quick} records the quick way, {exact} the exact way");
    assert!(quick > 4 * exact, "the quick way is not taken: {quick} to {exact}");
}

/// Objects of an entity, as keys below bronze.
fn objects(bronze: &Path, entity: &str) -> Vec<(String, Layout)> {
    let mut found = Vec::new();
    let mut folders = vec![bronze.join(format!("database=fleetdb_de/entity={entity}"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(bronze).unwrap().to_str().unwrap().to_owned();
            let layout = if key.contains("/month=") { Layout::Firehose } else { Layout::YearRoot };
            found.push((key, layout));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Two versions with everything that the project's contracts do not have: types that change, references with more than an id, names that
/// must be escaped, steps of every kind.
fn odd_plan(unknown: &str) -> BatchPlan {
    let reference = json!({"type": ["object", "string"], "x-ref": true, "required": ["id"],
        "properties": {"id": {"type": "string"}, "since": {"type": "string", "format": "date-time"}}});
    let old = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["id"],
        "properties": {
            "id": {"type": "string"}, "x": {"type": "number"}, "extra": {"type": "object", "properties": {"code": {"type": "integer"}}},
            "r": reference, "rs": {"type": "array", "items": reference}, "a\\tb": {"type": "integer"}, "a\"b\"c": {"type": "integer"},
            "m": {"type": "object", "properties": {"inner": {"type": "string"}, "rest": {"type": ["integer", "null"]}}},
            "c": {"type": "string"}, "n": {"type": ["integer", "null"], "minimum": 0},
        }
    });
    let mut new = old.clone();
    new["x-version-field"] = json!("v");
    new["x-decision"] = json!("tried");
    new["x-upcast"] = json!([{"move": {"from": "/m/inner", "to": "/inner"}}, {"cast": {"field": "c", "to": "integer"}},
        {"default": {"field": "d", "value": "none"}}, {"rename": {"from": "n", "to": "number"}}]);
    let properties = new["properties"].as_object_mut().unwrap();
    properties["x"] = json!({"type": ["integer", "string"]});
    properties["extra"] = json!({"type": "object", "properties": {"code": {"type": "string"}}});
    properties["c"] = json!({"type": "integer"});
    properties["m"] = json!({"type": "object", "properties": {"rest": {"type": ["integer", "null"]}}});
    properties.remove("n");
    properties.insert("number".to_owned(), json!({"type": ["integer", "null"]}));
    properties.insert("inner".to_owned(), json!({"type": "string"}));
    properties.insert("d".to_owned(), json!({"type": "string"}));
    let texts = [old, new].into_iter().zip(1..).map(|(schema, number)| (number, format!("{number}.json").into(), schema.to_string()));
    let contract = Contract::from_texts("E", texts.collect()).unwrap_or_else(|mistake| panic!("{mistake}"));
    let job = Job::from_text("E.yaml", format!("entity: E\nmode: append\nkey: [id]\nunknown_fields: {unknown}\n")).unwrap();
    let of = SourcePlan::new(job.source("de").unwrap(), Arc::new(job), Arc::new(contract)).unwrap();
    BatchPlan { of, batch: "b".to_owned(), ingested_at: 0, objects: Vec::new(), again: BTreeMap::new(), extent: None }
}

fn odd_record(random: &mut Random) -> Vec<u8> {
    const FIELDS: [(&str, &[&str]); 17] = [
        ("\"id\"", &["\"k\"", "\"\"", "null", "7"]),
        ("\"v\"", &["1", "1", "2", "null", "\"1\"", "3", "1.0"]),
        ("\"x\"", &["1.5", "7", "\"s\"", "1e400", "12345678901234567890"]),
        ("\"extra\"", &["{\"code\":7}", "{\"code\":\"c\"}", "{}", "{\"code\":null}", "{\"other\":1}"]),
        (
            "\"r\"",
            &[
                "{\"id\":\"r\"}",
                "\"r\"",
                "{\"id\":\"r\",\"since\":\"nonsense\"}",
                "{\"id\":\"r\",\"since\":\"2024-01-01T00:00:00Z\"}",
                "{}",
            ],
        ),
        ("\"rs\"", &["[]", "[\"a\",{\"id\":\"b\"}]", "[{\"id\":\"b\",\"since\":\"x\"}]", "[{}]", "[null]"]),
        ("\"a\\tb\"", &["5"]),
        ("\"a\\\\tb\"", &["5", "\"x\""]),
        ("\"a\"b\"c\"", &["5"]),
        ("\"a\\\"b\\\"c\"", &["5", "5.0"]),
        ("\"m\"", &["{\"inner\":\"i\",\"rest\":1}", "{\"rest\":null}", "{\"inner\":5}", "{}"]),
        ("\"c\"", &["\"12\"", "12", "\"x\"", "true"]),
        ("\"n\"", &["1", "-1", "null", "1.0"]),
        ("\"number\"", &["1", "-1", "null"]),
        ("\"inner\"", &["\"i\"", "1"]),
        ("\"d\"", &["\"d\"", "1"]),
        ("\"\\u0069d\"", &["\"again\""]),
    ];
    // Most are sound, so that every flaw is also met alone.
    let mut fields: Vec<String> = Vec::new();
    for (at, (name, values)) in FIELDS.iter().enumerate() {
        let is_trap = [6, 8, 16].contains(&at);
        if if is_trap { random.chance(40) } else { at < 2 || random.chance(3) } {
            let value = if random.chance(3) { *random.pick(values) } else { values[0] };
            fields.push(format!("{name}:{value}"));
        }
    }
    if random.chance(4) {
        random.shuffle(&mut fields);
    }
    format!("{{{}}}", fields.join(if random.chance(9) { " , " } else { "," })).into_bytes()
}

#[test]
fn the_quick_way_knows_no_more_of_odd_contracts() {
    let mut random = Random::new("odd contracts");
    let plans = UNKNOWN.map(odd_plan);
    let key = "database=fleetdb_de/entity=E/year=2024/month=01/day=02/o";
    let (mut quick, mut exact) = (0, 0);
    for _ in 0..400 {
        let mut records: Vec<Vec<u8>> = (0..50).map(|_| odd_record(&mut random)).collect();
        let (q, e) = compare(&records, key, Layout::Firehose, random.pick(&plans));
        (quick, exact) = (quick + q, exact + e);
        for record in &mut records {
            spoil(record, &mut random);
        }
        compare(&records, key, Layout::Firehose, random.pick(&plans));
    }
    eprintln!("odd: {quick} records the quick way, {exact} the exact way");
    assert!(quick > 1000 && exact > 1000, "one of the ways is not taken: {quick}, {exact}");
}

/// A value that the newest version cannot hold in some inner place is refused, and not made null.
#[test]
fn what_an_older_version_holds_and_the_newest_cannot_is_refused() {
    let plan = odd_plan("rescue");
    let origin = |key: &str| {
        let object =
            BronzeObject { key: key.to_owned(), version: String::new(), size: 0, layout: Layout::Firehose, path: path_values(key) };
        Origin { object: Arc::new(object), file: key.into() }
    };
    let origin = origin("database=fleetdb_de/entity=E/year=2024/month=01/day=02/o");
    let records =
        [r#"{"id":"a","v":1,"extra":{"code":7}}"#, r#"{"id":"b","v":1,"x":1.5}"#, r#"{"id":"c","v":2,"r":{"id":"r","since":"?"}}"#];
    let records = records.map(|record| record.as_bytes().to_vec());
    let rows = transform(chunk(&records, 0), &origin, &plan, &Program::new(&plan)).unwrap();
    let refused: Vec<(&str, &str)> = rows.parts[0].rejects.iter().map(|reject| (reject.code.name(), reject.path.as_str())).collect();
    assert_eq!(refused, [("wrong_type", "$.extra"), ("wrong_type", "$.x"), ("invalid_format", "$.r.since")]);
}

#[test]
fn the_quick_way_says_what_the_exact_one_says() {
    let mut random = Random::new("decoding");
    campaign(4, &mut random);
    let soak = std::env::var("ETL_SOAK_DECODING_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60 * soak.unwrap_or(0_u64));
    while std::time::Instant::now() < until {
        campaign(20, &mut random);
    }
}

/// What a fuzzer found worth keeping (`bash tests/fuzz`), and whatever it may have broken once.
#[test]
fn and_so_do_both_of_everything_that_was_found_by_fuzzing() {
    let mut inputs = 0;
    for entry in std::fs::read_dir(root().join("fixtures/fuzz")).unwrap() {
        examine(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 100, "{inputs} inputs");
}
