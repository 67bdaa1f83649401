//! Columns under construction: values of a contract's types, row by row, that can be taken back.
//!
//! A column may be shorter than the table: the rows that it lacks are null, and cost nothing until a value comes behind them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, MapArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;

use crate::contract::check::{as_decimal, as_long};
use crate::contract::columns::{element, fields, key_value};
use crate::contract::{ABSENT, Object, Shape, Type};
use crate::domain::json::{Kind, Value};
use crate::domain::time::{Instant, Variants, parse_date, parse_duration, parse_timestamp_bytes};

/// One column, or a part of one.
#[derive(Debug)]
pub struct Column {
    valid: Vec<bool>,
    values: Values,
}

#[derive(Debug)]
pub(super) enum Values {
    Boolean(Vec<bool>),
    Long(Vec<i64>),
    Double(Vec<f64>),
    Decimal { values: Vec<i128>, precision: u8, scale: i8 },
    Timestamp { micros: Vec<i64>, variants: Variants },
    Date(Vec<i32>),
    Duration(Vec<i64>),
    Text(Texts),
    Reference(Texts),
    Json(Texts),
    Struct { object: Arc<Object>, children: Vec<Column>, slots: Vec<u32> },
    List { field: FieldRef, ends: Vec<i32>, items: Box<Column> },
    Map { field: FieldRef, ends: Vec<i32>, keys: Texts, items: Box<Column> },
}

/// Texts one behind the other; they are known to be UTF-8, and looked at once more when the array is made.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<i32>,
}

/// Bytes of a text for which room is made.
const USUAL_TEXT: usize = 16;

impl Texts {
    fn with_capacity(rows: usize) -> Self {
        Self { bytes: Vec::with_capacity(rows * USUAL_TEXT), ends: Vec::with_capacity(rows + 1) }
    }

    /// `None`: nothing was appended, for no column holds so much text.
    pub(super) fn push(&mut self, text: &[u8]) -> Option<()> {
        let end = i32::try_from(self.bytes.len() + text.len()).ok()?;
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        Some(())
    }

    fn push_empty(&mut self) {
        self.pad(self.ends.len() + 1);
    }

    fn pad(&mut self, rows: usize) {
        self.ends.resize(rows, end_of(&self.ends) as i32);
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.bytes.truncate(end_of(&self.ends));
    }

    fn array(self, nulls: Option<NullBuffer>) -> Result<StringArray, ArrowError> {
        StringArray::try_new(offsets(self.ends), Buffer::from_vec(self.bytes), nulls)
    }
}

fn end_of(ends: &[i32]) -> usize {
    ends.last().map_or(0, |end| *end as usize)
}

fn offsets(mut ends: Vec<i32>) -> OffsetBuffer<i32> {
    ends.insert(0, 0);
    OffsetBuffer::new(ScalarBuffer::from(ends))
}

impl Column {
    pub fn new(ty: &Type, rows: usize) -> Self {
        let values = match ty {
            Type::Boolean => Values::Boolean(Vec::with_capacity(rows)),
            Type::Long => Values::Long(Vec::with_capacity(rows)),
            Type::Double => Values::Double(Vec::with_capacity(rows)),
            Type::Decimal { precision, scale } => {
                Values::Decimal { values: Vec::with_capacity(rows), precision: *precision, scale: *scale }
            }
            Type::Timestamp { variants, .. } => Values::Timestamp { micros: Vec::with_capacity(rows), variants: *variants },
            Type::Date => Values::Date(Vec::with_capacity(rows)),
            Type::Duration => Values::Duration(Vec::with_capacity(rows)),
            Type::Text => Values::Text(Texts::with_capacity(rows)),
            Type::Reference(_) => Values::Reference(Texts::with_capacity(rows)),
            Type::Json { .. } => Values::Json(Texts::with_capacity(rows)),
            Type::Struct(object) => Values::Struct {
                object: object.clone(),
                children: object.properties.iter().map(|property| Column::new(&property.shape.ty, rows)).collect(),
                slots: vec![ABSENT; object.properties.len()],
            },
            Type::List(item) => Values::List { field: element(item), ends: Vec::new(), items: Box::new(Column::of(item)) },
            Type::Map(inner) => {
                Values::Map { field: key_value(inner), ends: Vec::new(), keys: Texts::default(), items: Box::new(Column::of(inner)) }
            }
        };
        Self { valid: Vec::with_capacity(rows), values }
    }

