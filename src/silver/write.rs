//! Rows → Parquet files in their partitions, with statistics, in bounded memory.
//!
//! One writer per partition is open at a time, at most `open_partitions` of them: the least recently used one is closed first. Each
//! is a task of its own, so that partitions are encoded side by side, also where rows come partition by partition: [`PARTS_AHEAD`]
//! parts may wait for their tasks. Files lie where the
//! table will look for them and are invisible until a commit names them; those that none names are what `vacuum` removes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Date32Type, Int32Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use delta_kernel::expressions::Scalar;
use deltalake::kernel::Add;
use indexmap::IndexMap;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::encoding::{Choice, SAMPLE_ROWS, apply, choices};
use super::file_writer::FileWriter;
use super::selected::Selected;
use super::together::{Gathered, Together};
use super::{SilverError, Table};
use crate::job;
use crate::plan::ORDER;

/// Small runs of rows are put together before they are encoded.
const BUFFER_ROWS: usize = 8192;
const BUFFER_BYTES: u64 = 8 << 20;
/// Rows that are told apart by partition at once.
const TOGETHER_ROWS: usize = 16 << 10;
/// Files that are closed at the same time: on a bucket each takes round trips, and memory for what is uploaded.
const CLOSED_AT_ONCE: usize = 16;
/// Rows that are worth a call of the encoder.
const PART_ROWS: usize = 512;
/// Parts that wait for the tasks of all partitions; each keeps the batch that it is of in memory, of which large ones are most or all:
/// they count for several.
const PARTS_AHEAD: usize = 24;
const LARGE_PART: u32 = 8;
/// Rows of a part that counts for one.
const COUNTED_ROWS: usize = 2048;

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
    ahead: Arc<Semaphore>,
    closing: Arc<Semaphore>,
    choices: Arc<OnceLock<Vec<Choice>>>,
    clock: u64,
    adds: Vec<Add>,
    /// Rows that are not yet told apart by partition.
    waiting: Together,
}

/// The task that writes one partition.
struct OpenFile {
    parts: mpsc::UnboundedSender<(Part, Option<OwnedSemaphorePermit>)>,
    task: UntilDropped,
    used: u64,
}

/// A batch that is given up takes its tasks with it.
struct UntilDropped(JoinHandle<Result<Vec<Add>, SilverError>>);

impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Adds to rows what was left out of them while they waited.
pub type Complete = Arc<dyn Fn(Selected) -> Result<Selected, ArrowError> + Send + Sync>;

enum Part {
    /// Some rows of a batch, and what completes them.
    Rows(Selected, Option<Complete>),
    /// Nothing of this partition will be committed.
    Abort,
}

