//! The encoder's half of the machine's limit: what arrow-rs's `ArrowWriter` takes for the rows of a silver folder, ready-made, without
//! partitions, on two threads.
//!
//! `cargo run --release --example encode_floor -- <silver folder> [<rows in a batch>]` reads every Parquet file below the folder into
//! memory, contract columns only (technical ones begin with `_` or are made by the job), and then writes the batches to memory, zstd 1,
//! each thread the half of them. It prints `{"seconds": …, "rows": …, "bytes": …}`, the reading left out.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

const THREADS: usize = 2;
const MADE: [&str; 5] = ["database", "event_date", "year", "month", "day"];

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("which silver folder?")?;
    let rows = args.next().map_or(Ok(8192), |rows| rows.parse())?;
    let mut batches = Vec::new();
    for file in files(Path::new(&folder))? {
        batches.extend(read(&file, rows)?);
    }
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let half = batches.len().div_ceil(THREADS).max(1);
    let started = Instant::now();
    let written: Outcome<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = batches.chunks(half).map(|part| scope.spawn(|| write(part))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("{{\"seconds\": {seconds:.4}, \"rows\": {total}, \"bytes\": {}}}", written?.iter().sum::<usize>());
    Ok(())
}

/// Data files of the entity's table; what lies under `_` belongs to the program.
fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('_') && !name.ends_with("_quarantine") {
                folders.push(path);
            } else if name.ends_with(".parquet") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(file: &Path, rows: usize) -> Outcome<Vec<RecordBatch>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file)?)?;
    let fields = builder.schema().fields().iter().enumerate();
    let of_contract = fields.filter(|(_, field)| !field.name().starts_with('_') && !MADE.contains(&field.name().as_str()));
    let mask = ProjectionMask::roots(builder.parquet_schema(), of_contract.map(|(at, _)| at).collect::<Vec<_>>());
    Ok(builder.with_projection(mask).with_batch_size(rows).build()?.collect::<Result<_, _>>()?)
}

fn write(batches: &[RecordBatch]) -> Outcome<usize> {
    let Some(first) = batches.first() else { return Ok(0) };
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, first.schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(out.len())
}
