//! Writes one object in constant memory and counts what a correct run makes of it.

use std::io::{self, Write};
use std::path::Path;

use crate::layout::{Form, HUGE_RECORDS, Job, Limit, Object, Purpose};
use crate::manifest::{Outcome, Tally};
use crate::mess;
use crate::records::{Kind, Records};
use crate::rng::{Rng, hash};
use crate::sink::{Sink, Stored};
use crate::{splice, text};

const FLUSH_BYTES: usize = 256 * 1024;
const HUGE_BYTES: usize = 17 * 1024 * 1024;
const PAGE_RECORDS: u64 = 500;
/// Records between two gzip members.
const MEMBER_RECORDS: u64 = 97;
/// A gzip header and nothing else.
const GZIP_HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];

pub fn write(root: &Path, job: &Job, index: u64, tally: &mut Tally) -> Result<(), String> {
    let object = job.object(index);
    let path = root.join(&object.key);
    let written = match object.purpose {
        Purpose::Records | Purpose::Huge => Writer::create(&path, job, &object).and_then(|writer| writer.run(tally)),
        Purpose::Empty => Sink::create(&path, object.packing).and_then(Sink::finish).map(|stored| (stored, 0)),
        Purpose::Corrupt => {
            tally.record(object.layout, Outcome::Quarantined(mess::CORRUPT));
            whole(&path, &GZIP_HEADER).map(|stored| (stored, 0))
        }
        Purpose::Foreign => {
            tally.skipped();
            let content = if object.key.ends_with("_SUCCESS") { Vec::new() } else { delivery_error(job, &object) };
            return whole(&path, &content).map(drop).map_err(|error| format!("cannot write {}: {error}", path.display()));
        }
    };
    let (stored, decoded) = written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    tally.object(object.layout, stored, decoded);
    Ok(())
}

fn whole(path: &Path, content: &[u8]) -> io::Result<u64> {
    let mut stored = Stored::create(path)?;
    stored.write_all(content)?;
    stored.finish()
}

/// What Firehose writes when it cannot deliver: lines with the record in base64.
fn delivery_error(job: &Job, object: &Object) -> Vec<u8> {
    let records = Records::new(job, object);
    let mut out = Vec::new();
    for slot in 0..HUGE_RECORDS {
        let mut record = Vec::new();
        records.write(&mut record, slot, Kind::Good);
        let arrived = object.first_day * text::DAY_MS + slot as i64;
        out.extend_from_slice(
            format!("{{\"attemptsMade\":4,\"arrivalTimestamp\":{arrived},\"errorCode\":\"Lambda.FunctionError\",").as_bytes(),
        );
        out.extend_from_slice(
            format!("\"errorMessage\":\"The function failed.\",\"attemptEndingTimestamp\":{},", arrived + 60_000).as_bytes(),
        );
        out.extend_from_slice(b"\"rawData\":\"");
        text::base64(&mut out, &record);
        out.extend_from_slice(b"\",\"lambdaArn\":\"arn:aws:lambda:eu-central-1:123456789012:function:fleet:1\"}\n");
    }
    out
}

