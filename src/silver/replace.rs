//! Taking rows out of a table's files: what an upsert, a snapshot or a reprocessing does to the rows it replaces.
//!
//! The rows stand in a staged list: their keys, and the places where they were when the intent was written. Whoever commits the
//! intent asks the snapshot it builds on: a file that is still live is taken at its word; rows of a file that is not (a
//! compaction moved them) are found again by key. Files that hold such rows are written anew without them, a file that holds
//! nothing else is only removed. Nothing here needs a job or a contract, so any run can finish any intent.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch, StringDictionaryBuilder};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{Field, Fields, Int32Type, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::expressions::Scalar;
use delta_kernel::schema::{DataType, PrimitiveType};
use delta_kernel::snapshot::SnapshotRef;
use deltalake::kernel::{Add, Remove};
use futures::{StreamExt, TryStreamExt};
use indexmap::IndexMap;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::json;

use super::encoding::choices;
use super::file::{DataFile, HashedMap, row_hashes};
use super::keys::{KeyRanges, may_hold};
use super::write::{partition_writer, remove_staged};
use super::{LiveFile, SilverError, Table};
use crate::job;
use crate::ledger::{Replaced, TableIntent};
use crate::plan::{PLACE_FILE, PLACE_ROW};

/// Files written anew at the same time.
const REWRITES: usize = 2;

/// Files to remove and files to add instead, as of one version.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub(super) removed: Vec<LiveFile>,
    pub(super) added: Vec<Add>,
}

impl Exchange {
    /// Whether every removed file is among the `live` ones.
    pub(super) fn fits(&self, live: &HashSet<&str>) -> bool {
        self.removed.iter().all(|file| live.contains(file.path.as_str()))
    }

    /// `data_change`: whether readers of changes are to see it.
    pub(super) fn actions(&self, data_change: bool) -> impl Iterator<Item = serde_json::Value> + '_ {
        let now = chrono::Utc::now().timestamp_millis();
        let removes = self.removed.iter().map(move |file| {
            json!({"remove": Remove {
                path: file.path.clone(),
                data_change,
                deletion_timestamp: Some(now),
                extended_file_metadata: Some(true),
                partition_values: Some(file.partition_values.clone()),
                size: Some(file.size as i64),
                ..Remove::default()
            }})
        });
        removes.chain(self.added.iter().map(|add| json!({"add": add})))
    }

    /// Nothing of it was committed.
    pub(super) async fn discard(self, table: &Table) {
        remove_staged(table, &self.added).await;
    }
}

/// The paths of files.
pub(super) fn paths(files: &[LiveFile]) -> HashSet<&str> {
    files.iter().map(|file| file.path.as_str()).collect()
}

/// What committing `intent` on `snapshot`, whose live files are `files`, does to them.
pub(super) async fn exchange(
    table: &Table,
    intent: &TableIntent,
    snapshot: &SnapshotRef,
    files: &[LiveFile],
    settings: &job::Table,
) -> Result<Exchange, SilverError> {
    let mut exchange = Exchange::default();
    if let Some(expiry) = &intent.expires {
        let expired = |file: &&LiveFile| {
            let value = file.partition_values.get(&expiry.column).and_then(Option::as_deref);
            value.is_some_and(|value| value < expiry.before.as_str())
        };
        exchange.removed.extend(files.iter().filter(expired).cloned());
    }
    if let Some(replaced) = &intent.replaces {
        let places = places(table, replaced, files).await?;
        let schema: Schema =
            snapshot.schema().as_ref().try_into_arrow().map_err(|source| SilverError::Arrow { table: table.name.clone(), source })?;
        let (schema, types) = (Arc::new(schema), partition_types(snapshot));
        let rewrites = places.into_iter().map(|(file, rows)| {
            let (table, schema, types, settings) = (table.clone(), schema.clone(), types.clone(), *settings);
            let name = table.name.clone();
            let task =
                tokio::spawn(async move { without(&table, &file, &rows, &schema, &types, &settings).await.map(|adds| (file, adds)) });
            async move { task.await.unwrap_or_else(|error| Err(SilverError::Task { table: name, message: error.to_string() })) }
        });
        let mut rewritten = futures::stream::iter(rewrites).buffered(REWRITES);
        while let Some(done) = rewritten.next().await {
            match done {
                Ok((file, adds)) => {
                    exchange.removed.push(file);
                    exchange.added.extend(adds);
                }
                Err(error) => {
                    exchange.discard(table).await;
                    return Err(error);
                }
            }
        }
    }
    Ok(exchange)
}

