//! `etl doctor`: can this identity do what a run does, and do the stores keep what exactly-once rests on?

use clap::Args;
use comfy_table::Cell;
use serde_json::json;

use super::{Format, Places, Sources, Tuning, output, requests, settings};
use crate::bronze::source_folder;
use crate::run::{RunError, load};
use crate::store::probe::{self, Check, ProbeFailed};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

struct Found {
    place: String,
    checks: Vec<Check>,
    failed: Option<ProbeFailed>,
}

pub async fn doctor(args: DoctorArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, None, Tuning::default()).await?;
    let mut found = Vec::new();
    for request in requests(&args.places, &args.sources)? {
        let (job, _) = load(&settings, &request.entity)?;
        let bronze = &settings.engine.bronze;
        bronze.require()?;
        let folder = source_folder(&job.source(&request.country)?);
        let checks = probe::of_bronze(bronze, &folder).await;
        found.push(Found { place: format!("bronze {}", bronze.address()), failed: ProbeFailed::of(bronze, &checks), checks });
    }
    settings.silver.ensure()?;
    let checks = probe::of_silver(&settings.silver).await;
    let place = format!("silver {}", settings.silver.address());
    found.push(Found { place, failed: ProbeFailed::of(&settings.silver, &checks), checks });
    show(&found, args.output);
    let failed: Vec<&ProbeFailed> = found.iter().filter_map(|found| found.failed.as_ref()).collect();
    Ok(match failed.as_slice() {
        [] => 0,
        failed if failed.iter().any(|failed| failed.is_users()) => 2,
        _ => 5,
    })
}

fn show(found: &[Found], format: Format) {
    if format == Format::Json {
        let places: Vec<_> = found.iter().map(|found| json!({"place": found.place, "checks": found.checks})).collect();
        output::json(&json!({ "places": places }));
        return;
    }
    for found in found {
        output::println(&found.place);
        let mut table = output::table(&["", "check", "IAM action", "found"]);
        for check in &found.checks {
            let mark = if check.passed { "ok" } else { "FAILED" };
            table.add_row(vec![Cell::new(mark), Cell::new(check.what), Cell::new(check.iam), Cell::new(&check.found)]);
        }
        output::println(&format!("{}\n", table.trim_fmt()));
    }
}
