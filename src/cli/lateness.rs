//! `etl lateness`: how late records arrive, and what that makes of partitions.

use clap::Args;
use comfy_table::Cell;

use super::{Format, Places, Sources, Tuning, output, requests, settings};
use crate::plan::lateness::Lateness;
use crate::run::RunError;
use crate::run::lateness::{self, SourceLateness};

#[derive(Debug, Args)]
pub struct LatenessArgs {
    #[command(flatten)]
    sources: Sources,
    /// Only the newest event days that the table has
    #[arg(long, env = "ETL_DAYS", default_value_t = 30, value_name = "N")]
    days: u64,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub async fn lateness(args: LatenessArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, None, Tuning::default()).await?;
    let mut found = Vec::new();
    for request in requests(&args.places, &args.sources)? {
        found.push(lateness::lateness(&settings, &request.entity, &request.country, args.days).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "jobs": found }));
        return Ok(0);
    }
    arrivals(&found);
    partitions(&found);
    Ok(0)
}

fn told(found: &[SourceLateness]) -> impl Iterator<Item = (&SourceLateness, &Lateness)> {
    found.iter().filter_map(|source| Some((source, source.lateness.as_ref()?)))
}

fn minutes(minutes: i64) -> String {
    match minutes {
        ..0 => "early".to_owned(),
        0..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} d", minutes / 1440),
    }
}

fn arrivals(found: &[SourceLateness]) {
    let steps = ["≤ 1 h", "≤ 6 h", "≤ 1 d", "≤ 2 d", "≤ 7 d", "≤ 30 d"];
    let head = [&["entity", "country", "days", "records"][..], &steps, &["median", "p95", "p99", "most", "early", "backfilled"]].concat();
    let mut table = output::table(&head);
    for source in found {
        let Some(lateness) = &source.lateness else {
            table.add_row(vec![Cell::new(&source.entity), Cell::new(&source.country), Cell::new("no event days")]);
            continue;
        };
        let mut row =
            vec![Cell::new(&source.entity), Cell::new(&source.country), output::number(source.days), output::number(lateness.records)];
        row.extend(lateness.steps.iter().take(steps.len()).map(|step| Cell::new(format!("{:.1} %", 100.0 * step.share))));
        let times = [lateness.median_minutes, lateness.p95_minutes, lateness.p99_minutes, lateness.most_minutes];
        row.extend(times.map(|time| Cell::new(minutes(time))));
        row.extend([output::number(lateness.early), output::number(lateness.backfilled)]);
        table.add_row(row);
    }
    output::println(&table.trim_fmt());
}

fn partitions(found: &[SourceLateness]) {
    let head = ["entity", "country", "batches", "day partitions per batch", "without rows > 1 d late", "by month", "by arrival day"];
    let mut table = output::table(&head);
    for (source, lateness) in told(found) {
        let mean = |mean: f64| Cell::new(format!("{mean:.1}"));
        table.add_row(vec![
            Cell::new(&source.entity),
            Cell::new(&source.country),
            output::number(lateness.batches),
            mean(lateness.partitions_per_batch),
            mean(lateness.partitions_without_late),
            mean(lateness.months_per_batch),
            mean(lateness.arrival_days_per_batch),
        ]);
    }
    let mut delays = output::table(&["entity", "country", "compacted after", "opened again", "bytes to rewrite for it"]);
    for (source, lateness) in told(found) {
        for delay in &lateness.delays {
            delays.add_row(vec![
                Cell::new(&source.entity),
                Cell::new(&source.country),
                Cell::new(format!("{} d", delay.days)),
                output::number(delay.reopened),
                Cell::new(output::size(delay.bytes)),
            ]);
        }
    }
    if told(found).next().is_some() {
        output::println(&format!("\nfiles that a batch writes, by how the table would be partitioned\n{}", table.trim_fmt()));
        let title = "partitions that rows reach after they were compacted, by compact.only_partitions_older_than";
        output::println(&format!("\n{title}\n{}", delays.trim_fmt()));
    }
}
