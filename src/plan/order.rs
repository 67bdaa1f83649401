//! Which of two records of a key is the later one: a text per record, compared byte by byte.
//!
//! `order_by` values first, then the tail: layout, path date, time stamp in the object's name, file, offset. It knows neither
//! when an object was modified nor when it was read. Parts are joined by U+001F, which is less than any character of a name;
//! numbers have a fixed width. `docs/decisions/0006` says it for other engines.

use std::cmp::Ordering;
use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Date32Type, Int64Type, TimestampMicrosecondType};

use super::{path_date, stamp_in_name};
use crate::domain::time::{MICROS_PER_DAY, civil_from_days};
use crate::domain::{BronzeObject, Layout, PathValues};

pub const SEPARATOR: char = '\u{1f}';
const OFFSET_DIGITS: usize = 20;

/// Order of a record without its `order_by` values and its offset: what all records of a file share.
pub fn tail(object: &BronzeObject, file: &str) -> String {
    let layout = layout_rank(object.layout);
    let date = path_date(&object.path).map(date_text).unwrap_or_default();
    let stamp = stamp_in_name(&object.key).unwrap_or_default();
    format!("{layout}{SEPARATOR}{date}{SEPARATOR}{stamp}{SEPARATOR}{file}")
}

/// The path day that an object belongs to: layout and date, ordered like the objects themselves.
pub fn extent(object: &BronzeObject) -> String {
    extent_of(object.layout, &object.path)
}

pub fn extent_of(layout: Layout, path: &PathValues) -> String {
    format!("{} {}", layout_rank(layout), path_date(path).map(date_text).unwrap_or_default())
}

/// How orders begin.
pub fn layout_rank(layout: Layout) -> char {
    match layout {
        Layout::YearRoot => '0',
        Layout::Firehose => '1',
    }
}

/// The whole order of a record.
pub fn order_text(prefix: &str, tail: &str, offset: u64) -> String {
    format!("{prefix}{tail}{SEPARATOR}{offset:0OFFSET_DIGITS$}")
}

/// File and, where it is known, offset of the record that has this order: a cluster's lines have a place that is no number.
pub fn source_of(order: &str) -> Option<(&str, Option<i64>)> {
    let (rest, place) = order.rsplit_once(SEPARATOR)?;
    let file = rest.rsplit_once(SEPARATOR).map_or(rest, |(_, file)| file);
    Some((file, place.parse().ok()))
}

/// How a record stands to one that the table has. One of the same file was read there before: what the file says now counts, wherever in
/// it the record stands.
pub fn against(prefix: &str, tail: &str, offset: u64, there: &str) -> Ordering {
    let is_same_file = || source_of(there).is_some_and(|(file, _)| tail.rsplit(SEPARATOR).next() == Some(file));
    match compare(prefix, tail, offset, there) {
        Ordering::Less if is_same_file() => Ordering::Greater,
        order => order,
    }
}

/// How a record stands to an order text, without building its own.
pub fn compare(prefix: &str, tail: &str, offset: u64, other: &str) -> Ordering {
    let mut other = other.as_bytes();
    for part in [prefix.as_bytes(), tail.as_bytes(), &place(offset)] {
        let Some((same, rest)) = other.split_at_checked(part.len()) else { return part.cmp(other) };
        match part.cmp(same) {
            Ordering::Equal => other = rest,
            order => return order,
        }
    }
    if other.is_empty() { Ordering::Equal } else { Ordering::Less }
}

/// The `order_by` values of each row, every one ended by the separator; empty texts where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// One behind the other.
    text: String,
    /// Where each row's end; none where records are ordered by nothing.
    ends: Vec<usize>,
}

impl Prefixes {
    pub fn of(columns: &[ArrayRef], rows: usize) -> Self {
        let mut prefixes = Self::default();
        for row in (0..rows).filter(|_| !columns.is_empty()) {
            for column in columns {
                if column.is_valid(row) {
                    write_value(column, row, &mut prefixes.text);
                }
                prefixes.text.push(SEPARATOR);
            }
            prefixes.ends.push(prefixes.text.len());
        }
        prefixes
    }

    pub fn get(&self, row: usize) -> &str {
        let Some(end) = self.ends.get(row) else { return "" };
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..*end]
    }
}

