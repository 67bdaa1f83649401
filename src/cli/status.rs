//! `etl status`: how entities and countries stand.

use clap::Args;
use comfy_table::Cell;

use super::{Format, Places, Sources, Tuning, output, requests, settings};
use crate::run::RunError;
use crate::run::inspect::{self, SourceStatus};

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

/// The state of the tables' files.
fn health(all: &[SourceStatus]) {
    let head =
        ["table", "country", "partitions", "files", "small", "mostly", "due", "due bytes", "open", "since checkpoint", "last compacted"];
    let mut table = output::table(&head);
    let mut notes = Vec::new();
    for status in all {
        let tables = [("", &status.silver), ("_quarantine", &status.quarantine)];
        for (suffix, found) in tables.into_iter().filter_map(|(suffix, found)| Some((suffix, found.as_ref()?))) {
            let (name, health) = (format!("{}{suffix}", status.entity), &found.health);
            let mostly = health
                .sizes
                .iter()
                .max_by_key(|class| class.files)
                .map_or(String::new(), |class| format!("< {}", output::size(class.upto)));
            let last = health.last_maintenance.as_ref().map_or("never".to_owned(), |last| {
                let read = output::size(last.bytes_read);
                format!("{}, {read} in {:.1} s", last.at.format("%F %TZ"), last.seconds)
            });
            table.add_row(vec![
                Cell::new(&name),
                Cell::new(&status.country),
                output::number(health.partitions),
                output::number(found.files),
                output::number(health.small_files),
                Cell::new(mostly),
                output::number(health.due_partitions),
                Cell::new(output::size(health.due_bytes)),
                output::number(health.open_partitions),
                output::number(health.commits_since_checkpoint),
                Cell::new(last),
            ]);
            if let Some(held) = &health.maintainer {
                let (since, until) = (held.since.format("%F %TZ"), held.expires.format("%F %TZ"));
                notes.push(format!("{name}: looked after by run {} since {since}, its lease lasts until {until}", held.run));
            }
        }
    }
    output::println(&format!("\n{}", table.trim_fmt()));
    notes.dedup();
    for note in notes {
        output::println(&note);
    }
}

pub async fn status(args: StatusArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, None, Tuning::default()).await?;
    let mut all = Vec::new();
    for request in requests(&args.places, &args.sources)? {
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
    health(&all);
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
