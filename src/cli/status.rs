//! `etl status`: how entities and countries stand.

use clap::Args;
use comfy_table::Cell;

use super::{Format, Places, Sources, Tuning, output, requests, settings};
use crate::run::{RunError, inspect};

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub async fn status(args: StatusArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, None, Tuning::default()).await?;
    let mut all = Vec::new();
    for request in requests(&args.places, &args.sources) {
        all.push(inspect::status(&settings, &request.entity, &request.country).await?);
    }
    if args.output == Format::Json {
        output::json(&serde_json::json!({ "jobs": all }));
        return Ok(0);
    }
    let mut table = output::table(&["entity", "country", "objects done", "commits", "rows", "files", "bytes", "quarantined", "state"]);
    for status in &all {
        let silver = status.silver.as_ref();
        let state = match (status.settled, status.open_claims.len()) {
            (false, _) => "an intent is not committed yet; the next run finishes it".to_owned(),
            (true, 0) => "settled".to_owned(),
            (true, claims) => output::counted(claims as u64, "open claim", "open claims"),
        };
        table.add_row(vec![
            Cell::new(&status.entity),
            Cell::new(&status.country),
            output::number(status.objects_done),
            output::number(status.intents.unsigned_abs()),
            output::number(silver.map_or(0, |table| table.rows)),
            output::number(silver.map_or(0, |table| table.files)),
            Cell::new(output::size(silver.map_or(0, |table| table.bytes))),
            output::number(status.quarantine.as_ref().map_or(0, |table| table.rows)),
            Cell::new(state),
        ]);
    }
    output::println(&table.trim_fmt());
    for status in &all {
        for open in &status.open_claims {
            let claim = &open.claim;
            let lease = if open.expired { "its lease ran out: the next run takes over" } else { "its lease is renewed" };
            let objects = output::counted(claim.objects.len() as u64, "object", "objects");
            output::println(&format!(
                "{} {}: run {} holds {objects} since {} ({} s); {lease}",
                status.entity,
                status.country,
                claim.run,
                claim.at.format("%F %TZ"),
                open.age_seconds,
            ));
        }
    }
    Ok(0)
}
