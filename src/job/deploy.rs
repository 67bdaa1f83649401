//! How and when a job runs as a container task: the section `deploy:` as written ([`DeployFile`]) and as meant ([`Deploy`]).
//!
//! Nothing here changes what a run does. What AWS would refuse only when the task starts (a memory size that Fargate does not
//! sell with that CPU, a cron expression with five fields) is refused when the job is loaded.

use std::time::Duration;

use serde::Deserialize;

use super::{parse_bytes, parse_duration_setting};
use crate::domain::Mistake;
use crate::domain::time::{civil_from_days, days_from_civil};

/// GiB that every Fargate task has anyway.
pub const FREE_DISK: u32 = 20;
/// GiB that can be asked for.
pub const DISK: std::ops::RangeInclusive<u32> = 21..=200;
/// Seconds between SIGTERM and SIGKILL that Fargate grants.
pub const STOP_TIMEOUT: std::ops::RangeInclusive<u64> = 2..=120;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MINUTES_PER_DAY: i64 = 24 * 60;
/// A leap year among them: a schedule that does not fire in this time never does.
const DAYS_LOOKED_AT: i64 = 4 * 366;

/// What the task runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launch {
    Fargate,
    #[default]
    FargateSpot,
    ManagedInstances,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    #[default]
    #[serde(rename = "x86_64")]
    X86,
    Arm64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// As EventBridge Scheduler takes it: `rate(…)` or `cron(…)`.
    pub expression: String,
    /// An IANA name; a `rate` has no use for it.
    pub timezone: String,
    /// The longest time between two starts.
    pub period: Duration,
}

/// A job's task, as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    pub schedule: Schedule,
    pub launch: Launch,
    /// CPU units; 1024 are one vCPU.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    /// GiB of local disk.
    pub disk: u32,
    /// Time between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
    pub arch: Arch,
    /// An older newest record is an alarm.
    pub max_lag: Duration,
}

/// The section as people write it, with every default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeployFile {
    schedule: String,
    timezone: String,
    launch: Launch,
    cpu: u32,
    memory: Option<String>,
    disk: String,
    stop_timeout: String,
    arch: Arch,
    max_lag: String,
}

impl Default for DeployFile {
    fn default() -> Self {
        Self {
            schedule: "rate(1 hour)".to_owned(),
            timezone: "UTC".to_owned(),
            launch: Launch::default(),
            cpu: 1024,
            memory: None,
            disk: "20 GiB".to_owned(),
            stop_timeout: "120 s".to_owned(),
            arch: Arch::default(),
            max_lag: "6 h".to_owned(),
        }
    }
}

impl DeployFile {
    /// `fail` makes a mistake of a place in the file, what is wrong there, and the remedy.
    pub fn meant(self, fail: &impl Fn(&str, &str, &str) -> Mistake) -> Result<Deploy, Mistake> {
        let period = period(&self.schedule)
            .map_err(|reason| fail("schedule", &reason, "schedule: rate(15 minutes), or: schedule: \"cron(0 3 ? * SUN *)\""))?;
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/');
        if self.timezone.is_empty() || !self.timezone.chars().all(named) {
            return Err(fail("timezone", &format!("`{}` is no time zone", self.timezone), "timezone: Europe/Berlin"));
        }
        let choices = memory_for(self.cpu);
        if choices.is_empty() {
            return Err(fail("cpu", &format!("Fargate sells no {} CPU units", self.cpu), &format!("one of {CPU_CHOICES:?}")));
        }
        let memory = match &self.memory {
            // Four GiB per vCPU, which Fargate sells with every size.
            None => self.cpu * 4,
            Some(written) => {
                let mib = parse_bytes(written).filter(|bytes| bytes.is_multiple_of(MIB)).map(|bytes| bytes / MIB);
                match choices.iter().find(|choice| Some(u64::from(**choice)) == mib) {
                    Some(memory) => *memory,
                    None => {
                        let message = format!("Fargate sells no {written} of memory with {} CPU units", self.cpu);
                        return Err(fail("memory", &message, &format!("one of {}", sizes(&choices))));
                    }
                }
            }
        };
        let disk = parse_bytes(&self.disk).filter(|bytes| bytes.is_multiple_of(GIB)).and_then(|bytes| u32::try_from(bytes / GIB).ok());
        let Some(disk) = disk.filter(|disk| *disk == FREE_DISK || DISK.contains(disk)) else {
            return Err(fail("disk", &format!("a task cannot have {} of disk", self.disk), "20 GiB, or 21 GiB to 200 GiB"));
        };
        let stop_timeout = parse_duration_setting(&self.stop_timeout)
            .filter(|time| time.subsec_nanos() == 0 && STOP_TIMEOUT.contains(&time.as_secs()))
            .ok_or_else(|| fail("stop_timeout", &format!("`{}` cannot be waited for", self.stop_timeout), "2 s to 120 s"))?;
        let max_lag = parse_duration_setting(&self.max_lag)
            .filter(|time| time.as_secs() > 0)
            .ok_or_else(|| fail("max_lag", &format!("`{}` is no time", self.max_lag), "write it like 6 h"))?;
        Ok(Deploy {
            schedule: Schedule { expression: self.schedule, timezone: self.timezone, period },
            launch: self.launch,
            cpu: self.cpu,
            memory,
            disk,
            stop_timeout,
            arch: self.arch,
            max_lag,
        })
    }
}

