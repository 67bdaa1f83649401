//! The framer against a naive splitter: records that are known beforehand, put together in every form.

use std::io::Cursor;

use serde_json::{Value, json};
use silversmith::engine::local::codec;
use silversmith::engine::local::frame::Framer;

use crate::support::Random;

fn frames(bytes: &[u8], block: usize) -> Vec<Vec<u8>> {
    let pointers = vec![vec!["result".to_owned(), "data".to_owned()]];
    let mut streams = codec::open(Box::new(Cursor::new(bytes.to_vec())), bytes.len() as u64, u64::MAX / 2, 1 << 20).unwrap();
    let mut framer = Framer::new(streams.remove(0), &pointers, 1 << 20).with_block(block);
    let mut records = Vec::new();
    while let Some(frames) = framer.next_frames().unwrap() {
        assert!(frames.refused.is_empty());
        records.extend(frames.records.iter().map(|range| frames.bytes[range.clone()].to_vec()));
    }
    assert!(framer.coverage().balances());
    records
}

fn value(random: &mut Random, depth: usize) -> Value {
    let texts = ["", "}{", "]\",", "\\", "a\"b", "\n{\"x\":1}", "ü€😀", "[[", "\u{0}", "plain"];
    match random.below(if depth > 3 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(random.chance(2)),
        2 => json!(random.next() as i64 % 1000),
        3 => json!(random.below(1000) as f64 / 7.0),
        4 => json!(*random.pick(&texts)),
        5 => (0..random.below(4)).map(|_| value(random, depth + 1)).collect(),
        _ => object(random, depth + 1),
    }
}

fn object(random: &mut Random, depth: usize) -> Value {
    let keys = ["id", "device", "a b", "}", "\"", "dateTime", "ключ"];
    let mut fields = serde_json::Map::new();
    for _ in 0..random.below(5) {
        fields.insert((*random.pick(&keys)).to_owned(), value(random, depth));
    }
    Value::Object(fields)
}

fn text(random: &mut Random) -> String {
    let object = object(random, 0);
    if random.chance(4) { serde_json::to_string_pretty(&object).unwrap() } else { object.to_string() }
}

/// (bytes, records) of one object in a random form.
fn put_together(random: &mut Random, records: Vec<String>) -> (String, Vec<String>) {
    let separators = ["", "\n", "\r\n", " ", "\n\n \t"];
    let separator = *random.pick(&separators);
    let body = match random.below(4) {
        0 => format!("[{}]", records.join(&format!(",{separator}"))),
        1 => format!("{{\"result\":{{\"data\":[{}],\"toVersion\":\"0f\"}},\"jsonrpc\":\"2.0\"}}", records.join(&format!("{separator},"))),
        _ => records.join(separator),
    };
    let bom = if random.chance(5) { "\u{feff}" } else { "" };
    let end = if random.chance(2) { separator } else { "" };
    (format!("{bom}{body}{end}"), records)
}

#[test]
fn frames_are_the_records_that_were_put_together() {
    let mut random = Random::new("framing");
    for _ in 0..3000 {
        let records = (0..random.below(8)).map(|_| text(&mut random)).collect();
        let (bytes, records) = put_together(&mut random, records);
        let block = *random.pick(&[1, 2, 5, 64, 1 << 20]);
        let found = frames(bytes.as_bytes(), block);
        let expected: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
        assert_eq!(found, expected, "block {block}: {bytes}");
    }
}

#[test]
fn a_cut_line_costs_itself_only() {
    let mut random = Random::new("cut lines");
    for _ in 0..3000 {
        let line = |n: usize| format!("{{\"id\":\"b{n}\",\"device\":{{\"id\":\"b1\"}},\"note\":\"}}{{\",\"list\":[{{\"a\":1}},2]}}");
        let lines: Vec<String> = (0..5).map(line).collect();
        let cut = random.below(lines.len());
        let length = random.below(lines[cut].len() - 1) + 1;
        let mut damaged = lines.clone();
        damaged[cut].truncate(length);
        let found = frames(damaged.join("\n").as_bytes(), *random.pick(&[1, 7, 1 << 20]));
        assert_eq!(found, damaged.iter().map(String::as_bytes).collect::<Vec<_>>(), "line {cut} cut to {length}");
    }
}

/// Nested objects that begin like records are no records where records are lines.
#[test]
fn a_line_that_lacks_a_byte_is_one_refusal() {
    let mut random = Random::new("damaged lines");
    for _ in 0..6000 {
        let line = |n: usize| {
            format!(
                "{{\"id\":\"u{n}\",\"name\":\"n{n}\",\"groups\":[{{\"id\":\"g{n}\",\"name\":\"a,{{b\"}},{{\"id\":\"h\",\"name\":\"c\"}}],\"of\":{{\"id\":1,\"name\":2}}}}"
            )
        };
        let mut lines: Vec<String> = (0..5).map(line).collect();
        let damaged = 1 + random.below(lines.len() - 1);
        let at = random.below(lines[damaged].len());
        lines[damaged].remove(at);
        let found = frames(lines.join("\n").as_bytes(), *random.pick(&[1, 7, 1 << 20]));
        assert_eq!(found, lines.iter().map(String::as_bytes).collect::<Vec<_>>(), "line {damaged} lacks byte {at}");
    }
}

