//! What is wrong with a template and would show late.

use serde_json::Value;

use super::{DAY, HOUR, LONGEST_LOOK_BACK, MAX_RESOURCES, RETENTIONS, SCRATCH};
use crate::job::deploy::{DISK, STOP_TIMEOUT, memory_for};

/// IAM's limit of all inline policies of a role, in characters, white space aside.
const MAX_POLICY_CHARACTERS: usize = 10_240;

/// Problems by resource: AWS refuses some of them only when a task starts, linters and emulators let them pass.
pub fn check(template: &Value) -> Vec<String> {
    let Some(resources) = template["Resources"].as_object() else { return vec!["there are no resources".to_owned()] };
    let mut problems = Vec::new();
    if resources.len() > MAX_RESOURCES {
        problems.push(format!("{} resources, more than {MAX_RESOURCES}", resources.len()));
    }
    for (id, resource) in resources {
        let properties = &resource["Properties"];
        let found = match resource["Type"].as_str().unwrap_or_default() {
            "AWS::ECS::TaskDefinition" => check_task(properties),
            "AWS::IAM::Role" => check_role(properties),
            "AWS::Scheduler::Schedule" => check_schedule(properties),
            "AWS::CloudWatch::Alarm" => check_alarm(properties),
            "AWS::Logs::LogGroup" if !properties["RetentionInDays"].as_u64().is_some_and(|days| RETENTIONS.contains(&days)) => {
                vec!["RetentionInDays is none that CloudWatch Logs takes".to_owned()]
            }
            _ => Vec::new(),
        };
        problems.extend(found.into_iter().map(|problem| format!("{id}: {problem}")));
    }
    problems
}

