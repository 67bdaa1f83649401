//! `etl run`.

use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::Cell;
use futures::FutureExt;
use indicatif::{ProgressBar, ProgressStyle};

use super::metrics::{self, Sink};
use super::task::{self, Task};
use super::{Cluster, Format, Objects, Places, Sources, Tuning, bytes, output, requests, settings, time};
use crate::engine::local::Progress;
use crate::run::report::{JobReport, Outcome, RejectCount, RunReport};
use crate::run::stop::{GIVING_UP_TAKES, Stop};
use crate::run::{Observer, Request, RunError, Settings};

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    objects: Objects,
    /// What carries the work out
    #[arg(long, env = "ETL_ENGINE", value_enum, default_value_t = EngineName::Local)]
    engine: EngineName,
    #[command(flatten)]
    cluster: Cluster,
    /// List folders of days of any age, even those that the job's `revisit` leaves out
    #[arg(long, env = "ETL_REVISIT")]
    revisit: bool,
    /// Memory to plan with [default: the container's limit, else the machine's]
    #[arg(long, env = "ETL_MEMORY", value_parser = bytes, value_name = "SIZE")]
    memory: Option<u64>,
    /// Objects read at the same time [default: one per core]
    #[arg(long, env = "ETL_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Stored bytes of one batch, instead of the job's
    #[arg(long, env = "ETL_BATCH", value_parser = bytes, value_name = "SIZE")]
    batch: Option<u64>,
    /// Objects of one batch, instead of the job's
    #[arg(long, env = "ETL_BATCH_OBJECTS", value_name = "N")]
    batch_objects: Option<usize>,
    /// Form of the report on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Also write the JSON report to this file
    #[arg(long, env = "ETL_REPORT", value_name = "FILE")]
    report: Option<PathBuf>,
    /// Time from SIGTERM until the process has ended; a batch that takes longer is given up
    #[arg(long, env = "ETL_STOP_TIMEOUT", value_parser = time, default_value = "25 s", value_name = "TIME")]
    stop_timeout: Duration,
    /// Metrics: as CloudWatch's embedded metric format on stderr, or to the collector at OTEL_EXPORTER_OTLP_ENDPOINT
    #[arg(long, env = "ETL_METRICS", value_enum, default_value_t = Sink::None)]
    metrics: Sink,
    /// Form of the log on stderr
    #[arg(long, env = "ETL_LOG", value_enum, default_value_t = Format::Text)]
    log: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineName {
    Local,
    Spark,
}

impl RunArgs {
    pub fn log(&self) -> Format {
        self.log
    }
}

/// Shows progress while stderr is a terminal, and mistakes with their carets.
pub struct Console {
    bar: ProgressBar,
}

impl Console {
    pub fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:24} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        Self { bar }
    }
}

impl Observer for Console {
    fn begin(&self, request: &Request, new_bytes: u64) {
        self.bar.set_prefix(format!("{} {}", request.entity, request.country));
        self.bar.set_length(new_bytes);
        self.bar.reset();
    }

    fn end(&self, _: &JobReport) {
        self.bar.finish_and_clear();
    }

    fn mistake(&self, error: &RunError) {
        self.bar.suspend(|| output::run_error(error));
    }
}

pub async fn run(args: RunArgs) -> u8 {
    let task = task::current().await;
    // A task may run more than once (restart policies), so its ARN alone would not tell runs apart.
    let name = uuid::Uuid::now_v7().to_string();
    let run_id = task.as_ref().map_or_else(|| name.clone(), |task| format!("{}/{name}", task.arn));
    let outcome = match args.report.as_deref().map(check_writable) {
        Some(Err(problem)) => Err((problem, 2)),
        _ => match Box::pin(AssertUnwindSafe(execute(&args, run_id.clone(), task.as_ref())).catch_unwind()).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) => Err((error.text(), error.exit_code())),
            Err(_) => Err(("a bug ended the run; what was committed stays, the next run goes on from there".to_owned(), 70)),
        },
    };
    let mut report = outcome.unwrap_or_else(|(problem, exit)| {
        output::error(&problem);
        RunReport::failed(run_id, problem, exit)
    });
    report.task = task.map(|task| task.arn);
    let failed = report.jobs.is_empty().then(|| RunReport { jobs: failed_jobs(&args, &report), ..report.clone() });
    in_time(&report, metrics::send(args.metrics, failed.as_ref().unwrap_or(&report))).await;
    match args.output {
        Format::Json => output::report(&report),
        Format::Text => text_report(&report),
    }
    if let Some(path) = &args.report {
        output::report_file(path, &report);
    }
    report.exit
}

