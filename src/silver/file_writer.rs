//! Rows of one partition → Parquet files, and what Delta's log is to say of them.
//!
//! A file's columns are encoded by as many threads as have nothing else to do: where files of many partitions are open, each is
//! encoded by one, and where there is only one file, all take part. Row groups end at the job's size, files too; what a row group has
//! become is sent on at once. Texts may come as dictionaries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use delta_kernel::expressions::Scalar;
use deltalake::kernel::Add;
use deltalake::kernel::scalars::ScalarExt;
use indexmap::IndexMap;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, LogicalType, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor, Type};
use tokio::sync::mpsc;

use super::selected::Selected;
use super::stats::stats;
use super::texts::TextColumn;
use super::{SilverError, Table};
use crate::store::Upload;

/// Rows encoded between two looks at a file's size.
const ROWS: usize = 8192;
/// Rows that are encoded at once although a row group may end a little too large with them.
const FEW: usize = 64;
/// Who is encoding, in all of the process.
static ENCODING: AtomicUsize = AtomicUsize::new(0);

pub(super) struct FileWriter {
    table: Table,
    schema: SchemaRef,
    properties: WriterProperties,
    partition: IndexMap<String, Scalar>,
    /// Bytes at which a file ends; 0 for never.
    file: u64,
    id: uuid::Uuid,
    open: Option<OpenFile>,
    adds: Vec<Add>,
}

struct OpenFile {
    path: String,
    schema: SchemaRef,
    writer: SerializedFileWriter<Vec<u8>>,
    /// Makes the writers of what is not [`Field::Texts`].
    groups: ArrowRowGroupWriterFactory,
    group: Option<RowGroup>,
    upload: Upload,
}

/// A row group that is being encoded, field by field.
struct RowGroup {
    fields: Arc<Vec<Mutex<Field>>>,
    rows: usize,
}

/// Who encodes a field.
enum Field {
    /// A writer for each of its leaves.
    Leaves(Vec<ArrowColumnWriter>),
    Texts(Box<TextColumn>),
}

/// What has become of a leaf.
enum Chunk {
    Leaf(ArrowColumnChunk),
    Texts(Bytes, ColumnCloseResult),
}

impl FileWriter {
    pub fn new(table: &Table, schema: SchemaRef, partition: IndexMap<String, Scalar>, file: u64, properties: WriterProperties) -> Self {
        let id = uuid::Uuid::new_v4();
        Self { table: table.clone(), schema, properties, partition, file, id, open: None, adds: Vec::new() }
    }

    /// Rows of the writer's schema.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<(), SilverError> {
        self.write_selected(&Selected::all(rows)).await
    }

    /// The same of rows that nobody has copied yet.
    pub async fn write_selected(&mut self, rows: &Selected) -> Result<(), SilverError> {
        self.check(rows)?;
        let mut at = 0;
        while at < rows.num_rows() {
            let open = self.open()?;
            let count = open.room().min(ROWS).min(rows.num_rows() - at);
            let encoded = open.encode(rows.slice(at, count)).await;
            at += count;
            encoded.map_err(|failed| failed.of(&self.table))?;
            if self.file > 0 && self.open.as_ref().is_some_and(|open| open.size() as u64 >= self.file) {
                self.end().await?;
            }
        }
        Ok(())
    }

    /// The encoders look at types, not at names, and take what lies under a null for a value where there must be none.
    fn check(&self, rows: &Selected) -> Result<(), SilverError> {
        let fields = self.schema.fields();
        let named = rows.schema().fields().iter().map(|field| field.name()).eq(fields.iter().map(|field| field.name()));
        let unlike = || fields.iter().enumerate().find(|(at, field)| !field.is_nullable() && rows.has_null(*at));
        let message = match named.then(unlike) {
            None => "rows have other columns than their file".to_owned(),
            Some(Some((_, field))) => format!("{} has a null and must not have one", field.name()),
            Some(None) => return Ok(()),
        };
        Err(self.parquet(ParquetError::ArrowError(message)))
    }

    /// Every file written.
    pub async fn close(mut self) -> Result<Vec<Add>, SilverError> {
        match self.end().await {
            Ok(()) => Ok(self.adds),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Nothing of it will be committed.
    pub async fn abort(self) {
        if let Some(open) = self.open {
            open.upload.abort().await;
        }
        super::write::remove_staged(&self.table, &self.adds).await;
    }

    fn open(&mut self) -> Result<&mut OpenFile, SilverError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.begin().map_err(|source| self.parquet(source))?,
        };
        Ok(self.open.insert(open))
    }

    fn begin(&self) -> Result<OpenFile, ParquetError> {
        let path = self.path().map_err(|source| ParquetError::External(Box::new(source)))?;
        let writer = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(self.properties.clone()))?;
        let (writer, _) = writer.into_serialized_writer()?;
        let groups = leaf_writers(&writer, &self.schema)?;
        let upload = self.table.store.upload(&path);
        Ok(OpenFile { path, schema: self.schema.clone(), writer, groups, group: None, upload })
    }

    /// As Delta's writers name their files: the partition as folders, a number, and what nobody else has.
    fn path(&self) -> Result<String, object_store::path::Error> {
        let folders: Vec<String> = self.partition.iter().map(|(name, value)| format!("{name}={}", value.serialize_encoded())).collect();
        let name = format!("part-{:05}-{}-c000.zstd.parquet", self.adds.len(), self.id);
        Ok(Path::parse(folders.join("/"))?.join(name).to_string())
    }

    async fn end(&mut self) -> Result<(), SilverError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let (size, stats) = match open.finish().await {
            Ok(written) => written,
            Err(failed) => {
                open.upload.abort().await;
                return Err(failed.of(&self.table));
            }
        };
        let OpenFile { path, upload, .. } = open;
        upload.finish().await?;
        let values = self.partition.iter().map(|(name, value)| (name.clone(), (!value.is_null()).then(|| value.serialize())));
        self.adds.push(Add {
            path,
            size: size as i64,
            partition_values: values.collect(),
            modification_time: chrono::Utc::now().timestamp_millis(),
            data_change: true,
            stats: Some(stats),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        });
        Ok(())
    }

    fn parquet(&self, source: ParquetError) -> SilverError {
        SilverError::Parquet { table: self.table.name.clone(), source }
    }
}

