//! The quick parser: objects of a feed, into the same tape as the strict parser's.
//!
//! It accepts only what the strict parser accepts, and leaves the same nodes; whatever is unusual (damage, a number of more than
//! 18 digits, a name that stands twice, an object of very many fields) it leaves to the strict one, which knows what to say. A
//! feed repeats the order of its fields, so the name that followed last time is compared with the bytes before any look-up; where
//! optional fields are left out, the few names behind it are tried too. Strings are searched sixteen bytes at a time. The bytes
//! are known to be UTF-8.
//!
//! Whoever knows what to make of a field's value may take it before it is parsed: then it is not on the tape at all.

use std::collections::HashMap;
use std::sync::Arc;

use super::parser::Parser;
use super::{ABSENT, IN_SOURCE, Kind, Node, Tape};

/// Optional fields in a row that may be missing before a name must be looked up.
const SKIPPED: usize = 4;
/// Objects within a record that have more fields are left to the strict parser, and so are records with more unknown ones.
const FIELDS: usize = 48;
/// Digits that always fit in 64 bits.
const DIGITS: usize = 18;
const DEPTH: usize = 64;
/// Digits that are a double as a whole number.
const EXACT_DIGITS: usize = 15;
/// Powers of ten that are, as far as so many digits can stand behind a point.
const TENS: [f64; EXACT_DIGITS + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The names that are looked for in an object, and what usually follows them.
#[derive(Debug, Clone)]
pub struct Names {
    /// As they stand in a record; `None` for one that must be escaped there, and so may stand in several ways.
    quoted: Arc<[Option<Quoted>]>,
    index: Arc<HashMap<Box<str>, u32>>,
    /// For each name the one that followed; at the end, the first of an object.
    follows: Vec<u32>,
}

/// A name in its quotes.
#[derive(Debug)]
pub struct Quoted {
    bytes: Box<[u8]>,
    /// Its first bytes, and which bits of them are its own: four words are compared sooner than a call compares a few bytes.
    words: [u64; 4],
    masks: [u64; 4],
}

impl Quoted {
    /// `None` for a name that must be escaped, and so may stand in several ways.
    pub fn of(name: &str) -> Option<Self> {
        let is_plain = !name.bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
        is_plain.then(|| Self::new(name))
    }

    fn new(name: &str) -> Self {
        let bytes = format!("\"{name}\"").into_bytes();
        let (mut words, mut masks) = ([0; 4], [0; 4]);
        for (at, byte) in bytes.iter().enumerate().take(32) {
            words[at / 8] |= u64::from(*byte) << (at % 8 * 8);
            masks[at / 8] |= 0xff << (at % 8 * 8);
        }
        Self { bytes: bytes.into(), words, masks }
    }

    /// Bytes with both quotes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub fn begins(&self, text: &[u8]) -> bool {
        let Some(first) = text.first_chunk::<32>().filter(|_| self.bytes.len() <= 32) else {
            return text.starts_with(&self.bytes);
        };
        let words = first.as_chunks::<8>().0;
        let differs = |at: usize| (u64::from_le_bytes(words[at]) ^ self.words[at]) & self.masks[at];
        // Names that are not alike mostly begin in other ways.
        differs(0) == 0 && differs(1) | differs(2) | differs(3) == 0
    }
}

impl Names {
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut index: HashMap<Box<str>, u32> = HashMap::new();
        let mut quoted: Vec<Option<Quoted>> = Vec::new();
        for name in names {
            if !index.contains_key(name) {
                index.insert(name.into(), quoted.len() as u32);
                quoted.push(Quoted::of(name));
            }
        }
        // As if they came in the order given, until a record shows another one.
        let follows = (1..=quoted.len() as u32).chain([0]).collect();
        Self { quoted: quoted.into(), index: Arc::new(index), follows }
    }

    pub fn len(&self) -> usize {
        self.quoted.len()
    }

    pub fn is_empty(&self) -> bool {
        self.quoted.is_empty()
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|at| *at as usize)
    }

    /// The name that the bytes begin with, if it is one of those that may follow, and how long it is with its quotes.
    #[inline]
    fn predicted(&self, previous: usize, bytes: &[u8]) -> Option<(usize, usize)> {
        let mut at = previous;
        for _ in 0..SKIPPED {
            at = *self.follows.get(at)? as usize;
            if let Some(quoted) = self.quoted.get(at)?
                && quoted.begins(bytes)
            {
                return Some((at, quoted.bytes.len()));
            }
        }
        None
    }
}

/// Where a value would be noted that was taken, and so is not on the tape.
pub const TAKEN: u32 = u32::MAX - 1;

