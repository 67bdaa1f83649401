//! Step 1, frame: decoded bytes → the byte ranges of records. Framing is not decoding.
//!
//! Between records stand white space, a BOM at the start, and inside an array `[`, `,` and `]`; a record begins at `{` and ends
//! at the brace that closes it. Where a top-level object leads along `records_at` to an array, its elements are the records and
//! the rest of it is delimiter. The [`Scan`] of one record knows JSON's punctuation, not its literals: what is wrong inside of a
//! balanced record is the decoder's to say.
//!
//! **Damage costs itself only.** Where the punctuation breaks, [`Framer::resolve`] looks for the border to the next record, in
//! this order: the whole line, if its brackets balance at its end; the first line within the damage that begins with a brace;
//! an object within it that begins with the two keys that records of this stream begin with (a record that was cut where a value is
//! due has taken its successor for it); a brace here that begins a record; a brace hidden at the end of a string; the balanced
//! end; and else the next place where a record begins. An object that stands for a value, behind `:`, `[` or `,`, is taken for a part of the
//! damaged record unless it begins with those two keys; where every record so far was a line of its own, it is taken for one whatever it
//! begins with. A row that nobody sent is worse than a record that is refused with its neighbour's damage. What lies before the border is framed as one range of garbage, and the decoder refuses it.
//!
//! A record that is a line is found by [`line`], whatever its punctuation, and one that is whole in the buffer and has no flaw by [`quick`],
//! in one go; the scan would say the same of them.
//!
//! Everything is decided on the decoded bytes with a look-ahead of [`LOOK_AHEAD`], never on where a block happens to end, so the
//! frames do not depend on block sizes. Records longer than `limits.record` are streamed past with their first bytes kept.
//! Every byte is counted once, as record, delimiter or refused: [`Coverage`].

mod border;
mod habits;
mod line;
mod quick;
mod scan;

use std::ops::Range;

use bytes::Bytes;

use super::codec::{Decoded, Stop};
use crate::domain::RejectCode;

use border::{
    after_comma, array_goes_on, balance, balanced_line, begins_record, brace_ending_string, ends_its_line, first_line_brace, is_space,
    leading_keys, line_begins, scalar, stands_for_value, starts_empty_record,
};
use habits::Habits;
use line::{Ways, object_of_a_line};
use quick::sound_object;
use scan::{Scan, Scanned};

/// Bytes after a violation that the search for a border may look at.
pub const LOOK_AHEAD: usize = 64 << 10;
/// Decoded bytes read at a time; a chunk of frames holds about as many.
const BLOCK: usize = 1 << 20;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A run of records of one stream, in order.
#[derive(Debug)]
pub struct Frames {
    pub bytes: Bytes,
    /// Decoded offset of `bytes[0]`.
    pub base: u64,
    pub records: Vec<Range<usize>>,
    pub refused: Vec<Refused>,
}

/// Bytes that are refused without being decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: RejectCode,
    pub message: String,
    pub offset: u64,
    pub length: u64,
    pub raw: Bytes,
}

/// Where every decoded byte of a stream went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    pub decoded: u64,
    pub records: u64,
    pub delimiters: u64,
    pub refused: u64,
}

impl Coverage {
    pub fn balances(&self) -> bool {
        self.decoded == self.records + self.delimiters + self.refused
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("cannot read on at decoded byte {at}: {source}")]
    Read { at: u64, source: std::io::Error },
}

#[derive(Debug)]
enum State {
    /// Between records.
    Between,
    Record(Scan),
    /// After the records of an envelope.
    Tail(Scan),
    /// Garbage whose end is not in sight: its start, and how far was searched.
    Garbage {
        start: usize,
        at: usize,
    },
}

/// A record whose first bytes were kept while the rest is streamed past.
#[derive(Debug)]
struct TooLong {
    offset: u64,
    raw: Bytes,
}

/// Cuts one decoded stream into records.
pub struct Framer<'j> {
    stream: Decoded,
    records_at: &'j [Vec<String>],
    record_limit: usize,
    buffer: Vec<u8>,
    /// Decoded offset of `buffer[0]`.
    base: u64,
    at: usize,
    state: State,
    /// Open arrays; an envelope's array carries the objects to close after it.
    arrays: Vec<usize>,
    too_long: Option<TooLong>,
    habits: Habits,
    ways: Ways,
    end: Option<Stop>,
    ended: bool,
    finished: bool,
    block: usize,
    records: Vec<Range<usize>>,
    refused: Vec<Refused>,
    coverage: Coverage,
}

