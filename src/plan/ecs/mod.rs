//! A job list → what runs it on ECS: a CloudFormation template, and one-shot tasks for a backfill. Pure, and the same for the same input.
//!
//! Per task: a task definition, a role that can reach just its source's objects ([`access`]), its schedules and its alarms. [`check`] holds
//! the result to what AWS and its linters notice late or never; [`template`] gives out nothing that does not pass.

mod access;
mod backfill;
mod check;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::domain::Source;
use crate::job::deploy::{Arch, FREE_DISK, Launch};
use crate::job::{Job, LoadJobError};

use access::{execution_role, scheduler_role, task_role};

pub use backfill::{Backfill, Slices, backfill};
pub use check::check;

/// CloudFormation's limits of one template.
const MAX_RESOURCES: usize = 500;
const MAX_BYTES: usize = 1_000_000;
/// CloudWatch looks back at most this long, in seconds; with a period below an hour at most a day.
const LONGEST_LOOK_BACK: u64 = 7 * DAY;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Seconds that the program has less than ECS grants: for the report and the last log lines.
const STOP_RESERVE: u64 = 10;
/// Minutes by which starts of a schedule are spread at most, so that all sources do not list the bucket in the same second.
const WIDEST_WINDOW: u64 = 15;
/// Starts that fail (no capacity, throttling) are repeated so often and so long, in seconds.
const START_RETRIES: u64 = 10;
const START_RETRY_AGE: u64 = HOUR;
/// Seconds that starts which failed for good are kept.
const DEAD_LETTER_RETENTION: u64 = 14 * DAY;
/// As the Dockerfile makes it.
const USER: &str = "65532";
const SCRATCH: &str = "/tmp";
/// Done, another run holds it, and stopped cleanly: the next start goes on.
const HARMLESS_EXITS: [u8; 3] = [0, 4, 143];
const NAMESPACE: &str = "Silversmith";
/// What CloudWatch Logs takes, in days.
const RETENTIONS: [u64; 23] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, 3654];

#[derive(Debug, thiserror::Error)]
pub enum EcsError {
    #[error("{address}: a task reads and writes s3://bucket/prefix only ({reason})")]
    Address { address: String, reason: &'static str },
    #[error("`{name}` cannot be part of a name or key there: letters, digits, _ and - only")]
    Name { name: String },
    #[error("two tasks would both be called {name}; deploy them as two stacks, with --entity and --country")]
    SameName { name: String },
    #[error("job {entity} is of mode snapshot: a path day is one batch and is never shared; leave out --shards and --tasks")]
    SnapshotShared { entity: String },
    #[error(
        "{found} resources, and one template has at most {MAX_RESOURCES}; deploy several stacks, each with its own --entity or --country, or use --one-task-per entity"
    )]
    TooManyResources { found: usize },
    #[error(
        "the template has {found} bytes, and CloudFormation takes {MAX_BYTES}; deploy several stacks, each with its own --entity or --country"
    )]
    TooLarge { found: usize },
    #[error("{} days are no retention; CloudWatch Logs takes {RETENTIONS:?}", .days)]
    Retention { days: u64 },
    #[error("a backfill in slices of dates needs --from and --to, the first not after the last")]
    Dates,
    #[error("a backfill has at least one task, and in slices of dates at most one per day")]
    Tasks,
    #[error("the template is unsound; nothing was printed:\n  {}", .problems.join("\n  "))]
    Unsound { problems: Vec<String> },
    #[error(transparent)]
    Job(#[from] LoadJobError),
}

/// Where objects lie, and what is needed beyond the bucket's own policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub bucket: String,
    /// Without slashes at its ends; may be empty.
    pub prefix: String,
    /// As the flag for its options takes them.
    pub options: Option<String>,
    /// ARN of the KMS key that encrypts its objects.
    pub kms_key: Option<String>,
}

