//! The command line: the only module that prints, exits, and reads the arguments, the environment or the clock.
//!
//! One verb per file. Data goes to stdout, everything else to stderr. Every flag has an environment variable `ETL_<FLAG>`, which
//! is how containers are configured.

mod allocator;
mod compact;
mod completions;
mod deploy;
mod doctor;
mod lateness;
mod memory;
mod metrics;
mod output;
mod plan;
mod quarantine;
mod register;
mod reprocess;
mod run;
mod schema;
mod status;
mod task;
mod vacuum;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::bronze::Selection;
use crate::domain::time::parse_date;
use crate::engine::local::{Engine, Progress};
use crate::engine::spark::Patience;
use crate::job::{Job, entities_named, parse_bytes, parse_duration_setting, trimmed};
use crate::run::cluster::Remote;
use crate::run::report::RunReport;
use crate::run::stop::Stop;
use crate::run::{Request, RunError, Settings, script};
use crate::store::{Store, StoreError, StoreOptions};

/// Turns bronze JSON in a bucket into ACID Delta tables, exactly once.
#[derive(Debug, Parser)]
#[command(name = "etl", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read what is new in bronze and commit it to silver
    Run(run::RunArgs),
    /// Show what a run would read; writes nothing
    Plan(plan::PlanArgs),
    /// Show how entities and countries stand
    Status(status::StatusArgs),
    /// Show how late records arrive and what that makes of partitions
    Lateness(lateness::LatenessArgs),
    /// Look at refused records
    Quarantine(quarantine::QuarantineArgs),
    /// Read objects once more: after a contract or a job was mended
    Reprocess(reprocess::ReprocessArgs),
    /// Look at what was committed from which object
    Ledger(reprocess::LedgerArgs),
    /// Work with contracts
    Schema(schema::SchemaArgs),
    /// Put small files together and rows in order
    Compact(compact::CompactArgs),
    /// List or remove what nobody needs any more: files of dead batches and old versions, old commits
    Vacuum(vacuum::VacuumArgs),
    /// Make tables known to a catalog of Spark or Databricks: print the statements, or send them
    Register(register::RegisterArgs),
    /// What runs the jobs as scheduled container tasks, or as SQL on Databricks
    Deploy(deploy::DeployArgs),
    /// Try what a run needs of bronze and silver: rights, put-if-absent, clocks
    Doctor(doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Where things are.
#[derive(Debug, Clone, Args)]
struct Places {
    /// Bronze: a path, a file:// URL or s3://bucket/prefix
    #[arg(long, env = "ETL_BRONZE", default_value = "fixtures/bronze", value_name = "URL")]
    bronze: String,
    /// Silver: a path, a file:// URL or s3://bucket/prefix
    #[arg(long, env = "ETL_SILVER", default_value = "silver", value_name = "URL")]
    silver: String,
    /// How bronze's bucket is reached, e.g. region=eu-central-1,profile=fleet (docs/s3.md lists all)
    #[arg(long, env = "ETL_BRONZE_OPTIONS", value_delimiter = ',', value_name = "KEY=VALUE")]
    bronze_options: Vec<String>,
    /// How silver's bucket is reached
    #[arg(long, env = "ETL_SILVER_OPTIONS", value_delimiter = ',', value_name = "KEY=VALUE")]
    silver_options: Vec<String>,
    /// Folder of the job files
    #[arg(long, env = "ETL_JOBS", default_value = "jobs", value_name = "DIR")]
    jobs: PathBuf,
    /// Folder of the contracts
    #[arg(long, env = "ETL_SCHEMAS", default_value = "schemas", value_name = "DIR")]
    schemas: PathBuf,
}

/// Which sources.
#[derive(Debug, Clone, Args)]
struct Sources {
    /// Entity, comma list, or all; may be repeated
    #[arg(long, env = "ETL_ENTITY", value_delimiter = ',', required = true, value_name = "E")]
    entity: Vec<String>,
    /// Country, comma list, or all; may be repeated
    #[arg(long, env = "ETL_COUNTRY", value_delimiter = ',', required = true, value_name = "C")]
    country: Vec<String>,
}

/// Which objects.
#[derive(Debug, Clone, Args)]
struct Objects {
    /// First UTC date of the objects to look at (selects objects, never records)
    #[arg(long, env = "ETL_FROM", value_parser = date, value_name = "DATE")]
    from: Option<i32>,
    /// Last UTC date of the objects to look at
    #[arg(long, env = "ETL_TO", value_parser = date, value_name = "DATE")]
    to: Option<i32>,
    /// Only the i-th of n shards of the objects
    #[arg(long, env = "ETL_SHARD", value_parser = shard, value_name = "I/N")]
    shard: Option<(u64, u64)>,
}

/// Which cluster.
#[derive(Debug, Clone, Args)]
struct Cluster {
    /// Spark Connect server
    #[arg(long, env = "ETL_REMOTE", value_name = "sc://…")]
    remote: Option<String>,
    /// Bronze's address as the cluster names it, where it does so in another way (s3a:// for Apache Spark)
    #[arg(long, env = "ETL_REMOTE_BRONZE", value_name = "URL")]
    remote_bronze: Option<String>,
    /// Silver's address as the cluster names it
    #[arg(long, env = "ETL_REMOTE_SILVER", value_name = "URL")]
    remote_silver: Option<String>,
    /// How long the cluster may take to answer a call
    #[arg(long, env = "ETL_REMOTE_ANSWER", value_parser = time, default_value = "1 min", value_name = "TIME")]
    remote_answer: Duration,
    /// How long nothing may come from a statement that runs, until it is asked for again (it is not run again)
    #[arg(long, env = "ETL_REMOTE_SILENCE", value_parser = time, default_value = "5 min", value_name = "TIME")]
    remote_silence: Duration,
}

impl Cluster {
    fn remote(&self) -> Option<Remote> {
        let patience = Patience { answer: self.remote_answer, silence: self.remote_silence };
        let address = self.remote.clone()?;
        Some(Remote { address, bronze: self.remote_bronze.clone(), silver: self.remote_silver.clone(), patience })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn date(text: &str) -> Result<i32, String> {
    parse_date(text).flatten().ok_or_else(|| "expected a date like 2025-01-31".to_owned())
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let parse = || {
        let (i, n) = text.split_once('/')?;
        Some((i.parse::<u64>().ok()?, n.parse::<u64>().ok()?))
    };
    parse().filter(|(i, n)| (1..=*n).contains(i)).ok_or_else(|| "expected i/n with i from 1 to n, like 2/5".to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size like 512 MiB".to_owned())
}

/// What the verbs make of their flags.
struct Tuning {
    threads: usize,
    batch_bytes: Option<u64>,
    batch_objects: Option<usize>,
    memory: Option<u64>,
    progress: Progress,
}

impl Default for Tuning {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, batch_bytes: None, batch_objects: None, memory: memory::available(), progress: Progress(Arc::new(|_| {})) }
    }
}

/// Decoded bytes per chunk of records.
const CHUNK_BYTES: usize = 1 << 20;

impl Places {
    async fn open_bronze(&self) -> Result<Store, RunError> {
        Ok(Store::open(&self.bronze, &store_options(&self.bronze, &self.bronze_options)?).await?)
    }

    /// For what others will read and write.
    fn named(&self) -> script::Places {
        let (jobs, schemas) = (self.jobs.clone(), self.schemas.clone());
        script::Places { jobs, schemas, bronze: self.bronze.clone(), silver: self.silver.clone() }
    }

    async fn open_silver(&self) -> Result<Store, RunError> {
        Ok(Store::open(&self.silver, &store_options(&self.silver, &self.silver_options)?).await?)
    }
}

/// A place's own options over what AWS's tools read from the environment.
fn store_options(address: &str, written: &[String]) -> Result<StoreOptions, StoreError> {
    let bad = |reason: String| StoreError::Options { place: address.to_owned(), reason };
    let mut options = StoreOptions::default();
    for (key, variable) in [("endpoint", "AWS_ENDPOINT_URL_S3"), ("ca_bundle", "AWS_CA_BUNDLE")] {
        if let Some(value) = std::env::var(variable).ok().filter(|value| !value.is_empty()) {
            options.set(key, &value).map_err(|reason| bad(format!("{variable}: {reason}")))?;
        }
    }
    for option in written.iter().map(|option| option.trim()).filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').ok_or_else(|| bad(format!("`{option}`: options are written key=value")))?;
        options.set(key.trim(), value.trim()).map_err(bad)?;
    }
    Ok(options)
}

async fn settings(run_id: String, places: &Places, objects: Option<&Objects>, tuning: Tuning) -> Result<Settings, RunError> {
    if let Some((from, to)) = objects.and_then(|objects| objects.from.zip(objects.to)).filter(|(from, to)| from > to) {
        return Err(RunError::Dates { from, to });
    }
    let selection =
        objects.map_or_else(Selection::default, |o| Selection { from: o.from, to: o.to, shard: o.shard, ..Selection::default() });
    let engine = Engine {
        bronze: places.open_bronze().await?,
        threads: tuning.threads,
        chunk: CHUNK_BYTES,
        spill: std::env::temp_dir(),
        progress: tuning.progress,
    };
    Ok(Settings {
        run_id,
        engine,
        silver: places.open_silver().await?,
        jobs: places.jobs.clone(),
        schemas: places.schemas.clone(),
        selection,
        batch_bytes: tuning.batch_bytes,
        batch_objects: tuning.batch_objects,
        memory: tuning.memory,
        revisit: false,
        stop: Stop::default(),
        cluster: None,
    })
}

/// Every (entity, country) that the flags name, each once, in order.
fn requests(places: &Places, sources: &Sources) -> Result<Vec<Request>, RunError> {
    let mut requests = Vec::new();
    for entity in entities_named(&places.jobs, &sources.entity)? {
        for name in trimmed(&sources.country) {
            // A job that cannot be read fails as a job of its own, not the whole run.
            let all = || Job::load(&places.jobs, &entity).map_or_else(|_| vec![name.to_owned()], |job| job.countries);
            let countries = if name == "all" { all() } else { vec![name.to_owned()] };
            for country in countries {
                let request = Request { entity: entity.clone(), country };
                if !requests.contains(&request) {
                    requests.push(request);
                }
            }
        }
    }
    Ok(requests)
}

/// Runs one verb and returns the process's exit code.
pub fn main() -> u8 {
    allocator::one_arena_a_core();
    let parsed = without_empty_variables(Cli::command()).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let log = match &cli.verb {
        Verb::Run(args) => args.log(),
        _ => Format::Text,
    };
    output::start_log(log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&format!("cannot start the runtime: {error}"));
            return 70;
        }
    };
    let exit = runtime.block_on(async {
        match cli.verb {
            Verb::Run(args) => Box::pin(run::run(args)).await,
            Verb::Plan(args) => finish(plan::plan(args).await),
            Verb::Status(args) => finish(status::status(args).await),
            Verb::Lateness(args) => finish(lateness::lateness(args).await),
            Verb::Quarantine(args) => finish(quarantine::quarantine(args).await),
            Verb::Reprocess(args) => finish(Box::pin(reprocess::run(args)).await),
            Verb::Ledger(args) => finish(reprocess::ledger(args).await),
            Verb::Compact(args) => finish(Box::pin(compact::compact(args)).await),
            Verb::Vacuum(args) => finish(vacuum::run(args).await),
            Verb::Register(args) => finish(Box::pin(register::run(args)).await),
            Verb::Doctor(args) => finish(doctor::doctor(args).await),
            Verb::Schema(args) => finish(Box::pin(schema::schema(args)).await),
            Verb::Deploy(args) => deploy::deploy(&args),
            Verb::Completions(args) => completions::completions(&args),
        }
    });
    // Work that was given up is not waited for.
    runtime.shutdown_background();
    exit
}

