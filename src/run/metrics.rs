//! The numbers of a run that are watched: the same for CloudWatch and for OpenTelemetry.

use super::report::{JobReport, Outcome, RunReport};

/// Units as CloudWatch names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Count,
    Bytes,
    Seconds,
    Percent,
    None,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Bytes => "Bytes",
            Self::Seconds => "Seconds",
            Self::Percent => "Percent",
            Self::None => "None",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: Unit,
    pub value: f64,
}

/// Metrics that share their dimensions. Run and batch ids are no dimensions: each value would be a metric of its own on the bill.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricGroup {
    pub dimensions: Vec<(&'static str, String)>,
    pub metrics: Vec<Metric>,
}

/// Everything that a run's report says in numbers, by entity and country; rejects by code, too.
pub fn of(report: &RunReport, now: chrono::DateTime<chrono::Utc>) -> Vec<MetricGroup> {
    report.jobs.iter().flat_map(|job| groups(job, now)).collect()
}

fn groups(job: &JobReport, now: chrono::DateTime<chrono::Utc>) -> Vec<MetricGroup> {
    let dimensions = vec![("Entity", job.entity.clone()), ("Country", job.country.clone())];
    let count = |name, value: u64| Metric { name, unit: Unit::Count, value: value as f64 };
    let bytes = |name, value: u64| Metric { name, unit: Unit::Bytes, value: value as f64 };
    let (records, requests) = (&job.records, &job.requests);
    // A run that stopped is judged by what stopped it.
    let judged = job.stopped.as_ref().filter(|stopped| stopped.records.read > 0).map_or(records, |stopped| &stopped.records);
    let share = if judged.read == 0 { 0.0 } else { 100.0 * judged.quarantined as f64 / judged.read as f64 };
    // Another run that is at it, or a signal, is no failure.
    let failed = matches!(job.exit, 2 | 3 | 5 | 70);
    let mut metrics = vec![
        count("RecordsRead", records.read),
        count("RecordsInserted", records.inserted),
        count("RecordsUpdated", records.updated),
        count("RecordsDeleted", records.deleted),
        count("RecordsDuplicate", records.duplicate),
        count("RecordsQuarantined", records.quarantined),
        count("RecordsRemoved", records.removed),
        Metric { name: "RejectShare", unit: Unit::Percent, value: share },
        count("ObjectsRead", job.files.read),
        count("ObjectsLeft", job.files.skipped + job.held),
        bytes("BytesRead", job.bytes.read),
        bytes("BytesDecoded", job.bytes.decoded),
        bytes("BytesWritten", job.bytes.written),
        count("RequestsList", requests.list),
        count("RequestsGet", requests.get + requests.head),
        count("RequestsPut", requests.put),
        count("RequestsThrottled", requests.throttled),
        Metric { name: "RequestsCost", unit: Unit::None, value: job.requests_usd },
        Metric { name: "Duration", unit: Unit::Seconds, value: job.seconds },
        count("RunSucceeded", u64::from(job.exit == 0 && matches!(job.outcome, Outcome::Committed | Outcome::NothingToDo))),
        count("RunFailed", u64::from(failed)),
    ];
    if let Some(newest) = job.newest_record {
        let lag = (now - newest).as_seconds_f64().max(0.0);
        metrics.push(Metric { name: "NewestRecordLagSeconds", unit: Unit::Seconds, value: lag });
    }
    let mut groups = vec![MetricGroup { dimensions: dimensions.clone(), metrics }];
    for reject in job.rejects.iter().chain(job.stopped.iter().flat_map(|stopped| &stopped.rejects)) {
        let by_code = dimensions.iter().cloned().chain([("Code", reject.code.to_string())]).collect();
        groups.push(MetricGroup { dimensions: by_code, metrics: vec![count("Rejects", reject.count)] });
    }
    groups
}
