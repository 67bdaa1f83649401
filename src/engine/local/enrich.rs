//! Step 5, enrich: accepted records → Arrow columns of the newest version, with upcasts, derived partition values, technical
//! columns, and the hashes by which records are told apart.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, MapArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;

use super::decode::{Decoded, Origin, Row};
use super::validate::{Valid, Validated};
use crate::contract::check::{as_decimal, as_long};
use crate::contract::columns::{element, fields, key_value};
use crate::contract::{Object, Type, Version};
use crate::domain::json::{Kind, Value, write_string};
use crate::domain::time::{Instant, MICROS_PER_DAY, civil_from_days, parse_date, parse_duration, parse_timestamp};
use crate::domain::{PartitionColumn, Reject, RejectCode};
use crate::job::{Job, UnknownFields};
use crate::plan::{BatchPlan, Column, order};
use crate::silver::keys::RowHashes;

#[derive(Debug, thiserror::Error)]
pub enum EnrichError {
    #[error("cannot build the columns of {file}: {source}")]
    Columns { file: Arc<str>, source: arrow::error::ArrowError },
    #[error("cannot judge delete_when over {file}: {source}")]
    Condition { file: Arc<str>, source: Box<datafusion::error::DataFusionError> },
}

/// A chunk of rows ready to be written, and every refusal up to here.
#[derive(Debug)]
pub struct Enriched {
    pub origin: Origin,
    /// Silver's full schema.
    pub rows: RecordBatch,
    pub hashes: RowHashes,
    /// `order_by` values of each row; empty where records are not ordered by any.
    pub prefixes: Vec<String>,
    /// Which rows delete the row of their key.
    pub deletes: Vec<bool>,
    /// Decoded offset, length and bytes of each row, should it still be refused.
    pub places: Vec<(u64, bytes::Bytes)>,
    pub versions: Vec<u32>,
    pub rejects: Vec<Reject>,
    pub read: u64,
}

pub fn enrich(validated: Validated, plan: &BatchPlan) -> Result<Enriched, EnrichError> {
    let (validated, dates) = derive(validated, plan);
    let Validated { decoded, rows, slots } = &validated;
    let columns = &plan.of.columns;
    let contract = &plan.of.contract;
    let arrays: Vec<ArrayRef> = columns
        .columns
        .iter()
        .filter(|column| **column != Column::Order)
        .map(|column| match column {
            Column::Property(at) => property_column(decoded, rows, slots, *at, plan),
            other => technical_column(*other, &validated, &dates, plan),
        })
        .collect();
    let order_by: Vec<ArrayRef> = columns.order_by.iter().map(|at| arrays[*at].clone()).collect();
    let prefixes = order::prefixes(&order_by, rows.len());
    let batch = with_order(arrays, &prefixes, &validated, plan);
    let hashed = batch.and_then(|batch| RowHashes::of(&batch, columns).map(|hashes| (batch, hashes)));
    let (batch, hashes) = hashed.map_err(|source| EnrichError::Columns { file: decoded.origin.file.clone(), source })?;
    let deletes = match &plan.of.deletes {
        Some(condition) => condition
            .holds(&batch)
            .map_err(|source| EnrichError::Condition { file: decoded.origin.file.clone(), source: Box::new(source) })?,
        None => vec![false; rows.len()],
    };
    let place = |valid: &Valid| {
        let Row { start, end, .. } = valid.row;
        (decoded.base + u64::from(start), decoded.bytes.slice(start as usize..end as usize))
    };
    debug_assert_eq!(contract.entity, plan.of.source.entity);
    Ok(Enriched {
        origin: decoded.origin.clone(),
        hashes,
        prefixes,
        deletes,
        places: rows.iter().map(place).collect(),
        versions: rows.iter().map(|valid| valid.version).collect(),
        rejects: validated.decoded.rejects,
        read: validated.decoded.read,
        rows: batch,
    })
}

/// Silver's columns; the order, which is made of others, comes last.
fn with_order(
    mut arrays: Vec<ArrayRef>,
    prefixes: &[String],
    validated: &Validated,
    plan: &BatchPlan,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = &plan.of.columns;
    if columns.columns.last() == Some(&Column::Order) {
        let origin = &validated.decoded.origin;
        let offsets = validated.rows.iter().map(|valid| validated.decoded.offset(&valid.row));
        arrays.push(Arc::new(order::orders(prefixes, &order::tail(&origin.object, &origin.file), offsets)));
    }
    RecordBatch::try_new(columns.schema.clone(), arrays)
}

/// Year, month, day and event date of a row.
#[derive(Debug, Clone, Copy)]
struct Dates {
    year: i32,
    month: i32,
    day: i32,
    event_date: Option<i32>,
}