fn time(text: &str) -> Result<Duration, String> {
    let plain = text.trim().parse::<u64>().ok().map(Duration::from_secs);
    plain.or_else(|| parse_duration_setting(text)).ok_or_else(|| "expected a time like 110 s".to_owned())
}

/// A variable that is there and empty, as templates make it, says nothing.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().is_some_and(|variable| std::env::var_os(variable).is_some_and(|value| value.is_empty()));
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

/// Help and version are answers; anything else is a mistake, reported as JSON too where that was asked for.
fn usage(error: &clap::Error) -> u8 {
    let _ = error.print();
    if !error.use_stderr() {
        return 0;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_none_or(|verb| verb != "run") {
        return 2;
    }
    let asked = |flag: &str, variable: &str| {
        let given = arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].clone());
        let joined = || arguments.iter().find_map(|argument| Some(argument.strip_prefix(flag)?.strip_prefix('=')?.to_owned()));
        given.or_else(joined).or_else(|| std::env::var(variable).ok()).filter(|value| !value.is_empty())
    };
    let text = error.render().to_string();
    let said: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).flat_map(str::split_whitespace).collect();
    let message = said.join(" ").trim_start_matches("error: ").to_owned();
    let report = RunReport::failed(uuid::Uuid::now_v7().to_string(), message, 2);
    if asked("--output", "ETL_OUTPUT").is_some_and(|form| form == "json") {
        output::report(&report);
    }
    if let Some(path) = asked("--report", "ETL_REPORT") {
        output::report_file(&PathBuf::from(path), &report);
    }
    2
}

fn finish(outcome: Result<u8, RunError>) -> u8 {
    outcome.unwrap_or_else(|error| {
        output::run_error(&error);
        error.exit_code()
    })
}
