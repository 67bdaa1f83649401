//! Which keys a table already has.
//!
//! A row is told by two 128-bit hashes: of its key, and of its contract properties without the partition columns. Files that
//! could hold a key of the rows at hand are found by Delta's statistics (and by date, where the date follows from the key);
//! their key columns are read once per batch, and only rows whose key is met again are read whole, to tell an equal record from
//! a conflicting one. Where those files have more keys than may be held, all keys of the batch are gathered first, and only they are kept
//! of what is read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Date32Type, Fields, Int64Type};
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt};

use super::file::{DataFile, HashedMap, row_hashes, select};
use super::filter::Filter;
use super::{GUARDED, LiveFile, SilverError, Table};
use crate::plan::SilverColumns;
use crate::plan::order::date_text;

/// Hashes of the rows of one batch, by position.
#[derive(Debug, Clone, Default)]
pub struct RowHashes {
    pub keys: Vec<u128>,
    /// Empty where nobody asks for all of them.
    pub contents: Vec<u128>,
}

impl RowHashes {
    pub fn of(rows: &RecordBatch, columns: &SilverColumns) -> Result<Self, ArrowError> {
        Ok(Self { contents: hashes(rows, &columns.properties)?, ..Self::of_keys(rows, columns)? })
    }

    pub fn of_keys(rows: &RecordBatch, columns: &SilverColumns) -> Result<Self, ArrowError> {
        Ok(Self { keys: hashes(rows, &columns.key)?, contents: Vec::new() })
    }
}

/// What the rows at some positions say.
pub fn contents_at(rows: &RecordBatch, columns: &SilverColumns, at: Vec<u32>) -> Result<Vec<u128>, ArrowError> {
    row_hashes(take_record_batch(&rows.project(&columns.properties)?, &UInt32Array::from(at))?.columns())
}

fn hashes(rows: &RecordBatch, positions: &[usize]) -> Result<Vec<u128>, ArrowError> {
    row_hashes(&positions.iter().map(|at| rows.column(*at).clone()).collect::<Vec<_>>())
}

/// What the table holds under a key, and the rows at hand hashed over the same columns.
#[derive(Debug, Clone)]
pub struct Held {
    /// Of the columns that its file has.
    content: u128,
    /// Of all columns; those that its file does not have are null.
    whole: u128,
    ours: Arc<[u128]>,
    /// Where the row is.
    pub place: (Arc<str>, u32),
    /// Which record it is.
    pub source: RowSource,
}

impl Held {
    /// Whether a row with this content says the same in every column, newer ones than the file included.
    pub fn is_whole(&self, content: u128) -> bool {
        self.whole == content
    }

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
    database: String,
    /// Files that it was opened with, and those that were compared since.
    compared: HashSet<String>,
    files: Vec<KeyFile>,
    opened: usize,
    known: HashedMap<Place>,
    /// Keys that may be known at once.
    limit: u64,
}

/// What a key that is known takes at most, while the map grows and what was read waits for it.
const BYTES_A_KEY: u64 = 128;

/// Files of one database.
pub fn of_database(database: &str) -> impl Fn(&LiveFile) -> bool + '_ {
    move |file| file.partition_values.get("database").is_some_and(|value| value.as_deref() == Some(database))
}

struct KeyFile {
    live: LiveFile,
    /// Whether its keys are in `known`: all, or all that the batch has.
    read: bool,
    /// Kept of the first [`FOOTERS`] files only: they are large, and files may be many.
    open: Option<DataFile>,
}

/// Footers that are kept in memory.
const FOOTERS: usize = 128;
/// Files whose keys are read at the same time.
const READ_AHEAD: usize = 8;

impl TableKeys {
    /// Of the newest snapshot, for one database; `limit` bytes of keys may be held.
    pub async fn open(table: &Table, columns: Arc<SilverColumns>, database: &str, limit: u64) -> Result<Self, SilverError> {
        let files = table.live_files(of_database(database)).await?;
        Ok(Self {
            table: table.clone(),
            columns,
            database: database.to_owned(),
            compared: files.iter().map(|live| live.path.clone()).collect(),
            files: files.into_iter().map(|live| KeyFile { live, read: false, open: None }).collect(),
            opened: 0,
            known: HashedMap::default(),
            limit: limit / BYTES_A_KEY,
        })
    }

