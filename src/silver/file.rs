//! A data file in an object store, as the Parquet reader wants it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use tokio::task::JoinError;
use xxhash_rust::xxh3::xxh3_128;

use super::{LiveFile, SilverError, Table};
use crate::store::{ahead, ahead_on_a_thread};

/// Rows of a file as they are decoded.
pub type Batches = BoxStream<'static, Result<RecordBatch, SilverError>>;

/// Rows decoded at a time.
const READ_ROWS: usize = 16 * 1024;

pub struct StoredFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// All of a small file: one request costs more than its bytes.
    whole: Option<Bytes>,
}

/// Files up to this size are fetched in one request, whatever is wanted of them.
const SMALL: u64 = 256 << 10;
/// Bytes at a file's end that mostly hold its footer.
const FOOTER: usize = 64 << 10;

impl StoredFile {
    pub fn new(store: Arc<dyn ObjectStore>, live: &LiveFile) -> Self {
        let path = Path::parse(&live.path).unwrap_or_else(|_| Path::from(live.path.as_str()));
        Self { store, path, size: live.size, whole: None }
    }
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let failed = |error| ParquetError::External(Box::new(error));
            if self.size > SMALL {
                return self.store.get_range(&self.path, range).await.map_err(failed);
            }
            let whole = if let Some(whole) = &self.whole {
                whole.clone()
            } else {
                let whole = self.store.get(&self.path).await.map_err(failed)?.bytes().await.map_err(failed)?;
                self.whole.insert(whole).clone()
            };
            let beyond = || ParquetError::General(format!("bytes {range:?} of a file of {}", whole.len()));
            let (from, upto) = (usize::try_from(range.start), usize::try_from(range.end));
            match (from, upto) {
                (Ok(from), Ok(upto)) if from <= upto && upto <= whole.len() => Ok(whole.slice(from..upto)),
                _ => Err(beyond()),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(&'a mut self, _: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            Ok(Arc::new(ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER)).load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// One live file, its footer read.
#[derive(Clone)]
pub struct DataFile {
    table: Table,
    pub live: LiveFile,
    footer: ArrowReaderMetadata,
}

impl DataFile {
    pub async fn open(table: &Table, live: &LiveFile) -> Result<Self, SilverError> {
        let mut reader = StoredFile::new(table.store.here(), live);
        let footer = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new()).await;
        let footer = footer.map_err(|source| SilverError::Parquet { table: table.name.clone(), source })?;
        Ok(Self { table: table.clone(), live: live.clone(), footer })
    }

    pub fn has(&self, column: &str) -> bool {
        self.footer.schema().column_with_name(column).is_some()
    }

    pub fn rows(&self) -> u64 {
        self.footer.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// The rows' `fields`, or those of the selected rows; a column that the file does not have is null.
    pub fn read(&self, fields: &Fields, selection: Option<RowSelection>) -> Result<Batches, SilverError> {
        let Some([one, other]) = self.halves(fields) else { return self.read_at_once(fields, selection) };
        let halves = (self.read_at_once(&one, selection.clone())?, self.read_at_once(&other, selection)?);
        let (fields, table) = (fields.clone(), self.table.name.clone());
        let both = futures::stream::try_unfold(halves, move |(mut one, mut other)| {
            let (fields, table) = (fields.clone(), table.clone());
            async move {
                let joined = match futures::try_join!(one.try_next(), other.try_next())? {
                    (None, None) => return Ok(None),
                    (Some(one), Some(other)) => beside(&one, &other, &fields),
                    _ => Err(ArrowError::InvalidArgumentError("one half of the columns has more rows than the other".to_owned())),
                };
                let joined = joined.map_err(|source| SilverError::Arrow { table, source })?;
                Ok(Some((joined, (one, other))))
            }
        });
        Ok(both.boxed())
    }

    /// Whether decoding it is worth a thread.
    fn is_large(&self) -> bool {
        self.live.size > SMALL && self.rows() >= 2 * READ_ROWS as u64
    }

    /// The fields in two halves of about as many stored bytes, where it pays to decode them on a thread each.
    fn halves(&self, fields: &Fields) -> Option<[Fields; 2]> {
        if !self.is_large() {
            return None;
        }
        let mut sizes: HashMap<&str, i64> = HashMap::new();
        for column in self.footer.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns) {
            let root = column.column_path().parts().first().map_or("", String::as_str);
            *sizes.entry(root).or_default() += column.compressed_size();
        }
        // A half that the file has nothing of would be a reader for nothing.
        fields.iter().filter(|field| sizes.contains_key(field.name().as_str())).nth(1)?;
        let size = |field: &FieldRef| sizes.get(field.name().as_str()).copied().unwrap_or_default();
        let mut largest: Vec<&FieldRef> = fields.iter().collect();
        largest.sort_by_key(|field| std::cmp::Reverse(size(field)));
        let mut halves = [(0, Vec::new()), (0, Vec::new())];
        for field in largest {
            let at = usize::from(halves[0].0 > halves[1].0);
            halves[at].0 += size(field).max(1);
            halves[at].1.push(field.clone());
        }
        Some(halves.map(|(_, fields)| Fields::from(fields)))
    }

    fn read_at_once(&self, fields: &Fields, selection: Option<RowSelection>) -> Result<Batches, SilverError> {
        let table = self.table.name.clone();
        let parquet = move |source| SilverError::Parquet { table: table.clone(), source };
        let reader = StoredFile::new(self.table.store.here(), &self.live);
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.footer.clone());
        let in_file = self.footer.schema().fields().iter().enumerate();
        let roots = in_file.filter(|(_, field)| fields.find(field.name()).is_some()).map(|(root, _)| root);
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
        let builder = builder.with_projection(mask).with_batch_size(READ_ROWS);
        let builder = match selection {
            Some(selection) => builder.with_row_selection(selection),
            None => builder,
        };
        let batches = builder.build().map_err(parquet.clone())?;
        let (fields, table) = (fields.clone(), self.table.name.clone());
        let conformed = batches.map_err(parquet).and_then(move |batch| {
            let conformed = conform(&batch, &fields).map_err(|source| SilverError::Arrow { table: table.clone(), source });
            futures::future::ready(conformed)
        });
        // Decoded while whoever asked for them works on those before.
        let name = self.table.name.clone();
        let failed = move |error: JoinError| SilverError::Task { table: name.clone(), message: error.to_string() };
        Ok(if self.is_large() { ahead_on_a_thread(conformed, 1, failed) } else { ahead(conformed, 1, failed) })
    }

    /// The positions at which the file has one of the wanted keys, in order, with what the key maps to.
    pub async fn find(&self, key: &Fields, wanted: impl Fn(u128) -> Option<u32>) -> Result<Vec<(u32, u32)>, SilverError> {
        self.of_keys(key, |row, hash| Some((row, wanted(hash)?))).await
    }

    /// The same with the hash of each key.
    pub async fn find_keys(&self, key: &Fields, wanted: impl Fn(u128) -> bool) -> Result<Vec<(u32, u128)>, SilverError> {
        self.of_keys(key, |row, hash| wanted(hash).then_some((row, hash))).await
    }

    async fn of_keys<T>(&self, key: &Fields, take: impl Fn(u32, u128) -> Option<T>) -> Result<Vec<T>, SilverError> {
        let mut found = Vec::new();
        let mut row = 0;
        let mut batches = self.read(key, None)?;
        while let Some(batch) = batches.try_next().await? {
            let hashes = row_hashes(batch.columns()).map_err(|source| SilverError::Arrow { table: self.table.name.clone(), source })?;
            for hash in hashes {
                found.extend(take(row, hash));
                row += 1;
            }
        }
        Ok(found)
    }
}

/// All rows of a small file, fetched in one request.
pub async fn whole_file(table: &Table, live: &LiveFile, fields: &Fields) -> Result<Vec<RecordBatch>, SilverError> {
    let bytes = table.store.get(&live.path).await?;
    let bytes = bytes.ok_or_else(|| SilverError::FileMissing { table: table.name.clone(), file: live.path.clone() })?;
    let (name, fields) = (table.name.clone(), fields.clone());
    let decoded = tokio::task::spawn_blocking(move || {
        let parquet = |source| SilverError::Parquet { table: name.clone(), source };
        let arrow = |source| SilverError::Arrow { table: name.clone(), source };
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(parquet)?;
        let in_file = builder.schema().fields().iter().enumerate();
        let roots = in_file.filter(|(_, field)| fields.find(field.name()).is_some()).map(|(root, _)| root);
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
        let batches = builder.with_projection(mask).with_batch_size(READ_ROWS).build().map_err(parquet)?;
        batches.map(|batch| conform(&batch.map_err(arrow)?, &fields).map_err(arrow)).collect()
    });
    decoded.await.unwrap_or_else(|error| Err(SilverError::Task { table: table.name.clone(), message: error.to_string() }))
}

/// The rows of what [`DataFile::find`] found.
pub fn rows_of(found: &[(u32, u32)]) -> Vec<u32> {
    found.iter().map(|(row, _)| *row).collect()
}

/// Exactly the rows at these ascending positions.
pub fn select(rows: &[u32]) -> RowSelection {
    let mut selectors = Vec::with_capacity(rows.len() * 2);
    let mut next = 0;
    for row in rows.iter().copied() {
        if row > next {
            selectors.push(RowSelector::skip((row - next) as usize));
        }
        selectors.push(RowSelector::select(1));
        next = row + 1;
    }
    selectors.into()
}

/// A batch as read from a file that may lack newer columns, or spell types as another writer does → `fields`.
fn conform(batch: &RecordBatch, fields: &Fields) -> Result<RecordBatch, ArrowError> {
    let arrays = fields
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(array) if array.data_type() == field.data_type() => Ok(array.clone()),
            Some(array) => cast(array, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields.clone())), arrays, &options)
}

