//! What becomes of a batch's keys: each key's latest record against the row and the marks that the table has for it.
//!
//! A batch's keys are held in memory (some hundred bytes each, whatever the table's size); the table is only streamed: of every
//! file that could hold one of the keys, the key columns; of the rows that do, order and contract properties. Marks
//! ([`crate::plan::marks_schema`]) are streamed likewise. The rules are those of `docs/decisions/0006`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Fields};
use futures::{StreamExt, TryStreamExt};
use indexmap::IndexMap;
use indexmap::map::Entry;

use super::file::{AsIs, DataFile, row_hashes, rows_of, select};
use super::filter::Filter;
use super::keys::{KeyRanges, Reread, SOURCE, may_hold, of_database, sources_of};
use super::replace::replaced_rows;
use super::{LiveFile, SilverError, Table};
use crate::plan::order::{self, compare, order_text};
use crate::plan::{ORDER, SilverColumns};

/// Marks files of a key that was deleted, and of one whose newest record said the same as its row.
pub const DELETED: &str = "deleted";
pub const UNCHANGED: &str = "unchanged";

/// What becomes of the latest record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A later record is known.
    Older,
    Insert,
    Update,
    /// Its row says the same; `marked` where it is remembered already that this record did.
    Same {
        marked: bool,
    },
    /// It deletes, and a row is there or is not; `marked` where the delete is remembered already.
    Delete {
        marked: bool,
    },
}

/// The latest record of one key.
#[derive(Debug)]
struct Latest {
    offset: u64,
    /// Its row's number in the batch.
    row: u32,
    file: u32,
    deletes: bool,
    fate: Fate,
}

/// A record as told apart: its `order_by` values and its offset; whether it deletes.
pub type Arrival<'a> = ((&'a str, u64), bool);

/// The keys of a batch and the latest record of each.
#[derive(Debug, Default)]
pub struct BatchKeys {
    latest: IndexMap<u128, Latest, BuildHasherDefault<AsIs>>,
    /// The `order_by` values of each key's latest record; empty where records are ordered by none.
    prefixes: Vec<Box<str>>,
    tails: Vec<Box<str>>,
    ranges: Vec<KeyRanges>,
    /// Of all keys, once they are looked for.
    filter: Filter,
    /// For each row of the batch its key.
    key_of_row: Vec<u32>,
    /// How many keys there may be in the end.
    expected: usize,
}

/// Keys that are looked for at the same time.
const AT_ONCE: usize = 64;
/// Keys that a guess may make room for, in times of those that are there.
const GUESSED: usize = 7;

impl BatchKeys {
    /// Records of one stream, by their keys; `tail` is their order but for their own parts.
    pub fn add<'a>(&mut self, tail: &str, keys: &[u128], mut arrivals: impl Iterator<Item = Arrival<'a>>) {
        if self.tails.last().is_none_or(|last| **last != *tail) {
            self.tails.push(tail.into());
        }
        self.key_of_row.reserve(keys.len());
        self.make_room(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            // What they are compared with comes from memory for all of them at the same time, not for one after the other.
            let known = keys.iter().filter(|key| self.latest.contains_key(*key)).count();
            std::hint::black_box(known);
            for (key, arrival) in keys.iter().zip(arrivals.by_ref()) {
                self.arrive(*key, arrival);
            }
        }
    }

    fn arrive(&mut self, key: u128, ((prefix, offset), deletes): Arrival<'_>) {
        let (row, file) = (self.key_of_row.len() as u32, self.tails.len() as u32 - 1);
        let record = Latest { offset, row, file, deletes, fate: Fate::Insert };
        let next = self.latest.len();
        let key = match self.latest.entry(key) {
            Entry::Vacant(free) => {
                free.insert(record);
                if !prefix.is_empty() {
                    self.prefixes.push(prefix.into());
                }
                next
            }
            Entry::Occupied(mut taken) => {
                let key = taken.index();
                let held = self.prefixes.get(key).map_or("", |held| held);
                if order(&self.tails, (prefix, &record), (held, taken.get())).is_gt() {
                    taken.insert(record);
                    if let Some(held) = self.prefixes.get_mut(key) {
                        *held = prefix.into();
                    }
                }
                key
            }
        };
        self.key_of_row.push(key as u32);
    }

    /// Keys that were added lie within these ranges.
    pub fn within(&mut self, ranges: KeyRanges) {
        self.ranges.push(ranges);
    }

    /// So many bytes of the batch's were read, of so many: keys that are to come are about as many for each.
    pub fn expect(&mut self, read: u64, all: u64) {
        let guessed = self.len() as f64 * all as f64 / read.max(1) as f64;
        self.expected = guessed as usize + self.len() / 32;
    }

    /// Grows to what is expected, or by a quarter, not to the double: keys are most of what a large batch holds in memory.
    fn make_room(&mut self, more: usize) {
        let there = self.latest.len();
        if self.latest.capacity() - there < more {
            let guessed = self.expected.saturating_sub(there).min(GUESSED * there);
            self.latest.reserve_exact(more.max(guessed).max(there / 4));
        }
    }

    fn prefix(&self, key: usize) -> &str {
        self.prefixes.get(key).map_or("", |prefix| prefix)
    }

    pub fn len(&self) -> usize {
        self.latest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Records whose key has a later one in the batch.
    pub fn superseded(&self) -> u64 {
        (self.key_of_row.len() - self.latest.len()) as u64
    }

    /// The fate of the batch's n-th row and its key's number, if it is its key's latest.
    pub fn fate(&self, row: u32) -> Option<(u32, Fate)> {
        let key = *self.key_of_row.get(row as usize)?;
        let (_, latest) = self.latest.get_index(key as usize)?;
        (latest.row == row).then_some((key, latest.fate))
    }

    pub fn fates(&self) -> impl Iterator<Item = Fate> + '_ {
        self.latest.values().map(|latest| latest.fate)
    }

    /// Everything in the batch is older than what the table has.
    pub fn outdate(&mut self) {
        for latest in self.latest.values_mut() {
            latest.fate = Fate::Older;
        }
    }

    fn against(&self, key: u32, other: &str) -> Ordering {
        let Some((_, latest)) = self.latest.get_index(key as usize) else { return Ordering::Less };
        let tail = self.tails.get(latest.file as usize).map_or("", |tail| tail);
        order::against(self.prefix(key as usize), tail, latest.offset, other)
    }

    fn hash(&self, key: u32) -> u128 {
        self.latest.get_index(key as usize).map_or(0, |(hash, _)| *hash)
    }

    fn position(&self, hash: u128) -> Option<u32> {
        if self.filter.excludes(hash) {
            return None;
        }
        self.latest.get_index_of(&hash).map(|key| key as u32)
    }
}