pub(super) fn partition_types(snapshot: &SnapshotRef) -> Vec<(String, PrimitiveType)> {
    let schema = snapshot.schema();
    let columns = snapshot.table_configuration().metadata().partition_columns().iter();
    let typed = columns.filter_map(|name| match schema.field(name)?.data_type() {
        DataType::Primitive(primitive) => Some((name.clone(), primitive.clone())),
        _ => None,
    });
    typed.collect()
}

/// A partition's values as typed ones, in the order of the table's partition columns.
pub(super) fn partition_values<'v>(
    table: &Table,
    values: impl Iterator<Item = (&'v String, Option<&'v str>)>,
    partition_by: &[(String, PrimitiveType)],
) -> Result<IndexMap<String, Scalar>, SilverError> {
    let values: BTreeMap<&String, Option<&str>> = values.collect();
    let typed = partition_by.iter().map(|(name, ty)| {
        let scalar = match values.get(name).copied().flatten() {
            Some(text) => ty.parse_scalar(text).map_err(|source| table.kernel(source))?,
            None => Scalar::Null(DataType::Primitive(ty.clone())),
        };
        Ok((name.clone(), scalar))
    });
    typed.collect()
}

/// Where the replaced rows are now: positions by file, ascending.
async fn places(table: &Table, replaced: &Replaced, files: &[LiveFile]) -> Result<Vec<(LiveFile, Vec<u32>)>, SilverError> {
    let of_database = |file: &&LiveFile| {
        replaced
            .database
            .as_deref()
            .is_none_or(|database| file.partition_values.get("database").is_some_and(|value| value.as_deref() == Some(database)))
    };
    let live: BTreeMap<&str, &LiveFile> = files.iter().filter(of_database).map(|file| (file.path.as_str(), file)).collect();
    let list = read_list(table, &replaced.list).await?;
    let damaged = || SilverError::StagedListDamaged { table: table.name.clone(), path: replaced.list.clone() };
    let files = list.column_by_name(PLACE_FILE).ok_or_else(damaged)?;
    let files = cast(files, &file_type()).map_err(|source| SilverError::Arrow { table: table.name.clone(), source })?;
    let files = files.as_dictionary_opt::<Int32Type>().ok_or_else(damaged)?;
    let rows = list.column_by_name(PLACE_ROW).and_then(|rows| rows.as_primitive_opt::<Int64Type>()).ok_or_else(damaged)?;
    let paths = files.values().as_string_opt::<i32>().ok_or_else(damaged)?;
    let mut by_code: Vec<_> = paths.iter().map(|path| Some((*live.get_key_value(path?)?.0, Vec::new()))).collect();
    let mut moved = Vec::new();
    for (at, row) in rows.values().iter().enumerate() {
        match files.key(at).and_then(|code| by_code.get_mut(code)?.as_mut()) {
            Some((_, rows)) => rows.push(*row as u32),
            None => moved.push(at),
        }
    }
    let mut places: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (path, rows) in by_code.into_iter().flatten().filter(|(_, rows)| !rows.is_empty()) {
        places.entry(path).or_default().extend(rows);
    }
    if !moved.is_empty() {
        tracing::info!(table = %table.name, rows = moved.len(), "rows were moved by a compaction; looking for their keys");
        for (file, found) in find_again(table, &list, &moved, live.values().copied()).await? {
            places.entry(file).or_default().extend(found);
        }
    }
    let mut found: Vec<(LiveFile, Vec<u32>)> = places
        .into_iter()
        .filter_map(|(path, mut rows)| {
            rows.sort_unstable();
            rows.dedup();
            Some(((*live.get(path)?).clone(), rows))
        })
        .collect();
    found.sort_by_key(|(file, _)| std::cmp::Reverse(file.size));
    Ok(found)
}

