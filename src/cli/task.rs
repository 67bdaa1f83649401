//! The task that this process runs in, where ECS says so: its ARN, and the memory that it may use.

use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// From the task metadata endpoint, version 4.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    #[serde(rename = "TaskARN")]
    pub arn: String,
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Limits {
    /// MiB.
    memory: Option<u64>,
}

impl Task {
    /// Bytes that the task may use.
    pub fn memory(&self) -> Option<u64> {
        Some(self.limits.memory? * MIB)
    }
}

/// `None` outside of ECS; an endpoint that does not answer is no reason not to work.
pub async fn current() -> Option<Task> {
    let base = std::env::var("ECS_CONTAINER_METADATA_URI_V4").ok()?;
    match tokio::time::timeout(PATIENCE, ask(&format!("{base}/task"))).await {
        Ok(Ok(task)) => Some(task),
        Ok(Err(problem)) => {
            tracing::warn!(problem, "the task metadata endpoint cannot be used");
            None
        }
        Err(_) => {
            tracing::warn!("the task metadata endpoint does not answer");
            None
        }
    }
}

async fn ask(url: &str) -> Result<Task, String> {
    let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).map_err(|error| error.to_string())?;
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.uri_mut() = url.parse().map_err(|_| format!("{url} is no URL"))?;
    let body = client.execute(request).await.map_err(|error| error.to_string())?.into_body();
    let text = body.bytes().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}