/// Why a file is not written.
enum Failed {
    Encoding(ParquetError),
    Store(crate::store::StoreError),
    /// A thread that took part ended early.
    Lost,
}

impl Failed {
    fn of(self, table: &Table) -> SilverError {
        match self {
            Self::Encoding(source) => SilverError::Parquet { table: table.name.clone(), source },
            Self::Store(error) => error.into(),
            Self::Lost => SilverError::Task { table: table.name.clone(), message: "a column was not encoded".to_owned() },
        }
    }
}

impl From<ParquetError> for Failed {
    fn from(source: ParquetError) -> Self {
        Self::Encoding(source)
    }
}

impl OpenFile {
    /// Rows that the row group may still take, by what its rows took so far.
    fn room(&self) -> usize {
        let Some(group) = &self.group else { return ROWS };
        let properties = self.writer.properties();
        let rows = properties.max_row_group_row_count().unwrap_or(usize::MAX).saturating_sub(group.rows);
        let (bytes, limit) = (group.size(), properties.max_row_group_bytes().unwrap_or(usize::MAX));
        let each = (bytes / group.rows.max(1)).max(1);
        rows.min((limit.saturating_sub(bytes) / each).max(FEW)).max(1)
    }

    /// Encoded bytes, those of the open row group as they are reckoned.
    fn size(&self) -> usize {
        self.writer.bytes_written() + self.group.as_ref().map_or(0, RowGroup::size)
    }

    async fn encode(&mut self, rows: Selected) -> Result<(), Failed> {
        let group = match &mut self.group {
            Some(group) => group,
            none => none.insert(RowGroup::new(&self.groups, &self.writer)?),
        };
        group.rows += rows.num_rows();
        let schema = self.schema.clone();
        side_by_side(&group.fields, move |at, field| match field {
            Field::Leaves(writers) => {
                let leaves = compute_leaves(schema.field(at), &rows.column(at)?)?;
                writers.iter_mut().zip(&leaves).try_for_each(|(writer, leaf)| writer.write(leaf))
            }
            Field::Texts(texts) => texts.write(rows.standing(at)),
        })
        .await?;
        let properties = self.writer.properties();
        let full = properties.max_row_group_row_count().is_some_and(|most| group.rows >= most)
            || properties.max_row_group_bytes().is_some_and(|most| group.size() >= most);
        if full { self.end_group().await } else { Ok(()) }
    }