impl Place {
    pub fn parse(address: &str) -> Result<Self, EcsError> {
        let bad = |reason| EcsError::Address { address: address.to_owned(), reason };
        let rest = address.strip_prefix("s3://").ok_or_else(|| bad("it is no s3:// address"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let of_bucket = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(of_bucket) {
            return Err(bad("a bucket's name has 3 to 63 lowercase letters, digits, - and ."));
        }
        // `*`, `?` and `$` mean something in policies.
        let of_prefix = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '=' | '+' | '@' | ',' | '!');
        if !prefix.chars().all(of_prefix) || prefix.trim_matches('/').contains("//") {
            return Err(bad("the prefix has characters that a policy would misread"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned(), options: None, kms_key: None })
    }

    fn key(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    fn address(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    fn bucket_arn(&self) -> Value {
        sub(format!("arn:${{AWS::Partition}}:s3:::{}", self.bucket))
    }

    fn objects(&self, paths: &[String]) -> Value {
        paths.iter().map(|path| sub(format!("arn:${{AWS::Partition}}:s3:::{}/{}", self.bucket, self.key(path)))).collect()
    }

    fn region(&self) -> &str {
        let options = self.options.as_deref().unwrap_or_default();
        options.split(',').find_map(|option| option.trim().strip_prefix("region=")).unwrap_or("${AWS::Region}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTaskPer {
    Country,
    Entity,
}

#[derive(Debug, Clone)]
pub struct DeployOptions {
    pub bronze: Place,
    pub silver: Place,
    pub image: String,
    /// An existing cluster; without it the stack has its own, of the stack's name.
    pub cluster: Option<String>,
    pub log_retention_days: u64,
    /// ARN of an existing topic; without it the stack has its own.
    pub alarm_topic: Option<String>,
    pub one_task_per: OneTaskPer,
    /// Tasks that share a source's objects.
    pub shards: u64,
    /// Further variables of every task.
    pub environment: Vec<(String, String)>,
}

/// One entity's job and the countries to run it for.
#[derive(Debug, Clone)]
pub struct Deployed<'j> {
    pub job: &'j Job,
    pub countries: Vec<String>,
}

/// What one task definition runs.
struct Task<'j> {
    job: &'j Job,
    /// (country, source).
    sources: Vec<(String, Source)>,
    /// `FaultData-de`, within the stack's name.
    name: String,
    /// `FaultDataDe`: what its resources' names begin with.
    id: String,
}

impl Task<'_> {
    fn countries(&self) -> String {
        self.sources.iter().map(|(country, _)| country.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Of the metrics, which are per country whatever the task does.
    fn dimensions(&self, country: &str) -> Value {
        json!([{"Name": "Entity", "Value": self.job.entity}, {"Name": "Country", "Value": country}])
    }
}

fn tasks<'j>(jobs: &[Deployed<'j>], per: OneTaskPer) -> Result<Vec<Task<'j>>, EcsError> {
    let mut tasks: Vec<Task<'j>> = Vec::new();
    for Deployed { job, countries } in jobs {
        let sources: Result<Vec<_>, EcsError> = countries.iter().map(|country| source(job, country)).collect();
        let sources = sources?;
        match per {
            OneTaskPer::Entity => tasks.push(Task { job, name: job.entity.clone(), id: identifier(&[&job.entity]), sources }),
            OneTaskPer::Country => tasks.extend(sources.into_iter().map(|(country, source)| Task {
                job,
                name: format!("{}-{country}", job.entity),
                id: identifier(&[&job.entity, &country]),
                sources: vec![(country, source)],
            })),
        }
    }
    let mut ids = BTreeSet::new();
    match tasks.iter().find(|task| !ids.insert(task.id.clone())) {
        Some(twice) => Err(EcsError::SameName { name: twice.id.clone() }),
        None => Ok(tasks),
    }
}

fn source(job: &Job, country: &str) -> Result<(String, Source), EcsError> {
    let source = job.source(country)?;
    for name in [&source.entity, &source.database, &country.to_owned()] {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
            return Err(EcsError::Name { name: name.clone() });
        }
    }
    Ok((country.to_owned(), source))
}

/// `["FaultData", "de"]` → `FaultDataDe`: CloudFormation's names are alphanumeric.
fn identifier(parts: &[&str]) -> String {
    let mut id = String::new();
    for part in parts.iter().flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric())) {
        let mut characters = part.chars();
        id.extend(characters.next().map(|first| first.to_ascii_uppercase()));
        id.extend(characters);
    }
    id
}

fn sub(text: impl Into<String>) -> Value {
    json!({"Fn::Sub": text.into()})
}

