//! How late records arrive, and what that makes of partitions by day. Pure.
//!
//! A record's *lateness* is its arrival less its event time. Arrival is the time stamp in its object's name (Firehose writes one),
//! else the end of its path's day. Backfills have no arrival: they are counted and left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::domain::time::MICROS_PER_DAY;

const MICROS_PER_MINUTE: i64 = 60_000_000;
/// Delays that are compared, in days.
const DELAYS: [i32; 6] = [1, 2, 3, 7, 14, 30];
const STEPS: [(&str, i64); 7] = [
    ("1 h", 60),
    ("6 h", 6 * 60),
    ("1 d", 24 * 60),
    ("2 d", 2 * 24 * 60),
    ("7 d", 7 * 24 * 60),
    ("30 d", 30 * 24 * 60),
    ("later", i64::MAX),
];

/// What one batch brought to one event day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Touch {
    rows: u64,
    /// The last day on which any of it arrived.
    arrived: i32,
}

/// Rows as they are told one by one.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// By minutes; what came before its time is minute −1.
    late: BTreeMap<i64, u64>,
    touches: HashMap<u32, HashMap<i32, Touch>>,
    backfilled: u64,
    undated: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub within: &'static str,
    pub records: u64,
    /// Of all that arrived by then.
    pub share: f64,
}

/// What holding back compaction for some days saves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delay {
    pub days: i32,
    /// Times that a batch brought rows to a day that was closed by then.
    pub reopened: u64,
    /// Bytes of those partitions as they are: what compacting them once more reads.
    pub bytes: u64,
}

/// How the records of one source arrive.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lateness {
    /// With an event time and an arrival.
    pub records: u64,
    /// From year roots, whose arrival nobody knows.
    pub backfilled: u64,
    /// Without an event time.
    pub undated: u64,
    /// With an event time after their arrival.
    pub early: u64,
    pub steps: Vec<Step>,
    pub median_minutes: i64,
    pub p95_minutes: i64,
    pub p99_minutes: i64,
    pub most_minutes: i64,
    pub batches: u64,
    /// Day partitions that a batch writes to, on average.
    pub partitions_per_batch: f64,
    /// The same without those that only rows more than a day late need.
    pub partitions_without_late: f64,
    /// Months, and path days, that a batch would write to.
    pub months_per_batch: f64,
    pub arrival_days_per_batch: f64,
    pub delays: Vec<Delay>,
}

impl Arrivals {
    /// `event` and `arrival` in µs since 1970; no arrival where the object was backfilled.
    pub fn add(&mut self, batch: u32, event: Option<i64>, arrival: Option<i64>) {
        let (event, arrival) = match (event, arrival) {
            (None, _) => return self.undated += 1,
            (Some(_), None) => return self.backfilled += 1,
            (Some(event), Some(arrival)) => (event, arrival),
        };
        let minutes = (arrival - event).div_euclid(MICROS_PER_MINUTE).max(-1);
        *self.late.entry(minutes).or_default() += 1;
        let day = |at: i64| at.div_euclid(MICROS_PER_DAY) as i32;
        let touch = self.touches.entry(batch).or_default().entry(day(event)).or_default();
        touch.rows += 1;
        touch.arrived = touch.arrived.max(day(arrival));
    }

    /// `bytes`: of each event day's partition as it is.
    pub fn told(&self, bytes: &BTreeMap<i32, u64>) -> Lateness {
        let records: u64 = self.late.values().sum();
        let upto = |minutes: i64| self.late.range(..minutes).map(|(_, count)| count).sum::<u64>();
        let steps = STEPS.map(|(within, minutes)| {
            let records_within = upto(minutes);
            Step { within, records: records_within, share: records_within as f64 / records.max(1) as f64 }
        });
        let quantile = |share: f64| {
            let wanted = (share * records as f64).ceil() as u64;
            let mut seen = 0;
            let found = self.late.iter().find(|(_, count)| {
                seen += **count;
                seen >= wanted
            });
            found.map_or(0, |(minutes, _)| *minutes)
        };
        let batches = self.touches.len() as u64;
        let mean = |of: &dyn Fn(&HashMap<i32, Touch>) -> usize| {
            self.touches.values().map(|days| of(days) as f64).sum::<f64>() / batches.max(1) as f64
        };
        let months = |days: &HashMap<i32, Touch>| {
            days.keys()
                .map(|day| crate::domain::time::civil_from_days(i64::from(*day)))
                .map(|(y, m, _)| (y, m))
                .collect::<BTreeSet<_>>()
                .len()
        };
        let arrivals = |days: &HashMap<i32, Touch>| days.values().map(|touch| touch.arrived).collect::<BTreeSet<_>>().len();
        let punctual = |days: &HashMap<i32, Touch>| days.iter().filter(|(day, touch)| touch.arrived - **day <= 1).count();
        let delays = DELAYS.map(|delay| {
            let reopened = || {
                let touches = self.touches.values().flatten();
                touches.filter(move |(day, touch)| touch.arrived - **day > delay).map(|(day, _)| day)
            };
            Delay { days: delay, reopened: reopened().count() as u64, bytes: reopened().filter_map(|day| bytes.get(day)).sum() }
        });
        Lateness {
            records,
            backfilled: self.backfilled,
            undated: self.undated,
            early: self.late.get(&-1).copied().unwrap_or(0),
            steps: steps.into(),
            median_minutes: quantile(0.5),
            p95_minutes: quantile(0.95),
            p99_minutes: quantile(0.99),
            most_minutes: self.late.keys().next_back().copied().unwrap_or(0),
            batches,
            partitions_per_batch: mean(&HashMap::len),
            partitions_without_late: mean(&punctual),
            months_per_batch: mean(&months),
            arrival_days_per_batch: mean(&arrivals),
            delays: delays.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = MICROS_PER_DAY;

    #[test]
    fn what_is_late_and_what_it_touches() {
        let mut arrivals = Arrivals::default();
        // A batch of day 100: punctual rows, one of ten days before, one of an hour in the future, a backfilled one.
        for _ in 0..8 {
            arrivals.add(1, Some(100 * DAY), Some(100 * DAY + 30 * MICROS_PER_MINUTE));
        }
        arrivals.add(1, Some(90 * DAY), Some(100 * DAY));
        arrivals.add(1, Some(100 * DAY + 60 * MICROS_PER_MINUTE), Some(100 * DAY));
        arrivals.add(1, Some(3 * DAY), None);
        arrivals.add(1, None, Some(100 * DAY));
        let told = arrivals.told(&[(90, 500), (100, 7)].into());
        assert_eq!((told.records, told.early, told.backfilled, told.undated), (10, 1, 1, 1));
        assert_eq!((told.steps[0].records, told.steps[4].records, told.steps[5].records), (9, 9, 10));
        assert_eq!((told.median_minutes, told.most_minutes), (30, 10 * 24 * 60));
        assert!((told.partitions_per_batch - 2.0).abs() < 1e-9 && (told.partitions_without_late - 1.0).abs() < 1e-9);
        let reopened: Vec<(i32, u64, u64)> = told.delays.iter().map(|delay| (delay.days, delay.reopened, delay.bytes)).collect();
        assert_eq!(reopened[3..], [(7, 1, 500), (14, 0, 0), (30, 0, 0)]);
    }
}