/// A report that cannot be written is found out before the work, not after it.
fn check_writable(path: &Path) -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|error| format!("cannot write the report to {}: {error}", path.display()))
}

async fn execute(args: &RunArgs, run_id: String, task: Option<&Task>) -> Result<RunReport, RunError> {
    let cluster = match args.engine {
        EngineName::Local => None,
        EngineName::Spark => Some(args.cluster.remote().ok_or(RunError::NoRemote)?),
    };
    let requests = requests(&args.places, &args.sources)?;
    let console = Console::new();
    let bar = console.bar.clone();
    let defaults = Tuning::default();
    let memory = args.memory.or_else(|| defaults.memory.into_iter().chain(task.and_then(Task::memory)).min());
    let room = memory.map_or(defaults.threads, |memory| crate::run::memory::threads(memory, defaults.threads));
    let tuning = Tuning {
        threads: args.threads.unwrap_or(room).max(1),
        batch_bytes: args.batch,
        batch_objects: args.batch_objects.map(|count| count.max(1)),
        memory,
        progress: Progress(Arc::new(move |bytes| bar.inc(bytes))),
    };
    let settings = Settings { cluster, revisit: args.revisit, ..settings(run_id, &args.places, Some(&args.objects), tuning).await? };
    end_on_signal(settings.stop.clone(), args.stop_timeout);
    let report = crate::run::run(&settings, &requests, &console).await;
    in_time(&report, keep_record(&settings, &report)).await;
    Ok(report)
}

/// A run that was told to end must not wait long for what is only told about it.
async fn in_time(report: &RunReport, telling: impl Future<Output = ()>) {
    let limit = if report.outcome == Outcome::Terminated { GIVING_UP_TAKES / 2 } else { Duration::MAX };
    if tokio::time::timeout(limit, telling).await.is_err() {
        tracing::warn!("there was no time left for the run's record or metrics");
    }
}

/// A run that failed before its first job failed for all of them.
fn failed_jobs(args: &RunArgs, report: &RunReport) -> Vec<JobReport> {
    let failed = |request: Request| {
        let mut job = JobReport::new(&request.entity, &request.country);
        (job.outcome, job.exit) = (report.outcome, report.exit);
        job
    };
    requests(&args.places, &args.sources).unwrap_or_default().into_iter().map(failed).collect()
}

/// Keeps the report under `_etl/runs`, where a run did something; the run itself does not depend on it.
async fn keep_record(settings: &Settings, report: &RunReport) {
    if matches!(report.outcome, Outcome::NothingToDo | Outcome::Failed) {
        return;
    }
    let Ok(text) = serde_json::to_vec(report) else { return };
    let name = report.run_id.rsplit('/').next().unwrap_or(&report.run_id);
    if let Err(error) = settings.silver.put(&format!("_etl/runs/{name}.json"), text.into()).await {
        tracing::warn!(%error, "the run's record was not kept");
    }
}

/// The batch in hand is finished if it can be in time, no further one is begun.
pub fn end_on_signal(stop: Stop, timeout: Duration) {
    tokio::spawn(async move {
        let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        let Ok(mut signal) = signal else { return };
        let mut patience = timeout.saturating_sub(2 * GIVING_UP_TAKES);
        tokio::select! {
            _ = signal.recv() => {}
            // A person at a terminal asks twice to have it at once.
            _ = tokio::signal::ctrl_c() => patience = Duration::MAX,
        }
        tracing::warn!("stopping after the batch in hand");
        stop.after_this_batch();
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::warn!("giving up the batch in hand; nothing of it is committed, the next run reads it again");
        stop.at_once();
    });
}

