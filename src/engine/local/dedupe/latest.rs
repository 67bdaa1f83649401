//! The latest record of a key is its row; deletes leave none.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Date32Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type};
use arrow::error::ArrowError;

use super::super::enrich::{Enriched, Part};
use super::super::spool::{Aside, Spool};
use super::super::write::{Tables, Writer};
use super::super::{Engine, StageError};
use super::Unique;
use super::days::{ALL_DAYS, Days, is_within};
use crate::domain::Records;
use crate::domain::time::MICROS_PER_DAY;
use crate::plan::{BatchPlan, ORDER, SilverColumns, marks_schema, order};
use crate::silver::SilverError;
use crate::silver::keys::{Reread, SOURCE, contents_at};
use crate::silver::replace::replaced_rows;
use crate::silver::selected::Selected;
use crate::silver::together::Together;
use crate::silver::upsert::{Against, BatchKeys, Contents, DELETED, Extent, Fate, Present, UNCHANGED, find, keys_at};
use crate::silver::write::Complete;

pub struct Latest {
    plan: Arc<BatchPlan>,
    tables: Tables,
    threads: usize,
    keys: BatchKeys,
    /// One chunk of few rows would come apart into parts of next to none for each partition.
    aside: Aside,
    days: Days,
    /// What orders of records have in common, by the numbers that rows in the spool bear in their last column.
    tails: Arc<Vec<String>>,
    /// A chunk's rows that are written at once.
    nothing: Option<RecordBatch>,
    /// Stored bytes of the objects that were read, and of all.
    stored: (u64, u64),
}

/// Rows that are put aside together, if they take no more memory than the spool may.
const TOGETHER: usize = 32 << 10;
/// The column of rows' tails.
const TAIL: &str = "tail";

impl Latest {
    pub fn new(engine: &Engine, plan: &Arc<BatchPlan>, tables: &Tables) -> Self {
        let limit = plan.of.job.limits.spool;
        let aside = Aside::new(Spool::new(&engine.spill, limit), Together::new(TOGETHER, limit));
        Self {
            plan: plan.clone(),
            tables: tables.clone(),
            threads: engine.threads,
            keys: BatchKeys::default(),
            aside,
            days: Days::new(&plan.of.columns),
            tails: Arc::default(),
            nothing: None,
            stored: (0, plan.objects.iter().map(|object| object.size).sum()),
        }
    }

    pub async fn put_aside(&mut self, chunk: Enriched) -> Result<Unique, StageError> {
        let Enriched { parts, rows, hashes, ranges, prefixes, deletes, places, .. } = chunk;
        let nothing = self.nothing.get_or_insert_with(|| rows.slice(0, 0)).clone();
        let mut records = Records::default();
        let mut numbers = Vec::with_capacity(rows.num_rows());
        for part in &parts {
            records.read += part.read;
            records.quarantined += part.rejects.len() as u64;
            if !part.rows.is_empty() {
                let tail = order::tail(&part.origin.object, &part.origin.file);
                let at = part.rows.clone();
                let offsets = places[at.clone()].iter().map(|place| part.offset(*place));
                let records = at.clone().map(|row| prefixes.get(row)).zip(offsets).zip(deletes[at.clone()].iter().copied());
                self.keys.add(&tail, &hashes.keys[at], records);
                if self.tails.last() != Some(&tail) {
                    Arc::make_mut(&mut self.tails).push(tail);
                }
                numbers.resize(part.rows.end, self.tails.len() as u32 - 1);
            }
        }
        if rows.num_rows() > 0 {
            self.keys.within(ranges);
            self.days.see(&rows);
            let rows = numbered(&rows, numbers).map_err(|source| self.failed(source))?;
            self.aside.push(rows).await?;
        }
        Ok(Unique { rows: nothing, accounts: parts.into_iter().map(Part::account).collect(), records })
    }

    pub fn object_read(&mut self, stored: u64) {
        self.stored.0 += stored;
        self.keys.expect(self.stored.0, self.stored.1);
    }

    fn failed(&self, source: ArrowError) -> StageError {
        StageError::Silver(SilverError::Arrow { table: self.tables.silver.name.clone(), source })
    }