const CPU_CHOICES: [u32; 7] = [256, 512, 1024, 2048, 4096, 8192, 16384];

/// MiB that Fargate sells with so many CPU units; none where it does not sell those.
pub fn memory_for(cpu: u32) -> Vec<u32> {
    let steps = |from: u32, to: u32, by: u32| (from..=to).step_by(by as usize).map(|gib| gib * 1024).collect();
    match cpu {
        256 => vec![512, 1024, 2048],
        512 => steps(1, 4, 1),
        1024 => steps(2, 8, 1),
        2048 => steps(4, 16, 1),
        4096 => steps(8, 30, 1),
        8192 => steps(16, 60, 4),
        16384 => steps(32, 120, 8),
        _ => Vec::new(),
    }
}

fn sizes(choices: &[u32]) -> String {
    let size = |mib: &u32| if mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") };
    choices.iter().map(size).collect::<Vec<_>>().join(", ")
}

/// The longest time between two starts of a schedule; an error says what is wrong with it.
fn period(expression: &str) -> Result<Duration, String> {
    let inner = |name: &str| expression.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(rate) = inner("rate") {
        return rate_period(rate).ok_or_else(|| format!("`{expression}` is no rate: a number, and minutes, hours or days"));
    }
    match inner("cron") {
        Some(fields) => Cron::parse(fields).map_err(|reason| format!("`{expression}`: {reason}"))?.period(),
        None => Err(format!("`{expression}` is neither rate(…) nor cron(…)")),
    }
}

fn rate_period(rate: &str) -> Option<Duration> {
    let (number, unit) = rate.split_once(' ')?;
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let minutes = match (unit, number) {
        ("minutes", _) | ("minute", 1) => 1,
        ("hours", _) | ("hour", 1) => 60,
        ("days", _) | ("day", 1) => 24 * 60,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(minutes * 60)?))
}

/// Days on which a cron expression fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Days {
    Every,
    OfMonth(u32),
    /// So many days before the last of the month.
    BeforeLast(u32),
    /// 1 is Sunday.
    OfWeek(u32),
    LastOfWeek(u32),
    NthOfWeek(u32, u32),
}