impl Part {
    fn weight(&self) -> u32 {
        match self {
            Self::Rows(rows, _) => u32::try_from(rows.num_rows() / COUNTED_ROWS).unwrap_or(LARGE_PART).clamp(1, LARGE_PART),
            Self::Abort => 1,
        }
    }
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
            ahead: Arc::new(Semaphore::new(PARTS_AHEAD)),
            closing: Arc::new(Semaphore::new(CLOSED_AT_ONCE)),
            choices: Arc::default(),
            clock: 0,
            adds: Vec::new(),
            waiting: Together::new(TOGETHER_ROWS, buffer(&settings)),
        }
    }

    /// Writes all rows, told apart in as large a piece as may be: few rows make parts of next to none. Texts may come as dictionaries.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<(), SilverError> {
        let rows = self.waiting.push(rows.clone());
        self.flush(rows).await
    }

    async fn flush(&mut self, gathered: Option<Gathered>) -> Result<(), SilverError> {
        let Some(gathered) = gathered else { return Ok(()) };
        let rows = gathered.into_one().map_err(|source| SilverError::Arrow { table: self.table.name.clone(), source })?;
        self.write_some(&rows, 0..rows.num_rows() as u32, None).await
    }

    /// Writes the rows at these positions, each once it is complete.
    pub async fn write_some(
        &mut self,
        rows: &RecordBatch,
        positions: impl Iterator<Item = u32>,
        complete: Option<&Complete>,
    ) -> Result<(), SilverError> {
        let in_file: Vec<usize> = (0..rows.num_columns()).filter(|at| !self.partition_by.contains(at)).collect();
        let part = rows.project(&in_file).map_err(|source| SilverError::Arrow { table: self.table.name.clone(), source })?;
        for (partition, positions) in self.split(rows, positions) {
            self.append(partition, Part::Rows(Selected::some(&part, positions), complete.cloned())).await?;
        }
        Ok(())
    }

    /// Row positions by partition, in the order in which partitions appear.
    fn split(&self, rows: &RecordBatch, positions: impl Iterator<Item = u32>) -> Vec<(Partition, Vec<u32>)> {
        let columns: Vec<Key<'_>> = self.partition_by.iter().map(|at| Key::of(rows.column(*at))).collect();
        let mut parts: IndexMap<Vec<i64>, Vec<u32>> = IndexMap::new();
        let mut last: Option<(Vec<i64>, usize)> = None;
        let mut texts: HashMap<&str, i64> = HashMap::new();
        for row in positions {
            let row = row as usize;
            let at = match &last {
                // Rows that follow each other mostly lie in one partition.
                Some((codes, at)) if columns.iter().zip(codes).all(|(column, last)| column.code(row, &mut texts) == *last) => *at,
                _ => {
                    let codes: Vec<i64> = columns.iter().map(|column| column.code(row, &mut texts)).collect();
                    let entry = parts.entry(codes.clone());
                    let at = entry.index();
                    entry.or_default();
                    last = Some((codes, at));
                    at
                }
            };
            parts[at].push(row as u32);
        }
        let partition = |row: u32| columns.iter().map(|column| column.value(row as usize)).collect();
        parts.into_values().map(|positions| (partition(positions[0]), positions)).collect()
    }

    async fn append(&mut self, partition: Partition, part: Part) -> Result<(), SilverError> {
        self.clock += 1;
        if !self.open.contains_key(&partition) {
            if self.open.len() >= self.max_open
                && let Some(oldest) = self.open.iter().min_by_key(|(_, file)| file.used).map(|(partition, _)| partition.clone())
                && let Some(file) = self.open.remove(&oldest)
            {
                let adds = self.end(file).await?;
                self.adds.extend(adds);
            }
            let file = self.open_file(&partition);
            self.open.insert(partition.clone(), file);
        }
        let clock = self.clock;
        let waits = self.ahead.clone().acquire_many_owned(part.weight()).await.ok();
        let sent = self.open.get_mut(&partition).is_some_and(|file| {
            file.used = clock;
            file.parts.send((part, waits)).is_ok()
        });
        if sent {
            return Ok(());
        }
        // Its task has ended, which it only does by itself when it failed.
        if let Some(file) = self.open.remove(&partition) {
            let adds = self.end(file).await?;
            self.adds.extend(adds);
        }
        Err(SilverError::Task { table: self.table.name.clone(), message: "the writer of a partition ended before its rows".to_owned() })
    }

    fn open_file(&self, partition: &Partition) -> OpenFile {
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
        let (parts, waiting) = mpsc::unbounded_channel();
        let (table, schema, closing, settings) = (self.table.clone(), self.file_schema.clone(), self.closing.clone(), self.settings);
        let choices = self.choices.clone();
        let file = Buffered { table, schema, settings, values, writer: None, choices, closing, parts: Vec::new(), rows: 0, bytes: 0 };
        OpenFile { parts, task: UntilDropped(tokio::spawn(file.run(waiting))), used: 0 }
    }

    /// No more rows for it.
    async fn end(&self, file: OpenFile) -> Result<Vec<Add>, SilverError> {
        let OpenFile { parts, mut task, .. } = file;
        drop(parts);
        let ended = (&mut task.0).await;
        ended.unwrap_or_else(|error| Err(SilverError::Task { table: self.table.name.clone(), message: error.to_string() }))
    }

    /// Every file written, in order of their paths' partitions.
    pub async fn close(mut self) -> Result<Vec<Add>, SilverError> {
        let rest = self.waiting.take();
        let flushed = self.flush(rest).await;
        let mut open: Vec<(Partition, OpenFile)> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_cached_key(|(partition, _)| format!("{partition:?}"));
        let ended = futures::future::join_all(open.into_iter().map(|(_, file)| self.end(file))).await;
        let mut failed = flushed.err();
        for adds in ended {
            match adds {
                Ok(adds) => self.adds.extend(adds),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(self.adds),
            Some(error) => {
                remove_staged(&self.table, &self.adds).await;
                Err(error)
            }
        }
    }

    /// Gives up: nothing of this writer will be committed.
    pub async fn abort(mut self) {
        for (_, file) in std::mem::take(&mut self.open) {
            let _ = file.parts.send((Part::Abort, None));
            if let Ok(adds) = self.end(file).await {
                self.adds.extend(adds);
            }
        }
        remove_staged(&self.table, &self.adds).await;
    }
}