    /// Settles every key on the newest snapshot and writes what changes; may be asked again when the snapshot is another one.
    pub async fn finish(&mut self, writer: &mut Writer<'_>, reread: Arc<Reread>) -> Result<(Records, Vec<RecordBatch>), StageError> {
        let present = self.settle_fates(reread).await?;
        let mut counts = Records { duplicate: self.keys.superseded(), removed: vanished(&present), ..Records::default() };
        for fate in self.keys.fates() {
            match fate {
                Fate::Older | Fate::Same { .. } => counts.duplicate += 1,
                Fate::Insert => counts.inserted += 1,
                Fate::Update => counts.updated += 1,
                Fate::Delete { .. } => counts.deleted += 1,
            }
        }
        let replaced = self.write(&present, writer).await?;
        Ok((counts, replaced))
    }

    async fn settle_fates(&mut self, reread: Arc<Reread>) -> Result<Present, StageError> {
        let snapshot = self.plan.extent.as_ref();
        let mut keys = std::mem::take(&mut self.keys);
        // A day that has no sound record says nothing about rows, least of all that they are gone.
        let present = if keys.is_empty() || snapshot.is_some_and(|extent| extent.outdated) {
            keys.outdate();
            Present::default()
        } else {
            let against = Against {
                table: &self.tables.silver,
                marks: self.tables.marks.as_ref(),
                columns: self.plan.of.columns.clone(),
                database: &self.plan.of.source.database,
                extent: if snapshot.is_some() { Extent::Database } else { Extent::Keys },
                threads: self.threads,
                // A snapshot's rows stay or vanish by key, whatever record they came from.
                reread: if snapshot.is_some() { Arc::default() } else { reread },
            };
            let (searched, found) = find(keys, &against).await?;
            keys = searched;
            let contents = self.contents(&found.rows(&keys)).await?;
            found.settle(&mut keys, &contents)
        };
        self.keys = keys;
        Ok(present)
    }

    /// What some of the batch's rows, given in order, say.
    async fn contents(&mut self, wanted: &[u32]) -> Result<Contents, StageError> {
        let (mut contents, mut wanted, mut first) = (Contents::with_capacity(wanted.len()), wanted.iter().copied().peekable(), 0);
        if wanted.peek().is_none() {
            return Ok(contents);
        }
        for rows in self.aside.filled().await?.read()? {
            let rows = rows?;
            let next = first + rows.num_rows() as u32;
            let here: Vec<u32> = std::iter::from_fn(|| wanted.next_if(|row| *row < next)).map(|row| row - first).collect();
            if !here.is_empty() {
                let hashes = contents_at(&rows, &self.plan.of.columns, here.clone());
                let hashes = hashes.map_err(|source| SilverError::Arrow { table: self.tables.silver.name.clone(), source })?;
                contents.extend(here.into_iter().map(|row| row + first).zip(hashes));
            }
            first = next;
        }
        Ok(contents)
    }

    /// Writes new and changed rows and marks; returns the rows that they take out.
    async fn write(&mut self, present: &Present, writer: &mut Writer<'_>) -> Result<Vec<RecordBatch>, StageError> {
        let arrow = |source| StageError::Silver(SilverError::Arrow { table: self.tables.silver.name.clone(), source });
        let columns = &self.plan.of.columns;
        let complete: Complete = {
            let (tails, columns) = (self.tails.clone(), columns.clone());
            Arc::new(move |rows| with_orders(rows, &tails, &columns))
        };
        let mut replaced = present.vanished.clone();
        for (reading, span) in self.days.spans(self.plan.of.job.limits.open_partitions).into_iter().enumerate() {
            let mut first = 0;
            for rows in self.aside.filled().await?.read()? {
                let rows = rows?;
                let (mut sorted, days) = (Sorted::default(), self.days.of(&rows));
                for at in 0..rows.num_rows() as u32 {
                    if let Some((key, fate)) = self.keys.fate(first + at) {
                        sorted.sort(at, key, fate, present);
                    }
                }
                first += rows.num_rows() as u32;
                if span != ALL_DAYS {
                    sorted.write.retain(|at| is_within(&span, days, *at as usize));
                }
                if !sorted.write.is_empty() {
                    writer.silver(&rows, sorted.write, Some(&complete)).await?;
                }
                // Of every day, once.
                if reading > 0 {
                    continue;
                }
                if !sorted.marks.is_empty() && self.tables.marks.is_some() {
                    writer.marks(&marks(&rows, &sorted.marks, &self.tails, &self.plan).map_err(arrow)?).await?;
                }
                if !sorted.replaced.is_empty() {
                    let at: Vec<u32> = sorted.replaced.iter().map(|(at, _, _)| *at).collect();
                    let keys = keys_at(&rows, columns, &at).map_err(arrow)?;
                    let place = |n: usize| (sorted.replaced[n].1, sorted.replaced[n].2);
                    replaced.push(replaced_rows(&keys, place).map_err(arrow)?);
                }
            }
        }
        Ok(replaced)
    }
}