    fn of(shape: &Shape) -> Self {
        Self::new(&shape.ty, 0)
    }

    /// Sets a row that the column does not have yet. `false` where it cannot hold the value, which then is null.
    pub fn set(&mut self, row: usize, value: Option<Value<'_>>) -> bool {
        let Some(value) = value else { return true };
        self.pad(row);
        self.push(value)
    }

    /// Appends one row.
    fn push(&mut self, value: Value<'_>) -> bool {
        let row = self.valid.len();
        // What an object refers to is its id; without one it refers to nothing.
        let value = match (&self.values, value.kind()) {
            (Values::Reference(_), Kind::Object) => value.get("id"),
            _ => Some(value),
        };
        let Some(value) = value.filter(|value| !value.kind().is_null()) else {
            self.pad(row + 1);
            return true;
        };
        match self.values.push(row, value) {
            Some(whole) => {
                self.valid.push(true);
                whole
            }
            None => {
                self.pad(row + 1);
                false
            }
        }
    }

    /// Gives the column its first rows, null where it does not have them.
    pub(super) fn pad(&mut self, rows: usize) {
        if self.valid.len() >= rows {
            return;
        }
        self.valid.resize(rows, false);
        match &mut self.values {
            Values::Boolean(flags) => flags.resize(rows, false),
            Values::Long(numbers) | Values::Duration(numbers) | Values::Timestamp { micros: numbers, .. } => numbers.resize(rows, 0),
            Values::Double(numbers) => numbers.resize(rows, 0.0),
            Values::Decimal { values, .. } => values.resize(rows, 0),
            Values::Date(days) => days.resize(rows, 0),
            Values::Text(texts) | Values::Reference(texts) | Values::Json(texts) => texts.pad(rows),
            Values::Struct { .. } => {}
            Values::List { ends, .. } | Values::Map { ends, .. } => ends.resize(rows, end_of(ends) as i32),
        }
    }

    /// Where a value is to be appended behind the rows that are there; [`Self::has_value`] says that it was.
    pub(super) fn values(&mut self) -> &mut Values {
        &mut self.values
    }

    pub(super) fn has_value(&mut self) {
        self.valid.push(true);
    }

    /// Takes back all rows but the first ones.
    pub fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        match &mut self.values {
            Values::Boolean(flags) => flags.truncate(rows),
            Values::Long(numbers) | Values::Duration(numbers) | Values::Timestamp { micros: numbers, .. } => numbers.truncate(rows),
            Values::Double(numbers) => numbers.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::Date(days) => days.truncate(rows),
            Values::Text(texts) | Values::Reference(texts) | Values::Json(texts) => texts.truncate(rows),
            Values::Struct { children, .. } => children.iter_mut().for_each(|child| child.truncate(rows)),
            Values::List { ends, items, .. } => {
                ends.truncate(rows);
                items.truncate(end_of(ends));
            }
            Values::Map { ends, keys, items, .. } => {
                ends.truncate(rows);
                keys.truncate(end_of(ends));
                items.truncate(end_of(ends));
            }
        }
    }

    /// Whether a row has a value.
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid.get(row).copied().unwrap_or(false)
    }

    /// The instant of a row.
    pub fn micros(&self, row: usize) -> Option<i64> {
        match &self.values {
            Values::Timestamp { micros, .. } if self.is_valid(row) => micros.get(row).copied(),
            _ => None,
        }
    }

    /// The rows that are there.
    fn all(self) -> Result<ArrayRef, ArrowError> {
        let rows = self.valid.len();
        self.array(rows)
    }

    /// The same as so many rows.
    pub fn array(mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        self.pad(rows);
        let nulls = if self.valid.iter().all(|valid| *valid) { None } else { Some(NullBuffer::from(self.valid)) };
        Ok(match self.values {
            Values::Boolean(flags) => Arc::new(BooleanArray::new(BooleanBuffer::from(flags), nulls)),
            Values::Long(numbers) | Values::Duration(numbers) => Arc::new(Int64Array::new(numbers.into(), nulls)),
            Values::Double(numbers) => Arc::new(Float64Array::new(numbers.into(), nulls)),
            Values::Decimal { values, precision, scale } => {
                Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(DataType::Decimal128(precision, scale)))
            }
            Values::Timestamp { micros, .. } => Arc::new(TimestampMicrosecondArray::new(micros.into(), nulls).with_timezone("UTC")),
            Values::Date(days) => Arc::new(Date32Array::new(days.into(), nulls)),
            Values::Text(texts) | Values::Reference(texts) | Values::Json(texts) => Arc::new(texts.array(nulls)?),
            Values::Struct { object, children, .. } => {
                let arrays = children.into_iter().map(|child| child.array(rows)).collect::<Result<Vec<_>, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields(&object), arrays, nulls, rows)?)
            }
            Values::List { field, ends, items } => Arc::new(ListArray::try_new(field, offsets(ends), items.all()?, nulls)?),
            Values::Map { field, ends, keys, items } => {
                let entries: Fields = match field.data_type() {
                    DataType::Struct(entries) => entries.clone(),
                    other => vec![Arc::new(Field::new("entries", other.clone(), true))].into(),
                };
                let entries = StructArray::try_new(entries, vec![Arc::new(keys.array(None)?), items.all()?], None)?;
                Arc::new(MapArray::try_new(field, offsets(ends), entries, nulls, false)?)
            }
        })
    }
}

