//! Each step of the local engine by itself, on one core: `cargo bench --bench steps`, or `… -- frame` for one of them.
//!
//! Input are the sound records of the fixtures' plain objects, repeated to some MiB; throughput is of decoded JSON. Where a step has a
//! peer that everybody knows, it runs beside it: serde_json's values beside the tape, the exact way beside the quick one. Ratios of one
//! run are worth something, times are this machine's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark ends where something is wrong")]

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use object_store::memory::InMemory;
use silversmith::bronze::path_values;
use silversmith::contract::Contract;
use silversmith::domain::json::Tape;
use silversmith::domain::{BronzeObject, Layout};
use silversmith::engine::local::codec;
use silversmith::engine::local::decode::Origin;
use silversmith::engine::local::frame::{Framer, Frames};
use silversmith::engine::local::rows::{Program, transform};
use silversmith::job::Job;
use silversmith::plan::{BatchPlan, SourcePlan};
use silversmith::silver::Table;
use silversmith::silver::keys::RowHashes;
use silversmith::silver::write::TableWriter;
use silversmith::store::Store;

const ENTITIES: [&str; 4] = ["FaultData", "StatusData", "LogRecord", "Device"];
const BYTES: usize = 4 << 20;
const KEY: &str = "year=2025/month=01/day=05/o";

