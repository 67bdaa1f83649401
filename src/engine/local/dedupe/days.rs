//! Which days' rows are written together.
//!
//! Rows of a backfill come in any order, so that every chunk has some of each day: with more days than files may be open each chunk would
//! end them all, and a thousand rows of a day would be a dozen files. Rows that are put aside can be read as often as it takes: each
//! time those of as many days are written as may be open.

use std::ops::RangeInclusive;

use arrow::array::{Array, AsArray, Date32Array, RecordBatch};
use arrow::datatypes::{DataType, Date32Type};
use hashbrown::HashSet;

use crate::plan::SilverColumns;

/// Times that a batch's rows are read at most; with still more days some files end early.
const MOST_READINGS: usize = 32;

/// The days of a batch's rows, where the table is partitioned by day.
#[derive(Debug)]
pub struct Days {
    column: Option<usize>,
    seen: HashSet<i32>,
    last: Option<i32>,
}

/// Days that are written together; rows without a day belong to the first ones.
pub type Span = RangeInclusive<i32>;

pub const ALL_DAYS: Span = i32::MIN..=i32::MAX;

impl Days {
    pub fn new(columns: &SilverColumns) -> Self {
        let is_day = |name: &&String| columns.schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Date32);
        let column = columns.partition_by.iter().find(is_day).and_then(|name| columns.schema.index_of(name).ok());
        Self { column, seen: HashSet::new(), last: None }
    }

    pub fn see(&mut self, rows: &RecordBatch) {
        for day in self.of(rows).into_iter().flatten().flatten() {
            if self.last != Some(day) {
                self.last = Some(day);
                self.seen.insert(day);
            }
        }
    }

    pub fn forget(&mut self) {
        self.seen.clear();
        self.last = None;
    }

    pub fn of<'r>(&self, rows: &'r RecordBatch) -> Option<&'r Date32Array> {
        rows.column(self.column?).as_primitive_opt::<Date32Type>()
    }

    /// As few as can be, of `open` days each.
    pub fn spans(&self, open: usize) -> Vec<Span> {
        let mut days: Vec<i32> = self.seen.iter().copied().collect();
        days.sort_unstable();
        let together = open.max(days.len().div_ceil(MOST_READINGS)).max(1);
        let firsts = days.chunks(together).skip(1).map(|days| days[0]);
        let mut spans = vec![ALL_DAYS];
        for first in firsts {
            if let Some(before) = spans.last_mut() {
                *before = *before.start()..=first - 1;
            }
            spans.push(first..=i32::MAX);
        }
        spans
    }
}

pub fn is_within(span: &Span, days: Option<&Date32Array>, row: usize) -> bool {
    days.is_none_or(|days| span.contains(&if days.is_valid(row) { days.value(row) } else { i32::MIN }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_is_in_one_span_and_no_span_has_too_many() {
        for (count, open) in [(0, 3), (1, 3), (3, 3), (4, 3), (10, 3), (1000, 4), (7, 1), (5, 0)] {
            let days = Days { column: None, seen: (0..count).map(|day| day * 3 - 100).collect(), last: None };
            let spans = days.spans(open);
            let holders = |day: i32| spans.iter().filter(|span| span.contains(&day)).count();
            assert!([i32::MIN, i32::MAX].into_iter().chain(days.seen.iter().copied()).all(|day| holders(day) == 1));
            let most = open.max((count as usize).div_ceil(MOST_READINGS)).max(1);
            assert!(spans.iter().all(|span| days.seen.iter().filter(|day| span.contains(day)).count() <= most));
            assert_eq!(spans.len(), (count as usize).div_ceil(most).max(1));
        }
        let rows = Date32Array::from(vec![Some(5), None]);
        let spans = Days { column: None, seen: [1, 5].into(), last: None }.spans(1);
        assert_eq!(
            [0, 1].map(|row| spans.iter().map(|span| is_within(span, Some(&rows), row)).collect::<Vec<_>>()),
            [[false, true], [true, false]]
        );
    }
}