async fn find_again<'f>(
    table: &Table,
    list: &RecordBatch,
    moved: &[usize],
    files: impl Iterator<Item = &'f LiveFile>,
) -> Result<Vec<(&'f str, Vec<u32>)>, SilverError> {
    let arrow = |source| SilverError::Arrow { table: table.name.clone(), source };
    let is_moved: HashSet<usize> = moved.iter().copied().collect();
    let mask: BooleanArray = (0..list.num_rows()).map(|at| Some(is_moved.contains(&at))).collect();
    let lost = filter_record_batch(list, &mask).map_err(arrow)?;
    let key: Fields =
        lost.schema().fields().iter().filter(|field| ![PLACE_FILE, PLACE_ROW].contains(&field.name().as_str())).cloned().collect();
    let columns: Vec<_> = key.iter().filter_map(|field| lost.column_by_name(field.name()).cloned()).collect();
    let wanted: HashedMap<u32> = row_hashes(&columns).map_err(arrow)?.into_iter().zip(0..).collect();
    let ranges = [KeyRanges::of_columns(&lost, key.iter().map(|field| field.name().as_str()))];
    let mut found = Vec::new();
    for file in files.filter(|file| may_hold(file, &ranges)) {
        let rows = DataFile::open(table, file).await?.find(&key, |hash| wanted.get(&hash).copied()).await?;
        if !rows.is_empty() {
            found.push((file.path.as_str(), rows.into_iter().map(|(row, _)| row).collect()));
        }
    }
    Ok(found)
}

/// The file's rows but those at `rows`, as new files of the same partition.
async fn without(
    table: &Table,
    file: &LiveFile,
    rows: &[u32],
    schema: &SchemaRef,
    partition_by: &[(String, PrimitiveType)],
    settings: &job::Table,
) -> Result<Vec<Add>, SilverError> {
    let data = DataFile::open(table, file).await?;
    if rows.len() as u64 == data.rows() {
        return Ok(Vec::new());
    }
    let arrow = |source| SilverError::Arrow { table: table.name.clone(), source };
    let fields: Fields = schema.fields().iter().filter(|field| data.has(field.name())).cloned().collect();
    let values = partition_values(table, file.partition_values.iter().map(|(name, value)| (name, value.as_deref())), partition_by)?;
    let (mut writer, mut values) = (None, Some(values));
    let mut batches = data.read(&fields, None)?;
    let (mut at, mut next, mut kept) = (0_u32, 0, 0_u64);
    while let Some(batch) = batches.try_next().await? {
        let end = at + batch.num_rows() as u32;
        let upto = next + rows[next..].partition_point(|row| *row < end);
        let batch = if upto == next {
            batch
        } else {
            let mut keep = vec![true; batch.num_rows()];
            for row in &rows[next..upto] {
                keep[(row - at) as usize] = false;
            }
            filter_record_batch(&batch, &BooleanArray::from(keep)).map_err(arrow)?
        };
        (at, next) = (end, upto);
        kept += batch.num_rows() as u64;
        if batch.num_rows() == 0 {
            continue;
        }
        if let Some(values) = values.take() {
            let choices = choices(std::slice::from_ref(&batch));
            writer = Some(partition_writer(table, Arc::new(Schema::new(fields.clone())), values, settings, &choices));
        }
        if let Some(writer) = &mut writer {
            writer.write(&batch).await?;
        }
    }
    let adds = match writer {
        Some(writer) => writer.close().await?,
        None => Vec::new(),
    };
    if kept + rows.len() as u64 != data.rows() {
        remove_staged(table, &adds).await;
        return Err(SilverError::RowsLost {
            table: table.name.clone(),
            file: file.path.clone(),
            before: data.rows(),
            kept,
            taken: rows.len(),
        });
    }
    Ok(adds)
}

