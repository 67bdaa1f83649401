//! What stands in which slot of an object, and what will become of it. Both are pure functions of object and slot, so a
//! duplicate is made by writing the earlier record again; nothing has to be remembered.

use crate::fields::{Subject, write_object};
use crate::layout::{Job, Layout, Limit, Object};
use crate::mess::{D, Scope};
use crate::rng::{Rng, hash, mix};
use crate::{splice, text};

#[derive(Clone, Copy)]
pub enum Kind {
    Good,
    /// The record of an earlier slot once more.
    Copy(u64),
    /// A record of a year_root object once more, without the partition columns.
    CrossCopy {
        object: u64,
        slot: u64,
    },
    Bad(&'static D),
    /// Other content under the key of an earlier slot.
    Conflict(&'static D, u64),
}

/// What a record should be like beyond its slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As its object demands; month and day may be left out where they can be derived.
    Normal,
    /// With all partition columns of its layout.
    Whole,
    /// For another layout: no partition columns, and the version is named.
    Bare,
}

/// Unknown fields, none of them in a contract.
const UNKNOWN: [&str; 5] = [
    r#""newField":1"#,
    r#""firmwareHint":"9.4.1""#,
    r#""ingestHints":{"a":[1,2.5,{"b":null}],"c":"\u00fc"}"#,
    r#""xExtra":null"#,
    r#""modemFlags":[true,false]"#,
];
const DEVICES: u64 = 2000;
const DEVICES_PER_OBJECT: u64 = 64;

/// An object together with what its slots need to know.
pub struct Records<'a> {
    job: &'a Job<'a>,
    pub object: &'a Object,
    allowed: Vec<&'static D>,
    /// Between the starts of two trips of one device, milliseconds.
    step: u64,
    default_version: u32,
}

impl<'a> Records<'a> {
    pub fn new(job: &'a Job<'a>, object: &'a Object) -> Self {
        let allowed = job.defects.iter().copied().filter(|defect| object.allows(defect.1, job.entity)).collect();
        let slots = match object.limit {
            Limit::Records(records) => records,
            Limit::Bytes(bytes) => 2 * bytes / job.average.max(1),
        };
        let step = (text::DAY_MS as u64 / (slots / DEVICES_PER_OBJECT + 1)).max(1);
        Self { job, object, allowed, step, default_version: object.default_version(job.entity) }
    }

    /// So many slots exist for certain.
    fn certain_slots(&self) -> u64 {
        match self.object.limit {
            Limit::Records(records) => records - if self.object.truncated { 2 } else { 0 },
            Limit::Bytes(bytes) => (bytes / (4 * self.job.average.max(1))).max(1),
        }
    }

    pub fn kind(&self, slot: u64) -> Kind {
        match self.defect(slot) {
            Some(defect) if defect.is_conflict() => match self.earlier(slot) {
                Some(source) => Kind::Conflict(defect, source),
                None => Kind::Good,
            },
            Some(defect) => Kind::Bad(defect),
            None if self.repeats(slot) => self.copy(slot),
            None => Kind::Good,
        }
    }

