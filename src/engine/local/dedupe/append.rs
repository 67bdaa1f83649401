//! Records never change: rows whose key was met before, in this batch or in the table, are duplicates or conflicts.
//!
//! Rows arrive in the order that decides between equal keys, so the first one stays. An equal record is a duplicate; another
//! one under the same key is refused as `key_conflict`. The one exception is a record that is read once more: if it reads
//! otherwise now (its contract is another one), its row is replaced.
//!
//! The table's keys that may be met are held in memory, up to `limits.table_keys`. Where they are more, the batch is read twice: first
//! only its keys are gathered and the table is searched for them, then it is told apart with what was found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;

use super::super::decode::{Origin, found};
use super::super::enrich::{Enriched, Part, Place};
use super::Unique;
use super::later::Later;
use crate::domain::{Records, Reject, RejectCode};
use crate::plan::SilverColumns;
use crate::silver::HashedMap;
use crate::silver::SilverError;
use crate::silver::keys::{Held, KeyRanges, Reread, RowHashes, TableKeys};
use crate::silver::replace::replaced_rows;
use crate::silver::upsert::keys_at;

pub struct Append {
    table: TableKeys,
    columns: Arc<SilverColumns>,
    /// Content under each key of this batch.
    seen: HashedMap<u128>,
    ranges: Vec<KeyRanges>,
    /// Rows that records replace which were read once more.
    pub replaced: Vec<RecordBatch>,
    pub later: Later,
    /// The table's keys are too many to be held: the batch's are only gathered, and `seen` has them.
    gathering: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Insert,
    /// It is the same record, read once more, and says something else now.
    Update {
        file: Arc<str>,
        row: u32,
    },
    Duplicate,
    Conflict,
}

impl Append {
    pub fn new(table: TableKeys, columns: Arc<SilverColumns>, later: Later) -> Self {
        Self { table, columns, seen: HashedMap::default(), ranges: Vec::new(), replaced: Vec::new(), later, gathering: false }
    }

    /// `again`: for each part whose file was committed before the keys that were not met in that file before; rows of records that are
    /// refused now count as gone.
    pub async fn dedupe(&mut self, chunk: Enriched, mut again: Vec<Option<HashSet<u128>>>, reread: &Reread) -> Result<Unique, SilverError> {
        let Enriched { mut parts, rows, hashes, ranges, places, versions, .. } = chunk;
        let held = if self.gathering { None } else { self.table.probe(&rows, &hashes, &ranges).await? };
        let Some(mut held) = held else {
            self.gather(&hashes, ranges);
            return Ok(Unique { rows: rows.slice(0, 0), accounts: Vec::new(), records: Records::default() });
        };
        held.retain(|key, held| !reread.refuses(&held.source.0, held.source.1, *key));
        if rows.num_rows() > 0 {
            self.ranges.push(ranges);
        }
        let mut keep = Vec::with_capacity(rows.num_rows());
        let mut updates = Vec::new();
        let mut records = Records::default();
        for (part, again) in parts.iter_mut().zip(&mut again) {
            records.read += part.read;
            for at in part.rows.clone() {
                let (key, content, place) = (hashes.keys[at], hashes.contents[at], places[at]);
                let is_first = again.as_mut().is_some_and(|first| first.remove(&key));
                // The row of a record that a cluster read has no offset: it is the first one of its key.
                let is_row = |held: &Held| {
                    let place = held.source.1.map_or(is_first, |offset| offset == part.offset(place) as i64);
                    again.is_some() && *held.source.0 == *part.origin.file && place
                };
                let fate = self.fate(at, key, content, &held, is_row);
                keep.push(matches!(fate, Fate::Insert | Fate::Update { .. }));
                match fate {
                    Fate::Insert => records.inserted += 1,
                    Fate::Update { file, row } => {
                        records.updated += 1;
                        updates.push((at as u32, file, row));
                    }
                    Fate::Duplicate => records.duplicate += 1,
                    Fate::Conflict => part.rejects.push(conflict(part, place, versions[at])),
                }
            }
            records.quarantined += part.rejects.len() as u64;
        }
        let failed = |source| SilverError::Arrow { table: "silver".to_owned(), source };
        self.replace(&rows, &updates).map_err(failed)?;
        let rows =
            if keep.iter().all(|keep| *keep) { rows } else { filter_record_batch(&rows, &BooleanArray::from(keep)).map_err(failed)? };
        Ok(Unique { rows, accounts: parts.into_iter().map(Part::account).collect(), records })
    }

