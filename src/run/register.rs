//! Making tables known to a catalog, and the comments that the contract has for them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{RunError, Settings, cluster, load, prepare, tables_of};
use crate::engine::spark::catalog::Registered;
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
    let mut registrations = Vec::new();
    for (table, shape) in [(&tables.silver, silver), (&tables.quarantine, quarantine)] {
        let said = said(table).await?;
        let differs = |column: &str, comment: &str| said.comments.get(column).is_none_or(|said| said != comment);
        let registered = Registered {
            path: schema.iter().map(String::as_str).chain([table.name.as_str()]).collect(),
            place: &format!("{}/{}", root.trim_end_matches('/'), table.name),
            description: shape.description.as_deref().filter(|wanted| said.description.as_deref() != Some(wanted)),
            comments: shape.comments.iter().map(|(a, b)| (a.as_str(), b.as_str())).filter(|(a, b)| differs(a, b)).collect(),
        };
        registrations.push(Registration { table: table.name.clone(), statements: registered.statements(), sent: false });
    }
    if let Some(session) = cluster::open(settings).await? {
        for registration in &mut registrations {
            for statement in &registration.statements {
                Box::pin(session.execute("a registration", statement)).await?;
            }
            registration.sent = true;
        }
        Box::pin(session.close()).await;
    }
    Ok(registrations)
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
