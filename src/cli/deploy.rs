//! `etl deploy`: what runs the jobs as container tasks, or as SQL on Databricks. Prints or writes files; reaches nobody.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Places, Sources, date, finish, output, requests};
use crate::engine::spark::SqlDialect;
use crate::job::Job;
use crate::plan::databricks::{self, Source};
use crate::plan::ecs::{self, Backfill, DeployOptions, Deployed, EcsError, OneTaskPer, Place, Slices};
use crate::run::{RunError, load_files, script};

#[derive(Debug, Args)]
pub struct DeployArgs {
    #[command(subcommand)]
    to: To,
}

#[derive(Debug, Subcommand)]
enum To {
    /// Print a CloudFormation template of scheduled ECS tasks, or the one-shot tasks of a backfill
    Ecs(Box<EcsArgs>),
    /// Write a Databricks asset bundle: a job for each entity and country, of SQL files on a warehouse
    Databricks(Box<BundleArgs>),
}

#[derive(Debug, Args)]
struct BundleArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    /// Folder that the bundle's files go to
    #[arg(long, env = "ETL_OUT", default_value = "deploy/databricks", value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct EcsArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    places: Places,
    /// Container image, with a tag or digest that never changes its meaning
    #[arg(long, env = "ETL_IMAGE", value_name = "IMAGE", required_unless_present = "backfill")]
    image: Option<String>,
    /// ARN of the KMS key that bronze is encrypted with
    #[arg(long, env = "ETL_BRONZE_KMS_KEY", value_name = "ARN")]
    bronze_kms_key: Option<String>,
    /// ARN of the KMS key that silver is encrypted with
    #[arg(long, env = "ETL_SILVER_KMS_KEY", value_name = "ARN")]
    silver_kms_key: Option<String>,
    /// An existing cluster [default: the stack's own]
    #[arg(long, env = "ETL_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,
    /// ARN of the topic that hears alarms [default: the stack's own]
    #[arg(long, env = "ETL_ALARM_TOPIC", value_name = "ARN")]
    alarm_topic: Option<String>,
    /// Days that logs are kept
    #[arg(long, env = "ETL_LOG_RETENTION_DAYS", default_value_t = 30, value_name = "DAYS")]
    log_retention_days: u64,
    /// What gets a task, a role and a schedule of its own
    #[arg(long, env = "ETL_ONE_TASK_PER", value_enum, default_value_t = Per::Country)]
    one_task_per: Per,
    /// Tasks that share the objects of a source at each start
    #[arg(long, env = "ETL_SHARDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    shards: u64,
    /// A further variable of every task; may be repeated
    #[arg(long, env = "ETL_ENV", value_parser = variable, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    #[command(flatten)]
    backfill: BackfillArgs,
}

