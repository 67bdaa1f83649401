//! Rows → Parquet files in their partitions, with statistics, in bounded memory.
//!
//! One writer per partition is open at a time, at most `open_partitions` of them: the least recently used one is closed first.
//! Files lie where the table will look for them and are invisible until a commit names them; those that none names are what
//! `vacuum` removes.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Schema, SchemaRef};
use delta_kernel::expressions::Scalar;
use delta_kernel::table_properties::DataSkippingNumIndexedCols;
use deltalake::datafile::writer::{PartitionWriter, PartitionWriterConfig};
use deltalake::kernel::Add;
use futures::{StreamExt, TryStreamExt};
use indexmap::IndexMap;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::{SilverError, Table};
use crate::job;
use crate::plan::ORDER;

/// Columns whose statistics Delta keeps.
const INDEXED_COLUMNS: u64 = 32;
/// Rows encoded between two looks at a file's size.
const WRITE_BATCH_ROWS: usize = 8192;
/// Small runs of rows are put together before they are encoded.
const BUFFER_ROWS: usize = 8192;
const BUFFER_BYTES: usize = 8 << 20;

const CLOSED_AT_ONCE: usize = 16;

/// Values of the partition columns, in their order.
type Partition = Vec<Option<PartitionValue>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PartitionValue {
    Text(String),
    Date(i32),
}

pub struct TableWriter {
    table: Table,
    schema: SchemaRef,
    file_schema: SchemaRef,
    partition_by: Vec<usize>,
    settings: job::Table,
    max_open: usize,
    open: HashMap<Partition, OpenFile>,
    clock: u64,
    adds: Vec<Add>,
}

struct OpenFile {
    writer: PartitionWriter,
    buffered: Vec<RecordBatch>,
    buffered_rows: usize,
    buffered_bytes: usize,
    used: u64,
}

impl TableWriter {
    pub fn new(table: &Table, schema: SchemaRef, partition_by: &[String], settings: job::Table, max_open: usize) -> Self {
        let partition_by: Vec<usize> = partition_by.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let in_file = schema.fields().iter().enumerate().filter(|(at, _)| !partition_by.contains(at)).map(|(_, field)| field.clone());
        let file_schema = Arc::new(Schema::new(in_file.collect::<Vec<_>>()));
        Self {
            table: table.clone(),
            schema,
            file_schema,
            partition_by,
            settings,
            max_open: max_open.max(1),
            open: HashMap::new(),
            clock: 0,
            adds: Vec::new(),
        }
    }

    fn arrow(&self, source: arrow::error::ArrowError) -> SilverError {
        SilverError::Arrow { table: self.table.name.clone(), source }
    }

    pub async fn write(&mut self, rows: &RecordBatch) -> Result<(), SilverError> {
        for (partition, positions) in self.split(rows) {
            let part = if positions.len() == rows.num_rows() {
                rows.clone()
            } else {
                take_record_batch(rows, &UInt32Array::from(positions)).map_err(|source| self.arrow(source))?
            };
            let in_file: Vec<usize> = (0..part.num_columns()).filter(|at| !self.partition_by.contains(at)).collect();
            let part = part.project(&in_file).and_then(|part| RecordBatch::try_new(self.file_schema.clone(), part.columns().to_vec()));
            let part = part.map_err(|source| self.arrow(source))?;
            self.append(partition, part).await?;
        }
        Ok(())
    }

    /// Row positions by partition, in the order in which partitions appear.
    fn split(&self, rows: &RecordBatch) -> IndexMap<Partition, Vec<u32>> {
        let columns: Vec<_> = self.partition_by.iter().map(|at| rows.column(*at)).collect();
        let mut parts: IndexMap<Partition, Vec<u32>> = IndexMap::new();
        for row in 0..rows.num_rows() {
            let partition: Partition = columns.iter().map(|column| value_at(column.as_ref(), row)).collect();
            parts.entry(partition).or_default().push(row as u32);
        }
        parts
    }

    async fn append(&mut self, partition: Partition, rows: RecordBatch) -> Result<(), SilverError> {
        self.clock += 1;
        if !self.open.contains_key(&partition) {
            if self.open.len() >= self.max_open
                && let Some(oldest) = self.open.iter().min_by_key(|(_, file)| file.used).map(|(partition, _)| partition.clone())
            {
                self.close_one(&oldest).await?;
            }
            let writer = self.open_file(&partition)?;
            self.open.insert(partition.clone(), OpenFile { writer, buffered: Vec::new(), buffered_rows: 0, buffered_bytes: 0, used: 0 });
        }
        let (clock, name, schema) = (self.clock, self.table.name.clone(), self.file_schema.clone());
        let Some(file) = self.open.get_mut(&partition) else { return Ok(()) };
        file.used = clock;
        file.buffered_rows += rows.num_rows();
        file.buffered_bytes += rows.get_array_memory_size();
        file.buffered.push(rows);
        if file.buffered_rows >= BUFFER_ROWS || file.buffered_bytes >= BUFFER_BYTES {
            file.flush(&schema, &name).await?;
        }
        Ok(())
    }