impl<'j> Framer<'j> {
    pub fn new(stream: Decoded, records_at: &'j [Vec<String>], record_limit: u64) -> Self {
        Self {
            stream,
            records_at,
            record_limit: usize::try_from(record_limit).unwrap_or(usize::MAX),
            buffer: Vec::new(),
            base: 0,
            at: 0,
            state: State::Between,
            arrays: Vec::new(),
            too_long: None,
            habits: Habits::default(),
            ways: Ways::of(records_at),
            end: None,
            ended: false,
            finished: false,
            block: BLOCK,
            records: Vec::new(),
            refused: Vec::new(),
            coverage: Coverage::default(),
        }
    }

    /// Reads so many bytes at a time; the frames are the same whatever it is.
    #[must_use]
    pub fn with_block(mut self, block: usize) -> Self {
        self.block = block.max(1);
        self
    }

    /// Makes room at once for so many decoded bytes, as far as they are read together: growing bit by bit copies them again and again.
    #[must_use]
    pub fn expecting(mut self, bytes: u64) -> Self {
        // One more shows that there is no more.
        self.buffer.reserve(usize::try_from(bytes).map_or(self.block, |bytes| bytes.saturating_add(1).min(self.block)));
        self
    }

    /// The next run of frames, `None` after the last.
    pub fn next_frames(&mut self) -> Result<Option<Frames>, FrameError> {
        while !self.finished {
            self.fill()?;
            self.advance();
            if self.ended {
                self.finish();
                self.finished = true;
            }
            let frames = self.take_frames();
            if !frames.records.is_empty() || !frames.refused.is_empty() {
                return Ok(Some(frames));
            }
        }
        Ok(None)
    }

