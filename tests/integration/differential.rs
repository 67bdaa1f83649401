//! Framer and decoder against themselves, the quick ways against the exact ones: shared by tests and the fuzz target.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use silversmith::bronze::path_values;
use silversmith::contract::Contract;
use silversmith::domain::{BronzeObject, Layout};
use silversmith::engine::local::codec;
use silversmith::engine::local::decode::Origin;
use silversmith::engine::local::enrich::{Enriched, Part, Place};
use silversmith::engine::local::frame::{Coverage, Framer, Frames};
use silversmith::engine::local::rows::{Program, Rows, transform};
use silversmith::job::Job;
use silversmith::plan::{BatchPlan, SourcePlan};

pub const ENTITIES: [&str; 7] = ["FaultData", "Trip", "Device", "Diagnostic", "User", "StatusData", "LogRecord"];
pub const UNKNOWN: [&str; 3] = ["rescue", "quarantine", "ignore"];

/// The project's own job and contract of an entity.
pub fn plan(entity: &str, unknown: &str) -> BatchPlan {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(format!("jobs/{entity}.yaml"))).unwrap();
    let job = Job::from_text(&format!("{entity}.yaml"), format!("{text}\nunknown_fields: {unknown}\n")).unwrap();
    let contract = Arc::new(Contract::load(&root.join("schemas"), entity).unwrap());
    let of = SourcePlan::new(job.source("de").unwrap(), Arc::new(job), contract).unwrap();
    BatchPlan { of, batch: "b".to_owned(), ingested_at: 0, objects: Vec::new(), again: BTreeMap::default(), extent: None }
}

/// Records as lines of one chunk.
pub fn chunk(records: &[Vec<u8>], base: u64) -> Frames {
    let mut bytes = Vec::new();
    let mut ranges = Vec::new();
    for record in records {
        let start = bytes.len();
        bytes.extend_from_slice(record);
        ranges.push(start..bytes.len());
        bytes.push(b'\n');
    }
    Frames { bytes: Bytes::from(bytes), base, records: ranges, refused: Vec::new() }
}

/// How many of the records went the quick way and were sound, and how many went the other.
pub fn compare(records: &[Vec<u8>], key: &str, layout: Layout, plan: &BatchPlan) -> (usize, usize) {
    let object = BronzeObject { key: key.to_owned(), version: String::new(), size: 0, layout, path: path_values(key) };
    let origin = Origin { object: Arc::new(object), file: key.into() };
    let quick = transform(chunk(records, 77), &origin, plan, &Program::new(plan)).unwrap();
    let exact = transform(chunk(records, 77), &origin, plan, &Program::new(plan).exactly()).unwrap();
    let shown = || String::from_utf8_lossy(&records.join(&b'\n')).into_owned();
    assert_eq!(quick.parts[0].rejects, exact.parts[0].rejects, "{}", shown());
    assert_eq!(quick.rows, exact.rows, "{}", shown());
    assert_eq!((&quick.versions, &quick.deletes, &quick.prefixes), (&exact.versions, &exact.deletes, &exact.prefixes));
    assert_eq!((&quick.hashes.keys, &quick.hashes.contents), (&exact.hashes.keys, &exact.hashes.contents));
    let places =
        |rows: &Enriched| -> Vec<(u64, Bytes)> { rows.records().map(|(part, place)| (part.offset(place), part.raw(place))).collect() };
    assert_eq!(places(&quick), places(&exact));
    assert_eq!(quick.parts[0].read, records.len() as u64);
    assert_eq!(exact.exact, records.len());
    compare_shared(records, key, layout, plan);
    (records.len() - quick.exact, quick.exact)
}