    fn open_file(&self, partition: &Partition) -> Result<PartitionWriter, SilverError> {
        let values: IndexMap<String, Scalar> = self
            .partition_by
            .iter()
            .zip(partition)
            .map(|(at, value)| {
                let field = self.schema.field(*at);
                let scalar = match (value, field.data_type()) {
                    (Some(PartitionValue::Text(text)), _) => Scalar::String(text.clone()),
                    (Some(PartitionValue::Date(days)), _) => Scalar::Date(*days),
                    (None, DataType::Date32) => Scalar::Null(delta_kernel::schema::DataType::DATE),
                    (None, _) => Scalar::Null(delta_kernel::schema::DataType::STRING),
                };
                (field.name().clone(), scalar)
            })
            .collect();
        partition_writer(&self.table, self.file_schema.clone(), values, &self.settings)
    }

    async fn close_one(&mut self, partition: &Partition) -> Result<(), SilverError> {
        let Some(mut file) = self.open.remove(partition) else { return Ok(()) };
        file.flush(&self.file_schema, &self.table.name).await?;
        self.adds.extend(file.writer.close().await.map_err(|source| self.table.delta(source))?);
        Ok(())
    }

    /// Every file written, in order of their paths' partitions. Several are closed at a time: on a bucket each takes round trips.
    pub async fn close(mut self) -> Result<Vec<Add>, SilverError> {
        let mut open: Vec<(Partition, OpenFile)> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_cached_key(|(partition, _)| format!("{partition:?}"));
        let (schema, table) = (&self.file_schema, &self.table);
        let closing = open.into_iter().map(|(_, mut file)| async move {
            file.flush(schema, &table.name).await?;
            file.writer.close().await.map_err(|source| table.delta(source))
        });
        let mut closed = futures::stream::iter(closing).buffered(CLOSED_AT_ONCE);
        while let Some(adds) = closed.try_next().await? {
            self.adds.extend(adds);
        }
        drop(closed);
        Ok(self.adds)
    }

    /// Gives up: nothing of this writer will be committed.
    pub async fn abort(self) {
        for (_, file) in self.open {
            if let Err(error) = file.writer.abort().await {
                tracing::warn!(table = %self.table.name, %error, "a staged file could not be given up; vacuum removes it");
            }
        }
        remove_staged(&self.table, &self.adds).await;
    }
}

/// Writes the files of one partition.
pub fn partition_writer(
    table: &Table,
    file_schema: SchemaRef,
    partition: IndexMap<String, Scalar>,
    settings: &job::Table,
) -> Result<PartitionWriter, SilverError> {
    let level = ZstdLevel::try_new(settings.compression_level).unwrap_or_default();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_bytes(Some(usize::try_from(settings.row_group).unwrap_or(usize::MAX)))
        .set_created_by(super::table::engine_info());
    // No two rows of these are equal, and neighbours nearly are.
    for (column, encoding) in [(ORDER, Encoding::DELTA_BYTE_ARRAY), ("_source_offset", Encoding::DELTA_BINARY_PACKED)] {
        properties = properties.set_column_dictionary_enabled(column.into(), false).set_column_encoding(column.into(), encoding);
    }
    let properties = properties.build();
    let file = NonZeroU64::new(settings.file);
    let config = PartitionWriterConfig::try_new(file_schema, partition, Some(properties), file, Some(WRITE_BATCH_ROWS), None, None)
        .map_err(|source| table.delta(source))?;
    PartitionWriter::try_with_config(table.store.here(), config, DataSkippingNumIndexedCols::NumColumns(INDEXED_COLUMNS), None)
        .map_err(|source| table.delta(source))
}

/// Removes files that no commit will name; what cannot be removed is left to `vacuum`.
pub async fn remove_staged(table: &Table, adds: &[Add]) {
    for add in adds {
        if let Err(error) = table.store.delete(&add.path).await {
            tracing::warn!(table = %table.name, path = add.path, %error, "a staged file could not be removed; vacuum removes it");
        }
    }
}

impl OpenFile {
    async fn flush(&mut self, schema: &SchemaRef, table: &str) -> Result<(), SilverError> {
        let rows = match std::mem::take(&mut self.buffered).as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            several => concat_batches(schema, several).map_err(|source| SilverError::Arrow { table: table.to_owned(), source })?,
        };
        (self.buffered_rows, self.buffered_bytes) = (0, 0);
        self.writer.write(&rows).await.map_err(|source| SilverError::Delta { table: table.to_owned(), source: Box::new(source) })
    }
}

fn value_at(column: &dyn Array, row: usize) -> Option<PartitionValue> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Date32 => Some(PartitionValue::Date(column.as_primitive::<Date32Type>().value(row))),
        _ => Some(PartitionValue::Text(column.as_string::<i32>().value(row).to_owned())),
    }
}