/// Which of two records of a batch, each with its `order_by` values, is the later one.
fn order(tails: &[Box<str>], (a_prefix, a): (&str, &Latest), (b_prefix, b): (&str, &Latest)) -> Ordering {
    if a_prefix == b_prefix && a.file == b.file {
        return a.offset.cmp(&b.offset);
    }
    let tail = |record: &Latest| tails.get(record.file as usize).map_or("", |tail| tail);
    compare(a_prefix, tail(a), a.offset, &order_text(b_prefix, tail(b), b.offset))
}

/// How a row that is there stands to its key's latest record.
#[derive(Debug, Clone, Copy)]
struct Hit {
    key: u32,
    file: u32,
    row: u32,
    /// Of the record, seen from the row.
    order: Ordering,
    content: u128,
}

/// What the table has under a batch's keys.
#[derive(Debug, Default)]
pub struct Found {
    hits: Hits,
    marks: HashMap<u32, Ordering>,
    files: Vec<String>,
    vanished: Vec<RecordBatch>,
}

/// Rows of the table by the number of their key.
#[derive(Debug, Default)]
struct Hits {
    /// By key; of one key in the order in which they were found.
    all: Vec<Hit>,
    /// For each key of the batch where its hits end.
    ends: Vec<u32>,
}

impl Hits {
    fn new(mut all: Vec<Hit>, keys: usize) -> Self {
        all.sort_by_key(|hit| hit.key);
        let (mut ends, mut end) = (Vec::with_capacity(keys), 0);
        for key in 0..keys as u32 {
            end += all[end..].iter().take_while(|hit| hit.key == key).count();
            ends.push(end as u32);
        }
        Self { all, ends }
    }

    fn of(&self, key: u32) -> &[Hit] {
        let end = |key: u32| self.ends.get(key as usize).map_or(self.all.len(), |end| *end as usize);
        let start = key.checked_sub(1).map_or(0, end);
        &self.all[start..end(key)]
    }
}

/// What rows of the batch say, ascending by row.
pub type Contents = Vec<(u32, u128)>;

impl Found {
    /// Rows of the batch whose contents decide, in order.
    pub fn rows(&self, keys: &BatchKeys) -> Vec<u32> {
        let newer =
            |key: u32| matches!(self.hits.of(key), [only] if only.order.is_ge()) && self.marks.get(&key).is_none_or(|mark| mark.is_ge());
        let latest = keys.latest.values().zip(0..).filter(|(latest, key)| !latest.deletes && newer(*key));
        let mut rows: Vec<u32> = latest.map(|(latest, _)| latest.row).collect();
        rows.sort_unstable();
        rows
    }

