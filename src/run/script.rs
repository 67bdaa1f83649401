//! A source's job as SQL files. Reads job and contract, and reaches nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Request, RunError, cluster, load_files, prepare};
use crate::engine::spark::SqlDialect;
use crate::engine::spark::script::{Described, Script, Step};
use crate::job::OnChangedObject;
use crate::plan::SourcePlan;

/// Where things are, as the server names them.
#[derive(Debug)]
pub struct Places {
    pub jobs: PathBuf,
    pub schemas: PathBuf,
    pub bronze: String,
    pub silver: String,
}

pub fn steps(places: &Places, request: &Request, dialect: SqlDialect) -> Result<Vec<Step>, RunError> {
    let (job, contract) = load_files(&places.jobs, &places.schemas, &request.entity)?;
    let plan = SourcePlan::new(job.source(&request.country)?, Arc::new(job), Arc::new(contract))?;
    cluster::refuse(&plan)?;
    let (bronze, silver_root) = (absolute(&places.bronze), absolute(&places.silver));
    let cannot = |reason: String| RunError::NotOnCluster { entity: request.entity.clone(), reason };
    if plan.job.is_snapshot() {
        return Err(cannot("its mode is snapshot: which day is whole, and which is the newest, only the ledger knows".to_owned()));
    }
    // They become part of a pattern of paths.
    let folder = format!("{}/database={}/entity={}/x", bronze.trim_end_matches('/'), plan.source.database, request.entity);
    if !cluster::is_plain(&folder) || folder.matches(':').count() > 1 {
        return Err(cannot(format!("the place of its objects has characters that SQL cannot name in a pattern: {folder}")));
    }
    if plan.job.on_changed_object == OnChangedObject::Stop {
        return Err(cannot("on_changed_object is stop, which needs the ledger".to_owned()));
    }
    let (silver, ..) = prepare::shapes(&plan);
    let described = Described { description: silver.description, comments: silver.comments, contract_version: silver.contract_version };
    Ok(Script::new(&plan, dialect, &bronze, &silver_root).steps(&described))
}

/// A folder as a URL; a URL as it is.
fn absolute(address: &str) -> String {
    if address.contains("://") {
        return address.to_owned();
    }
    let path = std::path::absolute(address).unwrap_or_else(|_| Path::new(address).to_owned());
    format!("file://{}", path.display())
}