fn main() {
    divan::main();
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn plan(entity: &str) -> BatchPlan {
    let job = Arc::new(Job::load(&root().join("jobs"), entity).unwrap());
    let contract = Arc::new(Contract::load(&root().join("schemas"), entity).unwrap());
    let of = SourcePlan::new(job.source("de").unwrap(), job, contract).unwrap();
    BatchPlan { of, batch: "b".to_owned(), ingested_at: 0, objects: Vec::new(), again: BTreeMap::new(), extent: None }
}

fn origin(entity: &str) -> Origin {
    let key = format!("database=fleetdb_de/entity={entity}/{KEY}");
    let object = BronzeObject { key: key.clone(), version: String::new(), size: 0, layout: Layout::Firehose, path: path_values(&key) };
    Origin { object: Arc::new(object), file: key.as_str().into() }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Sound records of an entity as lines, some MiB of them.
fn lines(entity: &str) -> Vec<u8> {
    let (plan, origin) = (plan(entity), origin(entity));
    let mut found = Vec::new();
    files(&root().join(format!("fixtures/bronze/database=fleetdb_de/entity={entity}/year=2025")), &mut found);
    let mut sound = Vec::new();
    for file in found {
        let bytes = std::fs::read(file).unwrap();
        let Ok(mut streams) = codec::open(Box::new(Cursor::new(bytes.clone())), bytes.len() as u64, u64::MAX, 1 << 30) else { continue };
        let mut framer = Framer::new(streams.remove(0), &[], 1 << 24);
        while let Ok(Some(Frames { bytes, records, .. })) = framer.next_frames() {
            for range in records {
                let records = std::iter::once(0..range.len()).collect();
                let alone = Frames { bytes: bytes.slice(range.clone()), base: 0, records, refused: Vec::new() };
                if transform(alone, &origin, &plan, &Program::new(&plan)).unwrap().parts[0].rejects.is_empty() {
                    sound.extend_from_slice(&bytes[range]);
                    sound.push(b'\n');
                }
            }
        }
    }
    assert!(!sound.is_empty(), "the fixtures have no sound record of {entity}");
    sound.repeat(BYTES.div_ceil(sound.len()))
}

fn frames(lines: &[u8]) -> Vec<Frames> {
    let mut streams = codec::open(Box::new(Cursor::new(lines.to_vec())), lines.len() as u64, u64::MAX, 1 << 30).unwrap();
    let mut framer = Framer::new(streams.remove(0), &[], 1 << 24);
    std::iter::from_fn(|| framer.next_frames().unwrap()).collect()
}

fn again(frames: &Frames) -> Frames {
    Frames { bytes: frames.bytes.clone(), base: frames.base, records: frames.records.clone(), refused: Vec::new() }
}

#[divan::bench(args = ENTITIES)]
fn inflate_gzip(bencher: Bencher, entity: &str) {
    let lines = lines(entity);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&lines).unwrap();
    let packed = Bytes::from(encoder.finish().unwrap());
    bencher.counter(BytesCount::new(lines.len())).bench(|| {
        let mut streams = codec::open(Box::new(Cursor::new(packed.clone())), packed.len() as u64, u64::MAX, 1 << 30).unwrap();
        let (mut stream, mut buffer, mut all) = (streams.remove(0), Vec::new(), 0);
        loop {
            buffer.clear();
            match stream.read_into(&mut buffer, 1 << 20).unwrap() {
                0 => return all,
                read => all += read,
            }
        }
    });
}

#[divan::bench(args = ENTITIES)]
fn frame(bencher: Bencher, entity: &str) {
    let lines = lines(entity);
    bencher.counter(BytesCount::new(lines.len())).bench(|| frames(&lines).iter().map(|frames| frames.records.len()).sum::<usize>());
}

#[divan::bench(args = ENTITIES)]
fn parse(bencher: Bencher, entity: &str) {
    let lines = lines(entity);
    let frames = frames(&lines);
    let mut tape = Tape::new();
    bencher.counter(BytesCount::new(lines.len())).bench_local(|| {
        for Frames { bytes, records, .. } in &frames {
            for range in records {
                divan::black_box(tape.parse(bytes, range.clone(), 64).unwrap());
            }
        }
    });
}

#[divan::bench(args = ENTITIES)]
fn parse_by_serde_json(bencher: Bencher, entity: &str) {
    let lines = lines(entity);
    let frames = frames(&lines);
    bencher.counter(BytesCount::new(lines.len())).bench(|| {
        for Frames { bytes, records, .. } in &frames {
            for range in records {
                divan::black_box(serde_json::from_slice::<serde_json::Value>(&bytes[range.clone()]).unwrap());
            }
        }
    });
}

/// Parse, reconcile, validate, enrich, hash: everything from frames to columns.
#[divan::bench(args = ENTITIES)]
fn rows(bencher: Bencher, entity: &str) {
    rows_by(bencher, entity, Program::new);
}

#[divan::bench(args = ENTITIES)]
fn rows_the_exact_way(bencher: Bencher, entity: &str) {
    rows_by(bencher, entity, |plan| Program::new(plan).exactly());
}

fn rows_by(bencher: Bencher, entity: &str, program: impl Fn(&BatchPlan) -> Program) {
    let (lines, plan, origin) = (lines(entity), plan(entity), origin(entity));
    let (frames, program) = (frames(&lines), program(&plan));
    bencher.counter(BytesCount::new(lines.len())).bench_local(|| {
        for frames in &frames {
            divan::black_box(transform(again(frames), &origin, &plan, &program).unwrap());
        }
    });
}

/// Rows of silver, chunk by chunk, as they come from [`transform`].
fn silver(entity: &str, lines: &[u8]) -> (BatchPlan, Vec<RecordBatch>) {
    let (plan, origin) = (plan(entity), origin(entity));
    let program = Program::new(&plan);
    let rows = frames(lines).into_iter().map(|frames| transform(frames, &origin, &plan, &program).unwrap().rows).collect();
    (plan, rows)
}

#[divan::bench(args = ENTITIES)]
fn hash_keys_and_contents(bencher: Bencher, entity: &str) {
    let lines = lines(entity);
    let (plan, rows) = silver(entity, &lines);
    bencher.counter(BytesCount::new(lines.len())).bench(|| {
        for rows in &rows {
            divan::black_box(RowHashes::of(rows, &plan.of.columns).unwrap());
        }
    });
}

/// Rows → Parquet files by partition, with statistics, to memory.
#[divan::bench(args = ENTITIES)]
fn encode(bencher: Bencher, entity: &str) {
    let lines = lines(entity);
    let (plan, rows) = silver(entity, &lines);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bencher.counter(BytesCount::new(lines.len())).bench_local(|| {
        runtime.block_on(async {
            let store = Store::over(Arc::new(InMemory::new()), url::Url::parse("memory:///silver/").unwrap()).unwrap();
            let (job, columns) = (&plan.of.job, &plan.of.columns);
            let schema = rows[0].schema();
            let table = Table::at(&store, entity);
            let mut writer = TableWriter::new(&table, schema, &columns.partition_by, job.table, job.limits.open_partitions);
            for rows in &rows {
                writer.write(rows).await.unwrap();
            }
            writer.close().await.unwrap().len()
        })
    });
}
