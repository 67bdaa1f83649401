//! `etl plan`: what a run would read.

use clap::Args;
use comfy_table::Cell;

use super::{Format, Objects, Places, Sources, Tuning, output, requests, settings};
use crate::plan::price::PRICES;
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

/// What reading it costs on S3 and Fargate.
fn estimates(plans: &[inspect::SourcePlanReport]) {
    let mut table = output::table(&["entity", "country", "LISTs", "GETs", "PUTs", "requests $", "task seconds", "task $"]);
    for plan in plans {
        let estimate = &plan.estimate;
        table.add_row(vec![
            Cell::new(&plan.entity),
            Cell::new(&plan.country),
            output::number(estimate.lists),
            output::number(estimate.gets),
            output::number(estimate.puts),
            Cell::new(format!("{:.4}", estimate.requests_usd)),
            Cell::new(format!("{:.0}", estimate.seconds)),
            Cell::new(format!("{:.4}", estimate.task_usd)),
        ]);
    }
    output::println(&format!(
        "\nestimated for the job's task on Fargate (Spot: about {:.0} % of it) and S3, list prices of us-east-1 as of {}\n{}",
        100.0 * PRICES.spot_share,
        PRICES.as_of,
        table.trim_fmt()
    ));
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
    if plans.iter().any(|plan| !plan.batches.is_empty()) {
        estimates(&plans);
    }
    Ok(0)
}
