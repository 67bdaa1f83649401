//! What a correct run over the generated objects reports. Counted where each record is written, and added up in an
//! order that does not matter.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::args::Settings;
use crate::layout::Layout;

#[derive(Clone, Copy, Default)]
struct Share {
    files: u64,
    records: u64,
}

/// What becomes of one record.
pub enum Outcome {
    Inserted,
    Deleted,
    Duplicate,
    Quarantined(&'static str),
}

/// The counts of one job, or of a part of it.
#[derive(Clone, Default)]
pub struct Tally {
    files: u64,
    skipped: u64,
    stored: u64,
    decoded: u64,
    inserted: u64,
    deleted: u64,
    duplicate: u64,
    rejects: BTreeMap<&'static str, u64>,
    firehose: Share,
    year_root: Share,
}

impl Tally {
    pub fn object(&mut self, layout: Layout, stored: u64, decoded: u64) {
        self.files += 1;
        self.stored += stored;
        self.decoded += decoded;
        self.layout(layout).files += 1;
    }

    pub fn skipped(&mut self) {
        self.skipped += 1;
    }

    pub fn record(&mut self, layout: Layout, outcome: Outcome) {
        self.layout(layout).records += 1;
        match outcome {
            Outcome::Inserted => self.inserted += 1,
            Outcome::Deleted => self.deleted += 1,
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Quarantined(code) => *self.rejects.entry(code).or_default() += 1,
        }
    }

    fn layout(&mut self, layout: Layout) -> &mut Share {
        match layout {
            Layout::Firehose => &mut self.firehose,
            Layout::YearRoot => &mut self.year_root,
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.skipped += other.skipped;
        self.stored += other.stored;
        self.decoded += other.decoded;
        self.inserted += other.inserted;
        self.deleted += other.deleted;
        self.duplicate += other.duplicate;
        for (code, count) in &other.rejects {
            *self.rejects.entry(*code).or_default() += count;
        }
        for (mine, theirs) in [(&mut self.firehose, other.firehose), (&mut self.year_root, other.year_root)] {
            mine.files += theirs.files;
            mine.records += theirs.records;
        }
    }

    /// Data objects, records and decoded bytes, for the last line on the screen.
    pub fn totals(&self) -> (u64, u64, u64) {
        (self.files, self.read(), self.decoded)
    }

    fn read(&self) -> u64 {
        self.inserted + self.deleted + self.duplicate + self.quarantined()
    }

    fn quarantined(&self) -> u64 {
        self.rejects.values().sum()
    }

    fn to_json(&self, entity: &str, country: &str) -> Value {
        let rejects: Vec<Value> = self.rejects.iter().map(|(code, count)| json!({"code": code, "count": count})).collect();
        let share = |share: Share| json!({"files": share.files, "records": share.records});
        json!({
            "entity": entity,
            "country": country,
            "files": {"listed": self.files + self.skipped, "new": self.files, "skipped": self.skipped},
            "bytes": {"stored": self.stored, "decoded": self.decoded},
            "records": {
                "read": self.read(),
                "inserted": self.inserted,
                "deleted": self.deleted,
                "duplicate": self.duplicate,
                "quarantined": self.quarantined(),
            },
            "rejects": rejects,
            "layouts": {"firehose": share(self.firehose), "year_root": share(self.year_root)},
        })
    }
}

/// The manifest: what was asked for, and per job what to expect.
pub fn expected<'a>(settings: &Settings, jobs: impl Iterator<Item = (&'a str, &'a str, &'a Tally)>) -> Value {
    let jobs: Vec<Value> = jobs.map(|(entity, country, tally)| tally.to_json(entity, country)).collect();
    json!({"seed": settings.seed, "args": settings.args, "jobs": jobs})
}