    /// Settles every key's fate. `contents`: of those rows.
    pub fn settle(self, keys: &mut BatchKeys, contents: &Contents) -> Present {
        for (latest, key) in keys.latest.values_mut().zip(0..) {
            let content = contents.binary_search_by_key(&latest.row, |(row, _)| *row).ok().map(|at| contents[at].1);
            latest.fate = fate(latest.deletes, self.hits.of(key), content, self.marks.get(&key).copied());
        }
        Present { files: self.files, hits: self.hits, vanished: self.vanished }
    }
}

/// Rows of the table under the batch's keys: where they are.
#[derive(Debug, Default)]
pub struct Present {
    files: Vec<String>,
    hits: Hits,
    /// Rows that the batch says nothing about, if it was asked, as a staged list has them.
    pub vanished: Vec<RecordBatch>,
}

impl Present {
    /// Where the rows of a key are.
    pub fn places(&self, key: u32) -> impl Iterator<Item = (&str, u32)> {
        self.hits.of(key).iter().filter_map(|hit| Some((self.files.get(hit.file as usize)?.as_str(), hit.row)))
    }
}

/// Which rows of the table a batch says nothing about although it should.
#[derive(Debug, Clone)]
pub enum Extent {
    /// None: rows stay until a record says otherwise.
    Keys,
    /// All rows of the database.
    Database,
}

/// What a resolution reads.
pub struct Against<'t> {
    pub table: &'t Table,
    pub marks: Option<&'t Table>,
    pub columns: Arc<SilverColumns>,
    pub database: &'t str,
    pub extent: Extent,
    /// Files read at the same time.
    pub threads: usize,
    /// What rows and marks say of records that are refused now does not count any more.
    pub reread: Arc<Reread>,
}

/// Looks for every key in the table.
pub async fn find(mut keys: BatchKeys, against: &Against<'_>) -> Result<(BatchKeys, Found), SilverError> {
    keys.filter = Filter::of(keys.latest.keys());
    let keys = Arc::new(keys);
    let files = against.table.live_files(of_database(against.database)).await?;
    let whole = matches!(against.extent, Extent::Database);
    let candidates: Vec<LiveFile> = files.into_iter().filter(|file| whole || may_hold(file, &keys.ranges)).collect();
    let paths = candidates.iter().map(|file| file.path.clone()).collect();
    // Each is spawned when its turn comes, so that at most `threads` are open.
    let tasks = candidates.into_iter().zip(0..).map(|(file, number)| {
        let (table, columns, keys, reread) = (against.table.clone(), against.columns.clone(), keys.clone(), against.reread.clone());
        let name = table.name.clone();
        let task = tokio::spawn(async move { examine(&table, &file, number, &columns, &keys, whole, &reread).await });
        async move { task.await.unwrap_or_else(|error| Err(SilverError::Task { table: name, message: error.to_string() })) }
    });
    let (mut hits, mut gone) = (Vec::new(), Vec::new());
    let mut examined = futures::stream::iter(tasks).buffered(against.threads.max(1));
    while let Some((found, vanished)) = examined.try_next().await? {
        hits.extend(found);
        gone.extend(vanished);
    }
    drop(examined);
    let marks = match against.marks {
        Some(marks) => read_marks(marks, &keys, against).await?,
        None => HashMap::new(),
    };
    let keys = Arc::try_unwrap(keys)
        .map_err(|_| SilverError::Task { table: against.table.name.clone(), message: "a reader of keys outlived its batch".to_owned() })?;
    let hits = Hits::new(hits, keys.len());
    Ok((keys, Found { hits, marks, files: paths, vanished: gone }))
}

/// The rules; `mark` is how the record stands to the newest mark of its key.
fn fate(deletes: bool, hits: &[Hit], content: Option<u128>, mark: Option<Ordering>) -> Fate {
    if mark == Some(Ordering::Less) || hits.iter().any(|hit| hit.order.is_lt()) {
        return Fate::Older;
    }
    let marked = mark == Some(Ordering::Equal);
    match hits {
        _ if deletes => Fate::Delete { marked },
        [] => Fate::Insert,
        // Under the row's own order there is nothing to remember.
        [hit] if content == Some(hit.content) => Fate::Same { marked: marked || hit.order.is_eq() },
        _ => Fate::Update,
    }
}