/// A partition column, as rows are told apart by it.
enum Key<'r> {
    Date(&'r arrow::array::Date32Array),
    Text(&'r arrow::array::StringArray),
    /// Codes, the texts that they stand for, and for each code the first one of the same text: dictionaries that were put together
    /// have texts twice.
    Coded(&'r arrow::array::Int32Array, &'r ArrayRef, Vec<i32>),
}

impl<'r> Key<'r> {
    fn of(column: &'r ArrayRef) -> Self {
        match (column.as_any_dictionary_opt(), column.data_type()) {
            (Some(coded), _) => {
                let mut first: HashMap<&str, i32> = HashMap::new();
                let texts = coded.values().as_string::<i32>().iter().zip(0..);
                let firsts = texts.map(|(text, code)| text.map_or(code, |text| *first.entry(text).or_insert(code))).collect();
                Key::Coded(coded.keys().as_primitive::<Int32Type>(), coded.values(), firsts)
            }
            (None, DataType::Date32) => Key::Date(column.as_primitive::<Date32Type>()),
            (None, _) => Key::Text(column.as_string::<i32>()),
        }
    }

    /// A number that is the same for equal values of the batch only.
    fn code(&self, row: usize, texts: &mut HashMap<&'r str, i64>) -> i64 {
        match self {
            Key::Date(days) if days.is_valid(row) => days.value(row).into(),
            Key::Coded(codes, _, firsts) if codes.is_valid(row) => firsts[codes.value(row) as usize].into(),
            Key::Text(values) if values.is_valid(row) => {
                let next = texts.len() as i64;
                *texts.entry(values.value(row)).or_insert(next)
            }
            _ => i64::MIN,
        }
    }

    fn value(&self, row: usize) -> Option<PartitionValue> {
        match self {
            Key::Date(days) => days.is_valid(row).then(|| PartitionValue::Date(days.value(row))),
            Key::Text(texts) => texts.is_valid(row).then(|| PartitionValue::Text(texts.value(row).to_owned())),
            Key::Coded(codes, values, _) => {
                let text = |code: i32| PartitionValue::Text(values.as_string::<i32>().value(code as usize).to_owned());
                codes.is_valid(row).then(|| text(codes.value(row)))
            }
        }
    }
}

/// Bytes of rows that wait before they are worked on: no more than a row group may hold.
fn buffer(settings: &job::Table) -> u64 {
    settings.row_group.min(BUFFER_BYTES)
}

/// The rows of one partition on their way into its files.
struct Buffered {
    table: Table,
    schema: SchemaRef,
    settings: job::Table,
    values: IndexMap<String, Scalar>,
    /// Opened with its first rows, which say how their like is best encoded.
    writer: Option<FileWriter>,
    choices: Arc<OnceLock<Vec<Choice>>>,
    closing: Arc<Semaphore>,
    parts: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Buffered {
    async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<(Part, Option<OwnedSemaphorePermit>)>) -> Result<Vec<Add>, SilverError> {
        while let Some((part, _waited)) = waiting.recv().await {
            let taken = match part {
                Part::Rows(rows, complete) => {
                    // Encoding never waits by itself, and others must be heard: leases, downloads, answers.
                    tokio::task::yield_now().await;
                    self.take(rows, complete).await
                }
                Part::Abort => {
                    self.abort().await;
                    return Ok(Vec::new());
                }
            };
            if let Err(error) = taken {
                self.abort().await;
                return Err(error);
            }
        }
        if let Err(error) = self.flush().await {
            self.abort().await;
            return Err(error);
        }
        let Self { writer, closing, .. } = self;
        let Some(writer) = writer else { return Ok(Vec::new()) };
        let _turn = closing.acquire_owned().await;
        writer.close().await
    }

    /// Small parts are copied, and wait for others: they shall not keep the batches that they are of.
    async fn take(&mut self, rows: Selected, complete: Option<Complete>) -> Result<(), SilverError> {
        let rows = match complete {
            Some(complete) => complete(rows).map_err(|source| self.arrow(source))?,
            None => rows,
        };
        let is_large = rows.num_rows() >= PART_ROWS;
        if is_large && (self.writer.is_some() || self.choices.get().is_some()) {
            self.flush().await?;
            return self.writer(&[]).write_selected(&rows).await;
        }
        let rows = rows.into_rows().map_err(|source| self.arrow(source))?;
        self.rows += rows.num_rows();
        self.bytes += rows.get_array_memory_size();
        self.parts.push(rows);
        if self.rows >= BUFFER_ROWS || self.bytes as u64 >= buffer(&self.settings) { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), SilverError> {
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return Ok(());
        }
        self.writer(&parts);
        let (mut parts, mut small) = (parts.into_iter().peekable(), Vec::new());
        (self.rows, self.bytes) = (0, 0);
        while let Some(part) = parts.next() {
            small.push(part);
            // Large parts are written as they are.
            if small.iter().map(RecordBatch::num_rows).sum::<usize>() >= PART_ROWS || parts.peek().is_none() {
                let rows = concat_batches(&small[0].schema(), &small).map_err(|source| self.arrow(source))?;
                self.writer(&small).write(&rows).await?;
                small.clear();
            }
        }
        Ok(())
    }

    /// Opened with its first rows, which are a sample where there is none yet.
    fn writer(&mut self, sample: &[RecordBatch]) -> &mut FileWriter {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let choices = self.choices(sample);
                let values = std::mem::take(&mut self.values);
                partition_writer(&self.table, self.schema.clone(), values, &self.settings, &choices)
            }
        };
        self.writer.insert(writer)
    }

    /// Rows of other partitions are like these: the first sample that is large enough speaks for all.
    fn choices(&self, sample: &[RecordBatch]) -> Vec<Choice> {
        if let Some(made) = self.choices.get() {
            return made.clone();
        }
        let made = choices(sample);
        if sample.iter().map(RecordBatch::num_rows).sum::<usize>() >= SAMPLE_ROWS / 2 {
            let _ = self.choices.set(made.clone());
        }
        made
    }

    async fn abort(self) {
        if let Some(writer) = self.writer {
            writer.abort().await;
        }
    }

    fn arrow(&self, source: ArrowError) -> SilverError {
        SilverError::Arrow { table: self.table.name.clone(), source }
    }
}