/// What was found in an object.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub root: u32,
    /// Whether it has fields of other names.
    pub unknown: bool,
}

impl Tape {
    /// Parses `source[range]`, which is UTF-8, as one object, and writes the node of each name's value to `slots`.
    /// `None` leaves the tape as it was; the strict parser is to be asked.
    ///
    /// `take` is offered each name's value first: which name, the source up to the record's end, and where in it the value begins. It says
    /// where the value ends if it took one that the strict parser would accept ([`TAKEN`]).
    pub fn parse_quick(
        &mut self,
        source: &[u8],
        range: std::ops::Range<usize>,
        max_depth: usize,
        names: &mut Names,
        slots: &mut [u32],
        take: impl FnMut(usize, &[u8], usize) -> Option<usize>,
    ) -> Option<Found> {
        slots.fill(ABSENT);
        let bytes = source.get(..range.end)?;
        let (nodes, text) = (self.nodes.len(), self.text.len());
        let mut quick = Quick { tape: self, bytes, at: range.start, max_depth: max_depth.min(DEPTH) };
        let unknown = quick.record(names, slots, take).filter(|_| quick.at == bytes.len());
        if unknown.is_none() {
            self.nodes.truncate(nodes);
            self.text.truncate(text);
        }
        unknown.map(|unknown| Found { root: nodes as u32, unknown })
    }

    /// Forgets all documents.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.text.clear();
    }
}

struct Quick<'t, 'b> {
    tape: &'t mut Tape,
    bytes: &'b [u8],
    at: usize,
    max_depth: usize,
}

impl Quick<'_, '_> {
    /// Whether the record has unknown fields.
    fn record(&mut self, names: &mut Names, slots: &mut [u32], mut take: impl FnMut(usize, &[u8], usize) -> Option<usize>) -> Option<bool> {
        let root = self.open(Kind::Object, 0)?;
        let mut unknown: Vec<u32> = Vec::new();
        let mut previous = names.len();
        let mut more = self.first(b'}')?;
        while more {
            let (key, start) = (self.tape.nodes.len() as u32, self.at);
            match names.predicted(previous, self.bytes.get(self.at..)?) {
                Some((name, length)) => {
                    self.at += length;
                    previous = name;
                    self.field(name, slots, &mut take, |quick| quick.push_to(Kind::String, start, start + length, IN_SOURCE))?;
                }
                None => {
                    self.string()?;
                    match names.position(self.tape.value(self.bytes, key).as_str()) {
                        Some(name) => {
                            names.follows[previous] = name as u32;
                            previous = name;
                            let node = self.tape.nodes.pop()?;
                            self.field(name, slots, &mut take, |quick| quick.tape.nodes.push(node))?;
                        }
                        None => {
                            self.unlike(&unknown, key)?;
                            unknown.push(key);
                            self.colon()?;
                            self.value(1)?;
                        }
                    }
                }
            }
            more = self.next(b'}')?;
        }
        self.close(root);
        Some(!unknown.is_empty())
    }

    /// Behind a known name, which `key` puts on the tape if nobody takes its value.
    #[inline]
    fn field(
        &mut self,
        name: usize,
        slots: &mut [u32],
        take: &mut impl FnMut(usize, &[u8], usize) -> Option<usize>,
        key: impl FnOnce(&mut Self),
    ) -> Option<()> {
        self.colon()?;
        let slot = slots.get_mut(name).filter(|slot| **slot == ABSENT)?;
        match take(name, self.bytes, self.at) {
            Some(end) => {
                *slot = TAKEN;
                self.at = end;
            }
            None => {
                *slot = self.tape.nodes.len() as u32 + 1;
                key(self);
                self.value(1)?;
            }
        }
        Some(())
    }

    /// A name that is not among these.
    fn unlike(&self, others: &[u32], key: u32) -> Option<()> {
        if others.len() >= FIELDS {
            return None;
        }
        let text = |node: u32| self.tape.value(self.bytes, node).as_bytes();
        let name = text(key);
        others.iter().all(|other| text(*other) != name).then_some(())
    }

    fn open(&mut self, kind: Kind, depth: usize) -> Option<usize> {
        let bracket = if kind == Kind::Object { b'{' } else { b'[' };
        if depth >= self.max_depth || *self.bytes.get(self.at)? != bracket {
            return None;
        }
        let node = self.tape.nodes.len();
        let start = self.at;
        self.at += 1;
        self.push(kind, start, IN_SOURCE);
        Some(node)
    }

    fn close(&mut self, node: usize) {
        let next = self.tape.nodes.len() as u32;
        if let Some(node) = self.tape.nodes.get_mut(node) {
            node.end = self.at as u32;
            node.next = next;
        }
    }

