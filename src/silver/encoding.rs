//! How columns are encoded: chosen by the values that they have, not by their names.
//!
//! A dictionary pays where values come again, and costs time and bytes where they do not: it is built, found too large, and thrown
//! away, or kept although every value stands in it once. So the first rows of a file decide, leaf by leaf: where most of them differ,
//! texts are written as differences to the one before, integers and instants as packed differences, doubles plainly. Everything
//! chosen here is read by Spark's vectorized reader, DuckDB, Polars and Athena; BYTE_STREAM_SPLIT, which would save a few percent
//! more, is not by all of them. `benches/encodings.py` has the figures.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use parquet::basic::Encoding;
use parquet::file::properties::WriterPropertiesBuilder;
use parquet::schema::types::ColumnPath;
use xxhash_rust::xxh3::xxh3_64;

use super::file::AsIs;

/// Rows that are looked at.
pub const SAMPLE_ROWS: usize = 8192;
/// A dictionary is not built where more than this share of the values differ: of numbers, of texts.
const NUMBERS: f64 = 0.6;
const TEXTS: f64 = 0.9;

/// A leaf that is better off without a dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    path: Vec<String>,
    encoding: Encoding,
}

/// What the rows of a sample, in one or several batches of the same columns, say about each leaf.
pub fn choices(sample: &[RecordBatch]) -> Vec<Choice> {
    let Some(first) = sample.first() else { return Vec::new() };
    let mut found = Vec::new();
    for (at, field) in first.schema().fields().iter().enumerate() {
        let arrays: Vec<ArrayRef> = sample.iter().map(|batch| batch.column(at).clone()).collect();
        leaf(vec![field.name().clone()], &arrays, &mut found);
    }
    found
}

pub fn apply(properties: WriterPropertiesBuilder, choices: &[Choice]) -> WriterPropertiesBuilder {
    choices.iter().fold(properties, |properties, choice| {
        let column = ColumnPath::from(choice.path.clone());
        properties.set_column_dictionary_enabled(column.clone(), false).set_column_encoding(column, choice.encoding)
    })
}

fn leaf(path: Vec<String>, arrays: &[ArrayRef], found: &mut Vec<Choice>) {
    let Some(first) = arrays.first() else { return };
    let below = |names: &[&str]| path.iter().cloned().chain(names.iter().map(|name| (*name).to_owned())).collect::<Vec<_>>();
    match first.data_type() {
        DataType::Struct(fields) => {
            for (at, field) in fields.iter().enumerate() {
                let inner: Vec<ArrayRef> = arrays.iter().map(|array| array.as_struct().column(at).clone()).collect();
                leaf(below(&[field.name()]), &inner, found);
            }
        }
        DataType::List(item) => {
            let inner: Vec<ArrayRef> = arrays.iter().map(|array| array.as_list::<i32>().values().clone()).collect();
            leaf(below(&["list", item.name()]), &inner, found);
        }
        DataType::Map(entries, _) => {
            for (at, name) in ["key", "value"].into_iter().enumerate() {
                let inner: Vec<ArrayRef> = arrays.iter().map(|array| array.as_map().entries().column(at).clone()).collect();
                leaf(below(&[entries.name(), name]), &inner, found);
            }
        }
        ty => {
            let (encoding, most) = match ty {
                DataType::Utf8 => (Encoding::DELTA_BYTE_ARRAY, TEXTS),
                DataType::Float64 => (Encoding::PLAIN, NUMBERS),
                DataType::Int32 | DataType::Int64 | DataType::Date32 | DataType::Timestamp(..) => (Encoding::DELTA_BINARY_PACKED, NUMBERS),
                _ => return,
            };
            let (distinct, values) = count(arrays);
            if values > 0 && distinct as f64 > most * values as f64 {
                found.push(Choice { path, encoding });
            }
        }
    }
}

/// Different values, and values in all, among the first rows.
fn count(arrays: &[ArrayRef]) -> (usize, usize) {
    let mut seen: HashSet<u64, BuildHasherDefault<AsIs>> = HashSet::default();
    let (mut values, mut rows) = (0, 0);
    for array in arrays {
        let upto = array.len().min(SAMPLE_ROWS - rows);
        rows += upto;
        let mut see = |hash: u64| {
            values += 1;
            seen.insert(hash);
        };
        let valid = (0..upto).filter(|row| array.is_valid(*row));
        match array.data_type() {
            DataType::Utf8 => {
                let texts = array.as_string::<i32>();
                valid.for_each(|row| see(xxh3_64(texts.value(row).as_bytes())));
            }
            DataType::Float64 => {
                let numbers = array.as_primitive::<Float64Type>();
                valid.for_each(|row| see(spread(numbers.value(row).to_bits())));
            }
            DataType::Int64 => {
                let numbers = array.as_primitive::<Int64Type>();
                valid.for_each(|row| see(spread(numbers.value(row) as u64)));
            }
            DataType::Timestamp(..) => {
                let numbers = array.as_primitive::<TimestampMicrosecondType>();
                valid.for_each(|row| see(spread(numbers.value(row) as u64)));
            }
            DataType::Date32 => {
                let numbers = array.as_primitive::<Date32Type>();
                valid.for_each(|row| see(spread(numbers.value(row) as u64)));
            }
            DataType::Int32 => {
                let numbers = array.as_primitive::<Int32Type>();
                valid.for_each(|row| see(spread(numbers.value(row) as u64)));
            }
            _ => {}
        }
        if rows == SAMPLE_ROWS {
            break;
        }
    }
    (seen.len(), values)
}

/// A hash that no two numbers share.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray, StructArray};
    use arrow::datatypes::{Field, Fields};
    use std::sync::Arc;

    #[test]
    fn values_that_come_again_keep_their_dictionary() {
        let rows = 3000_i64;
        let few: ArrayRef = Arc::new((0..rows).map(|row| Some(row % 7)).collect::<Int64Array>());
        let many: ArrayRef = Arc::new((0..rows).map(|row| Some(row * 31)).collect::<Int64Array>());
        let texts: ArrayRef = Arc::new((0..rows).map(|row| Some(format!("t{row}"))).collect::<StringArray>());
        let absent: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; rows as usize]));
        let fields = Fields::from(vec![Field::new("few", DataType::Int64, true), Field::new("many", DataType::Int64, true)]);
        let inner: ArrayRef = Arc::new(StructArray::new(fields, vec![few, many], None));
        let batch = RecordBatch::try_from_iter([("inner", inner), ("texts", texts), ("absent", absent)]).unwrap();
        let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected = [
            Choice { path: path(&["inner", "many"]), encoding: Encoding::DELTA_BINARY_PACKED },
            Choice { path: path(&["texts"]), encoding: Encoding::DELTA_BYTE_ARRAY },
        ];
        assert_eq!(choices(&[batch.slice(0, 1000), batch.slice(1000, 2000)]), expected);
        assert_eq!(choices(&[]), []);
    }
}