/// The rows of the live files that `keep` takes, as a staged list has them: the columns `key`, and where they are.
/// `keep` is shown the columns `read`.
pub async fn rows_where(
    table: &Table,
    files: impl Fn(&LiveFile) -> bool,
    key: &Fields,
    read: &Fields,
    keep: impl Fn(&RecordBatch) -> Result<Vec<bool>, ArrowError>,
) -> Result<Vec<RecordBatch>, SilverError> {
    let arrow = |source| SilverError::Arrow { table: table.name.clone(), source };
    let all: Fields = key.iter().chain(read.iter().filter(|field| key.find(field.name()).is_none())).cloned().collect();
    let mut found = Vec::new();
    for live in table.live_files(files).await? {
        let file = DataFile::open(table, &live).await?;
        let (mut batches, mut first) = (file.read(&all, None)?, 0_u32);
        while let Some(batch) = batches.try_next().await? {
            let kept = keep(&batch).map_err(arrow)?;
            let rows: Vec<u32> = kept.iter().zip(first..).filter(|(kept, _)| **kept).map(|(_, row)| row).collect();
            first += batch.num_rows() as u32;
            if !rows.is_empty() {
                let keys = batch.project(&(0..key.len()).collect::<Vec<_>>()).map_err(arrow)?;
                let keys = filter_record_batch(&keys, &BooleanArray::from(kept)).map_err(arrow)?;
                found.push(replaced_rows(&keys, |at| (live.path.as_str(), rows[at])).map_err(arrow)?);
            }
        }
    }
    Ok(found)
}

/// Files are few, and their names are long.
fn file_type() -> arrow::datatypes::DataType {
    let (code, text) = (arrow::datatypes::DataType::Int32, arrow::datatypes::DataType::Utf8);
    arrow::datatypes::DataType::Dictionary(Box::new(code), Box::new(text))
}

/// Keys and places as a staged list has them.
pub fn replaced_rows<'p>(keys: &RecordBatch, place: impl Fn(usize) -> (&'p str, u32)) -> Result<RecordBatch, ArrowError> {
    let rows = keys.num_rows();
    let place_fields = [Field::new(PLACE_FILE, file_type(), false), Field::new(PLACE_ROW, arrow::datatypes::DataType::Int64, false)];
    let fields: Fields = keys.schema().fields().iter().cloned().chain(place_fields.map(Arc::new)).collect();
    let mut arrays = keys.columns().to_vec();
    let mut files = StringDictionaryBuilder::<Int32Type>::new();
    for at in 0..rows {
        files.append(place(at).0)?;
    }
    arrays.push(Arc::new(files.finish()));
    arrays.push(Arc::new(Int64Array::from_iter_values((0..rows).map(|at| i64::from(place(at).1)))));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
}

/// Writes a list of replaced rows beside the table; its path is what the intent names.
pub async fn stage_list(table: &Table, name: &str, rows: &[RecordBatch]) -> Result<Option<String>, SilverError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let parquet = |source| SilverError::Parquet { table: table.name.clone(), source };
    // It is read as a whole, once. Keys hardly come again.
    let properties = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).set_dictionary_enabled(false);
    let properties = properties.set_column_dictionary_enabled(ColumnPath::from(PLACE_FILE), true).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties)).map_err(parquet)?;
    for batch in rows {
        writer.write(batch).map_err(parquet)?;
    }
    let bytes = writer.into_inner().map_err(parquet)?;
    // A path is used once: what still happens to an earlier list of the batch, a delete without an answer say, must not happen to this one.
    let path = format!("{}/{name}-{}.parquet", table.name, uuid::Uuid::new_v4());
    table.staging().put(&path, bytes.into()).await?;
    Ok(Some(path))
}

async fn read_list(table: &Table, path: &str) -> Result<RecordBatch, SilverError> {
    let parquet = |source| SilverError::Parquet { table: table.name.clone(), source };
    let Some(bytes) = table.staging().get(path).await? else {
        return Err(SilverError::StagedListMissing { table: table.name.clone(), path: path.to_owned() });
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(parquet)?;
    let schema = reader.schema().clone();
    let batches: Result<Vec<RecordBatch>, _> = reader.build().map_err(parquet)?.collect();
    let arrow = |source| SilverError::Arrow { table: table.name.clone(), source };
    concat_batches(&schema, &batches.map_err(arrow)?).map_err(arrow)
}