struct Writer<'a> {
    job: &'a Job<'a>,
    object: &'a Object,
    records: Records<'a>,
    sink: Sink,
    /// Not yet in the sink.
    out: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn create(path: &Path, job: &'a Job<'a>, object: &'a Object) -> io::Result<Self> {
        let sink = Sink::create(path, object.packing)?;
        Ok(Self { job, object, records: Records::new(job, object), sink, out: Vec::with_capacity(2 * FLUSH_BYTES) })
    }

    /// Writes the object. Its stored and its decoded bytes.
    fn run(mut self, tally: &mut Tally) -> io::Result<(u64, u64)> {
        if self.object.byte_order_mark {
            self.out.extend_from_slice(b"\xEF\xBB\xBF");
        }
        let layout = self.object.layout;
        let mut slot = 0;
        while self.goes_on(slot) {
            self.separate(slot);
            let outcome = if self.object.purpose == Purpose::Huge { self.near_huge(slot) } else { self.slot(slot) };
            tally.record(layout, outcome);
            slot += 1;
            if self.object.many_members && slot.is_multiple_of(MEMBER_RECORDS) {
                self = self.next_member()?;
            } else if self.out.len() >= FLUSH_BYTES {
                self.flush()?;
            }
        }
        if self.object.truncated {
            let last = self.tail(slot);
            tally.record(layout, last);
            tally.record(layout, Outcome::Quarantined(mess::TRUNCATED));
        } else {
            self.close(slot);
        }
        self.flush()?;
        let decoded = self.sink.decoded();
        Ok((self.sink.finish()?, decoded))
    }

    fn goes_on(&self, slot: u64) -> bool {
        match self.object.limit {
            Limit::Records(records) if self.object.truncated => slot + 2 < records,
            Limit::Records(records) => slot < records,
            Limit::Bytes(bytes) => slot == 0 || self.sink.decoded() + (self.out.len() as u64) < bytes,
        }
    }

    fn slot(&mut self, slot: u64) -> Outcome {
        let start = self.out.len();
        let kind = self.records.kind(slot);
        let outcome = self.put(slot, kind);
        if self.object.form == Form::Pretty {
            let record = self.out.split_off(start);
            splice::pretty(&mut self.out, &record);
        }
        outcome
    }

    /// Writes the record of a slot. What becomes of it where all objects are read as one batch.
    fn put(&mut self, slot: u64, kind: Kind) -> Outcome {
        let start = self.out.len();
        self.records.write(&mut self.out, slot, kind);
        let entity = self.job.entity;
        let deletes = || entity.deleted_by.is_some_and(|name| splice::value(&self.out[start..], name).is_some());
        match kind {
            Kind::Good if deletes() => Outcome::Deleted,
            Kind::Good => Outcome::Inserted,
            Kind::Copy(_) | Kind::CrossCopy { .. } => Outcome::Duplicate,
            Kind::Conflict(..) if entity.latest_wins => Outcome::Duplicate,
            Kind::Bad(defect) | Kind::Conflict(defect, _) => Outcome::Quarantined(defect.0),
        }
    }

    /// Three records, the second one beyond the limit.
    fn near_huge(&mut self, slot: u64) -> Outcome {
        if slot != 1 {
            return self.put(slot, Kind::Good);
        }
        let mut record = Vec::with_capacity(HUGE_BYTES + 8192);
        self.records.write(&mut record, slot, Kind::Good);
        let mut member = b"\"note\":\"".to_vec();
        member.resize(HUGE_BYTES, b'x');
        member.push(b'"');
        splice::append(&mut record, &member);
        self.out.extend_from_slice(&record);
        Outcome::Quarantined(mess::TOO_LARGE)
    }

    /// What stands before a record.
    fn separate(&mut self, slot: u64) {
        let first = slot == 0;
        let between: &[u8] = match self.object.form {
            Form::Array if first => b"[",
            Form::Array => b",",
            Form::Envelope if slot.is_multiple_of(PAGE_RECORDS) => {
                if !first {
                    self.close_page(slot);
                }
                b"{\"result\":{\"data\":["
            }
            Form::Envelope => b",",
            _ if first => b"",
            Form::Concatenated => b"",
            Form::Lines | Form::Pretty => b"\n",
            Form::CrLf => b"\r\n",
        };
        self.out.extend_from_slice(between);
        if self.object.blank_lines && slot % 17 == 3 {
            self.out.extend_from_slice(if slot.is_multiple_of(2) { b"\n" } else { b"  \n" });
        }
    }

    fn close_page(&mut self, slot: u64) {
        self.out.extend_from_slice(b"],\"toVersion\":\"");
        text::hex16(&mut self.out, self.object.first_number + slot);
        self.out.extend_from_slice(b"\"},\"jsonrpc\":\"2.0\"}\n");
    }

    /// What stands after the last record.
    fn close(&mut self, slots: u64) {
        match self.object.form {
            Form::Array => self.out.push(b']'),
            Form::Envelope => {
                // The last page of a feed is empty.
                self.close_page(slots);
                self.out.extend_from_slice(b"{\"result\":{\"data\":[");
                self.close_page(slots);
            }
            Form::Lines | Form::Pretty if self.object.final_newline => self.out.push(b'\n'),
            Form::CrLf if self.object.final_newline => self.out.extend_from_slice(b"\r\n"),
            _ => {}
        }
    }

    /// A sound record and then one that is cut. What becomes of the sound one.
    fn tail(&mut self, slot: u64) -> Outcome {
        self.separate(slot);
        let outcome = self.put(slot, Kind::Good);
        self.separate(slot + 1);
        let mut record = Vec::with_capacity(4096);
        self.records.write(&mut record, slot + 1, Kind::Good);
        mess::truncate(&mut record, &mut Rng::new(hash(&[self.object.seed, 10])));
        self.out.extend_from_slice(&record);
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.write(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Begins another gzip member in the middle of a record.
    fn next_member(mut self) -> io::Result<Self> {
        let rest = self.out.split_off(self.out.len().saturating_sub(7));
        self.flush()?;
        let Self { job, object, records, sink, .. } = self;
        let mut out = Vec::with_capacity(2 * FLUSH_BYTES);
        out.extend_from_slice(&rest);
        Ok(Self { job, object, records, sink: sink.next_member()?, out })
    }
}

/// Bytes of a record, on average over the first ones of an object.
pub fn average_bytes(job: &Job) -> u64 {
    const SAMPLE: u64 = 64;
    let object = job.object(0);
    let records = Records::new(job, &object);
    let mut out = Vec::new();
    for slot in 0..SAMPLE {
        records.write(&mut out, slot, Kind::Good);
    }
    (out.len() as u64).div_ceil(SAMPLE)
}