fn check_task(task: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut must = |holds: bool, problem: &str| {
        if !holds {
            problems.push(problem.to_owned());
        }
    };
    must(task["NetworkMode"] == "awsvpc", "NetworkMode must be awsvpc");
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u32>().ok());
    let pair = number(&task["Cpu"]).zip(number(&task["Memory"]));
    must(pair.is_some_and(|(cpu, memory)| memory_for(cpu).contains(&memory)), "Fargate sells no such pair of Cpu and Memory");
    if let Some(storage) = task.get("EphemeralStorage") {
        let size = storage["SizeInGiB"].as_u64().and_then(|size| u32::try_from(size).ok());
        must(size.is_some_and(|size| DISK.contains(&size)), "EphemeralStorage must be 21 to 200 GiB");
    }
    let volumes: Vec<&Value> = task["Volumes"].as_array().into_iter().flatten().map(|volume| &volume["Name"]).collect();
    let containers = task["ContainerDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    must(!containers.is_empty(), "there is no container");
    for container in containers {
        let stop = container["StopTimeout"].as_u64().unwrap_or_default();
        must(STOP_TIMEOUT.contains(&stop), "StopTimeout must be 2 to 120 s");
        must(container["ReadonlyRootFilesystem"] == true, "the root file system must be read-only");
        let user = container["User"].as_str().unwrap_or("root");
        must(!matches!(user.split(':').next(), Some("root" | "0" | "")), "User must not be root");
        let log = &container["LogConfiguration"];
        must(log["LogDriver"] == "awslogs", "LogDriver must be awslogs");
        must(log["Options"]["mode"] == "blocking", "log mode must be blocking: the default loses lines, and metrics are lines");
        must(!log["Options"]["awslogs-stream-prefix"].is_null(), "Fargate needs awslogs-stream-prefix");
        let mounts = container["MountPoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let scratch = mounts.iter().find(|mount| mount["ContainerPath"] == SCRATCH);
        must(scratch.is_some_and(|mount| volumes.contains(&&mount["SourceVolume"])), "nothing writable is mounted at /tmp");
        let variables = container["Environment"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own = variables.iter().find(|variable| variable["Name"] == "ETL_STOP_TIMEOUT").and_then(|variable| variable["Value"].as_str());
        let own = own.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        must(own.is_some_and(|own| own < stop), "ETL_STOP_TIMEOUT must be below StopTimeout");
    }
    problems
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(object) => object.values().flat_map(texts).collect(),
        Value::String(text) => vec![text],
        _ => Vec::new(),
    }
}

/// About what a document has once its references are resolved.
fn characters(value: &Value) -> usize {
    const ARN: usize = 100;
    match value {
        Value::Array(values) => values.iter().map(|value| characters(value) + 1).sum::<usize>() + 2,
        Value::Object(object) => match object.iter().next() {
            Some((name, text)) if name == "Fn::Sub" => text.as_str().map_or(0, |text| text.replace("${AWS::Partition}", "aws").len()) + 2,
            Some((name, _)) if name == "Fn::GetAtt" || name == "Ref" => ARN,
            _ => object.iter().map(|(name, value)| name.len() + characters(value) + 4).sum::<usize>() + 2,
        },
        other => other.to_string().len(),
    }
}

fn check_role(role: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let policies = role["Policies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let statements: Vec<&Value> = policies.iter().filter_map(|policy| policy["PolicyDocument"]["Statement"].as_array()).flatten().collect();
    if statements.is_empty() {
        problems.push("the role allows nothing".to_owned());
    }
    for statement in &statements {
        let sid = statement["Sid"].as_str().unwrap_or("a statement");
        let (actions, resources) = (texts(&statement["Action"]), texts(&statement["Resource"]));
        if actions.is_empty() || actions.iter().any(|action| action.contains('*')) {
            problems.push(format!("{sid}: actions are named one by one"));
        }
        let everything = |resource: &&str| {
            *resource == "*" || resource.split(":::").nth(1).is_some_and(|name| name.ends_with("/*") && name.matches('/').count() == 1)
        };
        // This one action exists for all registries only.
        if actions != ["ecr:GetAuthorizationToken"] && resources.iter().any(everything) {
            problems.push(format!("{sid}: the resource is everything"));
        }
        if actions.contains(&"s3:ListBucket") && statement["Condition"]["StringLike"]["s3:prefix"].is_null() {
            problems.push(format!("{sid}: s3:ListBucket without a prefix"));
        }
        if actions.contains(&"iam:PassRole") && statement["Condition"]["StringEquals"]["iam:PassedToService"].is_null() {
            problems.push(format!("{sid}: iam:PassRole to any service"));
        }
    }
    let characters: usize = policies.iter().map(|policy| characters(&policy["PolicyDocument"])).sum();
    if characters > MAX_POLICY_CHARACTERS {
        problems
            .push(format!("its policies have {characters} characters, and IAM takes {MAX_POLICY_CHARACTERS}; use --one-task-per country"));
    }
    problems
}

fn check_schedule(schedule: &Value) -> Vec<String> {
    let target = &schedule["Target"];
    let mut problems = Vec::new();
    if target["DeadLetterConfig"]["Arn"].is_null() {
        problems.push("starts that fail are lost without a DeadLetterConfig".to_owned());
    }
    let retry = &target["RetryPolicy"];
    let attempts = retry["MaximumRetryAttempts"].as_u64().is_some_and(|attempts| attempts <= 185);
    let age = retry["MaximumEventAgeInSeconds"].as_u64().is_some_and(|age| (60..=86_400).contains(&age));
    if !(attempts && age) {
        problems.push("RetryPolicy takes 0 to 185 attempts within 60 to 86400 s".to_owned());
    }
    if target["EcsParameters"]["NetworkConfiguration"]["AwsvpcConfiguration"].is_null() {
        problems.push("awsvpc needs a NetworkConfiguration".to_owned());
    }
    problems
}

fn check_alarm(alarm: &Value) -> Vec<String> {
    let (period, periods) = (alarm["Period"].as_u64().unwrap_or_default(), alarm["EvaluationPeriods"].as_u64().unwrap_or_default());
    let longest = if period < HOUR { DAY } else { LONGEST_LOOK_BACK };
    let mut problems = Vec::new();
    if period == 0 || !period.is_multiple_of(60) || period > DAY || periods == 0 || period * periods > longest {
        problems.push(format!("CloudWatch does not look back at {periods} periods of {period} s"));
    }
    if texts(&alarm["AlarmActions"]).is_empty() {
        problems.push("nobody hears the alarm".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{of_fault, options};
    use super::*;

    #[test]
    fn what_linters_let_pass_is_found() {
        let good = of_fault(&options());
        assert_eq!(check(&good), [] as [&str; 0]);
        let task = "/Resources/FaultDataDeTask/Properties";
        let role = "/Resources/FaultDataDeRole/Properties/Policies/0/PolicyDocument/Statement";
        for (place, bad, problem) in [
            (format!("{task}/ContainerDefinitions/0/StopTimeout"), json!(300), "StopTimeout"),
            (format!("{task}/EphemeralStorage/SizeInGiB"), json!(500), "EphemeralStorage"),
            (format!("{task}/Memory"), json!("5000"), "pair"),
            (format!("{task}/NetworkMode"), json!("bridge"), "awsvpc"),
            (format!("{task}/ContainerDefinitions/0/LogConfiguration/Options/mode"), Value::Null, "log mode"),
            (format!("{task}/ContainerDefinitions/0/User"), json!("0:0"), "root"),
            (format!("{task}/ContainerDefinitions/0/MountPoints"), json!([]), "/tmp"),
            (format!("{role}/1/Action"), json!(["s3:*"]), "one by one"),
            (format!("{role}/1/Resource"), json!([{"Fn::Sub": "arn:${AWS::Partition}:s3:::lake/*"}]), "everything"),
            (format!("{role}/0/Condition"), json!({}), "without a prefix"),
            ("/Resources/FaultDataDeSchedule/Properties/Target/DeadLetterConfig".to_owned(), Value::Null, "DeadLetterConfig"),
            ("/Resources/FaultDataDeSilent/Properties/EvaluationPeriods".to_owned(), json!(100), "look back"),
            ("/Resources/LogGroup/Properties/RetentionInDays".to_owned(), json!(31), "RetentionInDays"),
        ] {
            let mut changed = good.clone();
            *changed.pointer_mut(&place).unwrap() = bad;
            let problems = check(&changed);
            assert!(problems.len() == 1 && problems[0].contains(problem), "{place}: {problems:?}");
        }
    }
}