    /// Complete after the last frames.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    fn fill(&mut self) -> Result<(), FrameError> {
        let target = self.buffer.len() + self.block;
        while !self.ended && self.buffer.len() < target {
            let want = target - self.buffer.len();
            match self.stream.read_into(&mut self.buffer, want) {
                Ok(0) => self.ended = true,
                Ok(count) => self.coverage.decoded += count as u64,
                Err(Stop::Io(source)) => return Err(FrameError::Read { at: self.coverage.decoded, source }),
                Err(stop) => {
                    self.end = Some(stop);
                    self.ended = true;
                }
            }
        }
        Ok(())
    }

    /// Frames what the buffer holds, until more bytes are needed.
    fn advance(&mut self) {
        loop {
            let state = std::mem::replace(&mut self.state, State::Between);
            let go_on = match state {
                State::Between => self.between(),
                State::Record(scan) => self.scan(scan),
                State::Tail(scan) => self.tail(scan),
                State::Garbage { start, at } => self.garbage(start, at),
            };
            if !go_on {
                return;
            }
        }
    }

    fn between(&mut self) -> bool {
        while let Some(&byte) = self.buffer.get(self.at) {
            self.habits.between(byte);
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.delimiter(1),
                b',' if !self.arrays.is_empty() => self.delimiter(1),
                0xef if self.base == 0 && self.at == 0 => {
                    if self.buffer.len() < BOM.len() && !self.ended {
                        return false;
                    }
                    if self.buffer.starts_with(BOM) {
                        self.delimiter(BOM.len());
                    } else {
                        self.state = State::Garbage { start: 0, at: 0 };
                        return true;
                    }
                }
                b'{' => {
                    let envelope = self.arrays.is_empty() && !self.records_at.is_empty();
                    if self.habits.by_line && self.line(envelope) {
                        continue;
                    }
                    match sound_object(&self.buffer, self.at, if envelope { self.records_at } else { &[] }) {
                        Some(end) => self.record(self.at, end),
                        None => {
                            self.state = State::Record(Scan::new(self.at, envelope, self.record_limit));
                            return true;
                        }
                    }
                }
                b'[' if self.arrays.is_empty() => {
                    self.arrays.push(0);
                    self.delimiter(1);
                }
                // An array where a record is due is one refused element.
                b'[' => {
                    self.state = State::Record(Scan::new(self.at, false, self.record_limit));
                    return true;
                }
                b']' if !self.arrays.is_empty() => {
                    self.delimiter(1);
                    if let Some(depth) = self.arrays.pop().filter(|depth| *depth > 0) {
                        self.state = State::Tail(Scan::tail(self.at, depth));
                        return true;
                    }
                }
                _ => {
                    self.state = State::Garbage { start: self.at, at: self.at };
                    return true;
                }
            }
        }
        false
    }

    /// Whether the record that begins here is a line, and was framed. The first one is not asked: it says what records begin with.
    fn line(&mut self, envelope: bool) -> bool {
        let end = self.habits.typical().and_then(|_| object_of_a_line(&self.buffer, self.at, self.record_limit));
        let end = end.filter(|end| !envelope || !self.ways.between(&self.buffer, self.base, self.at..*end));
        if let Some(end) = end {
            self.frame(self.at, end);
            self.habits.fresh = false;
        }
        self.habits.by_line = end.is_some();
        self.habits.by_line
    }

    fn scan(&mut self, mut scan: Scan) -> bool {
        match scan.run(&self.buffer, self.records_at) {
            Scanned::Done => self.record(scan.start, scan.at),
            Scanned::Records if self.habits.bare && self.habits.is_typical(&self.buffer[..scan.at], scan.start) => {
                self.state = State::Record(Scan::new(scan.start, false, self.record_limit));
            }
            Scanned::Records => {
                self.at = scan.start;
                self.arrays.push(scan.stack.len() - 1);
                self.delimiter(scan.at - scan.start);
            }
            Scanned::More => {
                self.state = State::Record(scan);
                return false;
            }
            Scanned::Violation if !self.ended && self.buffer.len() - scan.at < LOOK_AHEAD => {
                self.state = State::Record(scan);
                return false;
            }
            Scanned::Violation => match self.resolve(&scan) {
                Some(border) => self.damage(scan.start, border),
                None => self.state = State::Garbage { start: scan.start, at: scan.at },
            },
        }
        true
    }

    /// A record without a flaw in its punctuation.
    fn record(&mut self, start: usize, end: usize) {
        if self.too_long.is_none() {
            self.habits.record(&self.buffer, start..end, !self.arrays.is_empty());
        } else {
            self.habits.lines = Some(false);
        }
        self.habits.by_line = matches!(self.buffer.get(end), Some(b'\r' | b'\n'));
        self.frame(start, end);
        self.habits.fresh = false;
    }

    /// What follows the records of an envelope is delimiter, up to its end or to where it is damaged.
    fn tail(&mut self, mut scan: Scan) -> bool {
        let scanned = scan.run(&self.buffer, self.records_at);
        self.at = scan.start;
        self.delimiter(scan.at - scan.start);
        scan.start = scan.at;
        match scanned {
            Scanned::More => {
                self.state = State::Tail(scan);
                false
            }
            _ => true,
        }
    }

    /// Where the damage ends that shows at `scan.at`, if the look-ahead shows it.
    fn resolve(&self, scan: &Scan) -> Option<usize> {
        let bytes = &self.buffer[..self.buffer.len().min(scan.at + LOOK_AHEAD)];
        let (start, at) = (scan.start, scan.at);
        let streamed_past = self.too_long.is_some() || at - start > self.record_limit;
        if !streamed_past {
            if let Some(end) = balanced_line(bytes, start, at) {
                return Some(end);
            }
            let border = first_line_brace(bytes, start, at).or_else(|| self.successor(bytes, start, at + 1));
            if border.is_some() {
                return border;
            }
        }
        if self.habits.are_lines() {
            return None;
        }
        if bytes.get(at) == Some(&b'{') && self.begins(bytes, start, at) {
            return Some(at);
        }
        if let Some(hidden) = brace_ending_string(bytes, &scan.last_string, start).filter(|brace| self.begins(bytes, start, *brace)) {
            return Some(hidden);
        }
        if streamed_past {
            return None;
        }
        let end = balance(bytes, start)?;
        if let Some(border) = self.successor(bytes, start, end) {
            return Some(border);
        }
        let follows = bytes[end..].iter().find(|byte| !is_space(**byte));
        let clear = end > at && matches!(follows, None | Some(b'{' | b',' | b']' | b'['));
        clear.then_some(end)
    }

    /// First place behind `start` where an object begins like a record of this stream: with the two keys that its first record
    /// began with. A record that was cut where a value is due has taken such an object for its own.
    fn successor(&self, bytes: &[u8], start: usize, until: usize) -> Option<usize> {
        let typical = self.habits.typical();
        let until = until.min(bytes.len());
        // Where the stream has no record yet: like the damaged one, or like the one behind it.
        let behind = || leading_keys(bytes, until.checked_sub(1).filter(|at| bytes[*at] == b'{')?);
        let wanted = typical.or_else(|| leading_keys(bytes, start)).or_else(behind)?;
        memchr::memchr_iter(b'{', bytes.get(start + 1..until)?)
            .map(|found| start + 1 + found)
            .find(|brace| self.may_follow(bytes, start, *brace) && leading_keys(bytes, *brace) == Some(wanted))
    }

    /// The same at the end of the stream: where there was no sound record in it, there is nothing that a value begins like.
    fn last_successor(&self, start: usize, end: usize) -> Option<usize> {
        let found = self.successor(&self.buffer, start, end)?;
        (self.habits.lines.is_some() || !stands_for_value(&self.buffer, start, found)).then_some(found)
    }

    /// Whether an object that begins like a record may be one, seen from where it stands: what is the value of a field or an element of a
    /// list is more likely a part of what was damaged, unless a record was cut just there. Where records are lines, that is not so.
    fn may_follow(&self, bytes: &[u8], start: usize, brace: usize) -> bool {
        let is_value = stands_for_value(bytes, start, brace);
        !self.habits.are_lines() || !is_value && ends_its_line(bytes, brace)
    }

    /// Whether a record begins at a brace, behind damage and not where a line or an element begins.
    fn begins(&self, bytes: &[u8], start: usize, brace: usize) -> bool {
        let typical = self.habits.typical().or_else(|| leading_keys(bytes, start));
        match typical.filter(|_| stands_for_value(bytes, start, brace)) {
            Some(typical) => self.may_follow(bytes, start, brace) && leading_keys(bytes, brace) == Some(typical),
            None => begins_record(bytes, brace),
        }
    }

    /// Goes on to the next place where a record begins, or where the array goes on.
    fn garbage(&mut self, start: usize, mut at: usize) -> bool {
        let in_array = !self.arrays.is_empty();
        if at == start
            && let Some(end) = scalar(&self.buffer, start, self.ended)
        {
            self.damage(start, end);
            return true;
        }
        if at == start && !self.ended && self.buffer.len() - start < LOOK_AHEAD {
            self.state = State::Garbage { start, at };
            return false;
        }
        while at < self.buffer.len() {
            let byte = self.buffer[at];
            let sees_enough = self.ended || self.buffer.len() - at >= LOOK_AHEAD;
            let border = match byte {
                b'{' if at > start => {
                    if !sees_enough {
                        break;
                    }
                    let bytes = &self.buffer[..self.buffer.len().min(at + LOOK_AHEAD)];
                    match line_begins(bytes, at, start) {
                        true => begins_record(bytes, at) || starts_empty_record(bytes, at, start),
                        false if self.habits.are_lines() => self.habits.is_typical(bytes, at) && self.may_follow(bytes, start, at),
                        false if in_array => begins_record(bytes, at) && after_comma(bytes, at, start),
                        false => self.begins(bytes, start, at),
                    }
                }
                b',' | b']' if in_array && at > start && self.too_long.is_none() => {
                    if !sees_enough {
                        break;
                    }
                    array_goes_on(&self.buffer, at)
                }
                _ => false,
            };
            if border {
                self.damage(start, at);
                return true;
            }
            at += 1;
        }
        self.state = State::Garbage { start, at };
        false
    }

    /// What is left of a record: the next one begins at the border, be that the beginning of a line or not.
    fn damage(&mut self, start: usize, border: usize) {
        self.frame(start, border);
        self.habits.fresh = true;
    }

    /// One range of a record or of garbage, white space at its end left to the delimiters.
    fn frame(&mut self, start: usize, border: usize) {
        let kept = self.buffer[start..border].iter().rposition(|byte| !is_space(*byte)).map_or(start, |last| start + last + 1);
        let in_array_tail = !self.arrays.is_empty() && self.buffer[start..kept].ends_with(b",") && self.too_long.is_none();
        let end = kept - usize::from(in_array_tail && kept - start > 1);
        let length = (end - start) as u64;
        match self.too_long.take() {
            Some(long) => {
                let total = self.base + end as u64 - long.offset;
                self.refuse_too_long(long.offset, total, long.raw);
            }
            None if end - start > self.record_limit => {
                let raw = Bytes::copy_from_slice(&self.buffer[start..start + self.record_limit]);
                self.refuse_too_long(self.base + start as u64, length, raw);
            }
            None => {
                self.records.push(start..end);
                self.coverage.records += length;
            }
        }
        self.at = end;
        self.state = State::Between;
    }

    fn refuse_too_long(&mut self, offset: u64, length: u64, raw: Bytes) {
        self.coverage.refused += length;
        let message = format!("{length} bytes, limits.record allows {}", self.record_limit);
        self.refused.push(Refused { code: RejectCode::RecordTooLarge, message, offset, length, raw });
    }

    fn delimiter(&mut self, count: usize) {
        self.at += count;
        self.coverage.delimiters += count as u64;
    }

    /// The stream is over: what is still open is its tail.
    fn finish(&mut self) {
        loop {
            let start = match std::mem::replace(&mut self.state, State::Between) {
                State::Between => break,
                // The end of an envelope may be missing: all of its records are there. An escape may be cut off there, too.
                State::Tail(_) => {
                    if self.end.is_none() {
                        self.delimiter(self.buffer.len() - self.at);
                    }
                    break;
                }
                State::Record(scan) => scan.start,
                State::Garbage { start, .. } => start,
            };
            let end = self.buffer.len();
            let border = match self.too_long {
                Some(_) => None,
                None => first_line_brace(&self.buffer, start, end).or_else(|| self.last_successor(start, end)),
            };
            match border {
                Some(border) => {
                    self.damage(start, border);
                    self.advance();
                }
                None if self.end.is_some() => {
                    self.at = start;
                    break;
                }
                None => {
                    self.frame(start, end);
                    self.advance();
                }
            }
        }
        if let Some(stop) = self.end.take() {
            self.refuse_tail(&stop);
        }
    }

    /// What a damaged or limited stream leaves unframed: one refused record, perhaps of no bytes.
    fn refuse_tail(&mut self, stop: &Stop) {
        let (code, message) = match stop {
            Stop::Corrupt(message) => (RejectCode::CorruptCodec, format!("{message}, after {} decoded bytes", self.coverage.decoded)),
            Stop::Limit(limit) => (RejectCode::DecompressionLimit, format!("the object decodes to more than {limit} bytes")),
            Stop::Io(error) => (RejectCode::CorruptCodec, error.to_string()),
        };
        let (offset, raw) = match self.too_long.take() {
            Some(long) => (long.offset, long.raw),
            None => {
                let rest = &self.buffer[self.at..];
                (self.base + self.at as u64, Bytes::copy_from_slice(&rest[..rest.len().min(self.record_limit)]))
            }
        };
        let length = self.coverage.decoded - offset;
        self.coverage.refused += length;
        self.refused.push(Refused { code, message, offset, length, raw });
        self.at = self.buffer.len();
    }

    /// Hands out the framed part of the buffer and keeps the rest.
    fn take_frames(&mut self) -> Frames {
        let open = match &self.state {
            State::Between => self.at,
            State::Record(scan) | State::Tail(scan) => scan.start,
            State::Garbage { start, .. } => *start,
        };
        let keep_from = self.stream_past(open).unwrap_or(open);
        let mut rest = Vec::with_capacity(self.buffer.len() - keep_from + if self.ended { 0 } else { self.block });
        rest.extend_from_slice(&self.buffer[keep_from..]);
        let mut framed = std::mem::replace(&mut self.buffer, rest);
        framed.truncate(keep_from);
        let base = self.base;
        self.base += keep_from as u64;
        self.at = self.at.saturating_sub(keep_from);
        match &mut self.state {
            State::Between => {}
            State::Record(scan) | State::Tail(scan) => scan.shift(keep_from),
            State::Garbage { start, at } => {
                *start = start.saturating_sub(keep_from);
                *at -= keep_from;
            }
        }
        Frames { bytes: framed.into(), base, records: std::mem::take(&mut self.records), refused: std::mem::take(&mut self.refused) }
    }

    /// Where the open record is longer than it may be: keeps its first bytes and lets go of all that was scanned.
    fn stream_past(&mut self, open: usize) -> Option<usize> {
        let at = match &mut self.state {
            State::Between | State::Tail(_) => return None,
            State::Record(scan) => {
                if scan.at - open > self.record_limit {
                    scan.envelope = None;
                }
                scan.at
            }
            State::Garbage { at, .. } => *at,
        };
        if self.too_long.is_none() {
            if at - open <= self.record_limit {
                return None;
            }
            let raw = Bytes::copy_from_slice(&self.buffer[open..open + self.record_limit]);
            self.too_long = Some(TooLong { offset: self.base + open as u64, raw });
        }
        self.at = at;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::local::codec;
    use std::io::Cursor;

    fn frames(bytes: &[u8], block: usize, limit: u64) -> (Vec<String>, Vec<Refused>) {
        let pointers = vec![vec!["result".to_owned(), "data".to_owned()]];
        let mut streams = codec::open(Box::new(Cursor::new(bytes.to_vec())), bytes.len() as u64, u64::MAX / 2, 1 << 20).unwrap();
        let mut framer = Framer::new(streams.remove(0), &pointers, limit).with_block(block);
        let (mut records, mut refused) = (Vec::new(), Vec::new());
        while let Some(frames) = framer.next_frames().unwrap() {
            records.extend(frames.records.into_iter().map(|range| String::from_utf8_lossy(&frames.bytes[range]).into_owned()));
            refused.extend(frames.refused);
        }
        assert!(framer.coverage().balances(), "{:?} in {:?}", framer.coverage(), String::from_utf8_lossy(bytes));
        (records, refused)
    }

    #[track_caller]
    fn check(bytes: &str, expected: &[&str]) {
        for block in [1, 2, 3, 7, 64, 1 << 20] {
            assert_eq!(frames(bytes.as_bytes(), block, 1 << 20).0, expected, "block {block}");
        }
    }

    #[test]
    fn every_form_of_delimiting() {
        check("{\"a\":1}{\"a\":2}", &["{\"a\":1}", "{\"a\":2}"]);
        check("\u{feff}{\"a\":1}\r\n\r\n {\"a\":\"}{\"}\n", &["{\"a\":1}", "{\"a\":\"}{\"}"]);
        check("[{\"a\":1}, {\"a\":2}]\n[]", &["{\"a\":1}", "{\"a\":2}"]);
        check("{\n  \"a\": {\n    \"b\": [1, 2]\n  }\n}\n{\n}\n", &["{\n  \"a\": {\n    \"b\": [1, 2]\n  }\n}", "{\n}"]);
        check("", &[]);
        check(" \n\t", &[]);
    }

    #[test]
    fn envelopes_give_their_records() {
        check("{\"result\":{\"data\":[{\"a\":1},{\"a\":2}],\"toVersion\":\"0\"},\"jsonrpc\":\"2.0\"}", &["{\"a\":1}", "{\"a\":2}"]);
        check("{\"jsonrpc\":\"2.0\",\"result\":{\"x\":{\"data\":[1]},\"data\":[]}}{\"a\":1}", &["{\"a\":1}"]);
        check("{\"result\":{\"other\":[{\"a\":1}]}}", &["{\"result\":{\"other\":[{\"a\":1}]}}"]);
        check("{\"data\":[{\"a\":1}]}", &["{\"data\":[{\"a\":1}]}"]);
    }

    #[test]
    fn damage_costs_itself_only() {
        check("{\"a\":1}\n{\"a\":2,\"b\":\n{\"a\":3}\n{\"a\":4}\n", &["{\"a\":1}", "{\"a\":2,\"b\":", "{\"a\":3}", "{\"a\":4}"]);
        check("{\"a\":\"cut\n{\"a\":3}\n", &["{\"a\":\"cut", "{\"a\":3}"]);
        check("{\"a\":1}xyz\n{\"a\":2}", &["{\"a\":1}", "xyz", "{\"a\":2}"]);
        check("{\"a\":1}}{\"a\":2}", &["{\"a\":1}", "}", "{\"a\":2}"]);
        check("{\"a\":nope}{\"a\":2}", &["{\"a\":nope}", "{\"a\":2}"]);
        check("{\"a\":1,}{\"a\":}{\"a\":2}", &["{\"a\":1,}", "{\"a\":}", "{\"a\":2}"]);
        check("{\"a\":1,\"b\":2{\"a\":3,\"b\":4}{\"a\":5}", &["{\"a\":1,\"b\":2", "{\"a\":3,\"b\":4}", "{\"a\":5}"]);
        check("{\"a\":1,\"b\":\"cu{\"a\":3,\"b\":4}{\"a\":5}", &["{\"a\":1,\"b\":\"cu", "{\"a\":3,\"b\":4}", "{\"a\":5}"]);
        check("{\"a\":1,\"b\":{\"a\":3,\"b\":4}{\"a\":5,\"b\":6}", &["{\"a\":1,\"b\":", "{\"a\":3,\"b\":4}", "{\"a\":5,\"b\":6}"]);
        check("{\"a\":\"say \"hi\" to\",\"b\":1}\n{\"a\":2}\n", &["{\"a\":\"say \"hi\" to\",\"b\":1}", "{\"a\":2}"]);
        check("{\"a\":1 \"b\":2}{\"a\":2}", &["{\"a\":1 \"b\":2}", "{\"a\":2}"]);
        check("{\"a\":1}\n{\"a\":2,\"b\":[1,{", &["{\"a\":1}", "{\"a\":2,\"b\":[1,{"]);
        check("[{\"a\":1},oops,{\"a\":2}]", &["{\"a\":1}", "oops", "{\"a\":2}"]);
        check("[{\"a\":1},{\"a\":x},[3],7,{\"a\":2}]{\"a\":9}", &["{\"a\":1}", "{\"a\":x}", "[3]", "7", "{\"a\":2}", "{\"a\":9}"]);
    }

    #[test]
    fn scalars_and_runs_of_garbage() {
        check("42\n\"text\"\n{\"a\":1}null", &["42", "\"text\"", "{\"a\":1}", "null"]);
        check("foo bar\nbaz\n{\"a\":1}\n", &["foo bar\nbaz", "{\"a\":1}"]);
        check("\0\0\0{\"a\":1}", &["\0\0\0", "{\"a\":1}"]);
    }

    #[test]
    fn a_form_feed_is_garbage_like_any_other() {
        check("{\"a\":1}\n\u{c}\n{\"a\":2}\u{c}", &["{\"a\":1}", "\u{c}", "{\"a\":2}", "\u{c}"]);
    }

    #[test]
    fn an_envelope_may_end_anywhere_behind_its_records() {
        for end in ["", "]", "],", "],\"toVersion\":\"0", "],\"toVersion\":\"\\", "],\"toVersion\":\"0\"}", "]}x"] {
            let text = format!("{{\"result\":{{\"data\":[{{\"a\":1}},{{\"a\":2}}{end}");
            let expected: &[&str] = if end.ends_with('x') { &["{\"a\":1}", "{\"a\":2}", "x"] } else { &["{\"a\":1}", "{\"a\":2}"] };
            check(&text, expected);
        }
    }

    #[test]
    fn a_cut_element_keeps_its_array() {
        check(
            "[{\"id\":0,\"speed\",{\"id\":1,\"speed\":2},{\"id\":3,\"speed\":4}]",
            &["{\"id\":0,\"speed\"", "{\"id\":1,\"speed\":2}", "{\"id\":3,\"speed\":4}"],
        );
    }

    #[test]
    fn a_head_longer_than_a_record_is_no_envelope() {
        let text = format!("{{\"result\":{{\"junk\":\"{}\",\"data\":[{{\"a\":1}}]}}}}\n{{\"a\":2}}", "x".repeat(3000));
        let key = format!("{{\"{}\":1}}\n{{\"a\":2}}", "k".repeat(3000));
        for text in [text, key] {
            for block in [1, 64, 1000, 1 << 20] {
                let (records, refused) = frames(text.as_bytes(), block, 1000);
                assert_eq!((records, refused.len()), (vec!["{\"a\":2}".to_owned()], 1), "block {block}");
                assert_eq!(refused[0].length as usize, text.find('\n').unwrap());
            }
        }
    }

    #[test]
    fn long_records_are_streamed_past() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
        let text = format!("{{\"a\":1}}{long}{{\"a\":2}}\n");
        for block in [17, 4096, 1 << 20] {
            let (records, refused) = frames(text.as_bytes(), block, 1000);
            assert_eq!(records, ["{\"a\":1}", "{\"a\":2}"]);
            assert_eq!((refused[0].offset, refused[0].length), (7, long.len() as u64));
            assert_eq!(refused[0].raw, long.as_bytes()[..1000]);
            assert_eq!(refused.len(), 1);
        }
    }
}
