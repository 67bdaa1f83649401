//! `etl plan`: what a run would read.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use comfy_table::Cell;

use super::{Format, Objects, Places, Sources, Tuning, compact, output, requests, settings};
use crate::engine::spark::SqlDialect;
use crate::job::entities_named;
use crate::plan::price::PRICES;
use crate::run::care::{self, Options};
use crate::run::{RunError, Settings, inspect, script};

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    objects: Objects,
    /// What `etl compact` would rewrite, instead
    #[arg(long, env = "ETL_COMPACT")]
    compact: bool,
    /// With --compact: every partition that gains anything, as `etl compact --force` takes them
    #[arg(long, env = "ETL_FORCE", requires = "compact")]
    force: bool,
    /// The whole job as SQL files, instead: for a warehouse, where there is no place to run etl
    #[arg(long, env = "ETL_EMIT", value_enum, conflicts_with = "compact", value_name = "FORM")]
    emit: Option<Emit>,
    /// With --emit: whose SQL
    #[arg(long, env = "ETL_DIALECT", value_enum, default_value_t = Dialect::Databricks, requires = "emit")]
    dialect: Dialect,
    /// With --emit: a folder for the files, one folder per entity and country in it; without it they are printed
    #[arg(long, env = "ETL_OUT", requires = "emit", value_name = "DIR")]
    out: Option<PathBuf>,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    Sql,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Databricks,
    Spark,
}

impl From<Dialect> for SqlDialect {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Databricks => Self::Databricks,
            Dialect::Spark => Self::Spark,
        }
    }
}

/// Writes or prints the job's SQL.
fn emit(args: &PlanArgs) -> Result<u8, RunError> {
    let mut files = Vec::new();
    for request in requests(&args.places, &args.sources)? {
        for step in script::steps(&args.places.named(), &request, args.dialect.into())? {
            if args.out.is_none() {
                output::println(&format!("-- {} {} {}", request.entity, request.country, step.text()));
            }
            files.push((format!("{}_{}/{}.sql", request.entity, request.country, step.name), step.text()));
        }
    }
    let Some(out) = &args.out else { return Ok(0) };
    if let Err(error) = output::files(out, &files) {
        output::error(&error);
        return Ok(2);
    }
    for (path, _) in files {
        output::say(&format!("{}", out.join(path).display()));
    }
    Ok(0)
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

async fn plan_compaction(args: &PlanArgs, settings: &Settings) -> Result<u8, RunError> {
    let mut plans = Vec::new();
    for entity in entities_named(&args.places.jobs, &args.sources.entity)? {
        let databases = compact::databases(settings, &entity, &args.sources.country)?;
        let options = Options { databases, force: args.force, ..Options::default() };
        plans.extend(care::plan(settings, &entity, &options).await?);
    }
    match args.output {
        Format::Json => output::json(&serde_json::json!({ "tables": plans })),
        Format::Text => compact::plans(&plans),
    }
    Ok(0)
}

pub async fn plan(args: PlanArgs) -> Result<u8, RunError> {
    if args.emit.is_some() {
        return emit(&args);
    }
    let settings = settings(String::new(), &args.places, Some(&args.objects), Tuning::default()).await?;
    if args.compact {
        return plan_compaction(&args, &settings).await;
    }
    let mut plans = Vec::new();
    for request in requests(&args.places, &args.sources)? {
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