fn reference(id: &str) -> Value {
    json!({"Ref": id})
}

fn arn_of(id: &str) -> Value {
    json!({"Fn::GetAtt": [id, "Arn"]})
}

fn resource(ty: &str, properties: Value) -> Value {
    json!({"Type": ty, "Properties": properties})
}

fn of_this_account() -> Value {
    json!({"StringEquals": {"aws:SourceAccount": reference("AWS::AccountId")}})
}

/// The CloudFormation template that runs the jobs.
pub fn template(jobs: &[Deployed<'_>], options: &DeployOptions) -> Result<Value, EcsError> {
    if !RETENTIONS.contains(&options.log_retention_days) {
        return Err(EcsError::Retention { days: options.log_retention_days });
    }
    if let Some(snapshot) = jobs.iter().find(|deployed| deployed.job.is_snapshot() && options.shards > 1) {
        return Err(EcsError::SnapshotShared { entity: snapshot.job.entity.clone() });
    }
    let tasks = tasks(jobs, options.one_task_per)?;
    let managed: Vec<&Job> = tasks.iter().map(|task| task.job).filter(|job| job.deploy.launch == Launch::ManagedInstances).collect();
    let mut resources = shared(&tasks, options);
    if !managed.is_empty() {
        resources.insert("ManagedInstances".to_owned(), managed_instances(&managed, options));
    }
    for task in &tasks {
        resources.insert(format!("{}Role", task.id), task_role(task, options));
        resources.insert(format!("{}Task", task.id), task_definition(task, options));
        for shard in 1..=options.shards.max(1) {
            let (id, value) = schedule(task, shard, options);
            resources.insert(id, value);
        }
        for (country, _) in &task.sources {
            resources.extend(alarms(task, country, options));
        }
    }
    if resources.len() > MAX_RESOURCES {
        return Err(EcsError::TooManyResources { found: resources.len() });
    }
    let template = json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Scheduled tasks that read bronze JSON and write silver Delta tables; printed by etl deploy ecs",
        "Parameters": parameters(!managed.is_empty(), managed.len() < tasks.len()),
        "Resources": resources,
        "Outputs": {
            "Cluster": {"Value": cluster(options)},
            "LogGroup": {"Value": reference("LogGroup")},
            "AlarmTopic": {"Value": topic(options)},
            "DeadLetters": {"Value": reference("DeadLetters")},
        },
    });
    let found = serde_json::to_string_pretty(&template).map_or(0, |text| text.len());
    if found > MAX_BYTES {
        return Err(EcsError::TooLarge { found });
    }
    let problems = check(&template);
    if problems.is_empty() { Ok(template) } else { Err(EcsError::Unsound { problems }) }
}

fn parameters(managed: bool, fargate: bool) -> Value {
    let mut parameters = json!({
        "Subnets": {"Type": "List<AWS::EC2::Subnet::Id>", "Description": "With a way to S3, CloudWatch Logs and the image's registry"},
        "SecurityGroups": {"Type": "List<AWS::EC2::SecurityGroup::Id>", "Description": "With HTTPS outwards; nothing needs to come in"},
    });
    if fargate {
        parameters["AssignPublicIp"] = json!({
            "Type": "String",
            "Default": "DISABLED",
            "AllowedValues": ["DISABLED", "ENABLED"],
            "Description": "ENABLED in public subnets without NAT and without endpoints",
        });
    }
    if managed {
        parameters["InfrastructureRole"] = json!({
            "Type": "String",
            "AllowedPattern": "arn:[a-z-]+:iam::[0-9]{12}:role/.+",
            "Description": "ARN of the role with which ECS manages instances",
        });
        parameters["InstanceProfile"] = json!({
            "Type": "String",
            "AllowedPattern": "arn:[a-z-]+:iam::[0-9]{12}:instance-profile/.+",
            "Description": "ARN of the instances' own profile",
        });
    }
    parameters
}

fn cluster(options: &DeployOptions) -> Value {
    match &options.cluster {
        None => arn_of("Cluster"),
        Some(name) => sub(format!("arn:${{AWS::Partition}}:ecs:${{AWS::Region}}:${{AWS::AccountId}}:cluster/{name}")),
    }
}

