//! Step 5, enrich: accepted records → Arrow columns of the newest version, with upcasts, derived partition values, technical
//! columns, and the hashes by which records are told apart.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;

use super::columns::Column as Values;
use super::decode::{Origin, Verdict};
use super::reconcile::Parts;
use crate::contract::{Object, Type, Version};
use crate::domain::json::{Value, write_string};
use crate::domain::time::{MICROS_PER_DAY, civil_from_days};
use crate::domain::{NO_OFFSET, PartitionColumn, Reject, RejectCode};
use crate::job::{Job, Mode};
use crate::plan::{BatchPlan, Column, order};
use crate::silver::keys::{KeyRanges, RowHashes};

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
    /// What the rows are of, in their order.
    pub parts: Vec<Part>,
    /// In the schema [`crate::plan::SilverColumns::decoded`].
    pub rows: RecordBatch,
    pub hashes: RowHashes,
    pub ranges: KeyRanges,
    /// `order_by` values of each row; empty where records are not ordered by any.
    pub prefixes: order::Prefixes,
    /// Which rows delete the row of their key.
    pub deletes: Vec<bool>,
    /// Where each row's record lies in the bytes of its part, should it still be refused.
    pub places: Vec<Place>,
    pub versions: Vec<i32>,
    /// Records that were not decoded the quick way.
    pub exact: usize,
}

/// Records of one stream, one behind the other.
#[derive(Debug)]
pub struct Part {
    pub origin: Origin,
    pub bytes: Bytes,
    /// Decoded offset of `bytes[0]`.
    pub base: u64,
    /// Which of the chunk's rows are of it.
    pub rows: Range<usize>,
    pub rejects: Vec<Reject>,
    pub read: u64,
}

impl Part {
    /// Decoded offset of a record.
    pub fn offset(&self, place: Place) -> u64 {
        self.base + u64::from(place.start)
    }

    pub fn raw(&self, place: Place) -> Bytes {
        self.bytes.slice(place.start as usize..place.end as usize)
    }

    /// What is left of it once its rows went their way.
    pub fn account(self) -> Account {
        Account { origin: self.origin, rejects: self.rejects, read: self.read }
    }
}

/// How many records of a stream were read, and which of them were refused.
#[derive(Debug)]
pub struct Account {
    pub origin: Origin,
    pub rejects: Vec<Reject>,
    pub read: u64,
}

impl Enriched {
    /// Each row with its part and where in it its record lies.
    pub fn records(&self) -> impl Iterator<Item = (&Part, Place)> {
        self.parts.iter().flat_map(|part| self.places[part.rows.clone()].iter().map(move |place| (part, *place)))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub start: u32,
    pub end: u32,
}

/// What a row has beside its contract properties.
#[derive(Debug, Default)]
pub struct Technical {
    pub dates: Vec<Dates>,
    pub places: Vec<Place>,
    pub versions: Vec<i32>,
    pub rescued: Vec<Option<String>>,
}

/// Year, month, day and event date of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    pub year: i32,
    pub month: i32,
    pub day: i32,
    pub event_date: Option<i32>,
}

/// The properties by which rows are dated and told apart, as positions.
#[derive(Debug)]
pub struct Derivation {
    /// Of year, month and day, where the event time may say them.
    parts: [Option<usize>; 3],
    key: Vec<(usize, String)>,
    event_time: Option<usize>,
}

impl Derivation {
    pub fn new(plan: &BatchPlan) -> Self {
        let job: &Job = &plan.of.job;
        let properties = &plan.of.contract.latest().root;
        let part = |column| properties.position(job.partition(column).derive.as_ref()?);
        Self {
            parts: [PartitionColumn::Year, PartitionColumn::Month, PartitionColumn::Day].map(part),
            key: job.key.iter().filter_map(|name| Some((properties.position(name)?, name.clone()))).collect(),
            event_time: plan.of.columns.event_time,
        }
    }

    /// Settles for a row what reconciling left to the event time, and refuses a record whose key is not there.
    pub fn dates(&self, parts: Parts, columns: &[Values], row: usize) -> Result<Dates, Verdict> {
        let instant = |at: &Option<usize>| columns.get((*at)?)?.micros(row);
        let date = |at: &Option<usize>| Some(civil_from_days(instant(at)?.div_euclid(MICROS_PER_DAY)));
        let missing = |part: &str| Verdict {
            code: RejectCode::PartitionMissing,
            path: format!("$.{part}"),
            message: format!("neither path, payload nor event time has {part}"),
            version: None,
        };
        let year = parts.year.or_else(|| Some(date(&self.parts[0])?.0)).ok_or_else(|| missing("year"))?;
        let month = parts.month.or_else(|| Some(date(&self.parts[1])?.1 as i32)).ok_or_else(|| missing("month"))?;
        let day = parts.day.or_else(|| Some(date(&self.parts[2])?.2 as i32)).ok_or_else(|| missing("day"))?;
        if let Some((_, name)) = self.key.iter().find(|(at, _)| columns.get(*at).is_none_or(|column| !column.is_valid(row))) {
            return Err(Verdict {
                code: RejectCode::KeyMissing,
                path: format!("$.{name}"),
                message: "a key field is absent or null".to_owned(),
                version: None,
            });
        }
        let event_date = instant(&self.event_time).map(|micros| micros.div_euclid(MICROS_PER_DAY) as i32);
        Ok(Dates { year, month, day, event_date })
    }
}

