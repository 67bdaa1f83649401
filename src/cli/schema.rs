//! `etl schema check`: proves contracts and jobs without reading any data.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::output;
use crate::contract::columns::sql_name;
use crate::contract::evolve::changes;
use crate::contract::{Contract, Verdict};
use crate::job::{Job, known_entities};
use crate::run::RunError;

#[derive(Debug, Args)]
pub struct SchemaArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check contracts and jobs, and show columns and changes between versions
    Check(CheckArgs),
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
    #[arg(long)]
    columns: bool,
}

pub fn schema(args: &SchemaArgs) -> u8 {
    let Verb::Check(args) = &args.verb;
    let mut entities = Vec::new();
    for name in &args.entity {
        if name == "all" {
            entities.extend(known_entities(&args.jobs));
        } else {
            entities.push(name.clone());
        }
    }
    let mut worst = 0;
    for entity in entities {
        match check(args, &entity) {
            Ok(()) => {}
            Err(error) => {
                output::run_error(&error);
                worst = 2;
            }
        }
    }
    worst
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
