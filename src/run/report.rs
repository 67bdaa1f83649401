//! What a run tells: the values behind both the text and the JSON report.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::care::TableCare;
use crate::domain::{LayoutCount, Records, RejectCode};
use crate::engine::local::{Example, RejectSummary};
use crate::plan::price::PRICES;
use crate::store::Requests;

/// How a job or a run ended; of several jobs the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    NothingToDo,
    Committed,
    /// By the gate, or because another run holds what is left.
    Stopped,
    Failed,
    /// By a signal, after a clean finish.
    Terminated,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    pub listed: u64,
    pub new: u64,
    pub known: u64,
    /// In committed batches.
    pub read: u64,
    pub skipped: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// As stored.
    pub read: u64,
    pub decoded: u64,
    pub written: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectCount {
    pub code: RejectCode,
    pub count: u64,
    pub example: Example,
}

/// Most frequent first.
pub fn reject_counts(summary: &RejectSummary) -> Vec<RejectCount> {
    let mut counts: Vec<RejectCount> = summary
        .by_code
        .iter()
        .map(|(code, (count, example))| RejectCount { code: *code, count: *count, example: example.clone() })
        .collect();
    counts.sort_by(|a, b| b.count.cmp(&a.count).then(a.code.cmp(&b.code)));
    counts
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Layouts {
    pub firehose: LayoutCount,
    pub year_root: LayoutCount,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitReport {
    pub table: String,
    pub version: u64,
    pub batch: String,
    pub files: u64,
    pub rows: u64,
}

/// A batch that was not committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stopped {
    pub reason: String,
    pub batch: Option<String>,
    pub records: Records,
    pub rejects: Vec<RejectCount>,
}

/// Who did what of a run on a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// Objects whose lines the cluster read, and those that were read here.
    pub objects_there: u64,
    pub objects_here: u64,
    /// Records that the cluster proved sound.
    pub proven: u64,
    /// Records that came back to be explained.
    pub explained: u64,
}

/// Which folders of days were listed, where the job's `revisit` leaves old ones out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Days {
    /// Days before were left out; absent where all were listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Runs from now on until all are listed again.
    pub all_in: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobReport {
    pub entity: String,
    pub country: String,
    pub engine: &'static str,
    pub outcome: Outcome,
    pub files: Files,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<Days>,
    pub bytes: Bytes,
    pub records: Records,
    pub rejects: Vec<RejectCount>,
    pub layouts: Layouts,
    pub commits: Vec<CommitReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterReport>,
    /// Tables that were compacted afterwards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub care: Vec<TableCare>,
    pub seconds: f64,
    /// To the buckets of bronze and silver; none on local disk.
    pub requests: Requests,
    /// At list prices (docs/performance.md).
    pub requests_usd: f64,
    /// The newest event time among committed records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_record: Option<DateTime<Utc>>,
    /// Objects left alone, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// New objects that another run holds.
    pub held: u64,
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    pub exit: u8,
}

impl JobReport {
    pub fn new(entity: &str, country: &str) -> Self {
        Self {
            entity: entity.to_owned(),
            country: country.to_owned(),
            engine: "local",
            outcome: Outcome::NothingToDo,
            files: Files::default(),
            days: None,
            bytes: Bytes::default(),
            records: Records::default(),
            rejects: Vec::new(),
            layouts: Layouts::default(),
            commits: Vec::new(),
            cluster: None,
            care: Vec::new(),
            seconds: 0.0,
            requests: Requests::default(),
            requests_usd: 0.0,
            newest_record: None,
            skipped: BTreeMap::new(),
            held: 0,
            warnings: Vec::new(),
            stopped: None,
            error: None,
            exit: 0,
        }
    }

    /// Ended by a signal.
    pub fn terminated(&mut self) {
        self.outcome = Outcome::Terminated;
        self.exit = 143;
    }

    pub fn requested(&mut self, requests: Requests) {
        self.requests = requests;
        self.requests_usd = PRICES.requests(requests.list + requests.put, requests.get + requests.head);
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    pub run_id: String,
    /// The ECS task, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    pub outcome: Outcome,
    pub jobs: Vec<JobReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    pub exit: u8,
}

/// Exit codes, worst first.
const SEVERITY: [u8; 8] = [70, 2, 5, 4, 3, 143, 0, 1];

fn severity(exit: u8) -> usize {
    SEVERITY.iter().position(|code| *code == exit).unwrap_or(0)
}

impl RunReport {
    pub fn of(run_id: String, jobs: Vec<JobReport>) -> Self {
        let exit = jobs.iter().map(|job| job.exit).min_by_key(|exit| severity(*exit)).unwrap_or(0);
        let worst = jobs.iter().filter(|job| job.exit == exit);
        let outcome = worst.map(|job| job.outcome).max_by_key(|outcome| *outcome as u8).unwrap_or(Outcome::NothingToDo);
        let error = jobs.iter().filter(|job| job.exit == exit).find_map(|job| job.error.clone());
        Self { run_id, task: None, outcome, jobs, error, exit }
    }

    /// A run that ended before any job began.
    pub fn failed(run_id: String, error: String, exit: u8) -> Self {
        Self { run_id, task: None, outcome: Outcome::Failed, jobs: Vec::new(), error: Some(error), exit }
    }
}
