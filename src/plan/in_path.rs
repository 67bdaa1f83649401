//! What the path of an object says about the columns that may stand in the path, in the payload or in both.

use std::borrow::Cow;

use super::SourcePlan;
use crate::domain::{PartitionColumn, PathValues};
use crate::job::{Job, Where};

pub const TEXTS: [PartitionColumn; 2] = [PartitionColumn::Database, PartitionColumn::Entity];
/// Each with its greatest value.
pub const NUMBERS: [(PartitionColumn, i32); 3] = [(PartitionColumn::Year, 9999), (PartitionColumn::Month, 12), (PartitionColumn::Day, 31)];

/// Read once for an object; `None` where its records must be looked at one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InPath {
    /// Columns of text: whether the path speaks for them, and whether the payload is asked.
    pub texts: [(bool, bool); 2],
    /// Year, month and day: what the path says, whether the payload is asked, whether the event time may say it.
    pub numbers: [(Option<i32>, bool, bool); 3],
}

impl InPath {
    pub fn of(path: &PathValues, plan: &SourcePlan) -> Option<Self> {
        let job: &Job = &plan.job;
        let text = |column: PartitionColumn| {
            let rule = job.partition(column);
            let in_path = path.get(column).filter(|_| rule.place != Where::Payload);
            in_path.is_none_or(|value| value == due(column, plan)).then_some((in_path.is_some(), rule.place != Where::Path))
        };
        let number = |(column, most): (PartitionColumn, i32)| {
            let rule = job.partition(column);
            let in_path = path.get(column).filter(|_| rule.place != Where::Payload);
            let in_path = match in_path.map(|text| digits(&unescaped(text)).filter(|number| (1..=most).contains(number))) {
                Some(None) => return None,
                Some(number) => number,
                None => None,
            };
            Some((in_path, rule.place != Where::Path, rule.derive.is_some()))
        };
        let ([database, entity], [year, month, day]) = (TEXTS.map(text), NUMBERS.map(number));
        Some(Self { texts: [database?, entity?], numbers: [year?, month?, day?] })
    }
}

/// What the source says: it decides which folder is read.
pub fn due(column: PartitionColumn, plan: &SourcePlan) -> &str {
    if column == PartitionColumn::Database { &plan.source.database } else { &plan.source.entity }
}

/// Hive escapes characters of a folder's value as `%XX`.
pub fn unescaped(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

pub fn digits(text: &str) -> Option<i32> {
    let plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}