/// Streams that share their columns have the rows that each of them has alone, and the refusals.
fn compare_shared(records: &[Vec<u8>], key: &str, layout: Layout, plan: &BatchPlan) {
    let program = Program::new(plan);
    let mut shared = Rows::new(1, plan, &program);
    let streams = records.chunks(records.len().div_ceil(3).max(1)).zip(0..).map(|(records, nth)| {
        let key = format!("{key}.{nth}");
        let object = BronzeObject { key: key.clone(), version: String::new(), size: 0, layout, path: path_values(&key) };
        (records, nth * 10, Origin { object: Arc::new(object), file: key.into() })
    });
    let alone: Vec<Enriched> = streams
        .map(|(records, base, origin)| {
            shared.read(chunk(records, base), &origin);
            transform(chunk(records, base), &origin, plan, &program).unwrap()
        })
        .collect();
    let shared = shared.finish().unwrap();
    let lists = |of: &Enriched| {
        of.versions.iter().zip(&of.deletes).zip((0..).map(|row| of.prefixes.get(row))).map(|row| format!("{row:?}")).collect()
    };
    let hashes = |of: &Enriched| of.hashes.keys.iter().zip(&of.hashes.contents).map(|row| format!("{row:?}")).collect();
    let places = |of: &Enriched| {
        let place = |(part, place): (&Part, Place)| format!("{} {} {:?}", part.origin.file, part.offset(place), part.raw(place));
        of.records().map(place).collect()
    };
    let refused = |of: &Enriched| of.parts.iter().map(|part| format!("{} {:?}", part.read, part.rejects)).collect();
    let rows: Vec<RecordBatch> = alone.iter().map(|alone| alone.rows.clone()).collect();
    assert_eq!(shared.rows, concat_batches(&shared.rows.schema(), &rows).unwrap());
    for same in [&lists as &dyn Fn(&Enriched) -> Vec<String>, &hashes, &places, &refused] {
        assert_eq!(same(&shared), alone.iter().flat_map(same).collect::<Vec<_>>());
    }
}

/// Records and refused ranges with their offsets, however large the blocks are that the bytes come in.
type Framed = (Vec<(u64, Vec<u8>)>, Vec<(u64, u64, &'static str)>, Coverage);

fn framed(bytes: &[u8], records_at: &[Vec<String>], block: Option<usize>) -> Framed {
    let length = bytes.len() as u64;
    let plain = codec::open(Box::new(Cursor::new(bytes.to_vec())), length, 1 << 20, 1 << 20);
    // Archives hold several streams; what is compressed is another part's matter.
    let Some(stream) = plain.ok().filter(|streams| streams.len() == 1).map(|mut streams| streams.remove(0)) else {
        return (Vec::new(), Vec::new(), Coverage::default());
    };
    let mut framer = Framer::new(stream, records_at, 1 << 16);
    if let Some(block) = block {
        framer = framer.with_block(block);
    }
    let (mut records, mut refused) = (Vec::new(), Vec::new());
    while let Ok(Some(frames)) = framer.next_frames() {
        records.extend(frames.records.iter().map(|range| (frames.base + range.start as u64, frames.bytes[range.clone()].to_vec())));
        refused.extend(frames.refused.iter().map(|refused| (refused.offset, refused.length, refused.code.name())));
    }
    (records, refused, framer.coverage())
}

static PLANS: LazyLock<Vec<BatchPlan>> =
    LazyLock::new(|| ENTITIES.iter().flat_map(|entity| UNKNOWN.map(|unknown| plan(entity, unknown))).collect());

/// An object behind two bytes that say whose it is and how it is read: its frames do not depend on blocks and cover every byte, and both
/// ways of decoding make the same of them.
pub fn examine(input: &[u8]) {
    let [which, how, object @ ..] = input else { return };
    let plan = &PLANS[usize::from(*which) % PLANS.len()];
    let records_at = &plan.of.job.records_at;
    let (records, refused, coverage) = framed(object, records_at, None);
    assert!(coverage.balances(), "{coverage:?}");
    let block = 1 + usize::from(how >> 1) * 5;
    let (in_blocks, refused_in_blocks, coverage_in_blocks) = framed(object, records_at, Some(block));
    assert_eq!((&in_blocks, &refused_in_blocks, coverage_in_blocks), (&records, &refused, coverage), "in blocks of {block} bytes");
    let (key, layout) = if how & 1 == 0 {
        ("database=fleetdb_de/entity=E/year=2024/month=01/day=02/o", Layout::Firehose)
    } else {
        ("database=fleetdb_de/entity=E/year=2024/o", Layout::YearRoot)
    };
    let key = key.replace("entity=E", &format!("entity={}", plan.of.source.entity));
    let records: Vec<Vec<u8>> = records.into_iter().map(|(_, record)| record).collect();
    compare(&records, &key, layout, plan);
}
