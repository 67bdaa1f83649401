//! How late records arrive, from what the tables hold.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use futures::TryStreamExt;
use serde::Serialize;

use super::{RunError, Settings, load, tables_of};
use crate::bronze;
use crate::contract::columns::timestamp;
use crate::domain::Layout;
use crate::domain::time::{MICROS_PER_DAY, Variants, parse_date, parse_timestamp};
use crate::plan::lateness::{Arrivals, Lateness};
use crate::plan::{path_date, stamp_in_name};
use crate::silver::LiveFile;

#[derive(Debug, Serialize)]
pub struct SourceLateness {
    pub entity: String,
    pub country: String,
    /// Event days that were looked at: the newest ones.
    pub days: u64,
    pub files: u64,
    /// Nothing where the entity has no event time, or the table no rows.
    #[serde(flatten)]
    pub lateness: Option<Lateness>,
}

/// Of the newest `days` event days.
pub async fn lateness(settings: &Settings, entity: &str, country: &str, days: u64) -> Result<SourceLateness, RunError> {
    let (job, _) = load(settings, entity)?;
    let source = job.source(country)?;
    let table = tables_of(&settings.silver, &job).silver;
    let mut found = SourceLateness { entity: entity.to_owned(), country: country.to_owned(), days: 0, files: 0, lateness: None };
    let Some(event_time) = job.event_time.clone().filter(|_| job.partitioned_by_date()) else { return Ok(found) };
    if !table.exists().await? {
        return Ok(found);
    }
    let ours = |file: &LiveFile| file.partition_values.get("database").is_some_and(|value| value.as_deref() == Some(&source.database));
    let mut by_day: BTreeMap<i32, Vec<LiveFile>> = BTreeMap::new();
    for file in table.live_files(ours).await? {
        if let Some(day) = file.partition_values.get("event_date").cloned().flatten().and_then(|day| parse_date(&day).flatten()) {
            by_day.entry(day).or_default().push(file);
        }
    }
    let newest: Vec<i32> = by_day.keys().rev().take(usize::try_from(days).unwrap_or(usize::MAX)).copied().collect();
    by_day.retain(|day, _| newest.contains(day));
    if by_day.is_empty() {
        return Ok(found);
    }
    let bytes = by_day.iter().map(|(day, files)| (*day, files.iter().map(|file| file.size).sum())).collect();
    let files: Vec<LiveFile> = by_day.into_values().flatten().collect();
    (found.days, found.files) = (newest.len() as u64, files.len() as u64);
    let mut arrivals = Arrivals::default();
    let mut known = Known::default();
    let mut rows = table.rows_of(files, &[(&event_time, timestamp()), ("_source_file", text()), ("_batch", text())]);
    while let Some(batch) = rows.try_next().await? {
        let events = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let (objects, batches) = (batch.column(1).as_string::<i32>(), batch.column(2).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let event = events.is_valid(row).then(|| events.value(row));
            arrivals.add(known.batch(batches.value(row)), event, known.arrival(objects.value(row)));
        }
    }
    found.lateness = Some(arrivals.told(&bytes));
    Ok(found)
}

fn text() -> arrow::datatypes::DataType {
    arrow::datatypes::DataType::Utf8
}

/// Names that were met, each looked at once.
#[derive(Debug, Default)]
struct Known {
    batches: HashMap<String, u32>,
    arrivals: HashMap<String, Option<i64>>,
}

impl Known {
    fn batch(&mut self, name: &str) -> u32 {
        if let Some(number) = self.batches.get(name) {
            return *number;
        }
        let number = self.batches.len() as u32;
        self.batches.insert(name.to_owned(), number);
        number
    }

    fn arrival(&mut self, object: &str) -> Option<i64> {
        if let Some(arrival) = self.arrivals.get(object) {
            return *arrival;
        }
        let arrival = arrival(object);
        self.arrivals.insert(object.to_owned(), arrival);
        arrival
    }
}

/// When an object came: by the time stamp in its name, else at the end of its path's day. A backfilled one nobody knows.
fn arrival(object: &str) -> Option<i64> {
    // An archive's member comes with the archive.
    let key = object.split("!/").next().unwrap_or(object);
    let path = bronze::path_values(key);
    if bronze::layout_of(key, &path) == Layout::YearRoot {
        return None;
    }
    let stamped = stamp_in_name(key).and_then(|stamp| {
        let (date, time) = (stamp.get(..10)?, stamp.get(11..)?.replace('-', ":"));
        match parse_timestamp(&format!("{date}T{time}Z"), Variants::default()) {
            crate::domain::time::Instant::At(micros) => Some(micros),
            _ => None,
        }
    });
    stamped.or_else(|| path_date(&path).map(|day| (i64::from(day) + 1) * MICROS_PER_DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_stamped_dated_or_unknown() {
        let folder = "database=d/entity=E/year=2024/month=03/day=01";
        let midnight = 19_783 * MICROS_PER_DAY;
        assert_eq!(arrival(&format!("{folder}/stream-1-2024-03-01-06-00-00-abc")), Some(midnight + MICROS_PER_DAY / 4));
        assert_eq!(arrival(&format!("{folder}/plain")), Some(midnight + MICROS_PER_DAY));
        assert_eq!(arrival("database=d/entity=E/year=2024/backfill-2024-03-01-06-00-00.json"), None);
    }
}