fn topic(options: &DeployOptions) -> Value {
    options.alarm_topic.as_ref().map_or_else(|| reference("Alarms"), |arn| json!(arn))
}

/// Every task definition of this stack: their families begin with its name.
fn families() -> Value {
    sub("arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task-definition/${AWS::StackName}-")
}

/// What all tasks have in common.
fn shared(tasks: &[Task<'_>], options: &DeployOptions) -> Map<String, Value> {
    let mut resources = Map::new();
    let mut add = |id: &str, value: Value| resources.insert(id.to_owned(), value);
    if options.cluster.is_none() {
        let properties = json!({"ClusterName": reference("AWS::StackName"), "CapacityProviders": ["FARGATE", "FARGATE_SPOT"]});
        add("Cluster", resource("AWS::ECS::Cluster", properties));
    }
    let retention = json!({"LogGroupName": sub("/silversmith/${AWS::StackName}"), "RetentionInDays": options.log_retention_days});
    add("LogGroup", resource("AWS::Logs::LogGroup", retention));
    add("ExecutionRole", execution_role(options));
    add("ScheduleGroup", resource("AWS::Scheduler::ScheduleGroup", json!({})));
    let letters = json!({"MessageRetentionPeriod": DEAD_LETTER_RETENTION, "SqsManagedSseEnabled": true});
    add("DeadLetters", resource("AWS::SQS::Queue", letters));
    add("SchedulerRole", scheduler_role(tasks, options));
    if options.alarm_topic.is_none() {
        add("Alarms", resource("AWS::SNS::Topic", json!({})));
        add("AlarmsPolicy", alarms_policy());
    }
    add("TaskFailed", task_failed(options));
    let dead = json!({
        "AlarmDescription": "Tasks could not be started; the queue says why",
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateNumberOfMessagesVisible",
        "Dimensions": [{"Name": "QueueName", "Value": {"Fn::GetAtt": ["DeadLetters", "QueueName"]}}],
        "Statistic": "Maximum",
        "Period": 300,
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "AlarmActions": [topic(options)],
    });
    add("NotStarted", resource("AWS::CloudWatch::Alarm", dead));
    resources
}

/// A topic with a policy of its own has no default one: both senders are named.
fn alarms_policy() -> Value {
    let publish = |sid: &str, service: &str| {
        json!({
            "Sid": sid,
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sns:Publish",
            "Resource": reference("Alarms"),
            "Condition": of_this_account(),
        })
    };
    let statements = [publish("Alarms", "cloudwatch.amazonaws.com"), publish("FailedTasks", "events.amazonaws.com")];
    let document = json!({"Version": "2012-10-17", "Statement": statements});
    resource("AWS::SNS::TopicPolicy", json!({"Topics": [reference("Alarms")], "PolicyDocument": document}))
}

/// Exit codes are to be seen in this event only, and only once.
fn task_failed(options: &DeployOptions) -> Value {
    let pattern = json!({
        "source": ["aws.ecs"],
        "detail-type": ["ECS Task State Change"],
        "detail": {
            "clusterArn": [cluster(options)],
            "taskDefinitionArn": [{"prefix": families()}],
            "lastStatus": ["STOPPED"],
            "$or": [
                {"containers": {"exitCode": [{"anything-but": HARMLESS_EXITS}]}},
                {"stopCode": ["TaskFailedToStart"]},
            ],
        },
    });
    let target = json!({"Id": "alarms", "Arn": topic(options)});
    resource("AWS::Events::Rule", json!({"Description": "A task failed", "EventPattern": pattern, "Targets": [target]}))
}

/// Instances that ECS starts, patches and ends itself; the tasks' disk is the instances'.
fn managed_instances(jobs: &[&Job], options: &DeployOptions) -> Value {
    let most = |of: fn(&Job) -> u32| jobs.iter().map(|job| of(job)).max().unwrap_or_default();
    let cluster = options.cluster.as_ref().map_or_else(|| reference("Cluster"), |name| json!(name));
    resource(
        "AWS::ECS::CapacityProvider",
        json!({
            "Name": sub("managed-${AWS::StackName}"),
            "ClusterName": cluster,
            "ManagedInstancesProvider": {
                "InfrastructureRoleArn": reference("InfrastructureRole"),
                "InstanceLaunchTemplate": {
                    "Ec2InstanceProfileArn": reference("InstanceProfile"),
                    "NetworkConfiguration": {"Subnets": reference("Subnets"), "SecurityGroups": reference("SecurityGroups")},
                    // Room for two of the tasks beside the images.
                    "StorageConfiguration": {"StorageSizeGiB": (most(|job| job.deploy.disk) * 2).max(80)},
                    "InstanceRequirements": {
                        "VCpuCount": {"Min": most(|job| job.deploy.cpu).div_ceil(1024)},
                        "MemoryMiB": {"Min": most(|job| job.deploy.memory)},
                    },
                },
            },
        }),
    )
}

fn task_definition(task: &Task<'_>, options: &DeployOptions) -> Value {
    let deploy = &task.job.deploy;
    let compatibility = if deploy.launch == Launch::ManagedInstances { "MANAGED_INSTANCES" } else { "FARGATE" };
    let mut definition = json!({
        "Family": sub(format!("${{AWS::StackName}}-{}", task.name)),
        "RequiresCompatibilities": [compatibility],
        "NetworkMode": "awsvpc",
        "Cpu": deploy.cpu.to_string(),
        "Memory": deploy.memory.to_string(),
        "RuntimePlatform": {
            "OperatingSystemFamily": "LINUX",
            "CpuArchitecture": match deploy.arch {
                Arch::X86 => "X86_64",
                Arch::Arm64 => "ARM64",
            },
        },
        "ExecutionRoleArn": arn_of("ExecutionRole"),
        "TaskRoleArn": arn_of(&format!("{}Role", task.id)),
    });
    if deploy.disk > FREE_DISK && deploy.launch != Launch::ManagedInstances {
        definition["EphemeralStorage"] = json!({"SizeInGiB": deploy.disk});
    }
    // The root is read-only, and rows that do not fit in memory wait in TMPDIR: on the task's disk, since a tmpfs would take the very
    // memory that they are to spare. The volume gets the owner and mode that the image's VOLUME has.
    definition["Volumes"] = json!([{"Name": "scratch"}]);
    definition["ContainerDefinitions"] = json!([{
        "Name": "etl",
        "Image": options.image,
        "Essential": true,
        "Command": ["run"],
        "User": USER,
        "ReadonlyRootFilesystem": true,
        // The program handles signals as process 1 itself and has no children.
        "LinuxParameters": {"InitProcessEnabled": false, "Capabilities": {"Drop": ["ALL"]}},
        "StopTimeout": deploy.stop_timeout.as_secs(),
        "MountPoints": [{"SourceVolume": "scratch", "ContainerPath": SCRATCH, "ReadOnly": false}],
        "Environment": environment(task, options),
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": reference("LogGroup"),
                "awslogs-region": reference("AWS::Region"),
                "awslogs-stream-prefix": task.name,
                // By default a full buffer loses lines, and metrics travel as lines.
                "mode": "blocking",
            },
        },
    }]);
    resource("AWS::ECS::TaskDefinition", definition)
}