/// Settles what reconciling left to the event time, and refuses records whose key is not there.
fn derive(mut validated: Validated, plan: &BatchPlan) -> (Validated, Vec<Dates>) {
    let job: &Job = &plan.of.job;
    let columns = &plan.of.columns;
    let properties = &plan.of.contract.latest().root.properties;
    let mut dates = Vec::with_capacity(validated.rows.len());
    let mut rejects = Vec::new();
    let rows = std::mem::take(&mut validated.rows);
    let instant = |valid: &Valid, name: &String| {
        let at = properties.iter().position(|property| property.name == *name)?;
        micros_of(&validated, valid, at, plan)
    };
    let part = |valid: &Valid, column: PartitionColumn, settled: Option<i32>| {
        settled.or_else(|| {
            let (year, month, day) = civil_from_days(instant(valid, job.partition(column).derive.as_ref()?)?.div_euclid(MICROS_PER_DAY));
            Some(match column {
                PartitionColumn::Year => year,
                PartitionColumn::Month => month as i32,
                _ => day as i32,
            })
        })
    };
    let kept: Vec<Valid> = rows
        .into_iter()
        .filter(|valid| {
            let mut refuse = |code, path: &str, message: &str| {
                rejects.push(validated.decoded.reject(&valid.row, code, format!("$.{path}"), message.to_owned(), Some(valid.version)));
                false
            };
            let year = part(valid, PartitionColumn::Year, valid.parts.year);
            let month = part(valid, PartitionColumn::Month, valid.parts.month);
            let day = part(valid, PartitionColumn::Day, valid.parts.day);
            let (year, month, day) = match (year, month, day) {
                (Some(year), Some(month), Some(day)) => (year, month, day),
                (None, _, _) => return refuse(RejectCode::PartitionMissing, "year", "neither path, payload nor event time has year"),
                (_, None, _) => return refuse(RejectCode::PartitionMissing, "month", "neither path, payload nor event time has month"),
                _ => return refuse(RejectCode::PartitionMissing, "day", "neither path, payload nor event time has day"),
            };
            let absent = job.key.iter().find(|name| {
                let at = properties.iter().position(|property| property.name == **name);
                at.is_none_or(|at| is_null(&validated, valid, at, plan))
            });
            if let Some(name) = absent {
                return refuse(RejectCode::KeyMissing, name, "a key field is absent or null");
            }
            let event_date = columns
                .event_time
                .and_then(|at| micros_of(&validated, valid, at, plan))
                .map(|micros| micros.div_euclid(MICROS_PER_DAY) as i32);
            dates.push(Dates { year, month, day, event_date });
            true
        })
        .collect();
    validated.rows = kept;
    validated.decoded.rejects.append(&mut rejects);
    (validated, dates)
}

fn version_of<'p>(valid: &Valid, plan: &'p BatchPlan) -> &'p Version {
    plan.of.contract.version(valid.version).unwrap_or_else(|| plan.of.contract.latest())
}

