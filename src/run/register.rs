//! Making tables known to a catalog, and the comments that the contract has for them.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::Serialize;

use super::{RunError, Settings, cluster, load, prepare, tables_of};
use crate::engine::spark::catalog::{Registered, is_same_place};
use crate::engine::spark::client::Session;
use crate::plan::SourcePlan;
use crate::silver::Table;

/// What registers one table.
#[derive(Debug, Serialize)]
pub struct Registration {
    pub table: String,
    pub statements: Vec<String>,
    /// Whether they were sent.
    pub sent: bool,
}

/// Silver and quarantine of an entity under `schema` (catalog and schema, or either, or nothing). Sent where the settings have a cluster.
pub async fn register(
    settings: &Settings,
    entity: &str,
    schema: &[String],
    silver_url: Option<&str>,
) -> Result<Vec<Registration>, RunError> {
    let (job, contract) = load(settings, entity)?;
    let tables = tables_of(&settings.silver, &job);
    let country = job.countries.first().cloned().unwrap_or_default();
    let plan = SourcePlan::new(job.source(&country)?, job, contract)?;
    let (silver, quarantine, _) = prepare::shapes(&plan);
    let root = silver_url.map_or_else(|| cluster::place(&settings.silver), str::to_owned);
    let mut said = Vec::new();
    for (table, shape) in [(&tables.silver, silver), (&tables.quarantine, quarantine)] {
        said.push((table.name.clone(), format!("{}/{}", root.trim_end_matches('/'), table.name), shape, self::said(table).await?));
    }
    let wanted: Vec<(&str, Registered<'_>)> = said
        .iter()
        .map(|(table, place, shape, said)| {
            let differs = |column: &str, comment: &str| said.comments.get(column).is_none_or(|said| said != comment);
            let registered = Registered {
                path: schema.iter().map(String::as_str).chain([table.as_str()]).collect(),
                place,
                description: shape.description.as_deref().filter(|wanted| said.description.as_deref() != Some(wanted)),
                comments: shape.comments.iter().map(|(a, b)| (a.as_str(), b.as_str())).filter(|(a, b)| differs(a, b)).collect(),
            };
            (table.as_str(), registered)
        })
        .collect();
    let session = cluster::open(settings).await?;
    if let Some(session) = &session {
        let lease = cluster::alone(&settings.silver, &plan, &settings.run_id).await?;
        let sent = Box::pin(send(session, &wanted)).await;
        lease.release().await?;
        sent?;
    }
    let sent = session.is_some();
    if let Some(session) = session {
        Box::pin(session.close()).await;
    }
    let statements = |registered: &Registered<'_>| [vec![registered.create()], registered.says()].concat();
    Ok(wanted.iter().map(|(table, it)| Registration { table: (*table).to_owned(), statements: statements(it), sent }).collect())
}

/// A comment is a commit to the table, so it must be ours, and nobody else at it.
async fn send(session: &Session, wanted: &[(&str, Registered<'_>)]) -> Result<(), RunError> {
    for (_, registered) in wanted {
        Box::pin(session.execute("a registration", &registered.create())).await?;
        let details = Box::pin(session.query("where a table is", &registered.detail())).await?;
        let place = |rows: &RecordBatch| {
            let places = cast(rows.column_by_name("location")?, &DataType::Utf8).ok()?;
            places.as_string::<i32>().iter().flatten().next().map(str::to_owned)
        };
        let found = details.iter().find_map(place).unwrap_or_default();
        // A server that does not say it is taken at its word.
        if !found.is_empty() && !is_same_place(&found, registered.place) {
            return Err(RunError::NameTaken { name: registered.name(), found, place: registered.place.to_owned() });
        }
        for statement in registered.says() {
            Box::pin(session.execute("a comment", &statement)).await?;
        }
    }
    Ok(())
}

struct Said {
    description: Option<String>,
    comments: BTreeMap<String, String>,
}

/// What the table itself says of its columns.
async fn said(table: &Table) -> Result<Said, RunError> {
    if !table.exists().await? {
        return Err(RunError::NotThere { table: table.name.clone() });
    }
    let snapshot = table.snapshot().await?;
    let description = snapshot.table_configuration().metadata().description().map(str::to_owned);
    Ok(Said { description, comments: Table::comments(&snapshot) })
}