/// `minutes hours day-of-month month day-of-week year`.
#[derive(Debug)]
struct Cron {
    minutes: Vec<u32>,
    hours: Vec<u32>,
    months: Vec<u32>,
    days: Vec<Days>,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Cron {
    fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, of_month, months, of_week, years] = fields.as_slice() else {
            return Err(format!("it has {} fields, not 6: minutes hours day-of-month month day-of-week year", fields.len()));
        };
        let days = match (*of_month, *of_week) {
            ("?", "?") => return Err("one of day-of-month and day-of-week must say something".to_owned()),
            (days, "?") => each(days, day_of_month),
            ("?", days) => each(days, day_of_week),
            _ => return Err("one of day-of-month and day-of-week must be `?`".to_owned()),
        };
        let field = |name: &str, text: &str, from: u32, to: u32, names: &[&str]| {
            each(text, |item| numbers(item, from, to, names)).ok_or_else(|| format!("`{text}` says no {name} ({from} to {to})"))
        };
        field("year", years, 1970, 2199, &[])?;
        Ok(Self {
            minutes: field("minute", minutes, 0, 59, &[])?,
            hours: field("hour", hours, 0, 23, &[])?,
            months: field("month", months, 1, 12, &MONTHS)?,
            days: days.ok_or_else(|| format!("`{of_month} … {of_week}` says no days"))?,
        })
    }

    fn period(&self) -> Result<Duration, String> {
        let mut at: Vec<i64> =
            self.hours.iter().flat_map(|hour| self.minutes.iter().map(move |minute| i64::from(hour * 60 + minute))).collect();
        at.sort_unstable();
        let (mut last, mut longest) = (None, 0);
        let first_day = days_from_civil(2024, 1, 1);
        for day in (first_day..first_day + DAYS_LOOKED_AT).filter(|day| self.fires_on(*day)) {
            for minute in at.iter().map(|minute| day * MINUTES_PER_DAY + minute) {
                longest = last.map_or(longest, |last| longest.max(minute - last));
                last = Some(minute);
            }
        }
        match (last, u64::try_from(longest)) {
            (Some(_), Ok(minutes)) if minutes > 0 => Ok(Duration::from_secs(minutes * 60)),
            _ => Err("the schedule fires less than twice in four years".to_owned()),
        }
    }

    fn fires_on(&self, day: i64) -> bool {
        let (year, month, of_month) = civil_from_days(day);
        let next = if month == 12 { (i64::from(year) + 1, 1) } else { (i64::from(year), i64::from(month) + 1) };
        let left = (days_from_civil(next.0, next.1, 1) - 1 - day) as u32;
        // 1970-01-01 was a Thursday.
        let of_week = (day + 4).rem_euclid(7) as u32 + 1;
        self.months.contains(&month)
            && self.days.iter().any(|days| match *days {
                Days::Every => true,
                Days::OfMonth(wanted) => wanted == of_month,
                Days::BeforeLast(before) => before == left,
                Days::OfWeek(wanted) => wanted == of_week,
                Days::LastOfWeek(wanted) => wanted == of_week && left < 7,
                Days::NthOfWeek(wanted, nth) => wanted == of_week && (of_month - 1) / 7 + 1 == nth,
            })
    }
}

/// What the items of a comma list say together.
fn each<T>(list: &str, item: impl Fn(&str) -> Option<Vec<T>>) -> Option<Vec<T>> {
    let items: Option<Vec<Vec<T>>> = list.split(',').map(item).collect();
    Some(items?.into_iter().flatten().collect())
}

/// `*`, `5`, `MON`, `1-5`, `0/15`, `*/15`, `1-30/5`.
fn numbers(item: &str, from: u32, to: u32, names: &[&str]) -> Option<Vec<u32>> {
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at as u32 + from);
        named.or_else(|| text.parse().ok()).filter(|number| (from..=to).contains(number))
    };
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
        None => (item, None),
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" => (from, to),
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, if step.is_some() { to } else { number(range)? }),
    };
    (first <= last).then(|| (first..=last).step_by(step.unwrap_or(1) as usize).collect())
}

fn day_of_month(item: &str) -> Option<Vec<Days>> {
    match item {
        "*" => return Some(vec![Days::Every]),
        "L" | "LW" => return Some(vec![Days::BeforeLast(0)]),
        _ => {}
    }
    if let Some(before) = item.strip_prefix("L-") {
        return Some(vec![Days::BeforeLast(before.parse().ok().filter(|before| *before < 31)?)]);
    }
    // The weekday next to that day: a day or two do not matter here.
    let plain = item.strip_suffix('W').unwrap_or(item);
    Some(numbers(plain, 1, 31, &[])?.into_iter().map(Days::OfMonth).collect())
}