/// Where nothing more comes, what a damaged record has in it is no record either.
#[test]
fn a_cut_end_is_one_refusal() {
    let nested = "{\"id\":\"u2\",\"name\":\"n\",\"groups\":[{\"id\":\"g1\",\"name\":\"a\"},{\"id\":\"g2\",\"name\":\"b\"}],\"last\":1}";
    for before in ["", "{\"id\":\"u1\",\"name\":\"n\"}\n", "{\"id\":\"u1\",\"name\":\"n\"}\r\n"] {
        for cut in 1..nested.len() {
            for block in [1, 1 << 20] {
                let found = frames([before, &nested[..cut]].concat().as_bytes(), block);
                let expected: Vec<&[u8]> =
                    [before.trim_end(), &nested[..cut]].into_iter().filter(|r| !r.is_empty()).map(str::as_bytes).collect();
                assert_eq!(found, expected, "cut to {}", &nested[..cut]);
            }
        }
    }
}

/// Damage takes no longer than its bytes, however many braces it has.
#[test]
fn braces_without_end_are_looked_at_once() {
    let bytes = ["{\"id\":1,\"n\":2} ", &"{\"a\":".repeat(200_000)].concat();
    assert!(!frames(bytes.as_bytes(), 1 << 20).is_empty());
}

/// A field that is named like what an envelope has makes no envelope of a record among others.
#[test]
fn a_record_with_a_field_like_an_envelope_is_a_record() {
    let records =
        ["{\"id\":\"1\",\"n\":1}", "{\"id\":\"2\",\"n\":1,\"result\":{\"data\":[{\"id\":\"x\",\"n\":2}]}}", "{\"id\":\"3\",\"n\":1}"];
    for separator in ["\n", " ", ""] {
        for block in [1, 7, 1 << 20] {
            let found = frames(records.join(separator).as_bytes(), block);
            assert_eq!(found, records.map(|record| record.as_bytes().to_vec()), "{separator:?}, block {block}");
        }
    }
}

#[test]
fn what_the_bytes_are_never_matters_to_the_count_of_bytes() {
    let mut random = Random::new("noise");
    let alphabet = b"{}[]\",:\\ \n\r\tab01-e.tfn\0\xff\xef\xbb\xbf";
    for _ in 0..20_000 {
        // A first byte that no codec begins with.
        let mut noise = vec![b' '];
        noise.extend((0..random.below(60)).map(|_| *random.pick(alphabet)));
        let whole = frames(&noise, 1 << 20);
        let bytewise = frames(&noise, 1);
        assert_eq!(whole, bytewise, "{:?}", String::from_utf8_lossy(&noise));
    }
}

fn feed_record(n: usize) -> String {
    format!(
        "{{\"dateTime\":\"2025-01-01T00:00:{n:02}.000Z\",\"device\":{{\"id\":\"b1\"}},\"id\":\"b{n}\",\"note\":\"a}}{{,\\\"b\",\"speed\":{n}}}"
    )
}

/// Whatever form a stream has and wherever one of its records is cut: all others arrive.
#[test]
fn neighbours_of_a_cut_record_arrive_in_every_form() {
    let mut random = Random::new("neighbours");
    for round in 0..6000 {
        let records: Vec<String> = (0..5).map(feed_record).collect();
        let cut = random.below(5);
        let mut damaged = records.clone();
        let length = random.below(records[cut].len() - 1) + 1;
        damaged[cut].truncate(length);
        let (form, text) = match round % 4 {
            0 => ("array", format!("[{}]", damaged.join(","))),
            1 => ("envelope", format!("{{\"result\":{{\"data\":[{}],\"toVersion\":\"0f\"}},\"jsonrpc\":\"2.0\"}}", damaged.join(","))),
            2 => ("lines of an array", format!("[\n{}\n]\n", damaged.join(",\n"))),
            _ => ("concatenated", damaged.concat()),
        };
        let block = *random.pick(&[3, 50, 1 << 20]);
        let found = frames(text.as_bytes(), block);
        let lost: Vec<usize> = (0..5).filter(|at| *at != cut && !found.iter().any(|frame| frame == records[*at].as_bytes())).collect();
        assert!(lost.is_empty(), "{form}, record {cut} cut to {:?}: lost {lost:?} of {text}", damaged[cut]);
    }
}