    async fn end_group(&mut self) -> Result<(), Failed> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let chunks: Arc<Vec<Mutex<Vec<Chunk>>>> = Arc::new(group.fields.iter().map(|_| Mutex::default()).collect());
        let ended = chunks.clone();
        side_by_side(&group.fields, move |at, field| {
            *locked(&ended[at]) = std::mem::replace(field, Field::Leaves(Vec::new())).close()?;
            Ok(())
        })
        .await?;
        let mut writer = self.writer.next_row_group()?;
        for field in chunks.iter() {
            for chunk in std::mem::take(&mut *locked(field)) {
                match chunk {
                    Chunk::Leaf(chunk) => chunk.append_to_row_group(&mut writer)?,
                    Chunk::Texts(bytes, told) => writer.append_column(&bytes, told)?,
                }
            }
        }
        writer.close()?;
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Failed> {
        self.writer.flush().map_err(|error| ParquetError::External(Box::new(error)))?;
        let bytes = std::mem::take(self.writer.inner_mut());
        self.upload.put(&bytes).await.map_err(Failed::Store)
    }

    /// Size and statistics of the file, all of which is with its upload then.
    async fn finish(&mut self) -> Result<(usize, String), Failed> {
        self.end_group().await?;
        let footer = self.writer.finish()?;
        self.send().await?;
        Ok((self.writer.bytes_written(), stats(&footer)))
    }
}

impl RowGroup {
    fn new(groups: &ArrowRowGroupWriterFactory, of: &SerializedFileWriter<Vec<u8>>) -> Result<Self, ParquetError> {
        let schema = of.schema_descr();
        let mut leaves: Vec<Vec<ColumnDescPtr>> = vec![Vec::new(); schema.root_schema().get_fields().len()];
        for at in 0..schema.num_columns() {
            leaves[schema.get_column_root_idx(at)].push(schema.column(at));
        }
        let mut writers = groups.create_column_writers(of.flushed_row_groups().len())?.into_iter();
        let fields = leaves.into_iter().map(|leaves| match texts(&leaves, of.properties()) {
            Some(texts) => Field::Texts(Box::new(texts)),
            None => Field::Leaves(writers.by_ref().take(leaves.len()).collect()),
        });
        let fields: Vec<Field> = fields.collect();
        Ok(Self { fields: Arc::new(fields.into_iter().map(Mutex::new).collect()), rows: 0 })
    }

    fn size(&self) -> usize {
        self.fields.iter().map(|field| locked(field).size()).sum()
    }
}

impl Field {
    fn size(&self) -> usize {
        match self {
            Self::Leaves(writers) => writers.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
            Self::Texts(texts) => texts.size(),
        }
    }

    fn close(self) -> Result<Vec<Chunk>, ParquetError> {
        match self {
            Self::Leaves(writers) => writers.into_iter().map(|writer| writer.close().map(Chunk::Leaf)).collect(),
            Self::Texts(texts) => texts.close().map(|(bytes, told)| vec![Chunk::Texts(bytes, told)]),
        }
    }
}

/// What makes the generic writers of a file's leaves but those that [`texts`] takes: each has a compressor, which costs more than many a
/// small file's column.
fn leaf_writers(file: &SerializedFileWriter<Vec<u8>>, schema: &SchemaRef) -> Result<ArrowRowGroupWriterFactory, ParquetError> {
    let (parquet, properties) = (file.schema_descr(), file.properties());
    let is_texts = |root: usize| {
        let mut leaves = (0..parquet.num_columns()).filter(|leaf| parquet.get_column_root_idx(*leaf) == root);
        leaves.next().is_some_and(|leaf| kind(&parquet.column(leaf), properties).is_some())
    };
    let others: Vec<usize> = (0..schema.fields().len()).filter(|root| !is_texts(*root)).collect();
    let root = parquet.root_schema();
    let fields = others.iter().map(|at| root.get_fields()[*at].clone()).collect();
    let root = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    let like = SerializedFileWriter::new(std::io::sink(), Arc::new(root), properties.clone())?;
    Ok(ArrowRowGroupWriterFactory::new(&like, Arc::new(schema.project(&others)?)))
}

/// The writer of a field that is one column of texts.
fn texts(leaves: &[ColumnDescPtr], properties: &WriterProperties) -> Option<TextColumn> {
    let leaf = leaves.first()?;
    let page_rows = properties.data_page_row_count_limit();
    Some(match kind(leaf, properties)? {
        Kind::Codes(level) => TextColumn::of_codes(leaf.clone(), level, page_rows),
        Kind::Differences { level, bounded } => TextColumn::of_differences(leaf.clone(), level, page_rows, bounded),
    })
}

enum Kind {
    Codes(ZstdLevel),
    Differences { level: ZstdLevel, bounded: bool },
}

