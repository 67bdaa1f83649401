//! Rows of a table of an older version → rows of the newest: what `upcast` does to a record that is read, done to columns that are
//! stored.
//!
//! A column comes from where the composed steps say: a path into the older version's columns, a default, casts. What a table cannot
//! tell any more is refused by name before anything is written: paths into what is stored as text, casts that only the original
//! text could answer. A NULL where the older version allows null stays NULL; otherwise it means that the field was absent, and takes
//! the default.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
    new_null_array,
};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{CastOptions, cast_with_options, is_null};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;

use super::columns::data_type;
use super::{Contract, Object, Property, Source, Type, Version};
use crate::domain::time::{Instant, Variants, parse_date, parse_duration, parse_timestamp};

/// Why rows cannot be converted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConvertError {
    #[error("`{column}`: {reason}")]
    Impossible { column: String, reason: String },
    #[error("`{column}`: the value {value} of row {row} cannot become {to}")]
    Value { column: String, value: String, row: usize, to: String },
    #[error("`{column}`: {message}")]
    Arrow { column: String, message: String },
}

/// How each contract column of the newest version is made.
#[derive(Debug, Clone)]
pub struct Conversion {
    columns: Vec<Made>,
}

#[derive(Debug, Clone)]
struct Made {
    name: String,
    /// Steps from the older version's column.
    path: Vec<String>,
    casts: Vec<String>,
    default: Option<ArrayRef>,
    ty: Type,
    stored: DataType,
}

impl Conversion {
    /// From version `from` to the newest.
    pub fn new(contract: &Contract, from: &Version) -> Result<Self, ConvertError> {
        let latest = &contract.latest().root.properties;
        let columns = latest.iter().zip(&from.sources).map(|(property, source)| made(property, source, &from.root));
        Ok(Self { columns: columns.collect::<Result<_, _>>()? })
    }