#[derive(Debug, Args)]
struct BackfillArgs {
    /// Print one-shot tasks of a deployed stack instead, one JSON document a line for `aws ecs run-task --cli-input-json`
    #[arg(long, env = "ETL_BACKFILL", requires_all = ["tasks", "subnets", "security_groups"])]
    backfill: bool,
    /// Name of the deployed stack
    #[arg(long, env = "ETL_STACK", default_value = "silversmith", value_name = "NAME")]
    stack: String,
    /// Tasks per source
    #[arg(long, env = "ETL_TASKS", requires = "backfill", value_name = "N")]
    tasks: Option<u64>,
    /// What a task's share is
    #[arg(long, env = "ETL_SLICES", value_enum, default_value_t = SlicesName::Shards)]
    slices: SlicesName,
    /// First UTC date of the objects to read
    #[arg(long, env = "ETL_FROM", value_parser = date, value_name = "DATE")]
    from: Option<i32>,
    /// Last UTC date of the objects to read
    #[arg(long, env = "ETL_TO", value_parser = date, value_name = "DATE")]
    to: Option<i32>,
    /// Subnets of the tasks
    #[arg(long, env = "ETL_SUBNETS", value_delimiter = ',', value_name = "ID,…")]
    subnets: Vec<String>,
    /// Security groups of the tasks
    #[arg(long, env = "ETL_SECURITY_GROUPS", value_delimiter = ',', value_name = "ID,…")]
    security_groups: Vec<String>,
    /// Give the tasks public addresses: in public subnets without NAT and without endpoints
    #[arg(long, env = "ETL_PUBLIC_IP")]
    public_ip: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Per {
    Country,
    Entity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SlicesName {
    /// Even shares of the objects, by name
    Shards,
    /// Spans of path dates; whole years where there are enough of them
    Dates,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected a variable like ETL_MEMORY=3GiB".to_owned()),
    }
}

/// Exit 2 for everything that can be wrong here: jobs, contracts and addresses.
pub fn deploy(args: &DeployArgs) -> u8 {
    match &args.to {
        To::Ecs(args) => deploy_ecs(args),
        To::Databricks(args) => finish(bundle(args)),
    }
}

/// One folder of SQL files and one job for each source, and what names them.
fn bundle(args: &BundleArgs) -> Result<u8, RunError> {
    let places = args.places.named();
    let requests = requests(&args.places, &args.sources)?;
    let mut jobs = Vec::new();
    for request in &requests {
        let steps = script::steps(&places, request, SqlDialect::Databricks)?;
        jobs.push((Job::load(&places.jobs, &request.entity)?, steps));
    }
    let sources: Vec<Source<'_>> = jobs
        .iter()
        .zip(&requests)
        .map(|((job, steps), request)| Source {
            job,
            country: &request.country,
            files: steps.iter().map(|step| (step.name, step.text())).collect(),
        })
        .collect();
    if let Err(error) = output::files(&args.out, &databricks::bundle(&sources)) {
        output::error(&error);
        return Ok(2);
    }
    output::say(&format!("{} jobs in {}; deploy/databricks/README.md goes on from here", sources.len(), args.out.display()));
    Ok(0)
}

fn deploy_ecs(args: &EcsArgs) -> u8 {
    let jobs = match load(args) {
        Ok(jobs) => jobs,
        Err(error) => {
            output::run_error(&error);
            return error.exit_code();
        }
    };
    match print(args, &jobs) {
        Ok(()) => 0,
        Err(error) => {
            output::error(&error.to_string());
            2
        }
    }
}

/// Jobs with their countries, in the order asked for; each checked against its contract, as a run would.
fn load(args: &EcsArgs) -> Result<Vec<(Job, Vec<String>)>, RunError> {
    let mut jobs: Vec<(Job, Vec<String>)> = Vec::new();
    for request in requests(&args.places, &args.sources)? {
        if let Some((_, countries)) = jobs.iter_mut().find(|(job, _)| job.entity == request.entity) {
            countries.push(request.country);
            continue;
        }
        let (job, _) = load_files(&args.places.jobs, &args.places.schemas, &request.entity)?;
        jobs.push((job, vec![request.country]));
    }
    Ok(jobs)
}

fn place(address: &str, options: &[String], kms_key: Option<&String>) -> Result<Place, EcsError> {
    let options = (!options.is_empty()).then(|| options.join(","));
    Ok(Place { options, kms_key: kms_key.cloned(), ..Place::parse(address)? })
}

fn print(args: &EcsArgs, jobs: &[(Job, Vec<String>)]) -> Result<(), EcsError> {
    let options = DeployOptions {
        bronze: place(&args.places.bronze, &args.places.bronze_options, args.bronze_kms_key.as_ref())?,
        silver: place(&args.places.silver, &args.places.silver_options, args.silver_kms_key.as_ref())?,
        image: args.image.clone().unwrap_or_default(),
        cluster: args.cluster.clone(),
        log_retention_days: args.log_retention_days,
        alarm_topic: args.alarm_topic.clone(),
        one_task_per: match args.one_task_per {
            Per::Country => OneTaskPer::Country,
            Per::Entity => OneTaskPer::Entity,
        },
        shards: args.shards,
        environment: args.env.clone(),
    };
    let deployed: Vec<Deployed<'_>> = jobs.iter().map(|(job, countries)| Deployed { job, countries: countries.clone() }).collect();
    if !args.backfill.backfill {
        output::json(&ecs::template(&deployed, &options)?);
        return Ok(());
    }
    let wanted = Backfill {
        stack: args.backfill.stack.clone(),
        subnets: args.backfill.subnets.clone(),
        security_groups: args.backfill.security_groups.clone(),
        public_ip: args.backfill.public_ip,
        from: args.backfill.from,
        to: args.backfill.to,
        tasks: args.backfill.tasks.unwrap_or(1),
        slices: match args.backfill.slices {
            SlicesName::Shards => Slices::Shards,
            SlicesName::Dates => Slices::Dates,
        },
    };
    for input in ecs::backfill(&deployed, &options, &wanted)? {
        output::println(&input.to_string());
    }
    Ok(())
}
