//! Records never change: rows whose key was met before, in this batch or in the table, are duplicates or conflicts.
//!
//! Rows arrive in the order that decides between equal keys, so the first one stays. An equal record is a duplicate; another
//! one under the same key is refused as `key_conflict`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;

use super::super::decode::{Origin, found};
use super::super::enrich::Enriched;
use super::Unique;
use crate::domain::{Records, Reject, RejectCode};
use crate::plan::SilverColumns;
use crate::silver::SilverError;
use crate::silver::keys::{Held, KeyRanges, TableKeys};

pub struct Append {
    table: TableKeys,
    columns: Arc<SilverColumns>,
    /// Content under each key of this batch.
    seen: HashMap<u128, u128>,
    ranges: Vec<KeyRanges>,
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Insert,
    Duplicate,
    Conflict,
}

impl Append {
    pub fn new(table: TableKeys, columns: Arc<SilverColumns>) -> Self {
        Self { table, columns, seen: HashMap::new(), ranges: Vec::new() }
    }

    pub async fn dedupe(&mut self, chunk: Enriched) -> Result<Unique, SilverError> {
        let Enriched { origin, rows, hashes, places, versions, mut rejects, read, .. } = chunk;
        let held = self.table.probe(&rows, &hashes).await?;
        if rows.num_rows() > 0 {
            self.ranges.push(KeyRanges::of(&rows, &self.columns));
        }
        let mut keep = Vec::with_capacity(rows.num_rows());
        let mut records = Records { read, ..Records::default() };
        for (at, (key, content)) in hashes.keys.iter().zip(&hashes.contents).enumerate() {
            let fate = self.fate(at, *key, *content, &held);
            keep.push(fate == Fate::Insert);
            match fate {
                Fate::Insert => records.inserted += 1,
                Fate::Duplicate => records.duplicate += 1,
                Fate::Conflict => {
                    let (offset, raw) = places[at].clone();
                    rejects.push(Reject {
                        code: RejectCode::KeyConflict,
                        path: "$".to_owned(),
                        message: "a record with this key and other content is already there".to_owned(),
                        schema_version: Some(versions[at]),
                        offset,
                        length: raw.len() as u64,
                        found: found_in(&origin, &raw),
                        raw,
                    });
                }
            }
        }
        records.quarantined = rejects.len() as u64;
        let rows = if keep.iter().all(|keep| *keep) {
            rows
        } else {
            filter_record_batch(&rows, &BooleanArray::from(keep))
                .map_err(|source| SilverError::Arrow { table: "silver".to_owned(), source })?
        };
        Ok(Unique { origin, rows, rejects, records })
    }

    /// Whether what was decided is still right on the newest snapshot: nobody else has inserted one of the batch's keys.
    pub async fn still_right(&self) -> Result<bool, SilverError> {
        Ok(!self.table.came_since(&self.seen, &self.ranges).await?)
    }

    fn fate(&mut self, row: usize, key: u128, content: u128, held: &HashMap<u128, Held>) -> Fate {
        if let Some(held) = held.get(&key) {
            return if held.equals(row) { Fate::Duplicate } else { Fate::Conflict };
        }
        match self.seen.entry(key) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(content);
                Fate::Insert
            }
            std::collections::hash_map::Entry::Occupied(taken) if *taken.get() == content => Fate::Duplicate,
            std::collections::hash_map::Entry::Occupied(_) => Fate::Conflict,
        }
    }
}

fn found_in(origin: &Origin, raw: &bytes::Bytes) -> [Option<String>; 4] {
    let mut tape = crate::domain::json::Tape::new();
    let record = tape.parse(raw, 0..raw.len(), usize::MAX).ok().map(|root| tape.value(raw, root));
    found(&origin.object.path, record)
}