    /// A batch with the columns of the older table → one with the columns of `schema`. Columns that are not the contract's are taken
    /// over as they are.
    pub fn apply(&self, rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ConvertError> {
        let columns = schema.fields().iter().map(|field| match self.columns.iter().find(|made| made.name == *field.name()) {
            Some(made) => made.column(rows),
            None => Ok(rows.column_by_name(field.name()).cloned().unwrap_or_else(|| new_null_array(field.data_type(), rows.num_rows()))),
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(schema.clone(), columns).map_err(|error| arrow_error("", &error))
    }

    /// Of some columns only; all others are taken over as they are.
    pub fn only(&self, columns: &[String]) -> Self {
        Self { columns: self.columns.iter().filter(|made| columns.contains(&made.name)).cloned().collect() }
    }

    /// Whether a table of the older version needs new columns and nothing else: what it has stays where it is. What is new is NULL in its
    /// rows, also where records that are read from now on have a default: nobody asked for a rewrite.
    pub fn is_plain(&self, from: &Object) -> bool {
        self.columns.iter().all(|made| match from.property(&made.name) {
            Some(_) => made.path == [made.name.clone()] && made.casts.is_empty() && made.default.is_none(),
            None => made.path.is_empty(),
        })
    }

    /// Whether a column has the very values of an older one, under whatever name.
    pub fn keeps(&self, column: &str) -> bool {
        self.columns.iter().any(|made| made.name == column && made.path.len() == 1 && made.casts.is_empty() && made.default.is_none())
    }
}

fn arrow_error(column: &str, error: &ArrowError) -> ConvertError {
    ConvertError::Arrow { column: column.to_owned(), message: error.to_string() }
}

fn made(property: &Property, source: &Source, from: &Object) -> Result<Made, ConvertError> {
    let impossible = |reason: String| ConvertError::Impossible { column: property.name.clone(), reason };
    let found = locate(&source.path, from).map_err(&impossible)?;
    let stored = data_type(&property.shape.ty);
    if let Some(found) = &found {
        if source.moved_out.iter().any(|path| !path.is_empty()) && !matches!(found.ty, Type::Struct(_)) {
            return Err(impossible("a part of it moves elsewhere, and it is stored as text".to_owned()));
        }
        let known = ["string", "integer", "number", "boolean"];
        if let Some(cast) = source.casts.iter().find(|cast| !known.contains(&cast.as_str())) {
            return Err(impossible(format!("there is no cast to {cast}")));
        }
        if source.casts.iter().any(|cast| cast == "string") && matches!(found.ty, Type::Long | Type::Double) {
            return Err(impossible("the digits that a number was written with are not stored; the cast to string needs them".to_owned()));
        }
        let plain = matches!(found.ty, Type::Boolean | Type::Long | Type::Double | Type::Text);
        if !source.casts.is_empty() && !plain {
            return Err(impossible(
                "its stored form is not what the cast was declared for; only STRING, LONG, DOUBLE and BOOLEAN are".to_owned(),
            ));
        }
        let before = source.casts.last().map_or(found.ty, |cast| cast_type(cast));
        if !storable(before, &property.shape.ty) {
            return Err(impossible(format!("stored values do not become {}", super::columns::sql_name(&property.shape.ty))));
        }
    }
    let nullable = found.as_ref().is_some_and(|found| found.nullable);
    let default = source.default.as_deref().filter(|_| !nullable);
    let default =
        default.map(|text| default_value(text, &property.shape.ty).ok_or_else(|| impossible(format!("the default {text} does not fit"))));
    let path = if found.is_some() { source.path.clone() } else { Vec::new() };
    Ok(Made {
        name: property.name.clone(),
        path,
        casts: source.casts.clone(),
        default: default.transpose()?,
        ty: property.shape.ty.clone(),
        stored,
    })
}

struct Found<'v> {
    ty: &'v Type,
    nullable: bool,
}

/// What lies at a path of a version's columns.
fn locate<'v>(path: &[String], root: &'v Object) -> Result<Option<Found<'v>>, String> {
    let Some((first, inner)) = path.split_first() else { return Ok(None) };
    let Some(property) = root.property(first) else { return Ok(None) };
    let mut found = Found { ty: &property.shape.ty, nullable: property.shape.nullable };
    for (at, step) in inner.iter().enumerate() {
        found = match found.ty {
            Type::Struct(object) => match object.property(step) {
                Some(field) => Found { ty: &field.shape.ty, nullable: found.nullable || field.shape.nullable },
                None => return Ok(None),
            },
            // Its one STRING is the id.
            Type::Reference(_) if step == "id" && at + 1 == inner.len() => Found { ty: &Type::Text, nullable: found.nullable },
            _ => return Err(format!("/{} is not stored by itself", path.join("/"))),
        };
    }
    Ok(Some(found))
}

fn cast_type(name: &str) -> &'static Type {
    match name {
        "integer" => &Type::Long,
        "number" => &Type::Double,
        "boolean" => &Type::Boolean,
        _ => &Type::Text,
    }
}

/// Whether stored values of one type can be read as the other.
fn storable(from: &Type, to: &Type) -> bool {
    match (from, to) {
        (Type::Long, Type::Double | Type::Decimal { .. }) | (Type::Double, Type::Decimal { .. }) => true,
        (Type::Text, Type::Timestamp { .. } | Type::Date | Type::Duration) => true,
        (Type::Timestamp { .. }, Type::Timestamp { .. }) => true,
        (Type::Text | Type::Reference(_), Type::Text | Type::Reference(_)) => true,
        (Type::Struct(a), Type::Struct(b)) => b
            .properties
            .iter()
            .all(|property| a.property(&property.name).is_none_or(|before| storable(&before.shape.ty, &property.shape.ty))),
        (Type::List(a), Type::List(b)) | (Type::Map(a), Type::Map(b)) => storable(&a.ty, &b.ty),
        (a, b) => data_type(a) == data_type(b) && std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// One value as an array of length one.
fn default_value(text: &str, ty: &Type) -> Option<ArrayRef> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let stored = data_type(ty);
    if value.is_null() {
        return Some(new_null_array(&stored, 1));
    }
    let plain: ArrayRef = match &value {
        serde_json::Value::Bool(flag) => Arc::new(BooleanArray::from(vec![*flag])),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(int) => Arc::new(Int64Array::from(vec![int])),
            None => Arc::new(Float64Array::from(vec![number.as_f64()?])),
        },
        serde_json::Value::String(text) => Arc::new(StringArray::from(vec![text.as_str()])),
        _ => return None,
    };
    stored_as(&plain, &stored, ty).ok()
}