fn day_of_week(item: &str) -> Option<Vec<Days>> {
    let one = |text: &str| numbers(text, 1, 7, &WEEKDAYS).filter(|days| days.len() == 1)?.first().copied();
    if item == "*" {
        return Some(vec![Days::Every]);
    }
    if item == "L" {
        return Some(vec![Days::OfWeek(7)]);
    }
    if let Some((day, nth)) = item.split_once('#') {
        return Some(vec![Days::NthOfWeek(one(day)?, nth.parse().ok().filter(|nth| (1..=5).contains(nth))?)]);
    }
    match item.strip_suffix('L').and_then(one) {
        Some(day) => Some(vec![Days::LastOfWeek(day)]),
        None => Some(numbers(item, 1, 7, &WEEKDAYS)?.into_iter().map(Days::OfWeek).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploy(text: &str) -> Result<Deploy, String> {
        let file: DeployFile = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let fail = |needle: &str, message: &str, help: &str| Mistake {
            file: "jobs/X.yaml".to_owned(),
            text: String::new(),
            span: 0..0,
            message: format!("{needle}: {message} ({help})"),
            help: None,
        };
        file.meant(&fail).map_err(|mistake| mistake.message)
    }

    #[test]
    fn every_setting_has_a_default() {
        let deploy = deploy("{}").unwrap();
        assert_eq!((deploy.cpu, deploy.memory, deploy.disk), (1024, 4096, 20));
        assert_eq!(deploy.launch, Launch::FargateSpot);
        assert_eq!(deploy.schedule.period, Duration::from_hours(1));
        assert_eq!(deploy.stop_timeout, Duration::from_mins(2));
        for cpu in CPU_CHOICES {
            assert!(memory_for(cpu).contains(&(cpu * 4)), "{cpu}");
        }
    }

    #[test]
    fn pairs_that_fargate_does_not_sell_are_refused_with_those_it_does() {
        assert_eq!(deploy("{cpu: 256, memory: 512 MiB}").unwrap().memory, 512);
        let refused = deploy("{cpu: 256, memory: 4 GiB}").unwrap_err();
        assert!(refused.contains("512 MiB, 1 GiB, 2 GiB"), "{refused}");
        assert!(deploy("{cpu: 1000}").unwrap_err().contains("2048"));
        assert!(deploy("{cpu: 8192, memory: 17 GiB}").unwrap_err().contains("16 GiB, 20 GiB"));
    }

    #[test]
    fn disk_and_times_have_bounds() {
        assert_eq!(deploy("{disk: 200 GiB}").unwrap().disk, 200);
        for bad in
            ["{disk: 500 GiB}", "{disk: 19 GiB}", "{disk: 21.5 GiB}", "{stop_timeout: 300 s}", "{stop_timeout: 1 s}", "{max_lag: soon}"]
        {
            assert!(deploy(bad).is_err(), "{bad}");
        }
        assert!(deploy("{arch: sparc}").is_err() && deploy("{timezone: ''}").is_err() && deploy("{speed: 1}").is_err());
    }

    #[test]
    fn schedules_say_how_long_they_may_be_silent() {
        let hours = |text: &str| period(text).map(|period| period.as_secs() as f64 / 3600.0);
        assert_eq!(hours("rate(15 minutes)"), Ok(0.25));
        assert_eq!(hours("rate(1 day)"), Ok(24.0));
        assert_eq!(hours("cron(0/15 * * * ? *)"), Ok(0.25));
        assert_eq!(hours("cron(0 3 ? * SUN *)"), Ok(7.0 * 24.0));
        assert_eq!(hours("cron(0 3 ? * MON-FRI *)"), Ok(3.0 * 24.0));
        assert_eq!(hours("cron(30 6,18 * * ? *)"), Ok(12.0));
        assert_eq!(hours("cron(0 0 L * ? *)"), Ok(31.0 * 24.0));
        assert_eq!(hours("cron(0 0 ? * 2#1 *)"), Ok(35.0 * 24.0));
        for bad in [
            "rate(15)",
            "rate(0 minutes)",
            "rate(2 hour)",
            "rate(15 seconds)",
            "cron(0 3 * * *)",
            "cron(0 3 * * SUN *)",
            "cron(0 3 ? * ? *)",
            "cron(61 3 ? * SUN *)",
            "cron(0 3 ? * FUN *)",
            "cron(0 3 31 2 ? *)",
            "every hour",
            "",
        ] {
            assert!(period(bad).is_err(), "{bad}");
        }
    }
}
