//! Which columns silver and quarantine have, in which order, and where each one comes from.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use crate::contract::Contract;
use crate::contract::columns::{data_type, timestamp};
use crate::job::Job;

pub const ORDER: &str = "_order";
pub const PLACE_FILE: &str = "_file";
pub const PLACE_ROW: &str = "_row";

/// Where a silver column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// A property of the newest contract version, by position.
    Property(usize),
    Database,
    EventDate,
    Year,
    Month,
    Day,
    SourceFile,
    SourceOffset,
    SourceLength,
    SchemaVersion,
    Batch,
    IngestedAt,
    Rescued,
    /// Of the row's record among the records of its key.
    Order,
}

/// Silver's columns: keys, event time and partition columns first, so that Delta's statistics cover them.
#[derive(Debug, Clone)]
pub struct SilverColumns {
    pub columns: Vec<Column>,
    pub schema: SchemaRef,
    /// As rows are decoded: what is the same in all rows of a file comes as dictionaries, and the order of a record, which is made
    /// of other columns and longer than all of them, only when it is written.
    pub decoded: SchemaRef,
    /// Without the partition columns: what the data files hold.
    pub file_schema: SchemaRef,
    pub partition_by: Vec<String>,
    /// Positions in `schema` of the contract's key properties.
    pub key: Vec<usize>,
    /// Positions in `schema` of all contract properties.
    pub properties: Vec<usize>,
    /// Position among the contract's properties of the event time.
    pub event_time: Option<usize>,
    /// Whether a row's date follows from its key, so that equal keys can only lie in equal dates.
    pub date_follows_from_key: bool,
    /// Positions in `schema` of the properties that order an upsert's records.
    pub order_by: Vec<usize>,
}

impl SilverColumns {
    pub fn new(job: &Job, contract: &Contract) -> Self {
        let properties = &contract.latest().root.properties;
        let place = |name: &String| properties.iter().position(|property| property.name == *name);
        let event_time = job.event_time.as_ref().and_then(place);
        let mut first: Vec<usize> = job.key.iter().filter_map(place).collect();
        let key_count = first.len();
        first.extend(event_time.filter(|at| !first.contains(at)));
        let mut columns: Vec<Column> = first.iter().copied().map(Column::Property).collect();
        columns.push(Column::Database);
        if event_time.is_some() {
            columns.push(Column::EventDate);
        }
        columns.extend([Column::Year, Column::Month, Column::Day]);
        columns.extend((0..properties.len()).filter(|at| !first.contains(at)).map(Column::Property));
        columns.extend([
            Column::SourceFile,
            Column::SourceOffset,
            Column::SourceLength,
            Column::SchemaVersion,
            Column::Batch,
            Column::IngestedAt,
            Column::Rescued,
        ]);
        columns.extend(job.upsert().map(|_| Column::Order));
        let field = |column: &Column| match column {
            Column::Property(at) => Field::new(&properties[*at].name, data_type(&properties[*at].shape.ty), true),
            Column::Database => Field::new("database", DataType::Utf8, true),
            Column::EventDate => Field::new("event_date", DataType::Date32, true),
            Column::Year => Field::new("year", DataType::Int32, true),
            Column::Month => Field::new("month", DataType::Int32, true),
            Column::Day => Field::new("day", DataType::Int32, true),
            Column::SourceFile => Field::new("_source_file", DataType::Utf8, true),
            Column::SourceOffset => Field::new("_source_offset", DataType::Int64, true),
            Column::SourceLength => Field::new("_source_length", DataType::Int64, true),
            Column::SchemaVersion => Field::new("_schema_version", DataType::Int32, true),
            Column::Batch => Field::new("_batch", DataType::Utf8, true),
            Column::IngestedAt => Field::new("_ingested_at", timestamp(), true),
            Column::Rescued => Field::new("_rescued", DataType::Utf8, true),
            Column::Order => Field::new(ORDER, DataType::Utf8, true),
        };
        let fields: Vec<Field> = columns.iter().map(field).collect();
        let decoded = columns.iter().zip(&fields).filter(|(column, _)| **column != Column::Order).map(|(column, field)| match column {
            Column::Database | Column::SourceFile | Column::Batch => Field::new(field.name(), coded(), true),
            _ => field.clone(),
        });
        let decoded = Arc::new(Schema::new(decoded.collect::<Vec<_>>()));
        let is_partition = |name: &str| job.partition_by.iter().any(|column| column == name);
        let in_file: Vec<Field> = fields.iter().filter(|field| !is_partition(field.name())).cloned().collect();
        let properties = columns.iter().enumerate().filter(|(_, column)| matches!(column, Column::Property(_))).map(|(at, _)| at).collect();
        let names = job.upsert().map(|upsert| upsert.order_by.as_slice()).unwrap_or_default();
        let order_by = names.iter().filter_map(|name| fields.iter().position(|field| field.name() == name)).collect();
        let timed_key = event_time.is_some_and(|at| first[..key_count].contains(&at));
        let date_follows_from_key = job.partitioned_by_date() && (timed_key || job.event_time_is_fixed);
        Self {
            columns,
            schema: Arc::new(Schema::new(fields)),
            decoded,
            file_schema: Arc::new(Schema::new(in_file)),
            partition_by: job.partition_by.clone(),
            key: (0..key_count).collect(),
            properties,
            date_follows_from_key,
            event_time,
            order_by,
        }
    }

    /// The key's columns.
    pub fn key_fields(&self) -> Fields {
        self.key.iter().map(|at| self.schema.fields()[*at].clone()).collect()
    }
}

/// Texts of which there are few.
fn coded() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// What is remembered of keys beside silver's rows; partitioned by `database` and `marked_on`.
pub fn marks_schema(columns: &SilverColumns) -> SchemaRef {
    let keys = columns.key.iter().map(|at| columns.schema.field(*at).clone());
    let own = [
        Field::new("database", DataType::Utf8, true),
        Field::new("order", DataType::Utf8, true),
        Field::new("kind", DataType::Utf8, true),
        Field::new("batch", DataType::Utf8, true),
        Field::new("marked_at", timestamp(), true),
        Field::new("marked_on", DataType::Date32, true),
    ];
    Arc::new(Schema::new(keys.chain(own).collect::<Vec<_>>()))
}

pub fn marks_partition() -> Vec<String> {
    ["database", "marked_on"].map(str::to_owned).to_vec()
}

/// The columns of every quarantine table; partitioned by `database`.
pub fn quarantine_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        text("code"),
        text("path"),
        text("message"),
        Field::new("schema_version", DataType::Int32, true),
        text("source_file"),
        Field::new("source_offset", DataType::Int64, true),
        Field::new("source_length", DataType::Int64, true),
        Field::new("raw", DataType::Binary, true),
        text("batch"),
        Field::new("quarantined_at", timestamp(), true),
        text("database"),
        text("year"),
        text("month"),
        text("day"),
    ]))
}