/// A value that has no such form: its position.
struct Unfit(usize);

/// Values of one type stored as another.
fn stored_as(array: &ArrayRef, stored: &DataType, to: &Type) -> Result<ArrayRef, Unfit> {
    if let Some(texts) = array.as_string_opt::<i32>() {
        return match to {
            Type::Timestamp { variants, .. } => timestamps(texts, *variants),
            Type::Date => {
                parsed(texts, |text| parse_date(text).flatten()).map(|days| Arc::new(arrow::array::Date32Array::from(days)) as ArrayRef)
            }
            Type::Duration => parsed(texts, parse_duration).map(|micros| Arc::new(Int64Array::from(micros)) as ArrayRef),
            _ => widened(array, stored),
        };
    }
    widened(array, stored)
}

fn parsed<T>(texts: &StringArray, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<Option<T>>, Unfit> {
    texts.iter().enumerate().map(|(at, text)| text.map(|text| parse(text).ok_or(Unfit(at))).transpose()).collect()
}

fn timestamps(texts: &StringArray, variants: Variants) -> Result<ArrayRef, Unfit> {
    let instant = |text: &str| match parse_timestamp(text, variants) {
        Instant::At(micros) => Some(micros),
        _ => None,
    };
    let micros = parsed(texts, instant)?;
    Ok(Arc::new(arrow::array::TimestampMicrosecondArray::from(micros).with_timezone("UTC")))
}

/// Structs by the names of their fields, numbers widened, all else as it is.
fn widened(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, Unfit> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = array.as_struct();
            let columns = fields.iter().map(|field| match from.column_by_name(field.name()) {
                Some(column) => widened(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), array.len())),
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            StructArray::try_new(fields.clone(), columns, from.nulls().cloned())
                .map(|made| Arc::new(made) as ArrayRef)
                .map_err(|_| Unfit(0))
        }
        (DataType::List(_), DataType::List(item)) => {
            let from = array.as_list::<i32>();
            let values = widened(from.values(), item.data_type())?;
            let made = ListArray::try_new(item.clone(), from.offsets().clone(), values, from.nulls().cloned());
            made.map(|made| Arc::new(made) as ArrayRef).map_err(|_| Unfit(0))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let from = array.as_map();
            let inner: ArrayRef = Arc::new(from.entries().clone());
            let inner = widened(&inner, entries.data_type())?;
            let made =
                MapArray::try_new(entries.clone(), from.offsets().clone(), inner.as_struct().clone(), from.nulls().cloned(), *sorted);
            made.map(|made| Arc::new(made) as ArrayRef).map_err(|_| Unfit(0))
        }
        _ => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let made = cast_with_options(array, to, &strict);
            made.map_err(|_| Unfit(first_unfit(array, to)))
        }
    }
}

fn first_unfit(array: &ArrayRef, to: &DataType) -> usize {
    let lenient = cast_with_options(array, to, &CastOptions::default());
    lenient.map_or(0, |made| (0..array.len()).find(|at| made.is_null(*at) && array.is_valid(*at)).unwrap_or(0))
}