    /// The defect of a slot. Defects keep a distance, so that no two runs of garbage touch.
    fn defect(&self, slot: u64) -> Option<&'static D> {
        let mess = self.job.settings.mess;
        if mess == 0.0 || self.allowed.is_empty() {
            return None;
        }
        let phase = self.job.phase as f64 / 1024.0;
        let steps = |at: u64| (at as f64 * mess + phase).floor();
        let number = self.object.first_number + slot;
        let ordinal = steps(number);
        if steps(number + 1) <= ordinal {
            return None;
        }
        let turn = (ordinal as u64).wrapping_add(self.job.phase) % self.job.defects.len() as u64;
        let wanted = self.job.defects[turn as usize];
        let defect = if self.object.allows(wanted.1, self.job.entity) {
            wanted
        } else {
            self.allowed[(hash(&[self.object.seed, 3, slot]) % self.allowed.len() as u64) as usize]
        };
        // The first bytes of an object tell its form.
        (slot > 0 || defect.1 != Scope::Lines).then_some(defect)
    }

    fn repeats(&self, slot: u64) -> bool {
        self.job.settings.duplicates > 0.0 && Rng::new(hash(&[self.object.seed, 4, slot])).share(self.job.settings.duplicates)
    }

    /// An earlier slot with a good record of its own.
    fn earlier(&self, slot: u64) -> Option<u64> {
        let mut rng = Rng::new(hash(&[self.object.seed, 5, slot]));
        (0..8).map(|_| rng.below(slot)).find(|source| *source < slot && self.is_original(*source))
    }

    fn is_original(&self, slot: u64) -> bool {
        self.defect(slot).is_none() && !self.repeats(slot)
    }

    fn copy(&self, slot: u64) -> Kind {
        let mut rng = Rng::new(hash(&[self.object.seed, 6, slot]));
        if self.object.layout == Layout::Firehose && self.job.year_root > 0 && rng.permille(250) {
            let object = rng.below(self.job.year_root);
            let other = self.job.object(object);
            let records = Records::new(self.job, &other);
            let slot = rng.below(records.certain_slots());
            return if records.is_original(slot) { Kind::CrossCopy { object, slot } } else { Kind::Good };
        }
        self.earlier(slot).map_or(Kind::Good, Kind::Copy)
    }

    /// Appends what stands in the slot.
    pub fn write(&self, out: &mut Vec<u8>, slot: u64, kind: Kind) {
        match kind {
            Kind::Good => self.record(out, slot, Shape::Normal),
            Kind::Copy(source) => self.record(out, source, Shape::Normal),
            Kind::CrossCopy { object, slot } => {
                let other = self.job.object(object);
                Records::new(self.job, &other).record(out, slot, Shape::Bare);
            }
            Kind::Bad(defect) => {
                let mut record = Vec::with_capacity(4096);
                self.record(&mut record, slot, Shape::Whole);
                defect.apply(&mut record, self.object.year, &mut Rng::new(hash(&[self.object.seed, 7, slot])));
                out.extend_from_slice(&record);
            }
            Kind::Conflict(_, source) => {
                let mut record = Vec::with_capacity(4096);
                self.record(&mut record, source, Shape::Normal);
                let (name, raw) = self.job.entity.conflict;
                splice::set(&mut record, name, raw.as_bytes());
                out.extend_from_slice(&record);
            }
        }
    }

    /// Appends the good record of a slot.
    fn record(&self, out: &mut Vec<u8>, slot: u64, shape: Shape) {
        let (job, object, settings) = (self.job, self.object, self.job.settings);
        let start = out.len();
        let seed = hash(&[object.seed, 8, slot]);
        let mut rng = Rng::new(mix(seed));
        let (version, stamped) = self.version(&mut rng);
        let (device, arrival, event_ms) = self.event(slot, &mut rng);
        let number = object.first_number + slot;
        let mut subject = Subject { version, number, id: ((job.ordinal + 1) << 36) + number, device, event_ms, rng: Rng::new(seed) };
        write_object(out, job.entity.fields, &mut subject);

        out.pop();
        let as_text = rng.permille(300);
        if stamped || shape == Shape::Bare {
            let quote = if as_text { "\"" } else { "" };
            out.extend_from_slice(format!(",\"schemaVersion\":{quote}{version}{quote}").as_bytes());
        }
        if settings.unknown_fields > 0.0 && rng.share(settings.unknown_fields) {
            out.push(b',');
            out.extend_from_slice(rng.pick(&UNKNOWN).as_bytes());
        }
        let style = rng.below(3);
        let derivable = settings.mess > 0.0 && job.entity.event_time && rng.permille(20);
        if object.layout == Layout::YearRoot && shape != Shape::Bare {
            self.partition_columns(out, arrival, style, derivable && shape == Shape::Normal);
        }
        out.push(b'}');
        if settings.shuffled_keys > 0.0 && rng.share(settings.shuffled_keys) {
            splice::shuffle(out, start, &mut rng);
        }
    }

    /// The version of a record, and whether it names it.
    fn version(&self, rng: &mut Rng) -> (u32, bool) {
        let newest = self.job.entity.version;
        match rng.below(100) {
            0..3 => (self.default_version, true),
            3..8 if self.default_version < newest => (newest, true),
            8..10 if self.default_version > 1 => (self.default_version - 1, true),
            _ => (self.default_version, false),
        }
    }

    /// Device, day of arrival and time of the event. Most events arrive on their day, some days later. Where the start
    /// is part of the key, the starts of one device are distinct: it has a step of the day for each of its slots.
    fn event(&self, slot: u64, rng: &mut Rng) -> (u64, i64, i64) {
        let by_start = self.job.entity.keyed_by_start;
        let device = if by_start { self.object.index * DEVICES_PER_OBJECT + slot % DEVICES_PER_OBJECT } else { rng.below(DEVICES) };
        let mut of_device = Rng::new(hash(&[self.object.seed, 9, if by_start { device } else { rng.word() }]));
        let arrival = self.object.first_day + of_device.below(self.object.days) as i64;
        let late = match of_device.below(1000) {
            0..60 => of_device.between(1, 3),
            60..70 => of_device.between(4, 30),
            _ => 0,
        };
        let time = if by_start { slot / DEVICES_PER_OBJECT * self.step + rng.below(self.step) } else { rng.below(text::DAY_MS as u64) };
        (0x1000 + device, arrival, (arrival - late) * text::DAY_MS + time as i64)
    }

    /// As the backfill wrote them: numbers, zero-padded strings, or both.
    fn partition_columns(&self, out: &mut Vec<u8>, day: i64, style: u64, year_only: bool) {
        let (year, month, day) = text::civil(day);
        out.extend_from_slice(b",\"database\":\"");
        out.extend_from_slice(self.job.database.as_bytes());
        out.extend_from_slice(b"\",\"entity\":\"");
        out.extend_from_slice(self.job.entity.name.as_bytes());
        out.push(b'"');
        let columns = [("year", year as u64, 4, 1), ("month", month, 2, 0), ("day", day, 2, 1)];
        for (name, value, width, text_from) in columns.into_iter().take(if year_only { 1 } else { 3 }) {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            if style > text_from {
                out.push(b'"');
                text::padded(out, value, width);
                out.push(b'"');
            } else {
                text::uint(out, value);
            }
        }
    }
}
