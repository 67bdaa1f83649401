//! `etl plan`: what a run would read.

use clap::Args;
use comfy_table::Cell;

use super::{Format, Objects, Places, Sources, Tuning, output, requests, settings};
use crate::run::{RunError, inspect};

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    objects: Objects,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub async fn plan(args: PlanArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, Some(&args.objects), Tuning::default()).await?;
    let mut plans = Vec::new();
    for request in requests(&args.places, &args.sources) {
        plans.push(inspect::plan(&settings, &request.entity, &request.country).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "jobs": plans }));
        return Ok(0);
    }
    let mut table = output::table(&[
        "entity",
        "country",
        "listed",
        "new",
        "changed",
        "known",
        "held",
        "skipped",
        "firehose",
        "year_root",
        "bytes",
        "batches",
    ]);
    for plan in &plans {
        table.add_row(vec![
            Cell::new(&plan.entity),
            Cell::new(&plan.country),
            output::number(plan.listed),
            output::number(plan.new),
            output::number(plan.changed),
            output::number(plan.known),
            output::number(plan.held),
            output::number(plan.skipped),
            output::number(plan.firehose),
            output::number(plan.year_root),
            Cell::new(output::size(plan.new_bytes)),
            output::number(plan.batches.len() as u64),
        ]);
    }
    output::println(&table.trim_fmt());
    Ok(0)
}
