//! A source's job as SQL files. Reads job and contract, and reaches nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Request, RunError, cluster, load_files, prepare};
use crate::engine::spark::SqlDialect;
use crate::engine::spark::script::{Described, Script, Step};
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
    let (silver, ..) = prepare::shapes(&plan);
    let described = Described { description: silver.description, comments: silver.comments, contract_version: silver.contract_version };
    Ok(Script::new(&plan, dialect, &absolute(&places.bronze), &absolute(&places.silver)).steps(&described))
}

/// A folder as a URL; a URL as it is.
fn absolute(address: &str) -> String {
    if address.contains("://") {
        return address.to_owned();
    }
    let path = std::path::absolute(address).unwrap_or_else(|_| Path::new(address).to_owned());
    format!("file://{}", path.display())
}