/// One declared cast, by the rules of upcasts.
fn cast(array: &ArrayRef, to: &str) -> Result<ArrayRef, Unfit> {
    let texts = array.as_string_opt::<i32>();
    let flags = array.as_boolean_opt();
    let ints = array.as_primitive_opt::<Int64Type>();
    let floats = array.as_primitive_opt::<Float64Type>();
    Ok(match to {
        "string" => match flags {
            Some(flags) => Arc::new(flags.iter().map(|flag| flag.map(|flag| flag.to_string())).collect::<StringArray>()),
            None => array.clone(),
        },
        "integer" => match (texts, flags, floats) {
            (Some(texts), ..) => Arc::new(Int64Array::from(parsed(texts, |text| text.parse::<i64>().ok())?)),
            (_, Some(flags), _) => Arc::new(flags.iter().map(|flag| flag.map(i64::from)).collect::<Int64Array>()),
            (.., Some(floats)) => {
                let int = |(at, float): (usize, Option<f64>)| match float {
                    // Within it every integral double is an integer of 64 bits.
                    Some(float) if float.fract() == 0.0 && float.abs() < 9.2e18 => Ok(Some(float as i64)),
                    Some(_) => Err(Unfit(at)),
                    None => Ok(None),
                };
                Arc::new(Int64Array::from(floats.iter().enumerate().map(int).collect::<Result<Vec<_>, _>>()?))
            }
            _ => array.clone(),
        },
        "number" => match (texts, flags) {
            (Some(texts), _) => {
                Arc::new(Float64Array::from(parsed(texts, |text| text.parse::<f64>().ok().filter(|number| number.is_finite()))?))
            }
            (_, Some(flags)) => Arc::new(flags.iter().map(|flag| flag.map(|flag| f64::from(u8::from(flag)))).collect::<Float64Array>()),
            _ => widened(array, &DataType::Float64)?,
        },
        _ => match (texts, ints) {
            (Some(texts), _) => {
                let flag = |text: &str| text.parse::<bool>().ok();
                Arc::new(BooleanArray::from(parsed(texts, flag)?))
            }
            (_, Some(ints)) => {
                let flag = |(at, int): (usize, Option<i64>)| match int {
                    Some(int @ (0 | 1)) => Ok(Some(int == 1)),
                    Some(_) => Err(Unfit(at)),
                    None => Ok(None),
                };
                Arc::new(BooleanArray::from(ints.iter().enumerate().map(flag).collect::<Result<Vec<_>, _>>()?))
            }
            _ => array.clone(),
        },
    })
}

impl Made {
    fn column(&self, rows: &RecordBatch) -> Result<ArrayRef, ConvertError> {
        let Some((first, inner)) = self.path.split_first() else { return self.filled(new_null_array(&self.stored, rows.num_rows())) };
        let Some(column) = rows.column_by_name(first) else {
            // The table is not of the version that it says it is.
            return Err(ConvertError::Impossible { column: self.name.clone(), reason: format!("the table has no column `{first}`") });
        };
        let mut array = column.clone();
        for step in inner {
            // The id of a reference is all of it.
            let Some(outer) = array.as_struct_opt() else { break };
            let Some(field) = outer.column_by_name(step) else { return self.filled(new_null_array(&self.stored, rows.num_rows())) };
            // Where the outer value is NULL there is no inner one.
            array = match outer.nulls() {
                Some(nulls) => {
                    let there = BooleanArray::new(nulls.inner().clone(), None);
                    let nothing = new_null_array(field.data_type(), field.len());
                    zip(&there, field, &nothing).map_err(|error| arrow_error(&self.name, &error))?
                }
                None => field.clone(),
            };
        }
        let unfit = |array: &ArrayRef, to: &str, Unfit(row): Unfit| ConvertError::Value {
            column: self.name.clone(),
            value: arrow::util::display::array_value_to_string(array, row).unwrap_or_default(),
            row,
            to: to.to_owned(),
        };
        for to in &self.casts {
            array = cast(&array, to).map_err(|row| unfit(&array, to, row))?;
        }
        let made = stored_as(&array, &self.stored, &self.ty);
        self.filled(made.map_err(|row| unfit(&array, &self.stored.to_string(), row))?)
    }

    fn filled(&self, array: ArrayRef) -> Result<ArrayRef, ConvertError> {
        let Some(default) = &self.default else { return Ok(array) };
        let absent = is_null(&array).map_err(|error| arrow_error(&self.name, &error))?;
        let default = arrow::array::Scalar::new(default.clone());
        zip(&absent, &default, &array).map_err(|error| arrow_error(&self.name, &error))
    }
}