async fn examine(
    table: &Table,
    live: &LiveFile,
    number: u32,
    columns: &SilverColumns,
    keys: &BatchKeys,
    whole: bool,
    reread: &Reread,
) -> Result<(Vec<Hit>, Option<RecordBatch>), SilverError> {
    let arrow = |source| SilverError::Arrow { table: table.name.clone(), source };
    let file = DataFile::open(table, live).await?;
    let found = file.find(&columns.key_fields(), |hash| keys.position(hash)).await?;
    let vanished = if whole { vanished(&file, columns, &found).await? } else { None };
    if found.is_empty() {
        return Ok((Vec::new(), vanished));
    }
    let ordered = columns.schema.column_with_name(ORDER).is_some();
    let properties = columns.properties.iter().map(|at| columns.schema.fields()[*at].clone());
    let order = Arc::new(Field::new(ORDER, DataType::Utf8, true));
    let source = SOURCE.iter().filter_map(|name| columns.schema.fields().find(name).map(|(_, field)| field.clone()));
    let source = source.filter(|_| !reread.nothing_refused());
    let fields: Fields = properties.chain(ordered.then_some(order)).chain(source).collect();
    let mut batches = file.read(&fields, Some(select(&rows_of(&found))))?;
    let (mut hits, mut next) = (Vec::with_capacity(found.len()), found.iter());
    while let Some(batch) = batches.try_next().await? {
        let contents = row_hashes(&batch.columns()[..columns.properties.len()]).map_err(arrow)?;
        let orders = batch.column_by_name(ORDER).map(|orders| orders.as_string::<i32>().clone());
        let sources = if reread.nothing_refused() { Vec::new() } else { sources_of(&batch) };
        for (at, content) in contents.into_iter().enumerate() {
            let Some((row, key)) = next.next() else { break };
            if sources.get(at).is_some_and(|(file, offset)| reread.refuses(file, *offset, keys.hash(*key))) {
                continue;
            }
            let order = match &orders {
                // A row from before the table kept orders is older than any record.
                Some(orders) if orders.is_valid(at) => keys.against(*key, orders.value(at)),
                _ => Ordering::Greater,
            };
            hits.push(Hit { key: *key, file: number, row: *row, order, content });
        }
    }
    Ok((hits, vanished))
}

/// The file's rows that were not found.
async fn vanished(file: &DataFile, columns: &SilverColumns, found: &[(u32, u32)]) -> Result<Option<RecordBatch>, SilverError> {
    let mut rest = Vec::new();
    let mut found = rows_of(found).into_iter().peekable();
    for row in 0..file.rows() as u32 {
        if found.next_if_eq(&row).is_none() {
            rest.push(row);
        }
    }
    if rest.is_empty() {
        return Ok(None);
    }
    let mut batches = file.read(&columns.key_fields(), Some(select(&rest)))?;
    let mut parts = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        parts.push(batch);
    }
    let list = arrow::compute::concat_batches(&parts[0].schema(), &parts)
        .and_then(|keys| replaced_rows(&keys, |at| (file.live.path.as_str(), rest[at])));
    list.map(Some).map_err(|source| SilverError::Arrow { table: "silver".to_owned(), source })
}

/// The key columns of some rows of silver's schema.
pub fn keys_at(rows: &RecordBatch, columns: &SilverColumns, at: &[u32]) -> Result<RecordBatch, arrow::error::ArrowError> {
    take_record_batch(&rows.project(&columns.key)?, &UInt32Array::from(at.to_vec()))
}

/// How each key's latest record stands to the newest mark of the key.
async fn read_marks(marks: &Table, keys: &BatchKeys, against: &Against<'_>) -> Result<HashMap<u32, Ordering>, SilverError> {
    let mut newest: HashMap<u32, Ordering> = HashMap::new();
    let order: Fields = vec![Field::new("order", DataType::Utf8, true)].into();
    for live in marks.live_files(of_database(against.database)).await? {
        // Marks know nothing of event dates, so only the bounds of text keys narrow them.
        if !may_hold(&live, &keys.ranges) {
            continue;
        }
        let file = DataFile::open(marks, &live).await?;
        let found = file.find(&against.columns.key_fields(), |hash| keys.position(hash)).await?;
        let mut next = found.iter();
        let mut batches = file.read(&order, Some(select(&rows_of(&found))))?;
        while let Some(batch) = batches.try_next().await? {
            let orders = batch.column(0).as_string::<i32>();
            for at in 0..orders.len() {
                let Some((_, key)) = next.next() else { break };
                let source = order::source_of(orders.value(at));
                if source.is_some_and(|(file, offset)| against.reread.refuses(file, offset, keys.hash(*key))) {
                    continue;
                }
                let stands = keys.against(*key, orders.value(at));
                // Of several marks the newest counts: the one that makes the record look oldest.
                newest.entry(*key).and_modify(|known| *known = (*known).min(stands)).or_insert(stands);
            }
        }
    }
    Ok(newest)
}