fn environment(task: &Task<'_>, options: &DeployOptions) -> Value {
    let granted = task.job.deploy.stop_timeout.as_secs();
    let mut variables = vec![
        ("ETL_ENTITY", task.job.entity.clone()),
        ("ETL_COUNTRY", task.countries()),
        ("ETL_BRONZE", options.bronze.address()),
        ("ETL_SILVER", options.silver.address()),
        ("ETL_LOG", "json".to_owned()),
        ("ETL_OUTPUT", "json".to_owned()),
        ("ETL_METRICS", "emf".to_owned()),
        ("ETL_STOP_TIMEOUT", format!("{} s", granted - STOP_RESERVE.min(granted / 2))),
    ];
    let given = [("ETL_BRONZE_OPTIONS", &options.bronze.options), ("ETL_SILVER_OPTIONS", &options.silver.options)];
    variables.extend(given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    variables.extend(options.environment.iter().map(|(name, value)| (name.as_str(), value.clone())));
    variables.into_iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect()
}

fn capacity(launch: Launch) -> Value {
    match launch {
        Launch::Fargate => json!("FARGATE"),
        Launch::FargateSpot => json!("FARGATE_SPOT"),
        Launch::ManagedInstances => reference("ManagedInstances"),
    }
}

fn schedule(task: &Task<'_>, shard: u64, options: &DeployOptions) -> (String, Value) {
    let deploy = &task.job.deploy;
    let window = (deploy.schedule.period.as_secs() / 60 / 3).min(WIDEST_WINDOW);
    let window = if window == 0 { json!({"Mode": "OFF"}) } else { json!({"Mode": "FLEXIBLE", "MaximumWindowInMinutes": window}) };
    let mut target = json!({
        "Arn": cluster(options),
        "RoleArn": arn_of("SchedulerRole"),
        "EcsParameters": {
            "TaskDefinitionArn": reference(&format!("{}Task", task.id)),
            "TaskCount": 1,
            "CapacityProviderStrategy": [{"CapacityProvider": capacity(deploy.launch), "Weight": 1}],
            "NetworkConfiguration": {"AwsvpcConfiguration": {
                "Subnets": reference("Subnets"),
                "SecurityGroups": reference("SecurityGroups"),
                "AssignPublicIp": if deploy.launch == Launch::ManagedInstances { json!("DISABLED") } else { reference("AssignPublicIp") },
            }},
        },
        "RetryPolicy": {"MaximumRetryAttempts": START_RETRIES, "MaximumEventAgeInSeconds": START_RETRY_AGE},
        "DeadLetterConfig": {"Arn": arn_of("DeadLetters")},
    });
    let mut id = format!("{}Schedule", task.id);
    if options.shards > 1 {
        id = format!("{id}{shard}Of{}", options.shards);
        let share = json!([{"name": "ETL_SHARD", "value": format!("{shard}/{}", options.shards)}]);
        target["Input"] = json!(json!({"containerOverrides": [{"name": "etl", "environment": share}]}).to_string());
    }
    let properties = json!({
        "GroupName": reference("ScheduleGroup"),
        "ScheduleExpression": deploy.schedule.expression,
        "ScheduleExpressionTimezone": deploy.schedule.timezone,
        "FlexibleTimeWindow": window,
        "State": "ENABLED",
        "Target": target,
    });
    (id, resource("AWS::Scheduler::Schedule", properties))
}

fn alarms(task: &Task<'_>, country: &str, options: &DeployOptions) -> Vec<(String, Value)> {
    let (entity, deploy) = (&task.job.entity, &task.job.deploy);
    let id = |name: &str| format!("{}{name}", identifier(&[entity, country]));
    let alarm = |metric: &str, description: String, how: Value| {
        let mut properties = json!({
            "AlarmDescription": description,
            "Namespace": NAMESPACE,
            "MetricName": metric,
            "Dimensions": task.dimensions(country),
            "AlarmActions": [topic(options)],
        });
        if let (Some(properties), Value::Object(how)) = (properties.as_object_mut(), how) {
            properties.extend(how);
        }
        resource("AWS::CloudWatch::Alarm", properties)
    };
    let mut alarms = vec![(
        id("Rejects"),
        alarm(
            "RejectShare",
            format!("{entity} {country}: more records refused than the job's gate.warn_share"),
            json!({
                "Statistic": "Maximum",
                "Period": 300,
                "EvaluationPeriods": 1,
                // In percent, without the noise of the last binary digits.
                "Threshold": (task.job.gate.warn_share * 1e6).round() / 1e4,
                "ComparisonOperator": "GreaterThanThreshold",
                "TreatMissingData": "notBreaching",
            }),
        ),
    )];
    if let Some((period, periods)) = silence(deploy.schedule.period.as_secs()) {
        alarms.push((
            id("Silent"),
            alarm(
                "RunSucceeded",
                format!("{entity} {country}: no run succeeded for {} h", (period * periods) as f64 / HOUR as f64),
                json!({
                    "Statistic": "Sum",
                    "Period": period,
                    "EvaluationPeriods": periods,
                    "Threshold": 1,
                    "ComparisonOperator": "LessThanThreshold",
                    "TreatMissingData": "breaching",
                }),
            ),
        ));
    }
    if task.job.event_time.is_some() {
        alarms.push((
            id("Lag"),
            alarm(
                "NewestRecordLagSeconds",
                format!("{entity} {country}: the newest record is older than the job's deploy.max_lag"),
                json!({
                    // Of several shards the one that has the newest record.
                    "Statistic": "Minimum",
                    "Period": 300,
                    "EvaluationPeriods": 1,
                    "Threshold": deploy.max_lag.as_secs(),
                    "ComparisonOperator": "GreaterThanThreshold",
                    // Between two runs it stays as it is.
                    "TreatMissingData": "ignore",
                }),
            ),
        ));
    }
    alarms
}

/// (seconds of a period, periods) that make three times the schedule's, as far as CloudWatch looks back; `None` where that is not even twice.
fn silence(schedule: u64) -> Option<(u64, u64)> {
    if schedule * 2 > LONGEST_LOOK_BACK {
        return None;
    }
    if schedule <= DAY {
        return Some((schedule.next_multiple_of(60), 3));
    }
    Some((DAY, (schedule * 3).div_ceil(DAY).min(LONGEST_LOOK_BACK / DAY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Job {
        Job::from_text("jobs/X.yaml", text.to_owned()).unwrap()
    }

    pub fn fault() -> Job {
        job("entity: FaultData\nmode: upsert\nkey: [id]\nevent_time: dateTime\ndeploy: {schedule: rate(15 minutes), disk: 50 GiB}\n")
    }

    pub fn options() -> DeployOptions {
        DeployOptions {
            bronze: Place::parse("s3://lake/bronze/").unwrap(),
            silver: Place::parse("s3://lake/silver").unwrap(),
            image: "123456789012.dkr.ecr.eu-central-1.amazonaws.com/etl:1".to_owned(),
            cluster: None,
            log_retention_days: 30,
            alarm_topic: None,
            one_task_per: OneTaskPer::Country,
            shards: 1,
            environment: Vec::new(),
        }
    }

    pub fn deployed<'j>(job: &'j Job, countries: &[&str]) -> Vec<Deployed<'j>> {
        vec![Deployed { job, countries: countries.iter().map(|country| (*country).to_owned()).collect() }]
    }

    pub fn of_fault(options: &DeployOptions) -> Value {
        template(&deployed(&fault(), &["de", "fr"]), options).unwrap()
    }

    fn statement<'t>(template: &'t Value, role: &str, sid: &str) -> &'t Value {
        let statements = template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"].as_array().unwrap();
        statements.iter().find(|statement| statement["Sid"] == sid).unwrap()
    }

    #[test]
    fn the_same_jobs_give_the_same_template() {
        assert_eq!(of_fault(&options()).to_string(), of_fault(&options()).to_string());
    }

    #[test]
    fn a_task_has_a_definition_a_role_a_schedule_and_alarms() {
        let template = of_fault(&options());
        let ids: Vec<&String> = template["Resources"].as_object().unwrap().keys().collect();
        for id in ["FaultDataDeRole", "FaultDataDeTask", "FaultDataDeSchedule", "FaultDataDeRejects", "FaultDataDeSilent", "FaultDataFrLag"]
        {
            assert!(ids.iter().any(|found| *found == id), "{id} in {ids:?}");
        }
        let task = &template["Resources"]["FaultDataDeTask"]["Properties"];
        assert_eq!(task["EphemeralStorage"]["SizeInGiB"], 50);
        let variables = task["ContainerDefinitions"][0]["Environment"].as_array().unwrap();
        let value = |name: &str| variables.iter().find(|variable| variable["Name"] == name).map(|variable| variable["Value"].clone());
        assert_eq!(value("ETL_COUNTRY"), Some(json!("de")));
        assert_eq!(value("ETL_BRONZE"), Some(json!("s3://lake/bronze")));
        assert_eq!(value("ETL_STOP_TIMEOUT"), Some(json!("110 s")));
    }

    #[test]
    fn a_role_reaches_its_own_source_only() {
        let template = of_fault(&options());
        let listed = &statement(&template, "FaultDataDeRole", "ListBronze")["Condition"]["StringLike"]["s3:prefix"];
        assert_eq!(*listed, json!(["bronze/database=fleetdb_de/entity=FaultData/*"]));
        let role = template["Resources"]["FaultDataDeRole"].to_string();
        assert!(!role.contains("fleetdb_fr") && !role.contains("kms:"), "{role}");
        let delete = statement(&template, "FaultDataDeRole", "TidySilver").to_string();
        assert!(!delete.contains("_delta_log") && delete.contains("_etl/ledger/FaultData/fleetdb_de/leases/*"), "{delete}");
        let runs = statement(&template, "FaultDataDeRole", "WorkInSilver").to_string();
        assert!(!runs.contains("_etl/runs") && runs.contains("_etl/tombstones/FaultData/_delta_log/*"), "{runs}");
    }

    #[test]
    fn append_jobs_have_no_tombstones_and_keys_appear_where_given() {
        let plain = job("entity: LogRecord\nkey: [id]\n");
        let mut options = options();
        options.silver.kms_key = Some("arn:aws:kms:eu-west-1:123456789012:key/k".to_owned());
        options.silver.options = Some("sse=kms,region=eu-west-1".to_owned());
        let template = template(&deployed(&plain, &["de"]), &options).unwrap();
        let role = template["Resources"]["LogRecordDeRole"].to_string();
        assert!(
            !role.contains("tombstones") && role.contains("kms:GenerateDataKey") && role.contains("s3.eu-west-1.${AWS::URLSuffix}"),
            "{role}"
        );
        assert!(template["Resources"].get("LogRecordDeLag").is_none());
    }

    #[test]
    fn shards_are_schedules_of_their_own() {
        let template = of_fault(&DeployOptions { shards: 3, ..options() });
        let input = template["Resources"]["FaultDataDeSchedule2Of3"]["Properties"]["Target"]["Input"].as_str().unwrap();
        assert!(input.contains(r#"{"name":"ETL_SHARD","value":"2/3"}"#), "{input}");
        let snapshot = job("entity: Device\nmode: snapshot\nkey: [id]\n");
        let refused = super::template(&deployed(&snapshot, &["de"]), &DeployOptions { shards: 2, ..options() });
        assert!(matches!(refused, Err(EcsError::SnapshotShared { .. })));
    }

    #[test]
    fn one_task_may_do_all_countries() {
        let template = of_fault(&DeployOptions { one_task_per: OneTaskPer::Entity, ..options() });
        let resources = template["Resources"].as_object().unwrap();
        assert!(resources.contains_key("FaultDataTask") && resources.contains_key("FaultDataFrSilent"));
        assert_eq!(statement(&template, "FaultDataRole", "ReadBronze")["Resource"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn managed_instances_have_their_capacity_provider() {
        let job = job("entity: Trip\nkey: [id]\ndeploy: {launch: managed_instances, disk: 100 GiB, cpu: 2048}\n");
        let template = template(&deployed(&job, &["de"]), &options()).unwrap();
        let launch = &template["Resources"]["ManagedInstances"]["Properties"]["ManagedInstancesProvider"]["InstanceLaunchTemplate"];
        assert_eq!(launch["StorageConfiguration"]["StorageSizeGiB"], 200);
        assert!(template["Parameters"].get("InstanceProfile").is_some());
        assert!(template["Resources"]["TripDeTask"]["Properties"].get("EphemeralStorage").is_none());
    }

    #[test]
    fn too_much_for_one_template_names_the_remedy() {
        let countries: Vec<String> = (0..100).map(|at| format!("c{at}")).collect();
        let text = format!("entity: X\nkey: [id]\ncountries: {countries:?}\n");
        let (job, all) = (job(&text), countries.iter().map(String::as_str).collect::<Vec<_>>());
        let refused = template(&deployed(&job, &all), &options()).unwrap_err().to_string();
        assert!(refused.contains("--entity") && refused.contains("500"), "{refused}");
    }

    #[test]
    fn addresses_that_a_policy_would_misread_are_refused() {
        for bad in ["bronze", "s3://", "s3://Lake/x", "s3://lake/a*", "s3://lake/${AWS::AccountId}", "s3://lake/a//b"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Place::parse("s3://lake").unwrap().key("a"), "a");
    }

    #[test]
    fn silence_is_three_periods_as_far_as_cloudwatch_looks_back() {
        assert_eq!(silence(15 * 60), Some((900, 3)));
        assert_eq!(silence(DAY), Some((DAY, 3)));
        assert_eq!(silence(3 * DAY), Some((DAY, 7)));
        assert_eq!(silence(7 * DAY), None);
    }
}