    /// Behind an opening bracket: whether something is in there.
    fn first(&mut self, closing: u8) -> Option<bool> {
        if self.token()? == closing {
            self.at += 1;
            return Some(false);
        }
        Some(true)
    }

    /// Behind an element: whether another one follows.
    fn next(&mut self, closing: u8) -> Option<bool> {
        let byte = self.token()?;
        self.at += 1;
        if byte == b',' {
            self.token()?;
            return Some(true);
        }
        (byte == closing).then_some(false)
    }

    fn colon(&mut self) -> Option<()> {
        if self.token()? != b':' {
            return None;
        }
        self.at += 1;
        self.token().map(|_| ())
    }

    /// The next byte that is no white space.
    fn token(&mut self) -> Option<u8> {
        let (byte, at) = token(self.bytes, self.at)?;
        self.at = at;
        Some(byte)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match *self.bytes.get(self.at)? {
            b'"' => self.string(),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.literal(b"true", Kind::Bool(true)),
            b'f' => self.literal(b"false", Kind::Bool(false)),
            b'n' => self.literal(b"null", Kind::Null),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        let object = self.open(Kind::Object, depth)?;
        let mut more = self.first(b'}')?;
        let mut fields = 0;
        while more {
            let key = self.tape.nodes.len() as u32;
            if *self.bytes.get(self.at)? != b'"' {
                return None;
            }
            self.string()?;
            if fields > 0 {
                self.differs(object as u32, key, fields)?;
            }
            fields += 1;
            self.colon()?;
            self.value(depth + 1)?;
            more = self.next(b'}')?;
        }
        self.close(object);
        Some(())
    }

    /// A name that its object, which is still open, does not have yet.
    fn differs(&self, object: u32, key: u32, fields: usize) -> Option<()> {
        if fields >= FIELDS {
            return None;
        }
        let text = |node: u32| self.tape.value(self.bytes, node).as_bytes();
        let name = text(key);
        let mut other = object + 1;
        while other < key {
            if text(other) == name {
                return None;
            }
            other = self.tape.nodes.get(other as usize + 1)?.next;
        }
        Some(())
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        let array = self.open(Kind::Array, depth)?;
        let mut more = self.first(b']')?;
        while more {
            self.value(depth + 1)?;
            more = self.next(b']')?;
        }
        self.close(array);
        Some(())
    }

    fn literal(&mut self, word: &[u8], kind: Kind) -> Option<()> {
        if !self.bytes.get(self.at..)?.starts_with(word) {
            return None;
        }
        let start = self.at;
        self.at += word.len();
        self.push(kind, start, IN_SOURCE);
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let (kind, end) = number(self.bytes, self.at)?;
        let start = std::mem::replace(&mut self.at, end);
        self.push(kind, start, IN_SOURCE);
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let start = self.at;
        if *self.bytes.get(start)? != b'"' {
            return None;
        }
        let end = find_special(self.bytes, start + 1)?;
        match self.bytes[end] {
            b'"' => {
                self.at = end + 1;
                self.push(Kind::String, start, IN_SOURCE);
                Some(())
            }
            b'\\' => self.escaped(start),
            _ => None,
        }
    }

    /// Escapes are the strict parser's.
    fn escaped(&mut self, start: usize) -> Option<()> {
        // What it was in when it last gave up is none of this record's business.
        self.tape.stack.clear();
        let mut strict = Parser { tape: self.tape, bytes: self.bytes, base: start, at: start, max_depth: 0, soft: None };
        let read = strict.string().is_ok() && strict.soft.is_none();
        self.at = strict.at;
        read.then_some(())
    }

    fn push(&mut self, kind: Kind, start: usize, text: (u32, u32)) {
        self.push_to(kind, start, self.at, text);
    }

    fn push_to(&mut self, kind: Kind, start: usize, end: usize, text: (u32, u32)) {
        let next = self.tape.nodes.len() as u32 + 1;
        self.tape.nodes.push(Node { kind, start: start as u32, end: end as u32, next, text });
    }
}

/// The next byte that is no white space, and where it stands.
#[inline]
pub fn token(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        let byte = *bytes.get(at)?;
        if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Some((byte, at));
        }
        at += 1;
    }
}

/// The number that begins here, unless it is unusual, and where it ends.
#[inline]
pub fn number(bytes: &[u8], start: usize) -> Option<(Kind, usize)> {
    let negative = bytes.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let (whole, end) = digits(bytes, first, 0)?;
    if end - first > DIGITS || (end - first > 1 && bytes.get(first) == Some(&b'0')) {
        return None;
    }
    match bytes.get(end) {
        Some(b'.' | b'e' | b'E') => fraction(bytes, start, first, (whole, end)),
        _ if negative && whole == 0 => Some((Kind::Float(-0.0), end)),
        _ => Some((Kind::Int(if negative { -whole } else { whole }), end)),
    }
}