/// `fields` of the same rows, each from the batch that has it.
fn beside(one: &RecordBatch, other: &RecordBatch, fields: &Fields) -> Result<RecordBatch, ArrowError> {
    let columns =
        fields.iter().filter_map(|field| one.column_by_name(field.name()).or_else(|| other.column_by_name(field.name())).cloned());
    RecordBatch::try_new(Arc::new(Schema::new(fields.clone())), columns.collect())
}

/// A map by [`row_hashes`], which need no hashing of their own.
pub type HashedMap<V> = HashMap<u128, V, BuildHasherDefault<AsIs>>;

/// Takes the low half of a hash as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// 128-bit hashes of rows. They live only within a run: nothing stored depends on how they are made.
pub fn row_hashes(columns: &[ArrayRef]) -> Result<Vec<u128>, ArrowError> {
    // The usual key is one text.
    if let [only] = columns
        && let Some(texts) = only.as_string_opt::<i32>()
    {
        return Ok(texts.iter().map(|text| text.map_or(0, |text| xxh3_128(text.as_bytes()))).collect());
    }
    let cells = columns.iter().map(Cells::of).collect::<Result<Vec<_>, _>>()?;
    let mut row_text = Vec::new();
    let rows = columns.first().map_or(0, arrow::array::Array::len);
    let hash = |row| {
        row_text.clear();
        for cells in &cells {
            cells.write(row, &mut row_text);
        }
        xxh3_128(&row_text)
    };
    Ok((0..rows).map(hash).collect())
}