fn with_value<T>(validated: &Validated, valid: &Valid, at: usize, plan: &BatchPlan, read: impl FnOnce(Option<Value<'_>>) -> T) -> T {
    let version = version_of(valid, plan);
    let slots = validated.slots.get(valid.slots as usize..).unwrap_or_default();
    match version.sources.get(at).map(|source| source.resolve(validated.decoded.value(&valid.row), slots)) {
        Some(Ok(resolved)) => read(resolved.value()),
        _ => read(None),
    }
}

fn micros_of(validated: &Validated, valid: &Valid, at: usize, plan: &BatchPlan) -> Option<i64> {
    let ty = &plan.of.contract.latest().root.properties.get(at)?.shape.ty;
    with_value(validated, valid, at, plan, |value| micros(ty, value?))
}

fn is_null(validated: &Validated, valid: &Valid, at: usize, plan: &BatchPlan) -> bool {
    with_value(validated, valid, at, plan, |value| value.is_none_or(|value| value.kind() == Kind::Null))
}

fn micros(ty: &Type, value: Value<'_>) -> Option<i64> {
    let Type::Timestamp { variants, .. } = ty else { return None };
    match parse_timestamp(value.as_str(), *variants) {
        Instant::At(micros) if value.kind() == Kind::String => Some(micros),
        _ => None,
    }
}

/// One property of the newest version over all rows, each read where its own version keeps it.
fn property_column(decoded: &Decoded, rows: &[Valid], slots: &[u32], at: usize, plan: &BatchPlan) -> ArrayRef {
    let resolved: Vec<_> = rows
        .iter()
        .map(|valid| {
            let version = version_of(valid, plan);
            let slots = slots.get(valid.slots as usize..).unwrap_or_default();
            version.sources.get(at).and_then(|source| source.resolve(decoded.value(&valid.row), slots).ok())
        })
        .collect();
    let values: Vec<Option<Value<'_>>> = resolved.iter().map(|resolved| resolved.as_ref()?.value()).collect();
    array(&plan.of.contract.latest().root.properties[at].shape.ty, &values)
}

/// Values that [`crate::contract::check::storable`] accepted → a column.
fn array(ty: &Type, values: &[Option<Value<'_>>]) -> ArrayRef {
    let present = || values.iter().map(|value| value.filter(|value| value.kind() != Kind::Null));
    match ty {
        Type::Boolean => Arc::new(BooleanArray::from_iter(present().map(|value| match value?.kind() {
            Kind::Bool(flag) => Some(flag),
            _ => None,
        }))),
        Type::Long => Arc::new(Int64Array::from_iter(present().map(|value| as_long(value?)))),
        Type::Double => Arc::new(Float64Array::from_iter(present().map(|value| value?.kind().as_f64()))),
        Type::Decimal { precision, scale } => {
            let decimals = Decimal128Array::from_iter(present().map(|value| as_decimal(value?, *precision, *scale)));
            Arc::new(decimals.with_data_type(DataType::Decimal128(*precision, *scale)))
        }
        Type::Timestamp { .. } => {
            Arc::new(TimestampMicrosecondArray::from_iter(present().map(|value| micros(ty, value?))).with_timezone("UTC"))
        }
        Type::Date => Arc::new(Date32Array::from_iter(present().map(|value| parse_date(value?.as_str()).flatten()))),
        Type::Duration => Arc::new(Int64Array::from_iter(present().map(|value| parse_duration(value?.as_str())))),
        Type::Text => Arc::new(StringArray::from_iter(present().map(|value| value.map(Value::as_str)))),
        Type::Reference(_) => Arc::new(StringArray::from_iter(present().map(|value| {
            let value = value?;
            Some(if value.kind() == Kind::Object { value.get("id")?.as_str() } else { value.as_str() })
        }))),
        Type::Json { .. } => Arc::new(StringArray::from_iter(present().map(|value| value.map(Value::compact)))),
        Type::Struct(object) => structs(object, &present().collect::<Vec<_>>()),
        Type::List(item) => {
            let present: Vec<_> = present().collect();
            let items: Vec<Option<Value<'_>>> = present.iter().flatten().flat_map(|list| list.items().map(Some)).collect();
            let lengths = present.iter().map(|list| list.map_or(0, |list| list.items().count()));
            Arc::new(ListArray::new(element(item), OffsetBuffer::from_lengths(lengths), array(&item.ty, &items), Some(nulls(&present))))
        }
        Type::Map(inner) => maps(inner, &present().collect::<Vec<_>>()),
    }
}

fn nulls(values: &[Option<Value<'_>>]) -> NullBuffer {
    NullBuffer::from_iter(values.iter().map(Option::is_some))
}

fn structs(object: &Object, values: &[Option<Value<'_>>]) -> ArrayRef {
    let children = object
        .properties
        .iter()
        .map(|property| {
            let fields: Vec<_> = values.iter().map(|value| value.and_then(|value| value.get(&property.name))).collect();
            array(&property.shape.ty, &fields)
        })
        .collect();
    Arc::new(StructArray::new(fields(object), children, Some(nulls(values))))
}

fn maps(inner: &crate::contract::Shape, values: &[Option<Value<'_>>]) -> ArrayRef {
    // Sorted by key: two objects with the same fields in another order are equal.
    let entries: Vec<(&str, Value<'_>)> = values
        .iter()
        .flatten()
        .flat_map(|map| {
            let mut entries: Vec<_> = map.entries().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries
        })
        .collect();
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(entries.iter().map(|(key, _)| *key)));
    let fields: Vec<_> = entries.iter().map(|(_, value)| Some(*value)).collect();
    let lengths = values.iter().map(|map| map.map_or(0, |map| map.entries().count()));
    let entry_field = key_value(inner);
    let DataType::Struct(entry_fields) = entry_field.data_type().clone() else { return keys };
    let entries = StructArray::new(entry_fields, vec![keys, array(&inner.ty, &fields)], None);
    Arc::new(MapArray::new(entry_field, OffsetBuffer::from_lengths(lengths), entries, Some(nulls(values)), false))
}

fn technical_column(column: Column, validated: &Validated, dates: &[Dates], plan: &BatchPlan) -> ArrayRef {
    let rows = &validated.rows;
    let decoded = &validated.decoded;
    let text = |text: &str| Arc::new(StringArray::from_iter_values(rows.iter().map(|_| text))) as ArrayRef;
    match column {
        Column::Database => text(&plan.of.source.database),
        Column::SourceFile => text(&decoded.origin.file),
        Column::Batch => text(&plan.batch),
        Column::EventDate => Arc::new(Date32Array::from_iter(dates.iter().map(|dates| dates.event_date))),
        Column::Year => Arc::new(Int32Array::from_iter_values(dates.iter().map(|dates| dates.year))),
        Column::Month => Arc::new(Int32Array::from_iter_values(dates.iter().map(|dates| dates.month))),
        Column::Day => Arc::new(Int32Array::from_iter_values(dates.iter().map(|dates| dates.day))),
        Column::SourceOffset => Arc::new(Int64Array::from_iter_values(rows.iter().map(|valid| decoded.offset(&valid.row) as i64))),
        Column::SourceLength => Arc::new(Int64Array::from_iter_values(rows.iter().map(|valid| i64::from(valid.row.end - valid.row.start)))),
        Column::SchemaVersion => Arc::new(Int32Array::from_iter_values(rows.iter().map(|valid| valid.version as i32))),
        Column::IngestedAt => {
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|_| plan.ingested_at)).with_timezone("UTC"))
        }
        Column::Rescued | Column::Property(_) | Column::Order => {
            let keep = plan.of.job.unknown_fields == UnknownFields::Rescue;
            Arc::new(StringArray::from_iter(
                rows.iter().map(|valid| {
                    (keep && valid.unknown).then(|| rescued(decoded.value(&valid.row), version_of(valid, plan), plan)).flatten()
                }),
            ))
        }
    }
}

/// Fields that the version does not declare, as one JSON object that mirrors their places.
fn rescued(record: Value<'_>, version: &Version, plan: &BatchPlan) -> Option<String> {
    let mut out = String::new();
    rescue_object(&version.root, record, &|key| plan.of.contract.is_reserved(key), &mut out).then_some(out)
}

/// Whether anything was written.
fn rescue_object(object: &Object, value: Value<'_>, reserved: &dyn Fn(&str) -> bool, out: &mut String) -> bool {
    let start = out.len();
    let mut separator = '{';
    for (key, field) in value.entries() {
        let before = out.len();
        out.push(separator);
        write_string(key, out);
        out.push(':');
        let wrote = match object.property(key) {
            Some(property) => rescue_nested(&property.shape.ty, field, out),
            None if reserved(key) => false,
            None => {
                field.write_compact(out);
                true
            }
        };
        if wrote {
            separator = ',';
        } else {
            out.truncate(before);
        }
    }
    if out.len() > start {
        out.push('}');
    }
    out.len() > start
}

fn rescue_nested(ty: &Type, value: Value<'_>, out: &mut String) -> bool {
    let open = |_: &str| false;
    match ty {
        Type::Struct(object) | Type::Reference(object) => rescue_object(object, value, &open, out),
        Type::List(inner) => rescue_each(&inner.ty, value.items().enumerate().map(|(at, item)| (at.to_string(), item)), out),
        Type::Map(inner) => rescue_each(&inner.ty, value.entries().map(|(key, field)| (key.to_owned(), field)), out),
        _ => false,
    }
}

fn rescue_each<'a>(ty: &Type, items: impl Iterator<Item = (String, Value<'a>)>, out: &mut String) -> bool {
    let start = out.len();
    let mut separator = '{';
    for (key, item) in items {
        let before = out.len();
        out.push(separator);
        write_string(&key, out);
        out.push(':');
        if rescue_nested(ty, item, out) {
            separator = ',';
        } else {
            out.truncate(before);
        }
    }
    if out.len() > start {
        out.push('}');
    }
    out.len() > start
}