/// What `enrich` is given of a chunk: rows as columns of the newest version's properties.
pub struct Properties {
    pub parts: Vec<Part>,
    pub columns: Vec<Values>,
    pub technical: Technical,
    /// Records that were not decoded the quick way.
    pub exact: usize,
}

pub fn enrich(chunk: Properties, plan: &BatchPlan) -> Result<Enriched, EnrichError> {
    let Properties { parts, columns: properties, technical, exact } = chunk;
    let columns = &plan.of.columns;
    let rows = technical.places.len();
    let file: Arc<str> = parts.first().map_or_else(|| "".into(), |part| part.origin.file.clone());
    let failed = |source| EnrichError::Columns { file: file.clone(), source };
    let mut properties: Vec<Option<ArrayRef>> =
        properties.into_iter().map(|column| column.array(rows).map(Some)).collect::<Result<_, _>>().map_err(failed)?;
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.columns.len());
    for column in columns.columns.iter().filter(|column| **column != Column::Order) {
        arrays.push(match column {
            Column::Property(at) => properties.get_mut(*at).and_then(Option::take).unwrap_or_else(|| Arc::new(Int32Array::new_null(rows))),
            other => technical_column(*other, &technical, &parts, plan),
        });
    }
    let order_by: Vec<ArrayRef> = columns.order_by.iter().map(|at| arrays[*at].clone()).collect();
    let prefixes = order::Prefixes::of(&order_by, rows);
    let batch = RecordBatch::try_new(columns.decoded.clone(), arrays).map_err(failed)?;
    // Where the latest record counts, contents are asked for only under keys that the table has.
    let all = plan.of.job.mode == Mode::Append;
    let hashes = if all { RowHashes::of(&batch, columns) } else { RowHashes::of_keys(&batch, columns) }.map_err(failed)?;
    let deletes = match &plan.of.deletes {
        Some(condition) => {
            condition.holds(&batch).map_err(|source| EnrichError::Condition { file: file.clone(), source: Box::new(source) })?
        }
        None => vec![false; rows],
    };
    let Technical { places, versions, .. } = technical;
    let ranges = KeyRanges::of(&batch, columns);
    Ok(Enriched { parts, rows: batch, hashes, ranges, prefixes, deletes, places, versions, exact })
}

fn technical_column(column: Column, technical: &Technical, parts: &[Part], plan: &BatchPlan) -> ArrayRef {
    let Technical { dates, places, versions, rescued } = technical;
    let rows = places.len();
    let coded = |codes: Int32Array, texts: StringArray| Arc::new(DictionaryArray::new(codes, Arc::new(texts))) as ArrayRef;
    let text = |text: &str| coded(Int32Array::from_value(0, rows), StringArray::from_iter_values([text]));
    let placed = || parts.iter().flat_map(|part| places[part.rows.clone()].iter().map(|place| part.offset(*place) as i64));
    let integers = |values: &mut dyn Iterator<Item = i32>| Arc::new(Int32Array::from_iter_values(values)) as ArrayRef;
    match column {
        Column::Database => text(&plan.of.source.database),
        Column::SourceFile => coded(
            (0..).zip(parts).flat_map(|(code, part)| std::iter::repeat_n(code, part.rows.len())).collect::<Vec<i32>>().into(),
            StringArray::from_iter_values(parts.iter().map(|part| &part.origin.file)),
        ),
        Column::Batch => text(&plan.batch),
        Column::EventDate => Arc::new(Date32Array::from_iter(dates.iter().map(|dates| dates.event_date))),
        Column::Year => integers(&mut dates.iter().map(|dates| dates.year)),
        Column::Month => integers(&mut dates.iter().map(|dates| dates.month)),
        Column::Day => integers(&mut dates.iter().map(|dates| dates.day)),
        Column::SourceOffset => Arc::new(Int64Array::from(placed().collect::<Vec<_>>())),
        Column::SourceLength => Arc::new(Int64Array::from_iter_values(places.iter().map(|place| i64::from(place.end - place.start)))),
        Column::SchemaVersion => integers(&mut versions.iter().copied()),
        Column::IngestedAt => Arc::new(TimestampMicrosecondArray::from_value(plan.ingested_at, rows).with_timezone("UTC")),
        Column::Rescued | Column::Property(_) | Column::Order => Arc::new(StringArray::from_iter(rescued)),
    }
}

/// Fields that the version does not declare, as one JSON object that mirrors their places.
pub fn rescued(record: Value<'_>, version: &Version, plan: &BatchPlan) -> Option<String> {
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
        Arc::new(Int64Array::from_iter(rejects.iter().map(|reject| (reject.offset != NO_OFFSET).then_some(reject.offset as i64)))),
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
