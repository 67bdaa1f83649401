//! `etl compact`: few large files instead of many small ones.

use std::collections::BTreeSet;

use clap::Args;
use comfy_table::Cell;

use super::{Format, Places, Tuning, bytes, output, settings};
use crate::job::{Job, entities_named, trimmed};
use crate::run::care::{self, Options, TableCare, TablePlan};
use crate::run::{RunError, Settings};

#[derive(Debug, Args)]
pub struct CompactArgs {
    /// Entity, comma list, or all; may be repeated
    #[arg(long, env = "ETL_ENTITY", value_delimiter = ',', required = true, value_name = "E")]
    entity: Vec<String>,
    /// Country, comma list, or all; may be repeated
    #[arg(long, env = "ETL_COUNTRY", value_delimiter = ',', default_value = "all", value_name = "C")]
    country: Vec<String>,
    /// Every partition that gains anything, whatever the job's policy says and however young
    #[arg(long, env = "ETL_FORCE")]
    force: bool,
    /// Bytes to read at most [default: the job's compact.max_rewrite_bytes; with --force all]
    #[arg(long, env = "ETL_MAX_REWRITE", value_parser = bytes, value_name = "SIZE")]
    max_rewrite: Option<u64>,
    /// Memory to use [default: what the container or machine has]
    #[arg(long, env = "ETL_MEMORY", value_parser = bytes, value_name = "SIZE")]
    memory: Option<u64>,
    /// Partitions that are put together side by side [default: the number of cores]
    #[arg(long, env = "ETL_THREADS", value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// The databases of countries; `None` for all of them.
pub fn databases(settings: &Settings, entity: &str, countries: &[String]) -> Result<Option<BTreeSet<String>>, RunError> {
    if trimmed(countries).any(|country| country == "all") {
        return Ok(None);
    }
    let job = Job::load(&settings.jobs, entity)?;
    let databases = trimmed(countries).map(|country| Ok(job.source(country)?.database));
    databases.collect::<Result<_, RunError>>().map(Some)
}

pub async fn compact(args: CompactArgs) -> Result<u8, RunError> {
    let defaults = Tuning::default();
    let threads = args.threads.unwrap_or(defaults.threads).max(1);
    let tuning = Tuning { threads, memory: args.memory.or(defaults.memory), ..defaults };
    let run_id = uuid::Uuid::now_v7().to_string();
    let settings = settings(run_id, &args.places, None, tuning).await?;
    super::run::end_on_signal(settings.stop.clone(), std::time::Duration::MAX);
    let mut done = Vec::new();
    for entity in entities_named(&args.places.jobs, &args.entity)? {
        let databases = databases(&settings, &entity, &args.country)?;
        let options = Options { databases, force: args.force, max_rewrite: args.max_rewrite, clean_log: true };
        done.extend(care::compact(&settings, &entity, &options).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "tables": done }));
    } else {
        report(&done);
    }
    Ok(if settings.stop.is_asked() { 143 } else { 0 })
}

fn report(done: &[TableCare]) {
    let mut table = output::table(&["table", "partitions", "files", "became", "bytes", "became", "rows", "left", "seconds"]);
    for care in done {
        table.add_row(vec![
            Cell::new(&care.table),
            output::number(care.partitions),
            output::number(care.files_removed),
            output::number(care.files_added),
            Cell::new(output::size(care.bytes_removed)),
            Cell::new(output::size(care.bytes_added)),
            output::number(care.rows),
            Cell::new(output::size(care.left_bytes)),
            Cell::new(format!("{:.1}", care.seconds)),
        ]);
    }
    output::println(&table.trim_fmt());
    for care in done {
        if care.open_partitions > 0 {
            let partitions = output::counted(care.open_partitions, "partition", "partitions");
            output::println(&format!("{}: {partitions} younger than compact.only_partitions_older_than were left alone", care.table));
        }
        if care.outdated > 0 {
            let bins = output::counted(care.outdated, "group of files", "groups of files");
            output::println(&format!("{}: {bins} changed meanwhile and stayed as they are", care.table));
        }
        if care.log_files_removed > 0 {
            let files = output::counted(care.log_files_removed, "old commit or checkpoint", "old commits and checkpoints");
            output::println(&format!("{}: {files} left the log", care.table));
        }
    }
}

/// What it would do.
pub fn plans(plans: &[TablePlan]) {
    let head = ["table", "files", "bytes", "due partitions", "rewrite", "files", "become", "left", "GETs", "PUTs", "seconds", "$"];
    let mut table = output::table(&head);
    for plan in plans {
        table.add_row(vec![
            Cell::new(&plan.table),
            output::number(plan.files),
            Cell::new(output::size(plan.bytes)),
            output::number(plan.partitions),
            Cell::new(output::size(plan.rewrite_bytes)),
            output::number(plan.rewrite_files),
            output::number(plan.becomes_files),
            Cell::new(output::size(plan.left_bytes)),
            output::number(plan.estimate.gets),
            output::number(plan.estimate.puts),
            Cell::new(format!("{:.0}", plan.estimate.seconds)),
            Cell::new(format!("{:.4}", plan.estimate.requests_usd + plan.estimate.task_usd)),
        ]);
    }
    output::println(&table.trim_fmt());
}