    /// Whether files that came to the table since this was opened hold one of these keys, which it did not have then.
    pub async fn came_since(&mut self, keys: &HashedMap<u128>, ranges: &[KeyRanges]) -> Result<bool, SilverError> {
        let now = self.table.live_files(of_database(&self.database)).await?;
        for live in &now {
            // Every file is looked at once, however often this is asked.
            if !self.compared.insert(live.path.clone()) || !may_hold(live, ranges) {
                continue;
            }
            let file = DataFile::open(&self.table, live).await?;
            if !file.find(&self.columns.key_fields(), |hash| keys.contains_key(&hash).then_some(0)).await?.is_empty() {
                return Ok(GUARDED);
            }
        }
        Ok(false)
    }

    /// For each row whose key the table has: what the table holds under it. `None` where the files that may have one of them have more
    /// keys than may be held: whoever asks has to [`Self::look_for`] all keys of the batch first.
    pub async fn probe(
        &mut self,
        rows: &RecordBatch,
        hashes: &RowHashes,
        ranges: &KeyRanges,
    ) -> Result<Option<HashMap<u128, Held>>, SilverError> {
        if self.files.is_empty() || rows.num_rows() == 0 {
            return Ok(Some(HashMap::new()));
        }
        if !self.load(ranges).await? {
            return Ok(None);
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
        Ok(Some(found))
    }

    /// Reads past the keys of every file that may hold one within the ranges and was not read yet, and keeps those that are among `keys`.
    pub async fn look_for(&mut self, keys: HashedMap<u128>, ranges: &[KeyRanges]) -> Result<(), SilverError> {
        // From here on everything that the batch asks for is known.
        self.limit = u64::MAX;
        let wanted = Arc::new((Filter::of(keys.keys()), keys));
        let candidates = self.files.iter().enumerate().filter(|(_, file)| !file.read && may_hold(&file.live, ranges));
        let reads: Vec<_> = candidates
            .map(|(at, file)| {
                let (table, live, key, wanted) = (self.table.clone(), file.live.clone(), self.columns.key_fields(), wanted.clone());
                in_a_task(self.table.name.clone(), at, async move {
                    let file = DataFile::open(&table, &live).await?;
                    let (filter, keys) = &*wanted;
                    let found = file.find_keys(&key, |hash| !filter.excludes(hash) && keys.contains_key(&hash)).await?;
                    Ok((file, found))
                })
            })
            .collect();
        self.note(reads).await
    }

    async fn open_file(&self, at: usize) -> Result<DataFile, SilverError> {
        match &self.files[at].open {
            Some(file) => Ok(file.clone()),
            None => DataFile::open(&self.table, &self.files[at].live).await,
        }
    }

    /// Reads the keys of every file that may hold one within the ranges and was not read yet. `false`: they would be too many.
    async fn load(&mut self, ranges: &KeyRanges) -> Result<bool, SilverError> {
        let wanted = self.files.iter().enumerate();
        let wanted: Vec<_> = wanted.filter(|(_, file)| !file.read && may_hold(&file.live, std::slice::from_ref(ranges))).collect();
        let more: u64 = wanted.iter().map(|(_, file)| rows_of(&file.live)).sum();
        if more > 0 && self.known.len() as u64 + more > self.limit {
            return Ok(false);
        }
        let reads: Vec<_> = wanted
            .into_iter()
            .map(|(at, file)| {
                let (table, live, key) = (self.table.clone(), file.live.clone(), self.columns.key_fields());
                in_a_task(self.table.name.clone(), at, async move {
                    let file = DataFile::open(&table, &live).await?;
                    let found = file.find_keys(&key, |_| true).await?;
                    Ok((file, found))
                })
            })
            .collect();
        self.note(reads).await?;
        Ok(true)
    }

    async fn note(
        &mut self,
        reads: Vec<impl Future<Output = Result<(usize, DataFile, KeysOfRows), SilverError>>>,
    ) -> Result<(), SilverError> {
        let mut read = futures::stream::iter(reads).buffered(READ_AHEAD);
        while let Some((at, file, keys)) = read.try_next().await? {
            self.known.extend(keys.into_iter().map(|(row, key)| (key, Place { file: at as u32, row })));
            self.files[at].read = true;
            self.files[at].open = Some(file).filter(|_| self.opened < FOOTERS);
            self.opened += 1;
        }
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
        let failed = |source| SilverError::Arrow { table: self.table.name.clone(), source };
        let file = self.open_file(file).await?;
        let schema = &self.columns.schema;
        let properties = &self.columns.properties;
        let in_file: Vec<usize> = (0..properties.len()).filter(|at| file.has(schema.field(properties[*at]).name())).collect();
        let ours: Arc<[u128]> = if in_file.len() == properties.len() {
            hashes.contents.as_slice().into()
        } else {
            self::hashes(rows, &in_file.iter().map(|at| properties[*at]).collect::<Vec<_>>()).map_err(failed)?.into()
        };
        let source = SOURCE.map(|name| schema.fields().find(name).map(|(_, field)| field.clone())).into_iter().flatten();
        let fields: Fields = properties.iter().map(|at| schema.fields()[*at].clone()).chain(source).collect();
        let (mut contents, mut sources) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        let rows: Vec<u32> = places.iter().map(|(row, _)| *row).collect();
        let mut batches = file.read(&fields, Some(select(&rows)))?;
        while let Some(batch) = batches.try_next().await? {
            let whole = row_hashes(&batch.columns()[..properties.len()]).map_err(failed)?;
            let shared = if in_file.len() == properties.len() { whole.clone() } else { self::hashes(&batch, &in_file).map_err(failed)? };
            contents.extend(shared.into_iter().zip(whole));
            sources.extend(sources_of(&batch));
        }
        let path: Arc<str> = file.live.path.as_str().into();
        let held = places.iter().zip(contents.into_iter().zip(sources)).map(|((row, key), ((content, whole), source))| {
            (*key, Held { content, whole, ours: ours.clone(), place: (path.clone(), *row), source })
        });
        Ok(held.collect())
    }
}

/// Hashes of keys by their rows.
type KeysOfRows = Vec<(u32, u128)>;

/// Reads something of the file at `at`, beside others.
async fn in_a_task(
    table: String,
    at: usize,
    read: impl Future<Output = Result<(DataFile, KeysOfRows), SilverError>> + Send + 'static,
) -> Result<(usize, DataFile, KeysOfRows), SilverError> {
    let read = tokio::spawn(read).await;
    let (file, keys) = read.unwrap_or_else(|error| Err(SilverError::Task { table, message: error.to_string() }))?;
    Ok((at, file, keys))
}

/// Rows of a file; no fewer than there are where its statistics do not say.
fn rows_of(file: &LiveFile) -> u64 {
    file.stats().and_then(|stats| stats.get("numRecords")?.as_u64()).unwrap_or(file.size)
}

/// Hashes of the keys of rows that have the key's columns among others.
pub fn hashes_of_keys(rows: &RecordBatch, key: &Fields) -> Result<Vec<u128>, ArrowError> {
    let columns: Vec<_> = key.iter().filter_map(|field| rows.column_by_name(field.name()).cloned()).collect();
    row_hashes(&columns)
}

/// The columns that say which record a row is.
pub const SOURCE: [&str; 2] = ["_source_file", "_source_offset"];

/// File and offset of a row's record; a cluster that read it as a line does not know the offset.
pub type RowSource = (String, Option<i64>);

/// The same of each row of a batch that has those columns.
pub fn sources_of(rows: &RecordBatch) -> Vec<RowSource> {
    let files = rows.column_by_name(SOURCE[0]).and_then(|files| files.as_string_opt::<i32>());
    let offsets = rows.column_by_name(SOURCE[1]).and_then(|offsets| offsets.as_primitive_opt::<Int64Type>());
    let offset = |row: usize| offsets.filter(|offsets| offsets.is_valid(row)).map(|offsets| offsets.value(row));
    (0..rows.num_rows()).map(|row| (files.map_or("", |files| files.value(row)).to_owned(), offset(row))).collect()
}

/// What became of the records of files that are read once more, as far as they were read.
#[derive(Debug, Clone, Default)]
pub struct Reread {
    files: HashMap<String, FileReread>,
}

#[derive(Debug, Clone, Default)]
struct FileReread {
    /// Offsets of the records that are refused now.
    refused: HashSet<i64>,
    /// Keys of those that are sound.
    sound: HashSet<u128>,
}

impl Reread {
    /// Records of a file that are refused now.
    pub fn refuse(&mut self, file: &str, offsets: impl Iterator<Item = i64>) {
        let mut offsets = offsets.peekable();
        if offsets.peek().is_some() {
            self.files.entry(file.to_owned()).or_default().refused.extend(offsets);
        }
    }