/// Rows as one file, for readers that are told where it lies.
pub fn parquet_bytes(table: &Table, rows: &RecordBatch) -> Result<Bytes, SilverError> {
    let failed = |error: parquet::errors::ParquetError| SilverError::Arrow { table: table.name.clone(), source: error.into() };
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties)).map_err(failed)?;
    writer.write(rows).map_err(failed)?;
    writer.close().map_err(failed)?;
    Ok(bytes.into())
}

/// Writes the files of one partition.
pub(super) fn partition_writer(
    table: &Table,
    file_schema: SchemaRef,
    partition: IndexMap<String, Scalar>,
    settings: &job::Table,
    choices: &[Choice],
) -> FileWriter {
    let level = ZstdLevel::try_new(settings.compression_level).unwrap_or_default();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_data_page_row_count_limit(settings.page_rows)
        .set_max_row_group_bytes(Some(usize::try_from(settings.row_group).unwrap_or(usize::MAX)))
        .set_created_by(super::table::engine_info());
    // Orders begin alike and are long: their bounds say nothing that their columns do not say.
    let properties = apply(properties, choices).set_column_statistics_enabled(ORDER.into(), EnabledStatistics::None).build();
    FileWriter::new(table, file_schema, partition, settings.file, properties)
}

/// Removes files that no commit will name; what cannot be removed is left to `vacuum`.
pub async fn remove_staged(table: &Table, adds: &[Add]) {
    for add in adds {
        if let Err(error) = table.store.delete(&add.path).await {
            tracing::warn!(table = %table.name, path = add.path, %error, "a staged file could not be removed; vacuum removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array, StringArray};

    use super::*;

    #[test]
    fn equal_texts_of_a_dictionary_are_one_partition() {
        let codes = Int32Array::from(vec![Some(0), Some(2), None, Some(1), Some(2)]);
        let texts = StringArray::from(vec!["de", "fr", "de"]);
        let column: ArrayRef = Arc::new(DictionaryArray::new(codes, Arc::new(texts)));
        let (key, mut seen) = (Key::of(&column), HashMap::new());
        let codes: Vec<i64> = (0..5).map(|row| key.code(row, &mut seen)).collect();
        assert_eq!(codes, [0, 0, i64::MIN, 1, 0]);
        assert_eq!(key.value(1), Some(PartitionValue::Text("de".to_owned())));
    }
}