pub fn text_report(report: &RunReport) {
    if !report.jobs.is_empty() {
        let head =
            ["entity", "country", "outcome", "objects", "records", "inserted", "updated", "deleted", "duplicate", "quarantined", "seconds"];
        let mut table = output::table(&head);
        for job in &report.jobs {
            table.add_row(vec![
                Cell::new(&job.entity),
                Cell::new(&job.country),
                Cell::new(outcome_name(job)),
                output::number(job.files.read),
                output::number(job.records.read),
                output::number(job.records.inserted),
                output::number(job.records.updated),
                output::number(job.records.deleted),
                output::number(job.records.duplicate),
                output::number(job.records.quarantined),
                Cell::new(format!("{:.1}", job.seconds)),
            ]);
        }
        output::println(&table.trim_fmt());
    }
    for job in &report.jobs {
        job_details(job);
    }
    next_steps(report);
}

fn outcome_name(job: &JobReport) -> &'static str {
    match job.outcome {
        Outcome::NothingToDo => "nothing to do",
        Outcome::Committed => "committed",
        Outcome::Stopped => "STOPPED",
        Outcome::Failed => "FAILED",
        Outcome::Terminated => "terminated",
    }
}

fn job_details(job: &JobReport) {
    let name = format!("{} {}", job.entity, job.country);
    for commit in &job.commits {
        let rows = output::counted(commit.rows, "row", "rows");
        let files = output::counted(commit.files, "file", "files");
        output::println(&format!("\n{name}: {} version {}: {rows} in {files}", commit.table, commit.version));
    }
    for care in &job.care {
        let (files, became) = (output::counted(care.files_removed, "file", "files"), output::grouped(care.files_added));
        output::println(&format!("{name}: {} compacted: {files} became {became}, {}", care.table, output::size(care.bytes_added)));
    }
    if job.records.removed > 0 {
        output::println(&format!("{name}: {} left silver", output::counted(job.records.removed, "row", "rows")));
    }
    if let Some(days) = &job.days {
        let from = days.from.as_ref().map_or_else(|| "all days".to_owned(), |from| format!("days from {from} on"));
        let runs = output::counted(days.all_in, "run", "runs");
        output::println(&format!("{name}: listed {from}; all days are listed in {runs}, or with --revisit"));
    }
    for (reason, count) in &job.skipped {
        output::println(&format!("{name}: left alone: {} {reason}", output::grouped(*count)));
    }
    if !job.rejects.is_empty() {
        output::println(&format!("\n{name}: quarantined"));
        rejects(&job.rejects);
    }
    if let Some(stopped) = &job.stopped {
        output::println(&format!("\n{name}: stopped: {}", stopped.reason));
        rejects(&stopped.rejects);
    }
}

fn rejects(counts: &[RejectCount]) {
    for reject in counts {
        let example = &reject.example;
        output::println(&format!("  {:>9}  {}", output::grouped(reject.count), reject.code));
        let at = example.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        output::println(&format!("             e.g. {}{at}, {}: {}", example.file, example.path, example.message));
    }
}

/// What a person can do next.
fn next_steps(report: &RunReport) {
    let mut hints: Vec<String> = Vec::new();
    for job in &report.jobs {
        for reject in job.rejects.iter().chain(job.stopped.iter().flat_map(|stopped| &stopped.rejects)).take(5) {
            let hint = format!("{}: {}", reject.code, reject.code.remedy());
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    if let Some(job) = report.jobs.iter().find(|job| !job.rejects.is_empty()) {
        hints.push(format!("see them: etl quarantine list --entity {} --country {}", job.entity, job.country));
    }
    if let Some(job) = report.jobs.iter().find(|job| job.stopped.as_ref().is_some_and(|stopped| stopped.batch.is_some())) {
        hints.push(format!("see what stopped it: etl quarantine list --entity {} --country {} --stopped", job.entity, job.country));
    }
    if !hints.is_empty() {
        output::println(&format!("\nnext\n  {}", hints.join("\n  ")));
    }
}
