//! `etl vacuum`: what nobody needs any more.

use std::time::Duration;

use clap::Args;

use super::{Format, Places, Tuning, output, settings};
use crate::job::{entities_named, parse_duration_setting};
use crate::run::RunError;
use crate::run::vacuum::{SAFE_RETENTION, vacuum};
use crate::silver::vacuum::Why;

#[derive(Debug, Args)]
pub struct VacuumArgs {
    /// Entity, comma list, or all
    #[arg(long, env = "ETL_ENTITY", value_delimiter = ',', required = true, value_name = "E")]
    entity: Vec<String>,
    /// Only files last written longer ago than this
    #[arg(long, env = "ETL_RETENTION", value_parser = retention, default_value = "7 d", value_name = "TIME")]
    retention: Duration,
    /// Allow a retention below 7 days: readers of older versions then lose their files, and so do queries that are under way
    #[arg(long, env = "ETL_FORCE_RETENTION")]
    force_retention: bool,
    /// Remove the files; without it they are only listed
    #[arg(long, env = "ETL_EXECUTE")]
    execute: bool,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

fn retention(text: &str) -> Result<Duration, String> {
    parse_duration_setting(text).ok_or_else(|| "expected a time like 7 d or 12 h".to_owned())
}

pub async fn run(args: VacuumArgs) -> Result<u8, RunError> {
    if args.retention < SAFE_RETENTION && !args.force_retention {
        output::error(
            "with a retention below 7 days, readers of older versions and queries that are under way lose their files; \
             --force-retention allows it",
        );
        return Ok(2);
    }
    if args.retention > SAFE_RETENTION {
        output::error("checkpoints remember removed files for 7 days only, so no longer retention can be kept; leave --retention out");
        return Ok(2);
    }
    let settings = settings(uuid::Uuid::now_v7().to_string(), &args.places, None, Tuning::default()).await?;
    let mut reports = Vec::new();
    for entity in entities_named(&args.places.jobs, &args.entity)? {
        reports.extend(vacuum(&settings, &entity, args.retention, args.execute).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "tables": reports }));
        return Ok(0);
    }
    for report in &reports {
        let files = output::counted(report.files.len() as u64, "file", "files");
        let verb = if report.removed { "removed" } else { "would remove" };
        output::println(&format!("{}: {verb} {files}, {}", report.table, output::size(report.bytes)));
        for file in &report.files {
            let why = match file.why {
                Why::Orphan => "no commit names it",
                Why::Removed => "removed by a commit",
                Why::OldLog => "covered by a checkpoint",
                Why::OldLedger => "covered by a snapshot of the ledger",
            };
            output::println(&format!("  {} {} {}: {why}", file.modified.format("%F %TZ"), output::size(file.bytes), file.path));
        }
    }
    if !args.execute && reports.iter().any(|report| !report.files.is_empty()) {
        output::say("nothing was removed; --execute removes them");
    }
    Ok(0)
}
