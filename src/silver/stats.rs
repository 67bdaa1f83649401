//! What a file's footer says of its columns → the statistics of its entry in Delta's log.
//!
//! As the protocol has them: of the first columns of the schema, those of structs by their fields; instants cut to milliseconds;
//! nothing of lists and maps, and no bounds of bytes. A bound may lie beyond the values, never among them: where a number cannot be
//! said exactly the next one is.

use chrono::DateTime;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Value, json};

use crate::plan::order::date_text;

/// Columns of the schema that are told of. Partition columns are in no file.
const INDEXED: usize = 32;
/// Decimals of fewer digits are told exactly by the shortest text of the nearest double.
const EXACT: u128 = 1_000_000_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Least,
    Most,
}

/// The bound of one kind of values; the crate has no public name for what they have in common.
macro_rules! of {
    ($values:expr, $side:expr) => {
        if $side == Side::Least { $values.min_opt() } else { $values.max_opt() }.copied()
    };
}

/// The statistics as JSON.
pub(super) fn stats(footer: &ParquetMetaData) -> String {
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    let schema = footer.file_metadata().schema_descr();
    let told: Vec<&str> = schema.root_schema().get_fields().iter().take(INDEXED).map(|field| field.name()).collect();
    for (at, leaf) in schema.columns().iter().enumerate() {
        let path = leaf.path().parts();
        if leaf.max_rep_level() > 0 || !path.first().is_some_and(|top| told.contains(&top.as_str())) {
            continue;
        }
        let groups: Option<Vec<&Statistics>> = footer.row_groups().iter().map(|group| group.column(at).statistics()).collect();
        let Some(groups) = groups else { continue };
        let missing: Option<Vec<u64>> = groups.iter().map(|group| group.null_count_opt()).collect();
        let Some(missing) = missing else { continue };
        put(&mut nulls, path, json!(missing.iter().sum::<u64>()));
        // A row group of nothing but nulls has no bounds.
        let rows = footer.row_groups().iter().map(RowGroupMetaData::num_rows).map(i64::cast_unsigned);
        let valued = groups.iter().zip(rows).zip(missing).filter(|((_, rows), missing)| missing < rows).map(|((group, _), _)| *group);
        let valued: Vec<&Statistics> = valued.collect();
        for (side, bounds) in [(Side::Least, &mut least), (Side::Most, &mut most)] {
            if let Some(bound) = bound(&valued, leaf, side) {
                put(bounds, path, bound);
            }
        }
    }
    json!({"numRecords": footer.file_metadata().num_rows(), "minValues": least, "maxValues": most, "nullCount": nulls}).to_string()
}

fn put(into: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => {
            into.insert(name.clone(), value);
        }
        [name, rest @ ..] => {
            if let Value::Object(inner) = into.entry(name.clone()).or_insert_with(|| json!({})) {
                put(inner, rest, value);
            }
        }
    }
}

/// `None` where a row group has none that can be told.
fn bound(groups: &[&Statistics], leaf: &ColumnDescriptor, side: Side) -> Option<Value> {
    match groups.first()? {
        Statistics::Boolean(_) => {
            each(groups, side, |group| if let Statistics::Boolean(flags) = group { of!(flags, side) } else { None }).map(Value::from)
        }
        Statistics::Int32(_) | Statistics::Int64(_) | Statistics::FixedLenByteArray(_) => {
            each(groups, side, |group| integer(group, side)).and_then(|number| of_integer(number, leaf, side))
        }
        Statistics::Float(_) | Statistics::Double(_) => each(groups, side, |group| match group {
            Statistics::Float(numbers) => of!(numbers, side).map(f64::from),
            Statistics::Double(numbers) => of!(numbers, side),
            _ => None,
        })
        .map(Value::from),
        Statistics::ByteArray(_) if matches!(leaf.logical_type_ref(), Some(LogicalType::String)) => {
            each(groups, side, |group| std::str::from_utf8(bytes(group, side)?).ok()).map(Value::from)
        }
        Statistics::ByteArray(_) | Statistics::Int96(_) => None,
    }
}

/// The outermost of the groups' bounds, where every group has one.
fn each<'g, T: PartialOrd>(groups: &[&'g Statistics], side: Side, read: impl Fn(&'g Statistics) -> Option<T>) -> Option<T> {
    let bounds: Option<Vec<T>> = groups.iter().map(|group| read(group)).collect();
    bounds?.into_iter().reduce(|held, next| if (next < held) == (side == Side::Least) { next } else { held })
}

fn bytes(group: &Statistics, side: Side) -> Option<&[u8]> {
    if side == Side::Least { group.min_bytes_opt() } else { group.max_bytes_opt() }
}

/// Integers, and decimals as integers of their last digit.
fn integer(group: &Statistics, side: Side) -> Option<i128> {
    match group {
        Statistics::Int32(numbers) => of!(numbers, side).map(i128::from),
        Statistics::Int64(numbers) => of!(numbers, side).map(i128::from),
        Statistics::FixedLenByteArray(_) => {
            let digits = bytes(group, side)?;
            let negative = digits.first().is_some_and(|first| *first >= 0x80);
            let mut whole = [if negative { 0xff } else { 0 }; 16];
            whole.get_mut(16_usize.checked_sub(digits.len())?..)?.copy_from_slice(digits);
            Some(i128::from_be_bytes(whole))
        }
        _ => None,
    }
}

