//! The compiled checks against the `jsonschema` crate, over generated schemas of the supported set and mutated records.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use silversmith::contract::check::{Checker, storable};
use silversmith::contract::{Contract, full_validator};
use silversmith::domain::RejectCode;
use silversmith::domain::json::Tape;

use crate::support::Random;

const SCHEMAS: usize = 400;
const RECORDS: usize = 60;

fn property(random: &mut Random, depth: usize) -> Value {
    let mut schema = match random.below(if depth > 2 { 9 } else { 13 }) {
        0 => json!({"type": "boolean"}),
        1 => with_bounds(random, "integer"),
        2 => with_bounds(random, "number"),
        3 => json!({"type": "number", "x-decimal": [8, 2]}),
        4 => text(random),
        5 => json!({"type": "string", "format": *random.pick(&["date-time", "date", "uuid"])}),
        6 => json!({"type": "string", "x-duration": true}),
        7 => {
            json!({"type": ["object", "string"], "x-ref": true, "required": ["id"], "properties": {"id": {"type": "string", "minLength": 1}}})
        }
        8 => json!({"enum": ["a", 1, true, null, 2.5]}),
        9 => object(random, depth + 1),
        10 => json!({"type": "array", "items": property(random, depth + 1), "minItems": random.below(2), "maxItems": 2 + random.below(2)}),
        11 => json!({"type": "object", "additionalProperties": property(random, depth + 1), "maxProperties": 3}),
        _ => json!({"anyOf": [{"type": "string"}, {"type": "integer", "multipleOf": 3}]}),
    };
    let plain = schema["type"].as_str().map(str::to_owned);
    if let Some(kind) = plain.filter(|_| random.chance(4)) {
        schema["type"] = json!([kind, "null"]);
    }
    schema
}

fn with_bounds(random: &mut Random, kind: &str) -> Value {
    let mut schema = json!({ "type": kind });
    let keyword = *random.pick(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]);
    let bound = random.below(20) as i64 - 10;
    schema[keyword] = if random.chance(3) { json!(bound as f64 + 0.5) } else { json!(bound) };
    schema
}

fn text(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!({"type": "string", "minLength": random.below(4), "maxLength": 3 + random.below(4)}),
        1 => {
            json!({"type": "string", "pattern": *random.pick(&["^[0-9a-f]{2,4}$", "^\\d+$", "a.b", "^(?:x|ü)\\w*", "[^a-c]$", "^a(?!b)"])})
        }
        2 => json!({"type": "string", "enum": ["x", "None", "Active"]}),
        _ => json!({"type": "string"}),
    }
}

fn object(random: &mut Random, depth: usize) -> Value {
    let names = ["a", "b", "c", "d e", "é"];
    let mut properties = Map::new();
    for name in names.iter().take(1 + random.below(names.len())) {
        properties.insert((*name).to_owned(), property(random, depth));
    }
    let required: Vec<&String> = properties.keys().filter(|_| random.chance(2)).collect();
    let mut schema = json!({"type": "object", "required": required});
    if random.chance(6) {
        schema["additionalProperties"] = json!(false);
    }
    schema["properties"] = Value::Object(properties);
    schema
}

/// A value that often satisfies a schema.
fn sample(random: &mut Random, schema: &Value) -> Value {
    if random.chance(12) {
        return noise(random);
    }
    if let Some(values) = schema["enum"].as_array() {
        return random.pick(values).clone();
    }
    if schema.get("anyOf").is_some() {
        return json!(random.below(7));
    }
    if schema.get("x-ref").is_some() {
        return if random.chance(2) { json!("b1") } else { json!({"id": "b1"}) };
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().unwrap_or("null")],
    };
    match *random.pick(&kinds) {
        "boolean" => json!(random.chance(2)),
        "integer" => integer(random),
        "number" => {
            if random.chance(3) {
                integer(random)
            } else {
                json!((random.below(4000) as f64 - 2000.0) / 100.0)
            }
        }
        "string" => string(random, schema),
        "array" => (0..random.below(4)).map(|_| sample(random, &schema["items"])).collect(),
        "object" if schema["properties"].is_object() => {
            let properties = schema["properties"].as_object().unwrap();
            let mut fields: Map<String, Value> = Map::new();
            for (name, property) in properties {
                if !random.chance(8) {
                    fields.insert(name.clone(), sample(random, property));
                }
            }
            if random.chance(6) {
                fields.insert("unknown".to_owned(), noise(random));
            }
            Value::Object(fields)
        }
        "object" => {
            let value = &schema["additionalProperties"];
            (0..random.below(5)).map(|at| (format!("k{at}"), sample(random, value))).collect::<Map<_, _>>().into()
        }
        _ => Value::Null,
    }
}

