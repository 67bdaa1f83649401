//! `etl schema check`: proves contracts and jobs without reading any data. `etl schema migrate`: brings a contract's next version to
//! a live table.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::{Format, Places, Tuning, output, settings};
use crate::contract::columns::sql_name;
use crate::contract::evolve::changes;
use crate::contract::{Contract, Verdict};
use crate::job::{Job, entities_named};
use crate::run::RunError;
use crate::run::migrate::{self, EntityMigration};

#[derive(Debug, Args)]
pub struct SchemaArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check contracts and jobs, and show columns and changes between versions
    Check(CheckArgs),
    /// Show what a contract's newest version changes in a live table, or do it
    Migrate(MigrateArgs),
}

#[derive(Debug, Args)]
struct MigrateArgs {
    /// Entity, comma list, or all
    #[arg(long, env = "ETL_ENTITY", value_delimiter = ',', required = true, value_name = "E")]
    entity: Vec<String>,
    /// Rewrite the table; without it the changes and their price are only shown
    #[arg(long, env = "ETL_EXECUTE")]
    execute: bool,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Entity, comma list, or all
    #[arg(long, env = "ETL_ENTITY", value_delimiter = ',', default_value = "all", value_name = "E")]
    entity: Vec<String>,
    /// Folder of the job files
    #[arg(long, env = "ETL_JOBS", default_value = "jobs", value_name = "DIR")]
    jobs: PathBuf,
    /// Folder of the contracts
    #[arg(long, env = "ETL_SCHEMAS", default_value = "schemas", value_name = "DIR")]
    schemas: PathBuf,
    /// Also list every column
    #[arg(long, env = "ETL_COLUMNS")]
    columns: bool,
}

pub async fn schema(args: SchemaArgs) -> Result<u8, RunError> {
    match args.verb {
        Verb::Check(args) => check_all(&args),
        Verb::Migrate(args) => migrate(&args).await,
    }
}

async fn migrate(args: &MigrateArgs) -> Result<u8, RunError> {
    let settings = settings(uuid::Uuid::now_v7().to_string(), &args.places, None, Tuning::default()).await?;
    let mut done = Vec::new();
    for entity in entities_named(&args.places.jobs, &args.entity)? {
        done.extend(migrate::migrate(&settings, &entity, args.execute).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "entities": done }));
        return Ok(0);
    }
    for entity in &done {
        let from = entity.from.map_or("none".to_owned(), |from| from.to_string());
        if !entity.is_needed() {
            output::println(&format!("{}: the table has contract version {from} and its columns", entity.entity));
            continue;
        }
        output::println(&format!("{}: contract version {from} → {}", entity.entity, entity.to));
        for table in &entity.tables {
            for difference in &table.differences {
                let (found, expected) = (difference.found.as_deref().unwrap_or("-"), difference.expected.as_deref().unwrap_or("-"));
                output::println(&format!("  {}.{}: {found} → {expected}", table.table, difference.column));
            }
            let (files, size) = (output::counted(table.files, "file", "files"), output::size(table.bytes));
            let estimate = &table.estimate;
            let usd = estimate.requests_usd + estimate.task_usd;
            output::println(&match &table.done {
                Some(done) => {
                    let rows = output::counted(done.rows, "row", "rows");
                    format!(
                        "  {}: version {}, {rows} rewritten, {} → {}",
                        table.table,
                        done.version,
                        output::size(done.bytes_read),
                        output::size(done.bytes_written)
                    )
                }
                None if table.additive => format!("  {}: metadata only", table.table),
                None => format!("  {}: {files}, {size} to rewrite, about {:.0} s and {usd:.4} $", table.table, estimate.seconds),
            });
        }
    }
    if !args.execute && done.iter().any(EntityMigration::is_needed) {
        output::say("nothing was changed; --execute does it");
    }
    Ok(0)
}

fn check_all(args: &CheckArgs) -> Result<u8, RunError> {
    let mut worst = 0;
    for entity in entities_named(&args.jobs, &args.entity)? {
        match check(args, &entity) {
            Ok(()) => {}
            Err(error) => {
                output::run_error(&error);
                worst = 2;
            }
        }
    }
    Ok(worst)
}

fn check(args: &CheckArgs, entity: &str) -> Result<(), RunError> {
    let job = Job::load(&args.jobs, entity)?;
    let contract = Contract::load(&args.schemas, entity)?;
    job.check_against(&contract).map_err(|mistake| RunError::Mistake(Box::new(mistake)))?;
    let versions: Vec<_> = contract.versions().collect();
    output::println(&format!(
        "{entity}: ok, {}, {}",
        output::counted(versions.len() as u64, "version", "versions"),
        output::counted(contract.latest().root.properties.len() as u64, "property", "properties")
    ));
    for version in &versions {
        if let Some(rest) = &version.rest {
            output::println(&format!(
                "  version {}: run record by record, local engine only: {}",
                version.number,
                rest.keywords.join(", ")
            ));
        }
    }
    for pair in versions.windows(2) {
        let [old, new] = pair else { continue };
        let changes = changes(old, new);
        let verdict = changes.iter().map(|change| change.verdict).max().unwrap_or(Verdict::Same);
        output::println(&format!("  {} → {}: {verdict}", old.number, new.number));
        for change in changes {
            output::println(&format!("    {:9} {} {}", change.verdict.to_string(), change.property, change.what));
        }
        if let Some(decision) = new.decision() {
            output::println(&format!("    decided   {decision}"));
        }
    }
    if args.columns {
        let mut table = output::table(&["  column", "type", "required"]);
        for property in &contract.latest().root.properties {
            let required = if property.required { "yes" } else { "" };
            table.add_row(vec![Cell::new(format!("  {}", property.name)), Cell::new(sql_name(&property.shape.ty)), Cell::new(required)]);
        }
        output::println(&table.trim_fmt());
    }
    Ok(())
}