fn of_integer(number: i128, leaf: &ColumnDescriptor, side: Side) -> Option<Value> {
    match leaf.logical_type_ref() {
        Some(LogicalType::Date) => i32::try_from(number).ok().map(|days| date_text(days).into()),
        Some(LogicalType::Timestamp(instant)) => {
            let number = i64::try_from(number).ok()?;
            let at = match instant.unit {
                TimeUnit::MILLIS => DateTime::from_timestamp_millis(number),
                TimeUnit::MICROS => DateTime::from_timestamp_micros(number),
                TimeUnit::NANOS => Some(DateTime::from_timestamp_nanos(number)),
            }?;
            let fraction = if at.timestamp_subsec_nanos() == 0 { "" } else { "%.3f" };
            let (between, end) = if instant.is_adjusted_to_u_t_c { ("T", "Z") } else { (" ", "") };
            Some(at.format(&format!("%Y-%m-%d{between}%H:%M:%S{fraction}{end}")).to_string().into())
        }
        Some(LogicalType::Decimal(decimal)) if decimal.scale > 0 => {
            let near = number as f64 / 10_f64.powi(decimal.scale);
            let exact = number.unsigned_abs() < EXACT;
            Some(
                if exact {
                    near
                } else if side == Side::Least {
                    near.next_down()
                } else {
                    near.next_up()
                }
                .into(),
            )
        }
        _ => i64::try_from(number).ok().map(Value::from),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
        StructArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{DataType, Field, Fields, Int32Type};
    use delta_kernel::table_properties::DataSkippingNumIndexedCols;
    use deltalake::datafile::writer::{PartitionWriter, PartitionWriterConfig};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn rows(first: i64) -> RecordBatch {
        let some = |n: i64| (n % 3 != 0).then_some(first + n);
        let each = || (0..40_i64).map(some);
        let decimal = |precision, scale, factor: i128| {
            let digits = Decimal128Array::from_iter(each().map(|n| n.map(|n| i128::from(n - 20) * factor)));
            Arc::new(digits.with_precision_and_scale(precision, scale).unwrap()) as ArrayRef
        };
        let text: ArrayRef = Arc::new(StringArray::from_iter(each().map(|n| n.map(|n| "aé".repeat(n as usize % 60)))));
        let nothing: ArrayRef = Arc::new(Int64Array::new_null(40));
        let fields = Fields::from(vec![Field::new("text", DataType::Utf8, true), Field::new("nothing", DataType::Int64, true)]);
        let inner: ArrayRef = Arc::new(StructArray::new(fields, vec![text.clone(), nothing.clone()], None));
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>((0..40).map(|n| Some(vec![Some(n)]))));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("flag", Arc::new(BooleanArray::from_iter(each().map(|n| n.map(|n| n % 2 == 0))))),
            ("small", Arc::new(Int32Array::from_iter(each().map(|n| n.map(|n| n as i32))))),
            ("long", Arc::new(Int64Array::from_iter(each().map(|n| n.map(|n| -n * i64::from(u32::MAX)))))),
            ("double", Arc::new(Float64Array::from_iter(each().map(|n| n.map(|n| n as f64 / 7.0))))),
            ("day", Arc::new(Date32Array::from_iter(each().map(|n| n.map(|n| n as i32 * 300 - 9000))))),
            ("at", Arc::new(TimestampMicrosecondArray::from_iter(each().map(|n| n.map(|n| n * 1_234_567 - 9))).with_timezone("UTC"))),
            ("local", Arc::new(TimestampMicrosecondArray::from_iter(each().map(|n| n.map(|n| n * 1_000_000))))),
            ("money", decimal(9, 2, 1)),
            ("wide", decimal(18, 0, 1_000_003)),
            ("wider", decimal(30, 3, 1_000_003)),
            ("text", text),
            ("nothing", nothing),
            ("inner", inner),
            ("list", list),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    /// What delta-rs writes of the same rows.
    #[tokio::test]
    async fn delta_rs_says_the_same() {
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(40)).build();
        for batches in [vec![rows(5)], vec![rows(5), rows(-70), rows(900)]] {
            let mut own = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties.clone())).unwrap();
            let config = PartitionWriterConfig::try_new(
                batches[0].schema(),
                indexmap::IndexMap::default(),
                Some(properties.clone()),
                None,
                None,
                None,
                None,
            );
            let store = Arc::new(object_store::memory::InMemory::new());
            let told = DataSkippingNumIndexedCols::NumColumns(INDEXED as u64);
            let mut theirs = PartitionWriter::try_with_config(store, config.unwrap(), told, None).unwrap();
            for batch in &batches {
                own.write(batch).unwrap();
                theirs.write(batch).await.unwrap();
            }
            let theirs = theirs.close().await.unwrap().remove(0).stats.unwrap();
            let footer = own.close().unwrap();
            assert_eq!(footer.num_row_groups(), batches.len());
            let (own, theirs): (Value, Value) = (serde_json::from_str(&stats(&footer)).unwrap(), serde_json::from_str(&theirs).unwrap());
            for part in ["numRecords", "minValues", "maxValues", "nullCount"] {
                assert_eq!(own[part], theirs[part], "{part}");
            }
        }
    }

    #[test]
    fn what_a_double_cannot_say_is_widened() {
        let wide = Decimal128Array::from(vec![123_456_789_012_345_678_901_i128, 123_456_789_012_345_678_999]);
        let wide: ArrayRef = Arc::new(wide.with_precision_and_scale(30, 3).unwrap());
        let rows = RecordBatch::try_from_iter([("wide", wide)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        let told: Value = serde_json::from_str(&stats(&writer.close().unwrap())).unwrap();
        let side = |side: &str| told[side]["wide"].as_f64().unwrap();
        assert!(side("minValues") < 123_456_789_012_345_678.9 && side("maxValues") > 123_456_789_012_345_678.9, "{told}");
    }
}
