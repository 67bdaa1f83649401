//! A job list → a Databricks asset bundle: one job for each entity and country, whose tasks are the SQL files of `etl plan --emit sql`.
//!
//! JSON strings stand where YAML wants quoted text: every one of them is YAML.

use std::fmt::Write;

use serde_json::json;

use crate::job::Job;

/// One entity and country, and its SQL files in the order in which they run.
#[derive(Debug)]
pub struct Source<'j> {
    pub job: &'j Job,
    pub country: &'j str,
    pub files: Vec<(&'static str, String)>,
}

impl Source<'_> {
    fn key(&self) -> String {
        format!("{}_{}", name_part(&self.job.entity), name_part(self.country))
    }
}

/// Files by their paths: everything but what is the workspace's, which is asked for as variables.
pub fn bundle(sources: &[Source<'_>]) -> Vec<(String, String)> {
    let mut files = vec![("databricks.yml".to_owned(), head())];
    for source in sources {
        let key = source.key();
        files.push((format!("resources/{key}.yml"), job(source)));
        files.extend(source.files.iter().map(|(name, text)| (format!("sql/{key}/{name}.sql"), text.clone())));
    }
    files
}

fn head() -> String {
    "# Made by `etl deploy databricks`. `databricks bundle validate`, then `databricks bundle deploy --target prod`.\n\
     bundle:\n  name: silversmith\n\n\
     include:\n  - resources/*.yml\n\n\
     variables:\n  warehouse_id:\n    description: SQL warehouse that runs the files; a serverless one costs nothing between runs\n\
     \x20 pause:\n    description: UNPAUSED lets the schedules start\n    default: PAUSED\n\n\
     targets:\n  dev:\n    mode: development\n    default: true\n  prod:\n    mode: production\n"
        .to_owned()
}

fn job(source: &Source<'_>) -> String {
    let key = source.key();
    let deploy = &source.job.deploy;
    let mut text = format!(
        "resources:\n  jobs:\n    {key}:\n      name: {}\n      # A run that is begun while another one is at work would read the same files.\n      \
         max_concurrent_runs: 1\n      queue:\n        enabled: false\n      schedule:\n        quartz_cron_expression: {}\n        \
         timezone_id: {}\n        pause_status: ${{var.pause}}\n      health:\n        rules:\n          - metric: RUN_DURATION_SECONDS\n            \
         op: GREATER_THAN\n            value: {}\n      tasks:\n",
        json!(format!("silversmith {} {}", source.job.entity, source.country)),
        json!(quartz(&deploy.schedule.expression)),
        json!(deploy.schedule.timezone),
        deploy.max_lag.as_secs(),
    );
    let mut before: Option<&str> = None;
    for (name, _) in &source.files {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "        - task_key: {}", task(name));
        if let Some(before) = before {
            let _ = writeln!(text, "          depends_on:\n            - task_key: {}", task(before));
        }
        let _ = write!(
            text,
            "          sql_task:\n            warehouse_id: ${{var.warehouse_id}}\n            file:\n              path: ../sql/{key}/{name}.sql\n"
        );
        before = Some(name);
    }
    text
}

/// As far as it can be part of a name there.
fn name_part(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// `30_stage` is the task `stage`.
fn task(file: &str) -> &str {
    file.split_once('_').map_or(file, |(_, name)| name)
}

/// EventBridge's expression as Quartz writes it: a field of seconds before AWS's six, and rates as steps.
fn quartz(expression: &str) -> String {
    let inner = |kind: &str| expression.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(fields) = inner("cron") {
        return format!("0 {fields}");
    }
    let rate = inner("rate").unwrap_or("1 hour");
    let (number, unit) = rate.split_once(' ').unwrap_or((rate, "hour"));
    let number: u64 = number.parse().unwrap_or(1);
    match unit.trim_end_matches('s') {
        // Steps begin anew with each hour, day or month.
        "minute" if number < 60 => format!("0 0/{number} * * * ?"),
        "minute" => format!("0 0 0/{} * * ?", number.div_ceil(60).min(23)),
        "hour" if number < 24 => format!("0 0 0/{number} * * ?"),
        "hour" => format!("0 0 0 1/{} * ?", number.div_ceil(24).min(31)),
        _ => format!("0 0 0 1/{} * ?", number.min(31)),
    }
}

#[cfg(test)]
mod tests {
    use super::quartz;

    #[test]
    fn schedules_are_told_in_quartz() {
        let cases = [
            ("rate(15 minutes)", "0 0/15 * * * ?"),
            ("rate(1 hour)", "0 0 0/1 * * ?"),
            ("rate(90 minutes)", "0 0 0/2 * * ?"),
            ("rate(7 days)", "0 0 0 1/7 * ?"),
            ("rate(48 hours)", "0 0 0 1/2 * ?"),
            ("cron(15 3 ? * MON *)", "0 15 3 ? * MON *"),
        ];
        for (ours, theirs) in cases {
            assert_eq!(quartz(ours), theirs, "{ours}");
        }
    }
}