fn write_value(column: &ArrayRef, row: usize, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match column.data_type() {
        DataType::Utf8 => out.write_str(column.as_string::<i32>().value(row)),
        DataType::Date32 => out.write_str(&date_text(column.as_primitive::<Date32Type>().value(row))),
        DataType::Int64 => {
            let shifted = column.as_primitive::<Int64Type>().value(row).cast_unsigned() ^ (1 << 63);
            write!(out, "{shifted:020}")
        }
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let (days, of_day) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
            let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
            let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            write!(out, "{}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z", date_text(days as i32))
        }
        _ => Ok(()),
    };
}

pub fn date_text(days: i32) -> String {
    let (year, month, day) = civil_from_days(days.into());
    format!("{year:04}-{month:02}-{day:02}")
}

/// Orders as a column, of records with these tails.
pub fn orders<'t>(prefixes: &Prefixes, tails: impl Iterator<Item = &'t str>, offsets: impl ExactSizeIterator<Item = u64>) -> StringArray {
    let mut tails = tails.peekable();
    // Tails of neighbours are about as long.
    let each = tails.peek().map_or(0, |tail| tail.len()) + SEPARATOR.len_utf8() + OFFSET_DIGITS;
    let mut texts = StringBuilder::with_capacity(offsets.len(), prefixes.text.len() + offsets.len() * each);
    for (row, (tail, offset)) in tails.zip(offsets).enumerate() {
        let place = place(offset);
        for part in [prefixes.get(row), tail, std::str::from_utf8(&place).unwrap_or_default()] {
            // Writing to a builder cannot fail.
            let _ = texts.write_str(part);
        }
        texts.append_value("");
    }
    texts.finish()
}

/// The separator, and the offset in [`OFFSET_DIGITS`] digits.
fn place(mut offset: u64) -> [u8; OFFSET_DIGITS + 1] {
    let mut text = [b'0'; OFFSET_DIGITS + 1];
    text[0] = SEPARATOR as u8;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (offset % 10) as u8;
        offset /= 10;
        if offset == 0 {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Date32Array;

    use super::*;

    #[test]
    fn a_column_of_orders_is_what_each_of_them_is() {
        let offsets = [0, 7, 10, 1_234_567_890, u64::MAX];
        let values: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some(""), Some("2024"), Some("é"), None, Some("x")])),
            Arc::new(Date32Array::from(vec![Some(0), None, Some(-1), Some(19_723), Some(1)])),
        ];
        let texts =
            ["\u{1f}1970-01-01\u{1f}", "2024\u{1f}\u{1f}", "é\u{1f}1969-12-31\u{1f}", "\u{1f}2024-01-01\u{1f}", "x\u{1f}1970-01-02\u{1f}"];
        for (columns, expected) in [(&values[..], texts), (&[], [""; 5])] {
            let prefixes = Prefixes::of(columns, offsets.len());
            let column = orders(&prefixes, std::iter::repeat("1\u{1f}file"), offsets.into_iter());
            for (row, (prefix, offset)) in expected.iter().zip(offsets).enumerate() {
                assert_eq!(prefixes.get(row), *prefix);
                assert_eq!(column.value(row), order_text(prefix, "1\u{1f}file", offset));
            }
        }
    }

    #[test]
    fn a_record_stands_to_an_order_as_its_own_text_does() {
        let prefixes = ["", "a", "a\u{1f}", "ab\u{1f}", "é\u{1f}"];
        let tails = ["", "0\u{1f}file", "1\u{1f}file", "1\u{1f}file.2"];
        let offsets = [0, 9, 10, u64::MAX];
        let records = || prefixes.iter().flat_map(|prefix| tails.iter().flat_map(move |tail| offsets.map(|offset| (prefix, tail, offset))));
        let mut others: Vec<String> = records().map(|(prefix, tail, offset)| order_text(prefix, tail, offset)).collect();
        others.extend(["", "a", "1\u{1f}file\u{1f}", "1\u{1f}file\u{1f}000000000000000000000", "z"].map(str::to_owned));
        for (prefix, tail, offset) in records() {
            for other in &others {
                let own = order_text(prefix, tail, offset);
                assert_eq!(compare(prefix, tail, offset, other), own.as_bytes().cmp(other.as_bytes()), "{own:?} {other:?}");
            }
        }
    }
}
