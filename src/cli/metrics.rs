//! Metrics out: as lines in CloudWatch's embedded metric format, or pushed once to an OpenTelemetry collector.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use object_store::ClientOptions;
use object_store::client::{HttpClient as Client, HttpConnector, HttpRequest, ReqwestConnector};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use serde_json::{Map, Value, json};

use super::output;
use crate::run::metrics::{self, MetricGroup, Unit};
use crate::run::report::RunReport;

/// Where a run's metrics go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sink {
    // Documentation of these would make --help three times as long.
    None,
    Emf,
    Otlp,
}

const NAMESPACE: &str = "Silversmith";
const PUSH_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn send(sink: Sink, report: &RunReport) {
    let groups = metrics::of(report, chrono::Utc::now());
    match sink {
        Sink::None => {}
        Sink::Emf => groups.iter().for_each(|group| output::say(&emf(group, report, chrono::Utc::now().timestamp_millis()).to_string())),
        Sink::Otlp => {
            if let Err(error) = push(groups).await {
                output::error(&format!("the run's metrics were not taken by the collector: {error}"));
            }
        }
    }
}

/// One document: dimensions and values are members of its root, `_aws` says which is which.
fn emf(group: &MetricGroup, report: &RunReport, at: i64) -> Value {
    let names: Vec<&str> = group.dimensions.iter().map(|(name, _)| *name).collect();
    let definitions: Vec<Value> = group.metrics.iter().map(|metric| json!({"Name": metric.name, "Unit": metric.unit.name()})).collect();
    let mut root = Map::new();
    root.insert(
        "_aws".to_owned(),
        json!({"Timestamp": at, "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [names], "Metrics": definitions}]}),
    );
    for (name, value) in &group.dimensions {
        root.insert((*name).to_owned(), json!(value));
    }
    for metric in &group.metrics {
        root.insert(metric.name.to_owned(), json!(metric.value));
    }
    // Searchable in the log, and no dimension.
    root.insert("RunId".to_owned(), json!(report.run_id));
    Value::Object(root)
}

/// Lets the exporter, which waits on a thread of its own, use this process's runtime and HTTP client.
#[derive(Debug)]
struct Post {
    client: Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait::async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (client, request) = (self.client.clone(), HttpRequest::from_parts(head, body.into()));
        let answered = self.runtime.spawn(async move {
            let (head, body) = client.execute(request).await?.into_parts();
            Ok::<_, HttpError>(Response::from_parts(head, body.bytes().await?))
        });
        answered.await?
    }
}

async fn push(groups: Vec<MetricGroup>) -> Result<(), String> {
    let options = ClientOptions::new().with_allow_http(true).with_timeout(PUSH_TIMEOUT);
    let client = ReqwestConnector::default().connect(&options).map_err(|error| error.to_string())?;
    let post = Post { client, runtime: tokio::runtime::Handle::current() };
    let exporter = opentelemetry_otlp::MetricExporter::builder()
        .with_http()
        .with_http_client(post)
        .with_timeout(PUSH_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let pushed = tokio::task::spawn_blocking(move || {
        let resource = Resource::builder().with_service_name("silversmith").build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(PeriodicReader::builder(exporter).build()).build();
        record(&provider, &groups);
        // Which sends what was recorded, once.
        provider.shutdown().map_err(|error| error.to_string())
    });
    pushed.await.map_err(|error| error.to_string())?
}

fn record(provider: &SdkMeterProvider, groups: &[MetricGroup]) {
    let meter = provider.meter("silversmith");
    for group in groups {
        let attributes: Arc<[KeyValue]> =
            group.dimensions.iter().map(|(name, value)| KeyValue::new(name.to_lowercase(), value.clone())).collect();
        for metric in &group.metrics {
            let unit = match metric.unit {
                Unit::Bytes => "By",
                Unit::Seconds => "s",
                Unit::Percent => "%",
                Unit::Count | Unit::None => "1",
            };
            let gauge = meter.f64_gauge(format!("silversmith.{}", snake(metric.name))).with_unit(unit).build();
            gauge.record(metric.value, &attributes);
        }
    }
}

fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