fn integer(random: &mut Random) -> Value {
    match random.below(12) {
        0 => json!(i64::MAX),
        1 => json!(u64::MAX),
        2 => json!(-3.0),
        3 => json!(1e300),
        4 => json!(i64::MIN),
        _ => json!(random.below(24) as i64 - 12),
    }
}

fn string(random: &mut Random, schema: &Value) -> Value {
    let times = [
        "2024-02-29T12:00:00Z",
        "2023-02-29T12:00:00Z",
        "2024-01-01t00:00:00.1234567z",
        "0000-01-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "2016-12-31T15:59:60-08:00",
        "9999-12-31T23:59:59-01:00",
        "2024-01-01T00:00:00",
        "2024-01-01 00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00.Z",
        "2024-01-01",
    ];
    let dates = ["2024-02-29", "2023-02-29", "0000-01-01", "2024-1-1", "2024-01-01Z"];
    let uuids = ["123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000", "123e4567e89b12d3a456426614174000", "x"];
    let durations = ["00:00:01", "1.00:00:00.5", "25:00:00", "-00:00:01.1234567", "1:00:00"];
    let texts = ["", "a", "ab", "1f", "123", "axb", "a\nb", "xü", "üx", "None", "Active", "😀😀😀😀", "ab12cd"];
    let pool: &[&str] = match (schema["format"].as_str(), schema.get("x-duration")) {
        (Some("date-time"), _) => &times,
        (Some("date"), _) => &dates,
        (Some("uuid"), _) => &uuids,
        (_, Some(_)) => &durations,
        _ => &texts,
    };
    json!(*random.pick(pool))
}

fn noise(random: &mut Random) -> Value {
    random
        .pick(&[json!(null), json!(true), json!(7), json!(-0.5), json!("text"), json!([]), json!([1, "a"]), json!({}), json!({"id": 1})])
        .clone()
}

#[test]
fn refused_is_schema_invalid_or_unstorable_and_the_reverse() {
    let mut random = Random::new("contracts");
    let (mut valid, mut refused, mut unstorable) = (0, 0, 0);
    for _ in 0..SCHEMAS {
        let schema = object(&mut random, 0);
        let oracle = full_validator(&schema).unwrap();
        let text = schema.to_string();
        let contract =
            Contract::from_texts("E", vec![(1, PathBuf::from("1.json"), text)]).unwrap_or_else(|error| panic!("{error}: {schema}"));
        let version = contract.latest();
        let mut slots = vec![0; version.root.properties.len()];
        for _ in 0..RECORDS {
            let record = loop {
                let record = sample(&mut random, &schema);
                if record.is_object() {
                    break record;
                }
            };
            let text = record.to_string();
            let mut tape = Tape::new();
            let root = tape.parse(text.as_bytes(), 0..text.len(), 64).unwrap();
            let value = tape.value(text.as_bytes(), root);
            let checked = Checker::new(&contract, version, false).check(value, &mut slots);
            let is_valid = oracle.is_valid(&record);
            assert_eq!(checked.is_ok(), is_valid, "{record} under {schema}: {checked:?}");
            if checked.is_err() {
                refused += 1;
                continue;
            }
            valid += 1;
            let stored = version.root.properties.iter().filter_map(|p| Some(storable(&p.shape, value.get(&p.name)?))).find_map(Result::err);
            if let Some(refusal) = stored {
                unstorable += 1;
                let storage = [RejectCode::NumberOverflow, RejectCode::InvalidTimestamp];
                assert!(storage.contains(&refusal.code), "{record} under {schema}: {refusal:?}");
            }
        }
    }
    eprintln!("{} cases: {valid} valid, {unstorable} of them unstorable, {refused} refused", SCHEMAS * RECORDS);
    assert!(valid > 2000 && refused > 2000 && unstorable > 20);
}

#[test]
fn a_contract_of_the_project_loads_and_describes_its_columns() {
    let schemas = crate::support::root().join("schemas");
    for entry in std::fs::read_dir(&schemas).unwrap() {
        let entity = entry.unwrap().file_name().into_string().unwrap();
        let contract = Contract::load(&schemas, &entity).unwrap_or_else(|error| panic!("{error}"));
        for property in &contract.latest().root.properties {
            assert!(property.shape.description.is_some(), "{entity}.{} has no description", property.name);
        }
    }
}
