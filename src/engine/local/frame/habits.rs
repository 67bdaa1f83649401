//! What the records of a stream have in common so far: how they begin, and whether each is a line of its own.

use std::ops::Range;

use super::border::{is_space, leading_keys};

#[derive(Debug)]
pub(super) struct Habits {
    /// The first two keys of the first record.
    typical: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether that record was no element of an array.
    pub(super) bare: bool,
    /// Whether the record before was followed by the end of a line.
    pub(super) by_line: bool,
    /// Whether every record so far was a line of its own; `None` before the first.
    pub(super) lines: Option<bool>,
    /// Whether a line has begun since the last record.
    pub(super) fresh: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self { typical: None, bare: false, by_line: false, lines: None, fresh: true }
    }
}

impl Habits {
    /// A byte that is no part of a record, or the first one of what is to be one.
    pub(super) fn between(&mut self, byte: u8) {
        self.fresh |= byte == b'\n';
        if !self.fresh && !is_space(byte) && self.lines == Some(true) {
            self.lines = Some(false);
        }
    }

    /// A record without a flaw in its punctuation.
    pub(super) fn record(&mut self, bytes: &[u8], record: Range<usize>, in_array: bool) {
        if self.typical.is_none() {
            let keys = leading_keys(bytes, record.start);
            self.typical = keys.map(|(first, second)| (first.to_vec(), second.to_vec()));
            self.bare = !in_array;
        }
        let lines = self.lines.unwrap_or(self.fresh && !in_array);
        self.lines = Some(lines && memchr::memchr(b'\n', &bytes[record]).is_none());
    }

    pub(super) fn typical(&self) -> Option<(&[u8], &[u8])> {
        self.typical.as_ref().map(|(first, second)| (first.as_slice(), second.as_slice()))
    }

    pub(super) fn is_typical(&self, bytes: &[u8], brace: usize) -> bool {
        self.typical.is_some() && leading_keys(bytes, brace) == self.typical()
    }

    pub(super) fn are_lines(&self) -> bool {
        self.lines == Some(true)
    }
}