impl Values {
    /// `None`: nothing was appended, the value is not of the kind. `Some(false)`: not all of it could be held.
    fn push(&mut self, row: usize, value: Value<'_>) -> Option<bool> {
        let text = || matches!(value.kind(), Kind::String).then(|| value.as_bytes());
        match self {
            Values::Boolean(flags) => match value.kind() {
                Kind::Bool(flag) => flags.push(flag),
                _ => return None,
            },
            Values::Long(numbers) => numbers.push(as_long(value)?),
            Values::Double(numbers) => numbers.push(value.kind().as_f64().filter(|number| !number.is_infinite())?),
            Values::Decimal { values, precision, scale } => {
                value.kind().as_f64()?;
                values.push(as_decimal(value, *precision, *scale)?);
            }
            Values::Timestamp { micros, variants } => match parse_timestamp_bytes(text()?, *variants) {
                Instant::At(instant) => micros.push(instant),
                _ => return None,
            },
            Values::Date(days) => {
                text()?;
                days.push(parse_date(value.as_str()).flatten()?);
            }
            Values::Duration(numbers) => {
                text()?;
                numbers.push(parse_duration(value.as_str())?);
            }
            Values::Text(texts) | Values::Reference(texts) => texts.push(text()?)?,
            Values::Json(texts) => texts.push(value.compact().as_bytes())?,
            Values::Struct { object, children, slots } => return push_fields(object, children, slots, (row, value)),
            Values::List { ends, items, .. } => {
                if !matches!(value.kind(), Kind::Array) {
                    return None;
                }
                let mut whole = true;
                for item in value.items() {
                    whole &= items.push(item);
                }
                ends.push(items.valid.len() as i32);
                return Some(whole);
            }
            Values::Map { ends, keys, items, .. } => {
                if !matches!(value.kind(), Kind::Object) {
                    return None;
                }
                // Sorted by key: two objects with the same fields in another order are equal.
                let mut entries: Vec<(&[u8], Value<'_>)> = value.fields().map(|(key, item)| (key.as_bytes(), item)).collect();
                entries.sort_by_key(|(key, _)| *key);
                let mut whole = true;
                for (key, item) in entries {
                    if keys.push(key).is_none() {
                        keys.push_empty();
                        whole = false;
                    }
                    whole &= items.push(item);
                }
                ends.push(items.valid.len() as i32);
                return Some(whole);
            }
        }
        Some(true)
    }
}

fn push_fields(object: &Object, children: &mut [Column], slots: &mut [u32], (row, value): (usize, Value<'_>)) -> Option<bool> {
    if !matches!(value.kind(), Kind::Object) {
        return None;
    }
    object.slots(value, slots, |_, _| {});
    let mut whole = true;
    for (child, slot) in children.iter_mut().zip(slots.iter()) {
        whole &= child.set(row, (*slot != ABSENT).then(|| value.sibling(*slot)));
    }
    Some(whole)
}
