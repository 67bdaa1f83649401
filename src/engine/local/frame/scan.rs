//! The resumable scan of one record: JSON's punctuation, not its literals.

use std::ops::Range;

use super::border::is_punctuation;

/// More open brackets than this are not a record.
const MAX_OPEN: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Value,
    /// After `[`.
    ValueOrEnd,
    AfterValue,
    /// After `{`.
    KeyOrEnd,
    Key,
    Colon,
}

/// The resumable scan of one record, or of the tail of an envelope.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) start: usize,
    pub(super) at: usize,
    pub(super) stack: Vec<u8>,
    pub(super) expect: Expect,
    /// Inside of a literal: its first byte was where a value is due.
    pub(super) in_literal: bool,
    /// Start of the string being read.
    pub(super) string: Option<usize>,
    /// Range of the last string, quotes included.
    pub(super) last_string: Range<usize>,
    /// How many keys of `records_at` this path of keys has matched, and whether the current key is the next one.
    pub(super) envelope: Option<Envelope>,
    /// The head of an envelope is no longer than a record may be.
    pub(super) head_limit: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    pub(super) matched: usize,
    pub(super) on_key: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    More,
    Done,
    /// The array of an envelope opened here.
    Records,
    Violation,
}

impl Scan {
    pub(super) fn new(start: usize, envelope: bool, head_limit: usize) -> Self {
        Self {
            start,
            at: start,
            stack: Vec::new(),
            expect: Expect::Value,
            in_literal: false,
            string: None,
            last_string: 0..0,
            envelope: envelope.then_some(Envelope { matched: 0, on_key: false }),
            head_limit,
        }
    }

    /// What follows the array of an envelope: `depth` objects are still open.
    pub(super) fn tail(start: usize, depth: usize) -> Self {
        let mut scan = Self::new(start, false, 0);
        scan.stack = vec![b'{'; depth];
        scan.expect = Expect::AfterValue;
        scan
    }

    pub(super) fn shift(&mut self, by: usize) {
        self.start = self.start.saturating_sub(by);
        self.at -= by;
        self.string = self.string.map(|start| start.saturating_sub(by));
        self.last_string = self.last_string.start.saturating_sub(by)..self.last_string.end.saturating_sub(by);
    }

    pub(super) fn run(&mut self, bytes: &[u8], records_at: &[Vec<String>]) -> Scanned {
        while self.at < bytes.len() {
            if self.string.is_some() {
                match self.finish_string(bytes, records_at) {
                    Some(scanned) => return scanned,
                    None => continue,
                }
            }
            let byte = bytes[self.at];
            self.in_literal &= !is_punctuation(byte);
            let step = match byte {
                b' ' | b'\t' | b'\n' | b'\r' => None,
                b'"' => self.begin_string(),
                b'{' | b'[' => self.open(byte, records_at),
                b'}' | b']' => self.close(byte),
                b',' => self.comma(),
                b':' if self.expect == Expect::Colon => {
                    self.expect = Expect::Value;
                    None
                }
                b':' => Some(Scanned::Violation),
                _ => self.bare(bytes),
            };
            match step {
                Some(Scanned::Violation) => return Scanned::Violation,
                Some(other) => {
                    self.at += 1;
                    return other;
                }
                None => self.at += 1,
            }
        }
        Scanned::More
    }

    pub(super) fn begin_string(&mut self) -> Option<Scanned> {
        match self.expect {
            Expect::AfterValue | Expect::Colon => Some(Scanned::Violation),
            _ => {
                self.string = Some(self.at);
                None
            }
        }
    }

    /// `None` to go on with the next byte.
    pub(super) fn finish_string(&mut self, bytes: &[u8], records_at: &[Vec<String>]) -> Option<Scanned> {
        let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', &bytes[self.at..]) else {
            self.at = bytes.len();
            return Some(Scanned::More);
        };
        let at = self.at + found;
        match bytes[at] {
            b'\n' => {
                self.at = at;
                Some(Scanned::Violation)
            }
            b'\\' if at + 1 >= bytes.len() => {
                self.at = at;
                Some(Scanned::More)
            }
            // A line end is no escape: it is what follows a cut.
            b'\\' if bytes[at + 1] == b'\n' => {
                self.at = at + 1;
                Some(Scanned::Violation)
            }
            b'\\' => {
                self.at = at + 2;
                None
            }
            _ => {
                self.last_string = self.string.take().unwrap_or(at)..at + 1;
                self.at = at + 1;
                match self.expect {
                    Expect::Key | Expect::KeyOrEnd => {
                        self.expect = Expect::Colon;
                        self.match_key(bytes, records_at);
                    }
                    _ => self.expect = Expect::AfterValue,
                }
                None
            }
        }
    }

    pub(super) fn match_key(&mut self, bytes: &[u8], records_at: &[Vec<String>]) {
        let Some(envelope) = &mut self.envelope else { return };
        envelope.on_key = false;
        if self.stack.len() != envelope.matched + 1 {
            return;
        }
        let Some(key) = bytes.get(self.last_string.start + 1..self.last_string.end - 1) else { return };
        envelope.on_key = records_at.iter().any(|pointer| pointer.get(envelope.matched).is_some_and(|token| token.as_bytes() == key));
    }

    pub(super) fn open(&mut self, byte: u8, records_at: &[Vec<String>]) -> Option<Scanned> {
        if !matches!(self.expect, Expect::Value | Expect::ValueOrEnd) || self.stack.len() >= MAX_OPEN {
            return Some(Scanned::Violation);
        }
        self.stack.push(byte);
        self.expect = if byte == b'{' { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
        if let Some(envelope) = &mut self.envelope
            && envelope.on_key
        {
            envelope.on_key = false;
            let depth = envelope.matched + 1;
            let complete = records_at.iter().any(|pointer| pointer.len() == depth);
            match byte {
                b'[' if complete && self.at - self.start <= self.head_limit => return Some(Scanned::Records),
                b'{' => envelope.matched = depth,
                _ => {}
            }
        }
        None
    }

    pub(super) fn close(&mut self, byte: u8) -> Option<Scanned> {
        let (open, empty) = if byte == b'}' { (b'{', Expect::KeyOrEnd) } else { (b'[', Expect::ValueOrEnd) };
        if self.stack.last() != Some(&open) || !(self.expect == Expect::AfterValue || self.expect == empty) {
            return Some(Scanned::Violation);
        }
        self.stack.pop();
        self.expect = Expect::AfterValue;
        if let Some(envelope) = &mut self.envelope {
            envelope.matched = envelope.matched.min(self.stack.len().saturating_sub(1));
            envelope.on_key = false;
        }
        self.stack.is_empty().then_some(Scanned::Done)
    }

    pub(super) fn comma(&mut self) -> Option<Scanned> {
        match (self.expect, self.stack.last()) {
            (Expect::AfterValue, Some(b'{')) => self.expect = Expect::Key,
            (Expect::AfterValue, Some(b'[')) => self.expect = Expect::Value,
            _ => return Some(Scanned::Violation),
        }
        None
    }

    /// A literal, or what stands where one is due: up to the next punctuation, which may lie beyond the buffer.
    pub(super) fn bare(&mut self, bytes: &[u8]) -> Option<Scanned> {
        if !self.in_literal && !matches!(self.expect, Expect::Value | Expect::ValueOrEnd) {
            return Some(Scanned::Violation);
        }
        let length = bytes[self.at..].iter().position(|byte| is_punctuation(*byte)).unwrap_or(bytes.len() - self.at);
        self.at += length.saturating_sub(1);
        self.in_literal = true;
        self.expect = Expect::AfterValue;
        None
    }
}
