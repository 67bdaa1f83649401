//! Makes bronze: objects as Firehose and the backfills leave them, with as much mess as asked for, and a manifest of
//! what a correct run makes of them. It is the data of the tests, the benchmarks and the demonstrations.
//!
//! `cargo run --release --example bronze -- --out /tmp/bronze --entities FaultData --countries de,fr --records 100000
//! --mess 0.01 --duplicates 0.01 --object-bytes 1MiB`
//!
//! Design: an object, and every record in it, is a pure function of the arguments and of its place (`layout`, `records`,
//! seeded by hashes in `rng`). So objects can be written by any thread in constant memory, and a duplicate is an earlier
//! record written again. A record comes from a table of fields (`entities`, interpreted by `fields`); a defect
//! edits the bytes of a sound record (`mess`, `splice`); `object` puts records together and counts what is to be
//! expected of each as it writes it (`manifest`).

#![allow(clippy::print_stderr, reason = "a command line tool")]

mod args;
mod entities;
mod fields;
mod layout;
mod manifest;
mod mess;
mod names;
mod object;
mod records;
mod rng;
mod sink;
mod splice;
mod text;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fs, io, thread};

use clap::Parser;

use crate::args::{Args, Settings};
use crate::layout::Job;
use crate::manifest::{Tally, expected};

/// Bytes of a record before any has been measured.
const FIRST_GUESS: u64 = 500;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let settings = args.settings()?;
    let manifest_path = manifest_path(args)?;
    prepare(&args.out)?;

    let jobs = jobs(args, &settings)?;
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let tallies = write_all(&args.out, &jobs, threads)?;

    let rows = jobs.iter().zip(&tallies).map(|(job, tally)| (job.entity.name, job.country.as_str(), tally));
    let text = serde_json::to_string_pretty(&expected(&settings, rows))?;
    fs::write(&manifest_path, text + "\n").map_err(|error| format!("cannot write {}: {error}", manifest_path.display()))?;

    let mut total = Tally::default();
    for tally in &tallies {
        total.add(tally);
    }
    let (objects, records, bytes) = total.totals();
    eprintln!("{objects} objects, {records} records, {bytes} decoded bytes; expected results in {}", manifest_path.display());
    Ok(())
}

fn manifest_path(args: &Args) -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = &args.manifest {
        return Ok(path.clone());
    }
    let name = args.out.file_name().ok_or_else(|| format!("--out {} has no name: give --manifest", args.out.display()))?;
    let mut name = name.to_owned();
    name.push(".manifest.json");
    Ok(args.out.with_file_name(name))
}

/// Other objects in the directory would make the manifest wrong.
fn prepare(out: &Path) -> Result<(), Box<dyn Error>> {
    let context = |error: io::Error| format!("cannot use {}: {error}", out.display());
    fs::create_dir_all(out).map_err(context)?;
    match fs::read_dir(out).map_err(context)?.next() {
        None => Ok(()),
        Some(_) => Err(format!("{} is not empty", out.display()).into()),
    }
}

fn jobs<'a>(args: &Args, settings: &'a Settings) -> Result<Vec<Job<'a>>, Box<dyn Error>> {
    let (entities, countries) = (args.entities()?, args.countries()?);
    let count = (entities.len() * countries.len()) as u64;
    let budget = args.size.map(|bytes| bytes / count.max(1));
    let mut jobs = Vec::new();
    for (ordinal, entity) in entities {
        for country in &countries {
            let draft = Job::new(settings, ordinal, entity, country, budget, FIRST_GUESS);
            let average = object::average_bytes(&draft);
            jobs.push(Job::new(settings, ordinal, entity, country, budget, average));
        }
    }
    Ok(jobs)
}

/// Writes the objects of all jobs. One tally per job.
fn write_all(out: &Path, jobs: &[Job], threads: usize) -> Result<Vec<Tally>, Box<dyn Error>> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let parts: Vec<Result<Vec<Tally>, String>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(out, jobs, &next, &failed))).collect();
        let joined = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|part| part.unwrap_or_else(|_| Err("a thread stopped on a bug".to_owned()))).collect()
    });
    let mut tallies = vec![Tally::default(); jobs.len()];
    for part in parts {
        for (tally, part) in tallies.iter_mut().zip(part?) {
            tally.add(&part);
        }
    }
    Ok(tallies)
}

/// Takes one object after the other until there are no more.
fn work(out: &Path, jobs: &[Job], next: &AtomicU64, failed: &AtomicBool) -> Result<Vec<Tally>, String> {
    let mut tallies = vec![Tally::default(); jobs.len()];
    while !failed.load(Ordering::Relaxed) {
        let Some((job, index)) = find(jobs, next.fetch_add(1, Ordering::Relaxed)) else {
            break;
        };
        if let Err(error) = object::write(out, &jobs[job], index, &mut tallies[job]) {
            failed.store(true, Ordering::Relaxed);
            return Err(error);
        }
    }
    Ok(tallies)
}

/// Job and object of a running number over all jobs.
fn find(jobs: &[Job], number: u64) -> Option<(usize, u64)> {
    let mut rest = number;
    for (at, job) in jobs.iter().enumerate() {
        match rest.checked_sub(job.objects()) {
            Some(left) => rest = left,
            None => return Some((at, rest)),
        }
    }
    None
}
