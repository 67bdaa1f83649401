//! `etl reprocess` and `etl ledger show|forget`: reading objects once more.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::run::{Console, text_report};
use super::{Format, Places, Tuning, date, output, settings};
use crate::run::report::RunReport;
use crate::run::reprocess::{Again, Wanted, forget, look, objects, reprocess};
use crate::run::{Request, RunError, Settings};

#[derive(Debug, Args)]
struct OneSource {
    /// Entity
    #[arg(long, env = "ETL_ENTITY", value_name = "E")]
    entity: String,
    /// Country
    #[arg(long, env = "ETL_COUNTRY", value_name = "C")]
    country: String,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl OneSource {
    fn request(&self) -> Request {
        Request { entity: self.entity.clone(), country: self.country.clone() }
    }

    async fn settings(&self) -> Result<Settings, RunError> {
        settings(uuid::Uuid::now_v7().to_string(), &self.places, None, Tuning::default()).await
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Which {
    /// An object, as `_source_file` names it; may be repeated
    #[arg(long, env = "ETL_OBJECT", value_name = "KEY")]
    object: Vec<String>,
    /// All objects of a path day
    #[arg(long, env = "ETL_DAY", value_parser = date, value_name = "DATE")]
    day: Option<i32>,
}

#[derive(Debug, Args)]
pub struct ReprocessArgs {
    #[command(flatten)]
    source: OneSource,
    #[command(flatten)]
    which: Which,
    /// Do it; without it only what would be done is shown
    #[arg(long, env = "ETL_EXECUTE")]
    execute: bool,
}

#[derive(Debug, Args)]
pub struct LedgerArgs {
    #[command(subcommand)]
    verb: LedgerVerb,
}

#[derive(Debug, Subcommand)]
enum LedgerVerb {
    /// Show which objects were committed, and by which batch
    Show(ShowArgs),
    /// Let the next run read objects again
    Forget(ReprocessArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    source: OneSource,
    /// Only objects whose key begins with this
    #[arg(long, env = "ETL_OBJECT", default_value = "", hide_default_value = true, value_name = "PREFIX")]
    object: String,
    /// Objects at the most
    #[arg(long, env = "ETL_LIMIT", default_value_t = 50, value_name = "N")]
    limit: usize,
}

pub async fn run(args: ReprocessArgs) -> Result<u8, RunError> {
    let Some((settings, again)) = shown(&args, "would be read again, at once").await? else { return Ok(0) };
    let console = Console::new();
    let report = Box::pin(reprocess(&settings, &args.source.request(), &keys(&again), &console)).await?;
    let report = RunReport::of(settings.run_id.clone(), vec![report]);
    match args.source.output {
        Format::Json => output::json(&report),
        Format::Text => text_report(&report),
    }
    Ok(report.exit)
}

pub async fn ledger(args: LedgerArgs) -> Result<u8, RunError> {
    match args.verb {
        LedgerVerb::Show(args) => show(args).await,
        LedgerVerb::Forget(args) => {
            let Some((settings, again)) = shown(&args, "would be read again by the next run").await? else { return Ok(0) };
            let count = forget(&settings, &args.source.request(), &keys(&again)).await?;
            match args.source.output {
                Format::Json => output::json(&serde_json::json!({ "forgotten": count, "objects": again })),
                Format::Text => {
                    output::println(&format!("the next run reads {} again", output::counted(count as u64, "object", "objects")));
                }
            }
            Ok(0)
        }
    }
}

fn keys(again: &[Again]) -> BTreeSet<String> {
    again.iter().filter(|object| object.size.is_some()).map(|object| object.key.clone()).collect()
}

/// Shows what would be done; `None` where that is all that was asked for.
async fn shown(args: &ReprocessArgs, what: &str) -> Result<Option<(Settings, Vec<Again>)>, RunError> {
    let settings = args.source.settings().await?;
    let wanted = Wanted { objects: args.which.object.clone(), day: args.which.day };
    let again = look(&settings, &args.source.request(), &wanted).await?;
    for key in &args.which.object {
        if !again.iter().any(|object| object.key == *key) {
            output::say(&format!("neither bronze nor the ledger knows {key}"));
        }
    }
    if args.execute {
        return Ok((!keys(&again).is_empty()).then_some((settings, again)));
    }
    if args.source.output == Format::Json {
        output::json(&serde_json::json!({ "executed": false, "objects": again }));
        return Ok(None);
    }
    if !again.is_empty() {
        let mut table = output::table(&["object", "bytes", "batch", "refusals replaced", "note"]);
        for object in &again {
            let note = match object {
                Again { size: None, .. } => "bronze does not have it any more: its rows and refusals stay as they are",
                Again { new: true, .. } => "never read: any run reads it",
                Again { changed: true, .. } => "it has other content now: what it was refused for before stays in quarantine",
                _ => "",
            };
            table.add_row(vec![
                Cell::new(&object.key),
                object.size.map_or(Cell::new("-"), output::number),
                Cell::new(object.batch.as_deref().unwrap_or("-")),
                output::number(object.quarantined),
                Cell::new(note),
            ]);
        }
        output::println(&table.trim_fmt());
    }
    let count = output::counted(keys(&again).len() as u64, "object", "objects");
    output::println(&format!(
        "{count} {what}: records that read as before change nothing, others replace their rows, rows whose records are refused now leave silver"
    ));
    if !again.is_empty() {
        output::say("nothing was done; --execute does it");
    }
    Ok(None)
}

async fn show(args: ShowArgs) -> Result<u8, RunError> {
    let settings = args.source.settings().await?;
    let found = objects(&settings, &args.source.request(), &args.object).await?;
    if args.source.output == Format::Json {
        output::json(&serde_json::json!({ "objects": found.iter().take(args.limit).collect::<Vec<_>>(), "total": found.len() }));
        return Ok(0);
    }
    let mut table = output::table(&["object", "version", "batch", "state"]);
    for object in found.iter().take(args.limit) {
        let state = if object.forgotten { "to be read again" } else { "committed" };
        table.add_row(vec![Cell::new(&object.key), Cell::new(&object.version), Cell::new(&object.batch), Cell::new(state)]);
    }
    output::println(&table.trim_fmt());
    if found.len() > args.limit {
        output::say(&format!("{} of {} shown; --limit shows more", args.limit, output::grouped(found.len() as u64)));
    }
    Ok(0)
}
