//! `etl register`: tables in a catalog.

use clap::Args;

use super::{Cluster, Format, Places, Tuning, output, settings};
use crate::job::entities_named;
use crate::run::register::register;
use crate::run::{RunError, Settings};

#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// Entity, comma list, or all
    #[arg(long, env = "ETL_ENTITY", value_delimiter = ',', required = true, value_name = "E")]
    entity: Vec<String>,
    /// Schema of the catalog that gets the tables, like main.fleet [default: the session's]
    #[arg(long, env = "ETL_INTO", value_delimiter = '.', value_name = "CATALOG.SCHEMA")]
    into: Vec<String>,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    cluster: Cluster,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Prints the statements; with `--remote` it sends them.
pub async fn run(args: RegisterArgs) -> Result<u8, RunError> {
    if args.into.len() > 2 || args.into.iter().any(String::is_empty) {
        output::error("--into is a schema, or a catalog and a schema: fleet or main.fleet");
        return Ok(2);
    }
    let run_id = uuid::Uuid::now_v7().to_string();
    let plain = settings(run_id, &args.places, None, Tuning::default()).await?;
    let settings = Settings { cluster: args.cluster.remote(), ..plain };
    let mut registrations = Vec::new();
    for entity in entities_named(&args.places.jobs, &args.entity)? {
        registrations.extend(Box::pin(register(&settings, &entity, &args.into, args.cluster.remote_silver.as_deref())).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "tables": registrations }));
        return Ok(0);
    }
    for statement in registrations.iter().flat_map(|registration| &registration.statements) {
        output::println(&format!("{statement};"));
    }
    if let Some(remote) = &settings.cluster {
        output::say(&format!("sent to {}", crate::engine::spark::shown(&remote.address)));
    }
    Ok(0)
}