/// What [`TextColumn`] a column of the table itself is, if it is one.
fn kind(leaf: &ColumnDescriptor, properties: &WriterProperties) -> Option<Kind> {
    let path = leaf.path();
    let is_text = path.parts().len() == 1 && matches!(leaf.logical_type_ref(), Some(LogicalType::String)) && leaf.max_rep_level() == 0;
    let Compression::ZSTD(level) = properties.compression(path) else { return None };
    let bounded = match properties.statistics_enabled(path) {
        EnabledStatistics::Page => true,
        EnabledStatistics::None => false,
        EnabledStatistics::Chunk => return None,
    };
    match (properties.dictionary_enabled(path), properties.encoding(path)) {
        _ if !is_text => None,
        (true, _) if bounded => Some(Kind::Codes(level)),
        (false, Some(Encoding::DELTA_BYTE_ARRAY)) => Some(Kind::Differences { level, bounded }),
        _ => None,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts who is encoding.
struct Turn;

impl Turn {
    /// How many may take part, each other encoder being as busy.
    fn begin() -> (Self, usize) {
        let others = ENCODING.fetch_add(1, Ordering::Relaxed);
        (Self, tokio::runtime::Handle::current().metrics().num_workers() / (others + 1))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ENCODING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does `work` for every field, by as many threads as are free.
async fn side_by_side(
    fields: &Arc<Vec<Mutex<Field>>>,
    work: impl Fn(usize, &mut Field) -> Result<(), ParquetError> + Send + Sync + 'static,
) -> Result<(), Failed> {
    let (_turn, lanes) = Turn::begin();
    let (next, work) = (Arc::new(AtomicUsize::new(0)), Arc::new(work));
    let (done, mut results) = mpsc::unbounded_channel();
    let lane = {
        let fields = fields.clone();
        move || loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(field) = fields.get(at) else { return };
            if done.send(work(at, &mut locked(field))).is_err() {
                return;
            }
        }
    };
    for _ in 1..lanes.min(fields.len()) {
        // A task that this thread spawned would wait for it.
        tokio::task::spawn_blocking(lane.clone());
    }
    lane();
    drop(lane);
    // Who comes late finds nothing left to do and is not waited for.
    for _ in 0..fields.len() {
        results.recv().await.ok_or(Failed::Lost)??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::store::Store;

    fn writer(store: &Arc<InMemory>, properties: WriterProperties) -> FileWriter {
        let store = Store::over(store.clone(), url::Url::parse("memory:///silver/").unwrap()).unwrap();
        let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false), Field::new("n", DataType::Int64, true)]);
        FileWriter::new(&Table::at(&store, "Thing"), Arc::new(schema), IndexMap::new(), 0, properties)
    }

    fn rows(names: [&str; 2], ids: Vec<Option<&str>>) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ids.len() as i64));
        let ids: ArrayRef = Arc::new(StringArray::from(ids));
        RecordBatch::try_from_iter_with_nullable([(names[0], ids, true), (names[1], numbers, true)]).unwrap()
    }

    #[test]
    fn rows_that_are_not_its_columns_are_refused_and_leave_nothing() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            for (rows, said) in [
                (rows(["n", "id"], vec![Some("a")]), "other columns"),
                (rows(["id", "m"], vec![Some("a")]), "other columns"),
                (rows(["id", "n"], vec![Some("a"), None]), "id has a null"),
            ] {
                let store = Arc::new(InMemory::new());
                let mut writer = writer(&store, WriterProperties::default());
                let refused = writer.write(&rows).await.unwrap_err();
                assert!(format!("{refused:?}").contains(said), "{refused:?}");
                writer.abort().await;
                assert!(futures::TryStreamExt::try_collect::<Vec<_>>(store.list(None)).await.unwrap().is_empty());
            }
        });
    }

    /// Texts with and without a dictionary, which other writers make, beside a column that neither of them is.
    #[test]
    fn whoever_encodes_a_column_the_file_has_them_in_order() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let level = parquet::basic::ZstdLevel::default();
        for dictionary in [true, false] {
            let properties =
                WriterProperties::builder().set_compression(Compression::ZSTD(level)).set_dictionary_enabled(dictionary).build();
            let (store, all) = (Arc::new(InMemory::new()), rows(["id", "n"], (0..20_000).map(|n| Some(["a", "b", "c"][n % 3])).collect()));
            let adds = runtime.block_on(async {
                let mut writer = writer(&store, properties);
                writer.write(&all).await.unwrap();
                writer.close().await.unwrap()
            });
            let path = Path::from(format!("silver/Thing/{}", adds[0].path));
            let bytes = runtime.block_on(async { store.get(&path).await.unwrap().bytes().await.unwrap() });
            let read = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().with_batch_size(20_000).build().unwrap();
            let read: Vec<RecordBatch> = read.map(Result::unwrap).collect();
            assert_eq!(read[0].columns(), all.columns());
        }
    }
}