/// At least one digit, read on from `number`; their value is of no use where they are more than [`DIGITS`].
#[inline]
fn digits(bytes: &[u8], start: usize, mut number: i64) -> Option<(i64, usize)> {
    let mut at = start;
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number.wrapping_mul(10).wrapping_add(i64::from(digit));
        at += 1;
    }
    (at > start).then_some((number, at))
}

fn fraction(bytes: &[u8], start: usize, first: usize, (whole, point): (i64, usize)) -> Option<(Kind, usize)> {
    let (mut at, mut all) = (point, whole);
    if bytes.get(at) == Some(&b'.') {
        (all, at) = digits(bytes, at + 1, whole)?;
    }
    // Both are doubles, and so is what they stand for, rounded once.
    let behind = at - point;
    if !matches!(bytes.get(at), Some(b'e' | b'E')) && at - first <= EXACT_DIGITS + 1 {
        let float = all as f64 / TENS.get(behind.checked_sub(1)?)?;
        return Some((Kind::Float(if first > start { -float } else { float }), at));
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        (_, at) = digits(bytes, at, 0)?;
    }
    let text = std::str::from_utf8(bytes.get(start..at)?).ok()?;
    text.parse::<f64>().ok().filter(|float| float.is_finite()).map(|float| (Kind::Float(float), at))
}

/// The text between the quotes that begins here, where it has no escape, and where its closing quote stands.
#[inline]
pub fn plain_text(bytes: &[u8], start: usize) -> Option<(&[u8], usize)> {
    if *bytes.get(start)? != b'"' {
        return None;
    }
    let end = find_special(bytes, start + 1).filter(|end| bytes[*end] == b'"')?;
    Some((&bytes[start + 1..end], end))
}

/// The next quote, backslash or control character.
#[inline]
pub fn find_special(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    #[cfg(target_arch = "x86_64")]
    while let Some(sixteen) = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        let found = specials_of(sixteen);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += 16;
    }
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let found = specials(u64::from_le_bytes(*eight));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).map(|found| at + found)
}

/// A bit for each byte that is a quote, a backslash or a control character.
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "framing and parsing look at every byte of every string; docs/performance.md has what this brought, with its neighbours"
)]
fn specials_of(sixteen: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_max_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8};
    // SAFETY: every x86-64 processor has SSE2, and sixteen bytes are read where sixteen bytes are; the load needs no alignment.
    unsafe {
        let bytes = _mm_loadu_si128(sixteen.as_ptr().cast());
        let (quote, backslash, control) = (_mm_set1_epi8(0x22), _mm_set1_epi8(0x5c), _mm_set1_epi8(0x1f));
        let controls = _mm_cmpeq_epi8(_mm_max_epu8(bytes, control), control);
        let marks = _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash));
        _mm_movemask_epi8(_mm_or_si128(marks, controls)).cast_unsigned()
    }
}

/// The high bit of each byte that is a quote, a backslash or a control character; only the lowest one set is to be trusted.
fn specials(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (zero(eight ^ (ONES * u64::from(b'"'))) | zero(eight ^ (ONES * u64::from(b'\\'))) | control) & HIGH
}

#[cfg(test)]
mod tests {
    use super::{Quoted, find_special};

    #[test]
    fn a_name_begins_what_it_is_a_prefix_of() {
        for length in 0..40 {
            let name = "n".repeat(length);
            let quoted = Quoted::new(&name);
            for more in [0, 1, 40] {
                let text = format!("\"{name}\"{}", ":".repeat(more));
                assert!(quoted.begins(text.as_bytes()), "{text}");
                for at in 0..length + 2 {
                    let mut other = text.clone().into_bytes();
                    other[at] ^= 1;
                    assert!(!quoted.begins(&other), "{text} with another byte at {at}");
                    assert!(!quoted.begins(&text.as_bytes()[..at]), "{text} cut at {at}");
                }
            }
        }
    }

    #[test]
    fn the_first_special_byte_is_found_wherever_it_stands() {
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        for byte in 0..=u8::MAX {
            for length in 0..40 {
                for at in 0..length {
                    let mut bytes = vec![b'a'; length];
                    (bytes[length - 1], bytes[at]) = (b'"', byte);
                    for from in 0..=length {
                        let expected = bytes[from..].iter().position(special).map(|found| from + found);
                        assert_eq!(find_special(&bytes, from), expected, "{byte} at {at} of {length}, from {from}");
                    }
                }
            }
        }
    }
}
