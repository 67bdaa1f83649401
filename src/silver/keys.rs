//! Which keys a table already has.
//!
//! A row is told by two 128-bit hashes: of its key, and of its contract properties without the partition columns. Files that
//! could hold a key of the rows at hand are found by Delta's statistics (and by date, where the date follows from the key);
//! their key columns are read once per batch, and only rows whose key is met again are read whole, to tell an equal record from
//! a conflicting one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Field, SchemaRef};
use arrow::row::{RowConverter, SortField};
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use xxhash_rust::xxh3::xxh3_128;

use super::file::StoredFile;
use super::{LiveFile, SilverError, Table};
use crate::plan::SilverColumns;

/// Hashes of the rows of one batch, by position.
#[derive(Debug, Clone, Default)]
pub struct RowHashes {
    pub keys: Vec<u128>,
    pub contents: Vec<u128>,
}

impl RowHashes {
    pub fn of(rows: &RecordBatch, columns: &SilverColumns) -> Result<Self, arrow::error::ArrowError> {
        Ok(Self { keys: hashes(rows, &columns.key)?, contents: hashes(rows, &columns.properties)? })
    }
}

fn hashes(rows: &RecordBatch, positions: &[usize]) -> Result<Vec<u128>, arrow::error::ArrowError> {
    let arrays: Vec<ArrayRef> = positions.iter().map(|at| rows.column(*at).clone()).collect();
    let converter = RowConverter::new(arrays.iter().map(|array| SortField::new(array.data_type().clone())).collect())?;
    let encoded = converter.convert_columns(&arrays)?;
    Ok(encoded.iter().map(|row| xxh3_128(row.as_ref())).collect())
}

/// What the table holds under a key, and the rows at hand hashed over the same columns.
#[derive(Debug, Clone)]
pub struct Held {
    content: u128,
    ours: Arc<[u128]>,
}

impl Held {
    /// Whether the row at a position says the same.
    pub fn equals(&self, row: usize) -> bool {
        self.ours.get(row) == Some(&self.content)
    }
}

/// Where a key was met.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: u32,
    row: u32,
}

/// The keys of one source in a table, read as far as they are asked for.
pub struct TableKeys {
    table: Table,
    columns: Arc<SilverColumns>,
    files: Vec<KeyFile>,
    known: HashMap<u128, Place>,
}

struct KeyFile {
    live: LiveFile,
    /// Its footer, once its keys are in `known`.
    footer: Option<ArrowReaderMetadata>,
}

impl TableKeys {
    /// Of the newest snapshot, for one database.
    pub async fn open(table: &Table, columns: Arc<SilverColumns>, database: &str) -> Result<Self, SilverError> {
        let of_database = |file: &LiveFile| file.partition_values.get("database").is_none_or(|value| value.as_deref() == Some(database));
        let files = table.live_files(of_database).await?;
        Ok(Self {
            table: table.clone(),
            columns,
            files: files.into_iter().map(|live| KeyFile { live, footer: None }).collect(),
            known: HashMap::new(),
        })
    }

    /// For each row whose key the table has: what the table holds under it.
    pub async fn probe(&mut self, rows: &RecordBatch, hashes: &RowHashes) -> Result<HashMap<u128, Held>, SilverError> {
        if self.files.is_empty() || rows.num_rows() == 0 {
            return Ok(HashMap::new());
        }
        let ranges = self.ranges(rows);
        for at in 0..self.files.len() {
            if self.files[at].footer.is_none() && may_hold(&self.files[at].live, &ranges) {
                self.load(at).await?;
            }
        }
        let mut by_file: BTreeMap<u32, Vec<(u32, u128)>> = BTreeMap::new();
        for key in &hashes.keys {
            if let Some(place) = self.known.get(key) {
                by_file.entry(place.file).or_default().push((place.row, *key));
            }
        }
        let mut found = HashMap::new();
        for (file, mut places) in by_file {
            places.sort_unstable();
            places.dedup();
            found.extend(self.held(file as usize, &places, rows, hashes).await?);
        }
        Ok(found)
    }

    fn ranges(&self, rows: &RecordBatch) -> Vec<KeyRange> {
        let schema = rows.schema();
        let mut ranges: Vec<KeyRange> = self
            .columns
            .key
            .iter()
            .filter_map(|at| {
                let (name, array) = (schema.field(*at).name().clone(), rows.column(*at));
                match array.data_type() {
                    DataType::Utf8 => {
                        let texts = array.as_string::<i32>();
                        let (min, max) = (texts.iter().flatten().min()?, texts.iter().flatten().max()?);
                        Some(KeyRange::Text { name, min: min.to_owned(), max: max.to_owned() })
                    }
                    _ => None,
                }
            })
            .collect();
        if self.columns.date_follows_from_key()
            && let Some(dates) = rows.column_by_name("event_date").and_then(|dates| dates.as_primitive_opt::<Date32Type>())
        {
            let mut days: Vec<String> = dates.iter().flatten().map(date_text).collect();
            days.sort_unstable();
            days.dedup();
            ranges.push(KeyRange::Dates(days));
        }
        ranges
    }