/// The rows with the numbers of their tails.
fn numbered(rows: &RecordBatch, tails: Vec<u32>) -> Result<RecordBatch, ArrowError> {
    let number = Arc::new(Field::new(TAIL, DataType::UInt32, false));
    let fields: Vec<_> = rows.schema().fields().iter().cloned().chain([number]).collect();
    let columns = rows.columns().iter().cloned().chain([Arc::new(UInt32Array::from(tails)) as ArrayRef]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Positions of a chunk's rows by what they lead to.
#[derive(Default)]
struct Sorted<'p> {
    write: Vec<u32>,
    marks: Vec<(u32, &'static str)>,
    /// Position of the record; file and row of what it takes out.
    replaced: Vec<(u32, &'p str, u32)>,
}

impl<'p> Sorted<'p> {
    fn sort(&mut self, at: u32, key: u32, fate: Fate, present: &'p Present) {
        if matches!(fate, Fate::Insert | Fate::Update) {
            self.write.push(at);
        }
        if matches!(fate, Fate::Update | Fate::Delete { .. }) {
            self.replaced.extend(present.places(key).map(|(file, row)| (at, file, row)));
        }
        match fate {
            Fate::Delete { marked: false } => self.marks.push((at, DELETED)),
            Fate::Same { marked: false } => self.marks.push((at, UNCHANGED)),
            _ => {}
        }
    }
}

/// The rows with the order of each, where the table keeps it, instead of the number of its tail.
fn with_orders(rows: Selected, tails: &[String], columns: &SilverColumns) -> Result<Selected, ArrowError> {
    let Some((_, order)) = columns.schema.column_with_name(ORDER) else { return Ok(rows.pop()) };
    let orders = orders(&rows, tails, columns)?;
    Ok(rows.pop().push(Arc::new(order.clone()), Arc::new(orders)))
}

fn orders(rows: &Selected, tails: &[String], columns: &SilverColumns) -> Result<StringArray, ArrowError> {
    let named = |at: &usize| rows.named(columns.schema.field(*at).name());
    let order_by: Vec<ArrayRef> = columns.order_by.iter().filter_map(named).collect::<Result<_, _>>()?;
    let offsets = rows.named(SOURCE[1]).transpose()?.map(|offsets| offsets.as_primitive::<Int64Type>().values().clone());
    let offsets = offsets.as_deref().unwrap_or_default().iter().map(|offset| offset.cast_unsigned());
    let numbers = rows.last().transpose()?;
    let numbers = numbers.as_ref().and_then(|numbers| numbers.as_primitive_opt::<UInt32Type>());
    let tails = numbers.into_iter().flat_map(UInt32Array::values).map(|number| tails.get(*number as usize).map_or("", |tail| tail));
    Ok(order::orders(&order::Prefixes::of(&order_by, rows.num_rows()), tails, offsets))
}

fn vanished(present: &Present) -> u64 {
    present.vanished.iter().map(|rows| rows.num_rows() as u64).sum()
}

fn marks(rows: &RecordBatch, marked: &[(u32, &'static str)], tails: &[String], plan: &BatchPlan) -> Result<RecordBatch, ArrowError> {
    let columns = &plan.of.columns;
    let at: Vec<u32> = marked.iter().map(|(at, _)| *at).collect();
    let texts = |text: &str| Arc::new(StringArray::from_iter_values(marked.iter().map(|_| text))) as ArrayRef;
    let rows = Selected::some(rows, at);
    let orders = orders(&rows, tails, columns)?;
    let mut arrays = columns.key.iter().map(|at| rows.column(*at)).collect::<Result<Vec<_>, _>>()?;
    arrays.extend([
        texts(&plan.of.source.database),
        Arc::new(orders),
        Arc::new(StringArray::from_iter_values(marked.iter().map(|(_, kind)| *kind))),
        texts(&plan.batch),
        Arc::new(TimestampMicrosecondArray::from_value(plan.ingested_at, marked.len()).with_timezone("UTC")),
        Arc::new(Date32Array::from_value(plan.ingested_at.div_euclid(MICROS_PER_DAY) as i32, marked.len())),
    ]);
    RecordBatch::try_new(marks_schema(columns), arrays)
}