/// A column's values as bytes that no other values have: in texts the length comes first, numbers have a fixed width.
struct Cells {
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    Text(StringArray),
    Flag(BooleanBuffer),
    Narrow(ScalarBuffer<i32>),
    Wide(ScalarBuffer<i64>),
    /// Decimals and what is nested, as Arrow encodes rows.
    Other(Rows),
}

impl Cells {
    fn of(column: &ArrayRef) -> Result<Self, ArrowError> {
        let data = column.to_data();
        let numbers = |at: usize| data.buffers().get(at).cloned().unwrap_or_default();
        let values = match column.data_type() {
            DataType::Utf8 => Values::Text(column.as_string().clone()),
            DataType::Boolean => Values::Flag(column.as_boolean().values().clone()),
            DataType::Int32 | DataType::Date32 => Values::Narrow(ScalarBuffer::new(numbers(0), data.offset(), data.len())),
            DataType::Int64 | DataType::Timestamp(..) | DataType::Float64 => {
                Values::Wide(ScalarBuffer::new(numbers(0), data.offset(), data.len()))
            }
            other => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                Values::Other(converter.convert_columns(std::slice::from_ref(column))?)
            }
        };
        Ok(Self { nulls: column.nulls().cloned(), values })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out.push(0);
            return;
        }
        let mut sized = |bytes: &[u8]| {
            out.push(1);
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        match &self.values {
            Values::Text(texts) => sized(texts.value(row).as_bytes()),
            Values::Other(rows) => sized(rows.row(row).as_ref()),
            Values::Flag(flags) => out.push(2 + u8::from(flags.value(row))),
            Values::Narrow(numbers) => {
                out.push(1);
                out.extend_from_slice(&numbers[row].to_le_bytes());
            }
            Values::Wide(numbers) => {
                out.push(1);
                out.extend_from_slice(&numbers[row].to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StructArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Field;
    use object_store::memory::InMemory;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::store::Store;

    const ROWS: i64 = 3 * READ_ROWS as i64;

    fn rows() -> RecordBatch {
        let texts =
            |modulus: i64| Arc::new((0..ROWS).map(|n| (n % 7 > 0).then(|| format!("text {}", n % modulus))).collect::<StringArray>());
        let numbers = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|n| n * n)));
        let inner: Fields = vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Int64, false)].into();
        let nested: ArrayRef = Arc::new(StructArray::new(inner, vec![texts(5), numbers.clone()], None));
        RecordBatch::try_from_iter_with_nullable([
            ("id", texts(ROWS) as ArrayRef, true),
            ("n", numbers, false),
            ("nested", nested, true),
            ("few", texts(3), true),
        ])
        .unwrap()
    }

    /// The rows in a file of row groups that are no whole number of what is decoded at a time.
    async fn file(rows: &RecordBatch) -> DataFile {
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(20_000)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
        writer.write(rows).unwrap();
        let bytes = writer.into_inner().unwrap();
        let size = bytes.len() as u64;
        let store = Store::over(Arc::new(InMemory::new()), url::Url::parse("memory:///silver/").unwrap()).unwrap();
        let table = Table::at(&store, "Thing");
        table.store.put("f.parquet", bytes.into()).await.unwrap();
        let live = LiveFile { path: "f.parquet".to_owned(), size, partition_values: HashMap::new(), stats: None, clustered: None };
        DataFile::open(&table, &live).await.unwrap()
    }

    async fn all(batches: Result<Batches, SilverError>) -> RecordBatch {
        let batches: Vec<RecordBatch> = batches.unwrap().try_collect().await.unwrap();
        concat_batches(&batches[0].schema(), &batches).unwrap()
    }

    #[tokio::test]
    async fn columns_that_are_decoded_on_two_threads_are_the_same_rows() {
        let rows = rows();
        let file = file(&rows).await;
        assert!(file.is_large());
        // In another order, and with a column that the file does not have.
        let newer: FieldRef = Arc::new(Field::new("newer", DataType::Int64, true));
        let fields: Fields = rows.schema().fields().iter().rev().cloned().chain([newer]).collect();
        assert!(file.halves(&fields).is_some_and(|halves| halves.iter().map(|half| half.len()).sum::<usize>() == fields.len()));
        for selected in [None, Some((0..ROWS as u32).step_by(3).collect::<Vec<_>>()), Some(vec![0, 19_999, 20_000, ROWS as u32 - 1])] {
            let selection = || selected.as_deref().map(select);
            let both = all(file.read(&fields, selection())).await;
            assert_eq!(both, all(file.read_at_once(&fields, selection())).await);
            assert_eq!(both.num_rows(), selected.as_ref().map_or(ROWS as usize, Vec::len));
            for (row, at) in selected.unwrap_or_else(|| (0..ROWS as u32).collect()).into_iter().enumerate().step_by(997) {
                assert_eq!(both.column(3).slice(row, 1).as_ref(), rows.column(0).slice(at as usize, 1).as_ref());
            }
        }
        // One column that the file has, and one that it has not: nothing to share out.
        let one: Fields = [&fields[3], &fields[4]].into_iter().cloned().collect();
        assert!(file.halves(&one).is_none());
        let read = all(file.read(&one, None)).await;
        assert_eq!((read.column(0), read.column(1).null_count()), (rows.column(0), ROWS as usize));
        let only: Fields = fields.iter().take(1).cloned().collect();
        assert!(file.halves(&only).is_none());
        assert_eq!(all(file.read(&only, None)).await.column(0), rows.column(3));
    }

    #[tokio::test]
    async fn half_of_a_file_that_is_gone_is_told() {
        let rows = rows();
        let file = file(&rows).await;
        file.table.store.delete("f.parquet").await.unwrap();
        let read: Result<Vec<RecordBatch>, SilverError> = file.read(rows.schema().fields(), None).unwrap().try_collect().await;
        assert!(read.is_err());
    }
}