    /// Keys of a file's sound records; those that were not met in it before.
    pub fn accept(&mut self, file: &str, keys: &[u128]) -> HashSet<u128> {
        let sound = &mut self.files.entry(file.to_owned()).or_default().sound;
        keys.iter().filter(|key| sound.insert(**key)).copied().collect()
    }

    pub fn nothing_refused(&self) -> bool {
        self.files.values().all(|file| file.refused.is_empty())
    }

    /// Whether the record of a row or mark is refused now. One without an offset is told by its key, which no sound record has any more.
    pub fn refuses(&self, file: &str, offset: Option<i64>, key: u128) -> bool {
        self.files.get(file).is_some_and(|file| match offset {
            Some(offset) => file.refused.contains(&offset),
            None => !file.refused.is_empty() && !file.sound.contains(&key),
        })
    }
}

/// Between which bounds the keys of some rows lie.
#[derive(Debug, Clone)]
pub struct KeyRanges {
    /// Smallest and largest value of each text column of the key.
    texts: Vec<(String, String, String)>,
    /// Event dates, where they follow from the key.
    days: Option<BTreeSet<String>>,
}

impl KeyRanges {
    /// Of the rows' columns with these names.
    pub fn of_columns<'n>(rows: &RecordBatch, names: impl Iterator<Item = &'n str>) -> Self {
        let texts = names.filter_map(|name| {
            let values = rows.column_by_name(name)?.as_string_opt::<i32>()?;
            let (min, max) = (values.iter().flatten().min()?, values.iter().flatten().max()?);
            Some((name.to_owned(), min.to_owned(), max.to_owned()))
        });
        Self { texts: texts.collect(), days: None }
    }