/// Refusals → the quarantine table's columns.
pub fn quarantine_rows(rejects: &[Reject], origin: &Origin, plan: &BatchPlan) -> Result<RecordBatch, EnrichError> {
    let texts = |read: &dyn Fn(&Reject) -> Option<String>| Arc::new(StringArray::from_iter(rejects.iter().map(read))) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        texts(&|reject| Some(reject.code.name().to_owned())),
        texts(&|reject| Some(reject.path.clone())),
        texts(&|reject| Some(reject.message.clone())),
        Arc::new(Int32Array::from_iter(rejects.iter().map(|reject| reject.schema_version.map(|version| version as i32)))),
        texts(&|_| Some(origin.file.to_string())),
        Arc::new(Int64Array::from_iter_values(rejects.iter().map(|reject| reject.offset as i64))),
        Arc::new(Int64Array::from_iter_values(rejects.iter().map(|reject| reject.length as i64))),
        Arc::new(BinaryArray::from_iter_values(rejects.iter().map(|reject| &reject.raw))),
        texts(&|_| Some(plan.batch.clone())),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rejects.iter().map(|_| plan.ingested_at)).with_timezone("UTC")),
        texts(&|reject| reject.found[0].clone()),
        texts(&|reject| reject.found[1].clone()),
        texts(&|reject| reject.found[2].clone()),
        texts(&|reject| reject.found[3].clone()),
    ];
    RecordBatch::try_new(crate::plan::quarantine_schema(), columns)
        .map_err(|source| EnrichError::Columns { file: origin.file.clone(), source })
}
