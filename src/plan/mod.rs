//! Pure planning: a job, its contract and the objects found → what one batch will do. No I/O.
//!
//! Objects are put in the order that decides between equal records (year_root before firehose, path date, time stamp in the
//! name, key) and cut into batches in that order; so neither the listing order nor the batch size changes an outcome.

mod columns;
pub mod compact;
pub mod databricks;
pub mod ecs;
pub mod in_path;
pub mod lateness;
pub mod order;
pub mod price;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::contract::Contract;
use crate::contract::predicate::{Predicate, PredicateError};
use crate::domain::time::days_from_civil;
use crate::domain::{BronzeObject, PathValues, Source};
use crate::job::Job;

pub use columns::{Column, ORDER, PLACE_FILE, PLACE_ROW, SilverColumns, marks_partition, marks_schema, quarantine_schema};

/// What every batch of one job and source shares.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    pub source: Source,
    pub job: Arc<Job>,
    pub contract: Arc<Contract>,
    pub columns: Arc<SilverColumns>,
    /// Which records delete the row of their key.
    pub deletes: Option<Arc<Predicate>>,
}

impl SourcePlan {
    pub fn new(source: Source, job: Arc<Job>, contract: Arc<Contract>) -> Result<Self, PredicateError> {
        let columns = Arc::new(SilverColumns::new(&job, &contract));
        let condition = job.upsert().and_then(|upsert| upsert.delete_when.as_deref());
        let deletes = condition.map(|text| Predicate::compile(text, &contract)).transpose()?.map(Arc::new);
        Ok(Self { source, job, contract, columns, deletes })
    }
}

/// A bounded set of objects that is committed together.
#[derive(Debug, Clone)]
pub struct BatchPlan {
    pub of: SourcePlan,
    /// Also the claim's id; what `_batch` says.
    pub batch: String,
    /// µs since 1970; what `_ingested_at` says.
    pub ingested_at: i64,
    pub objects: Vec<BronzeObject>,
    /// Objects that were committed before in this very version, and by which batch: what they left is replaced.
    pub again: BTreeMap<String, String>,
    /// In snapshot mode: the path day that the objects are.
    pub extent: Option<PathDay>,
}

/// A path day as snapshots are ordered by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathDay {
    pub name: String,
    /// A later one is committed already.
    pub outdated: bool,
}

/// Days since 1970 of a path; a missing month or day counts as 01. `None` where the year is no year.
pub fn path_date(path: &PathValues) -> Option<i32> {
    let number = |text: &Option<String>, or: i64| match text {
        Some(text) => text.parse::<i64>().ok(),
        None => Some(or),
    };
    let (year, month, day) = (path.year.as_deref()?.parse::<i64>().ok()?, number(&path.month, 1)?, number(&path.day, 1)?);
    ((1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)).then(|| days_from_civil(year, month, day) as i32)
}

/// The first `yyyy-MM-dd-HH-mm-ss` in an object's name, as Firehose writes it.
pub fn stamp_in_name(key: &str) -> Option<&str> {
    const FORM: &[u8] = b"dddd-dd-dd-dd-dd-dd";
    let name = key.rsplit('/').next()?;
    let fits = |window: &[u8]| {
        window.iter().zip(FORM).all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            _ => byte == form,
        })
    };
    let at = name.as_bytes().windows(FORM.len()).position(fits)?;
    name.get(at..at + FORM.len())
}

/// Sorts objects into the order that decides between equal records.
pub fn put_in_order(objects: &mut [BronzeObject]) {
    objects.sort_by(|a, b| {
        let rank = |object: &BronzeObject| (object.layout, path_date(&object.path));
        rank(a).cmp(&rank(b)).then_with(|| stamp_in_name(&a.key).cmp(&stamp_in_name(&b.key))).then_with(|| a.key.cmp(&b.key))
    });
}

/// What may join the last batch beyond its bytes, in parts of them: a batch of its own costs a commit, and a look at all that was just written.
const REMAINDER: u64 = 8;

/// Cuts objects in order into batches: within the job's bounds, a larger object being a batch of its own; a snapshot's by path day.
pub fn cut_batches(objects: Vec<BronzeObject>, job: &Job) -> Vec<Vec<BronzeObject>> {
    let limits = &job.limits;
    let mut batches: Vec<Vec<BronzeObject>> = Vec::new();
    let (mut bytes, mut left) = (0_u64, objects.iter().map(|object| object.size).sum::<u64>());
    for object in objects {
        let holds = bytes + object.size <= limits.batch || bytes + left <= limits.batch.saturating_add(limits.batch / REMAINDER);
        let fits = |batch: &Vec<BronzeObject>| match batch.first() {
            Some(first) if job.is_snapshot() => order::extent(first) == order::extent(&object),
            _ => batch.len() < limits.batch_objects && holds,
        };
        left -= object.size;
        match batches.last_mut() {
            Some(batch) if fits(batch) => {
                bytes += object.size;
                batch.push(object);
            }
            _ => {
                bytes = object.size;
                batches.push(vec![object]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Layout;

    fn object(key: &str, layout: Layout, day: Option<&str>, size: u64) -> BronzeObject {
        let path =
            PathValues { year: Some("2024".into()), month: day.map(|_| "01".into()), day: day.map(str::to_owned), ..PathValues::default() };
        BronzeObject { key: key.to_owned(), version: String::new(), size, layout, path }
    }

    #[test]
    fn order_is_layout_then_date_then_stamp_then_key() {
        let mut objects = vec![
            object("d/z-2024-01-02-00-00-01-a", Layout::Firehose, Some("02"), 1),
            object("d/a-2024-01-02-00-00-02-a", Layout::Firehose, Some("02"), 1),
            object("d/b", Layout::Firehose, Some("01"), 1),
            object("y/c", Layout::YearRoot, None, 1),
        ];
        put_in_order(&mut objects);
        let keys: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["y/c", "d/b", "d/z-2024-01-02-00-00-01-a", "d/a-2024-01-02-00-00-02-a"]);
    }

    #[test]
    fn batches_keep_to_bytes_and_count() {
        let job = Job::from_text("j", "entity: X\nkey: [id]\nlimits: {batch: 10 B, batch_objects: 3}\n".to_owned()).unwrap();
        let sizes = [4, 4, 4, 50, 1, 1, 1, 1];
        let objects = sizes.iter().map(|size| object("k", Layout::Firehose, None, *size)).collect();
        let cut: Vec<Vec<u64>> =
            cut_batches(objects, &job).into_iter().map(|batch| batch.iter().map(|object| object.size).collect()).collect();
        assert_eq!(cut, [vec![4, 4], vec![4], vec![50], vec![1, 1, 1], vec![1]]);
    }

    #[test]
    fn a_small_remainder_joins_the_last_batch() {
        let job = Job::from_text("j", "entity: X\nkey: [id]\nlimits: {batch: 80 B}\n".to_owned()).unwrap();
        let cut = |sizes: &[u64]| -> Vec<usize> {
            let objects = sizes.iter().map(|size| object("k", Layout::Firehose, None, *size)).collect();
            cut_batches(objects, &job).iter().map(Vec::len).collect()
        };
        assert_eq!(cut(&[40, 40, 5, 5]), [4]);
        assert_eq!(cut(&[40, 40, 5, 6]), [2, 2]);
        assert_eq!(cut(&[40, 40, 5, 40, 40, 10]), [2, 2, 2]);
        assert_eq!(cut(&[40, 40, 5, 40, 30, 10]), [2, 4]);
        assert_eq!(cut(&[100, 5]), [1, 1]);
    }
}