    async fn footer(&self, at: usize) -> Result<ArrowReaderMetadata, SilverError> {
        if let Some(footer) = &self.files[at].footer {
            return Ok(footer.clone());
        }
        let mut reader = StoredFile::new(self.table.store.here(), &self.files[at].live);
        let footer = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new()).await;
        footer.map_err(|source| SilverError::Parquet { table: self.table.name.clone(), source })
    }

    async fn stream(
        &self,
        at: usize,
        footer: ArrowReaderMetadata,
        positions: &[usize],
        selection: Option<RowSelection>,
    ) -> Result<Vec<RecordBatch>, SilverError> {
        let failed = |source| SilverError::Parquet { table: self.table.name.clone(), source };
        let reader = StoredFile::new(self.table.store.here(), &self.files[at].live);
        let file_schema = footer.schema().clone();
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, footer);
        let names: Vec<&str> = positions.iter().map(|at| self.columns.schema.field(*at).name().as_str()).collect();
        let roots =
            file_schema.fields().iter().enumerate().filter(|(_, field)| names.contains(&field.name().as_str())).map(|(root, _)| root);
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
        let builder = builder.with_projection(mask).with_batch_size(16 * 1024);
        let builder = match selection {
            Some(selection) => builder.with_row_selection(selection),
            None => builder,
        };
        let batches: Vec<RecordBatch> = builder.build().map_err(failed)?.try_collect().await.map_err(failed)?;
        batches
            .iter()
            .map(|batch| conform(batch, positions, &self.columns.schema))
            .collect::<Result<_, _>>()
            .map_err(|source| SilverError::Arrow { table: self.table.name.clone(), source })
    }

    async fn load(&mut self, at: usize) -> Result<(), SilverError> {
        let positions = self.columns.key.clone();
        let footer = self.footer(at).await?;
        let batches = self.stream(at, footer.clone(), &positions, None).await?;
        let all: Vec<usize> = (0..positions.len()).collect();
        let mut row = 0;
        for batch in batches {
            let keys = hashes(&batch, &all).map_err(|source| SilverError::Arrow { table: self.table.name.clone(), source })?;
            for key in keys {
                self.known.insert(key, Place { file: at as u32, row });
                row += 1;
            }
        }
        self.files[at].footer = Some(footer);
        Ok(())
    }

    /// What one file holds under some keys. A file that is older than a column has nothing to say about it.
    async fn held(
        &self,
        file: usize,
        places: &[(u32, u128)],
        rows: &RecordBatch,
        hashes: &RowHashes,
    ) -> Result<Vec<(u128, Held)>, SilverError> {
        let mut selectors = Vec::with_capacity(places.len() * 2);
        let mut next = 0;
        for (row, _) in places {
            selectors.push(RowSelector::skip((*row - next) as usize));
            selectors.push(RowSelector::select(1));
            next = row + 1;
        }
        let failed = |source| SilverError::Arrow { table: self.table.name.clone(), source };
        let footer = self.footer(file).await?;
        let (in_file, schema) = (footer.schema().clone(), &self.columns.schema);
        let has = |at: &usize| in_file.column_with_name(schema.field(*at).name()).is_some();
        let positions: Vec<usize> = self.columns.properties.iter().copied().filter(has).collect();
        let ours: Arc<[u128]> = if positions.len() == self.columns.properties.len() {
            hashes.contents.as_slice().into()
        } else {
            self::hashes(rows, &positions).map_err(failed)?.into()
        };
        let all: Vec<usize> = (0..positions.len()).collect();
        let mut contents = Vec::with_capacity(places.len());
        for batch in self.stream(file, footer, &positions, Some(selectors.into())).await? {
            contents.extend(self::hashes(&batch, &all).map_err(failed)?);
        }
        Ok(places.iter().zip(contents).map(|((_, key), content)| (*key, Held { content, ours: ours.clone() })).collect())
    }
}

/// The columns at `positions` of `schema`, as read from a file that may lack the newer ones.
fn conform(batch: &RecordBatch, positions: &[usize], schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let fields: Vec<Arc<Field>> = positions.iter().map(|at| schema.fields()[*at].clone()).collect();
    let arrays = fields
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(array) if array.data_type() == field.data_type() => Ok(array.clone()),
            Some(array) => cast(array, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), arrays)
}

enum KeyRange {
    Text { name: String, min: String, max: String },
    Dates(Vec<String>),
}

/// Whether the statistics leave room for a key of the rows at hand; statistics that are not there rule nothing out.
fn may_hold(file: &LiveFile, ranges: &[KeyRange]) -> bool {
    let bound = |side: &str, name: &str| file.stats.as_ref()?.get(side)?.get(name)?.as_str().map(str::to_owned);
    ranges.iter().all(|range| match range {
        KeyRange::Text { name, min, max } => {
            let below = bound("maxValues", name).is_some_and(|file_max| file_max < *min);
            let above = bound("minValues", name).is_some_and(|file_min| file_min > *max);
            !below && !above
        }
        KeyRange::Dates(days) => match file.partition_values.get("event_date") {
            Some(Some(day)) => days.contains(day),
            _ => true,
        },
    })
}

fn date_text(days: i32) -> String {
    let (year, month, day) = crate::domain::time::civil_from_days(days.into());
    format!("{year:04}-{month:02}-{day:02}")
}