    pub fn of(rows: &RecordBatch, columns: &SilverColumns) -> Self {
        let dates = || rows.column_by_name("event_date")?.as_primitive_opt::<Date32Type>();
        let days = if columns.date_follows_from_key { dates() } else { None };
        let names = columns.key.iter().map(|at| columns.schema.field(*at).name().as_str());
        Self {
            days: days.map(|days| days.iter().flatten().collect::<BTreeSet<i32>>().into_iter().map(date_text).collect()),
            ..Self::of_columns(rows, names)
        }
    }
}

/// Whether a file's statistics leave room for a key within one of the ranges; statistics that are not there rule nothing out.
pub fn may_hold(file: &LiveFile, ranges: &[KeyRanges]) -> bool {
    let stats = file.stats();
    let bound = |side: &str, name: &str| stats.as_ref()?.get(side)?.get(name)?.as_str();
    let day = file.partition_values.get("event_date").and_then(Option::as_deref);
    ranges.iter().any(|range| {
        let by_text = range.texts.iter().all(|(name, min, max)| {
            let below = bound("maxValues", name).is_some_and(|file_max| file_max < min.as_str());
            let above = bound("minValues", name).is_some_and(|file_min| file_min > max.as_str());
            !below && !above
        });
        let by_day = match (&range.days, day) {
            (Some(days), Some(day)) => days.contains(day),
            _ => true,
        };
        by_text && by_day
    })
}