    fn gather(&mut self, hashes: &RowHashes, ranges: KeyRanges) {
        self.gathering = true;
        self.seen.extend(hashes.keys.iter().zip(&hashes.contents));
        // Of no rows they would leave no file out.
        if !hashes.keys.is_empty() {
            self.ranges.push(ranges);
        }
    }

    /// Whether the batch's keys were gathered, so that it has to be read once more when the table was [searched](Self::search) for them.
    pub fn has_gathered(&self) -> bool {
        self.gathering
    }

    /// Searches the table for the keys that were gathered, and forgets the batch.
    pub async fn search(&mut self) -> Result<(), SilverError> {
        self.table.look_for(std::mem::take(&mut self.seen), &self.ranges).await?;
        (self.ranges, self.replaced, self.gathering) = (Vec::new(), Vec::new(), false);
        self.later.begin_anew();
        Ok(())
    }

    fn replace(&mut self, rows: &RecordBatch, updates: &[(u32, Arc<str>, u32)]) -> Result<(), ArrowError> {
        if !updates.is_empty() {
            let at: Vec<u32> = updates.iter().map(|(at, _, _)| *at).collect();
            let keys = keys_at(rows, &self.columns, &at)?;
            self.replaced.push(replaced_rows(&keys, |n| (&*updates[n].1, updates[n].2))?);
        }
        Ok(())
    }

    /// Whether what was decided is still right on the newest snapshot: nobody else has inserted one of the batch's keys.
    pub async fn still_right(&mut self) -> Result<bool, SilverError> {
        Ok(!self.table.came_since(&self.seen, &self.ranges).await?)
    }

    fn fate(&mut self, row: usize, key: u128, content: u128, held: &HashMap<u128, Held>, is_row: impl Fn(&Held) -> bool) -> Fate {
        let there = held.get(&key);
        match there {
            Some(held) if is_row(held) && held.is_whole(content) => return Fate::Duplicate,
            Some(held) if is_row(held) => {}
            // What this batch has made of that row is what counts.
            Some(held) => {
                let same = self.seen.get(&key).map_or_else(|| held.equals(row), |made| *made == content);
                return if same { Fate::Duplicate } else { Fate::Conflict };
            }
            None => {}
        }
        match self.seen.entry(key) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(content);
                match there {
                    Some(held) => Fate::Update { file: held.place.0.clone(), row: held.place.1 },
                    None => Fate::Insert,
                }
            }
            std::collections::hash_map::Entry::Occupied(taken) if *taken.get() == content => Fate::Duplicate,
            std::collections::hash_map::Entry::Occupied(_) => Fate::Conflict,
        }
    }
}

fn conflict(part: &Part, place: Place, version: i32) -> Reject {
    let (offset, raw) = (part.offset(place), part.raw(place));
    Reject {
        code: RejectCode::KeyConflict,
        path: "$".to_owned(),
        message: "a record with this key and other content is already there".to_owned(),
        schema_version: Some(version as u32),
        offset,
        length: raw.len() as u64,
        found: found_in(&part.origin, &raw),
        raw,
    }
}

fn found_in(origin: &Origin, raw: &bytes::Bytes) -> [Option<String>; 4] {
    let mut tape = crate::domain::json::Tape::new();
    let record = tape.parse(raw, 0..raw.len(), usize::MAX).ok().map(|root| tape.value(raw, root));
    found(&origin.object.path, record)
}
