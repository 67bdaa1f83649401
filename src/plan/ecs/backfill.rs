//! One-shot tasks that share the loading of history.

use serde_json::{Value, json};

use super::{DeployOptions, Deployed, EcsError, Task, tasks};
use crate::domain::time::{civil_from_days, days_from_civil};
use crate::job::deploy::Launch;

/// How a backfill is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slices {
    /// By name: even shares, whatever the layout.
    Shards,
    /// By path date: whole years where there are enough of them, since a backfill's objects lie in folders of a year.
    Dates,
}

#[derive(Debug, Clone)]
pub struct Backfill {
    /// The stack whose task definitions are used.
    pub stack: String,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub public_ip: bool,
    /// Days since 1970, inclusive.
    pub from: Option<i32>,
    pub to: Option<i32>,
    /// Tasks per source.
    pub tasks: u64,
    pub slices: Slices,
}

/// Inputs of `aws ecs run-task --cli-input-json`, one per task.
pub fn backfill(jobs: &[Deployed<'_>], options: &DeployOptions, wanted: &Backfill) -> Result<Vec<Value>, EcsError> {
    if wanted.tasks == 0 {
        return Err(EcsError::Tasks);
    }
    if let Some(snapshot) = jobs.iter().find(|deployed| deployed.job.is_snapshot() && wanted.tasks > 1) {
        return Err(EcsError::SnapshotShared { entity: snapshot.job.entity.clone() });
    }
    let bounds = [("ETL_FROM", wanted.from), ("ETL_TO", wanted.to)];
    let bounds = bounds.into_iter().filter_map(|(name, day)| Some((name, date(day?))));
    let shares: Vec<Vec<(&str, String)>> = match wanted.slices {
        Slices::Shards if wanted.tasks == 1 => vec![bounds.collect()],
        Slices::Shards => {
            let all: Vec<(&str, String)> = bounds.collect();
            let share = |i: u64| all.iter().cloned().chain([("ETL_SHARD", format!("{i}/{}", wanted.tasks))]).collect();
            (1..=wanted.tasks).map(share).collect()
        }
        Slices::Dates => {
            let (Some(from), Some(to)) = (wanted.from, wanted.to) else { return Err(EcsError::Dates) };
            let slice = |(from, to): (i32, i32)| vec![("ETL_FROM", date(from)), ("ETL_TO", date(to))];
            date_slices(from, to, wanted.tasks)?.into_iter().map(slice).collect()
        }
    };
    let mut inputs = Vec::new();
    for task in tasks(jobs, options.one_task_per)? {
        inputs.extend(shares.iter().map(|share| one_shot(&task, options, wanted, share)));
    }
    Ok(inputs)
}

fn one_shot(task: &Task<'_>, options: &DeployOptions, wanted: &Backfill, share: &[(&str, String)]) -> Value {
    let provider = match task.job.deploy.launch {
        Launch::Fargate => "FARGATE".to_owned(),
        Launch::FargateSpot => "FARGATE_SPOT".to_owned(),
        Launch::ManagedInstances => format!("managed-{}", wanted.stack),
    };
    let public = wanted.public_ip && task.job.deploy.launch != Launch::ManagedInstances;
    let variables: Vec<Value> = share.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut input = json!({
        "cluster": options.cluster.as_ref().unwrap_or(&wanted.stack),
        "taskDefinition": format!("{}-{}", wanted.stack, task.name),
        "count": 1,
        "startedBy": "etl-backfill",
        "capacityProviderStrategy": [{"capacityProvider": provider, "weight": 1}],
        "networkConfiguration": {"awsvpcConfiguration": {
            "subnets": wanted.subnets,
            "securityGroups": wanted.security_groups,
            "assignPublicIp": if public { "ENABLED" } else { "DISABLED" },
        }},
        "overrides": {"containerOverrides": [{"name": "etl", "environment": variables}]},
    });
    // The same line given twice starts one task.
    let token = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(input.to_string().as_bytes()));
    input["clientToken"] = json!(token);
    input
}

fn date(day: i32) -> String {
    let (year, month, day) = civil_from_days(i64::from(day));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Cuts days into as many slices.
fn date_slices(from: i32, to: i32, count: u64) -> Result<Vec<(i32, i32)>, EcsError> {
    let days = i64::from(to) - i64::from(from) + 1;
    let count = i64::try_from(count).map_err(|_| EcsError::Tasks)?;
    if days < 1 {
        return Err(EcsError::Dates);
    }
    if count < 1 || count > days {
        return Err(EcsError::Tasks);
    }
    let year = |day: i32| i64::from(civil_from_days(i64::from(day)).0);
    let years = year(to) - year(from) + 1;
    let start = |slice: i64| match slice {
        0 => i64::from(from),
        slice if years >= count => days_from_civil(year(from) + slice * years / count, 1, 1),
        slice => i64::from(from) + slice * days / count,
    };
    let end = |slice: i64| if slice + 1 == count { i64::from(to) } else { start(slice + 1) - 1 };
    Ok((0..count).map(|slice| (start(slice) as i32, end(slice) as i32)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{deployed, fault, options};
    use super::*;

    #[test]
    fn a_backfill_is_one_shot_tasks_that_share_it() {
        let job = fault();
        let day = |year: i64, month: i64, day: i64| Some(days_from_civil(year, month, day) as i32);
        let mut wanted = Backfill {
            stack: "etl".to_owned(),
            subnets: vec!["subnet-0".to_owned()],
            security_groups: vec!["sg-0".to_owned()],
            public_ip: false,
            from: day(2022, 3, 1),
            to: day(2024, 12, 31),
            tasks: 3,
            slices: Slices::Dates,
        };
        let span = |input: &Value| {
            let variables = &input["overrides"]["containerOverrides"][0]["environment"];
            format!("{} {}", variables[0]["value"].as_str().unwrap(), variables[1]["value"].as_str().unwrap())
        };
        let years = backfill(&deployed(&job, &["de", "fr"]), &options(), &wanted).unwrap();
        assert_eq!(years.len(), 6);
        let spans: Vec<String> = years.iter().take(3).map(span).collect();
        assert_eq!(spans, ["2022-03-01 2022-12-31", "2023-01-01 2023-12-31", "2024-01-01 2024-12-31"]);
        assert_eq!(years[0]["taskDefinition"], "etl-FaultData-de");
        let tokens: BTreeSet<&str> = years.iter().map(|input| input["clientToken"].as_str().unwrap()).collect();
        assert_eq!(tokens.len(), 6);

        wanted.to = day(2022, 3, 10);
        let days = backfill(&deployed(&job, &["de"]), &options(), &wanted).unwrap();
        assert_eq!(days.iter().map(span).collect::<Vec<_>>(), ["2022-03-01 2022-03-03", "2022-03-04 2022-03-06", "2022-03-07 2022-03-10"]);

        wanted.slices = Slices::Shards;
        let shards = backfill(&deployed(&job, &["de"]), &options(), &wanted).unwrap();
        assert_eq!(shards[1]["overrides"]["containerOverrides"][0]["environment"][2]["value"], "2/3");
        wanted.tasks = 0;
        assert!(backfill(&deployed(&job, &["de"]), &options(), &wanted).is_err());
    }
}
