//! Strict JSON (RFC 8259) as a flat tape that keeps positions.
//!
//! One [`Tape`] serves many documents, so a chunk of records costs a handful of allocations. Nodes lie in document order;
//! a container's `next` skips its subtree. Strings without escapes are slices of the source; the others are unescaped
//! into the tape's own text. Parsing is iterative (no stack to overflow), goes on to the end of the document even where a
//! lone surrogate, a duplicate key or the nesting limit already spoils it, and reports the gravest finding:
//! a syntax error first, then unicode, then nesting, then duplicates. UTF-8 is checked before parsing.

use std::collections::HashSet;
use std::fmt::Write as _;

const SMALL_OBJECT: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    /// An integer literal within 64 bits.
    Int(i64),
    /// An integer beyond 64 bits; the nearest double, infinite where it is beyond doubles too.
    BigInt(f64),
    /// A literal with fraction or exponent.
    Float(f64),
    String,
    Array,
    Object,
}

impl Kind {
    /// JSON Schema's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool(_) => "boolean",
            Kind::Int(_) | Kind::BigInt(_) => "integer",
            Kind::Float(_) => "number",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::Object => "object",
        }
    }

    pub fn is_integral(self) -> bool {
        match self {
            Kind::Int(_) | Kind::BigInt(_) => true,
            Kind::Float(float) => float.is_finite() && float.fract() == 0.0,
            _ => false,
        }
    }

    pub fn as_f64(self) -> Option<f64> {
        match self {
            Kind::Int(int) => Some(int as f64),
            Kind::BigInt(float) | Kind::Float(float) => Some(float),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// Byte range in the source, quotes and brackets included.
    start: u32,
    end: u32,
    /// Index of the node after this one's subtree.
    next: u32,
    /// Strings with escapes: range in `Tape::text`. Others: `u32::MAX`.
    text: (u32, u32),
}

const IN_SOURCE: (u32, u32) = (u32::MAX, 0);

/// Parsed documents over one source buffer.
#[derive(Debug, Default)]
pub struct Tape {
    nodes: Vec<Node>,
    text: String,
    stack: Vec<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    node: u32,
    /// Elements or entries seen so far.
    count: u32,
    is_object: bool,
    /// Node of the key whose value is being read.
    key: u32,
}

/// Why a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The text ends inside of the document.
    Truncated,
    Malformed,
    InvalidUtf8,
    LoneSurrogate,
    TooDeep,
    DuplicateKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    pub flaw: Flaw,
    /// Byte in the source at which it shows.
    pub at: usize,
    pub path: String,
    pub message: String,
}

type Step<T> = Result<T, (usize, String)>;

impl Tape {
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses `source[range]` as exactly one document and returns its root node.
    pub fn parse(&mut self, source: &[u8], range: std::ops::Range<usize>, max_depth: usize) -> Result<u32, JsonError> {
        let bytes = source.get(..range.end).unwrap_or(source);
        if let Err(error) = std::str::from_utf8(bytes.get(range.start..).unwrap_or_default()) {
            return Err(JsonError {
                flaw: Flaw::InvalidUtf8,
                at: range.start + error.valid_up_to(),
                path: "$".to_owned(),
                message: format!("byte {} of the record is not UTF-8", error.valid_up_to()),
            });
        }
        self.stack.clear();
        let (nodes, text) = (self.nodes.len(), self.text.len());
        let mut parser = Parser { tape: self, bytes, base: range.start, at: range.start, max_depth, soft: None };
        let outcome = parser.document();
        let soft = parser.soft.take();
        let error = match (outcome, soft) {
            (Ok(root), None) => return Ok(root),
            (Ok(_), Some(error)) => error,
            (Err((at, message)), _) => JsonError {
                flaw: if at >= bytes.len() { Flaw::Truncated } else { Flaw::Malformed },
                at,
                path: self.open_path(source),
                message,
            },
        };
        self.nodes.truncate(nodes);
        self.text.truncate(text);
        Err(error)
    }

    pub fn value<'a>(&'a self, source: &'a [u8], index: u32) -> Value<'a> {
        Value { tape: self, source, index }
    }

    fn open_path(&self, source: &[u8]) -> String {
        let mut path = String::from("$");
        for open in &self.stack {
            if open.is_object {
                if open.key != u32::MAX {
                    push_key(&mut path, self.value(source, open.key).as_str());
                }
            } else {
                let _ = write!(path, "[{}]", open.count);
            }
        }
        path
    }
}

/// Appends a member step to a JSONPath.
pub fn push_key(path: &mut String, key: &str) {
    let mut chars = key.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        path.push('.');
        path.push_str(key);
    } else {
        let _ = write!(path, "['{}']", key.replace('\\', "\\\\").replace('\'', "\\'"));
    }
}

struct Parser<'t, 'b> {
    tape: &'t mut Tape,
    bytes: &'b [u8],
    base: usize,
    at: usize,
    max_depth: usize,
    /// The gravest flaw that does not stop the parse.
    soft: Option<JsonError>,
}

impl Parser<'_, '_> {
    fn document(&mut self) -> Step<u32> {
        let root = self.tape.nodes.len() as u32;
        self.skip_space();
        self.value()?;
        while let Some(open) = self.tape.stack.last().copied() {
            self.skip_space();
            let Some(&byte) = self.bytes.get(self.at) else { return self.fail("the record ends here, inside of an object or array") };
            match (open.is_object, byte) {
                (true, b'}') | (false, b']') => self.close(),
                _ if open.count > 0 && byte != b',' => {
                    return self.fail(if open.is_object { "expected ',' or '}'" } else { "expected ',' or ']'" });
                }
                _ => self.next_element(open)?,
            }
        }
        self.skip_space();
        if self.at < self.bytes.len() {
            return self.fail("unexpected text after the end of the record");
        }
        Ok(root)
    }

    fn next_element(&mut self, open: Open) -> Step<()> {
        if open.count > 0 {
            self.at += 1;
            self.skip_space();
        }
        if open.is_object {
            if self.bytes.get(self.at) != Some(&b'"') {
                return self.fail("expected a field name in quotes");
            }
            let key = self.tape.nodes.len() as u32;
            self.string()?;
            if let Some(top) = self.tape.stack.last_mut() {
                top.key = key;
            }
            self.check_duplicate(open.node, key, open.count as usize);
            self.skip_space();
            if self.bytes.get(self.at) != Some(&b':') {
                return self.fail("expected ':'");
            }
            self.at += 1;
            self.skip_space();
        }
        let depth = self.tape.stack.len();
        self.value()?;
        if self.tape.stack.len() == depth {
            self.element_done();
        }
        Ok(())
    }

    fn element_done(&mut self) {
        if let Some(top) = self.tape.stack.last_mut() {
            top.count += 1;
            top.key = u32::MAX;
        }
    }

    fn close(&mut self) {
        self.at += 1;
        let end = self.at as u32;
        let next = self.tape.nodes.len() as u32;
        if let Some(open) = self.tape.stack.last().copied().filter(|open| open.is_object) {
            self.check_large_object(open, next);
        }
        if let Some(open) = self.tape.stack.pop()
            && let Some(node) = self.tape.nodes.get_mut(open.node as usize)
        {
            node.end = end;
            node.next = next;
        }
        self.element_done();
    }

    fn value(&mut self) -> Step<()> {
        match self.bytes.get(self.at) {
            None => self.fail("the record ends here, where a value is due"),
            Some(b'{') => {
                self.open(Kind::Object);
                Ok(())
            }
            Some(b'[') => {
                self.open(Kind::Array);
                Ok(())
            }
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true", Kind::Bool(true)),
            Some(b'f') => self.literal("false", Kind::Bool(false)),
            Some(b'n') => self.literal("null", Kind::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(byte) => self.fail(&format!("expected a value, found {:?}", char::from(*byte))),
        }
    }

    fn open(&mut self, kind: Kind) {
        let node = self.tape.nodes.len() as u32;
        self.push(kind, self.at, IN_SOURCE);
        if self.tape.stack.len() == self.max_depth {
            self.note(Flaw::TooDeep, self.at, format!("more than {} levels of nesting", self.max_depth));
        }
        self.tape.stack.push(Open { node, count: 0, is_object: kind == Kind::Object, key: u32::MAX });
        self.at += 1;
    }

    fn literal(&mut self, word: &str, kind: Kind) -> Step<()> {
        let start = self.at;
        for expected in word.bytes() {
            match self.bytes.get(self.at) {
                Some(&byte) if byte == expected => self.at += 1,
                _ => return self.fail(&format!("expected {word}")),
            }
        }
        self.push(kind, start, IN_SOURCE);
        Ok(())
    }

    fn number(&mut self) -> Step<()> {
        let start = self.at;
        let negative = self.eat(b'-');
        let int_start = self.at;
        self.digits()?;
        if self.at - int_start > 1 && self.bytes.get(int_start) == Some(&b'0') {
            self.at = int_start;
            return self.fail("a number does not begin with 0");
        }
        let integer = self.at;
        if self.eat(b'.') {
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if !self.eat(b'-') {
                self.eat(b'+');
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(self.bytes.get(start..self.at).unwrap_or_default()).unwrap_or_default();
        let float = || text.parse::<f64>().unwrap_or(f64::INFINITY);
        let kind = match (integer == self.at, text.parse::<i64>()) {
            (true, Ok(int)) if int != 0 || !negative => Kind::Int(int),
            (true, Ok(_)) => Kind::Float(-0.0),
            (true, Err(_)) => Kind::BigInt(float()),
            (false, _) => match float() {
                // What is beyond a double has no room for a fraction: it is an integer.
                infinite if infinite.is_infinite() => Kind::BigInt(infinite),
                float => Kind::Float(float),
            },
        };
        self.push(kind, start, IN_SOURCE);
        Ok(())
    }

    fn digits(&mut self) -> Step<()> {
        let start = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.fail("expected a digit") } else { Ok(()) }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn string(&mut self) -> Step<()> {
        let start = self.at;
        self.at += 1;
        let mut run = self.at;
        let text_start = self.tape.text.len();
        let mut escaped = false;
        loop {
            match self.bytes.get(self.at) {
                None => return self.fail("the record ends here, inside of a string"),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.copy(run);
                    self.escape()?;
                    run = self.at;
                }
                Some(0..=0x1f) => return self.fail("a control character must be escaped inside of a string"),
                Some(_) => self.at += 1,
            }
        }
        let text = if escaped {
            self.copy(run);
            (text_start as u32, self.tape.text.len() as u32)
        } else {
            IN_SOURCE
        };
        self.at += 1;
        self.push(Kind::String, start, text);
        Ok(())
    }

    fn copy(&mut self, run: usize) {
        let piece = self.bytes.get(run..self.at).unwrap_or_default();
        self.tape.text.push_str(std::str::from_utf8(piece).unwrap_or_default());
    }

    fn escape(&mut self) -> Step<()> {
        self.at += 1;
        let plain = match self.bytes.get(self.at) {
            None => return self.fail("the record ends here, inside of an escape"),
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            Some(_) => return self.fail("unknown escape"),
        };
        self.at += 1;
        self.tape.text.push(plain);
        Ok(())
    }

    /// At the `u`. A lone surrogate is noted and replaced, so that the rest is still checked.
    fn unicode_escape(&mut self) -> Step<()> {
        let start = self.at - 1;
        self.at += 1;
        let high = self.hex4()?;
        let code = match high {
            0xD800..=0xDBFF if self.bytes.get(self.at..self.at + 2) == Some(b"\\u") => {
                let back = self.at;
                self.at += 2;
                let low = self.hex4()?;
                if (0xDC00..=0xDFFF).contains(&low) {
                    0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                } else {
                    self.at = back;
                    high
                }
            }
            _ => high,
        };
        let decoded = char::from_u32(code).unwrap_or_else(|| {
            self.note(Flaw::LoneSurrogate, start, format!("\\u{code:04x} is a surrogate that stands alone"));
            char::REPLACEMENT_CHARACTER
        });
        self.tape.text.push(decoded);
        Ok(())
    }

    fn hex4(&mut self) -> Step<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.bytes.get(self.at).and_then(|byte| char::from(*byte).to_digit(16)) else {
                return Err(self.error("expected four hex digits"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// Small objects compare the new key with those before it; a large one is hashed whole, once, when it closes.
    fn check_duplicate(&mut self, object: u32, key: u32, before: usize) {
        if before > SMALL_OBJECT {
            return;
        }
        let name = self.tape.value(self.bytes, key).as_str();
        if self.tape.value(self.bytes, object).keys_before(key).any(|(_, other)| other == name) {
            self.note_duplicate(key);
        }
    }

    fn check_large_object(&mut self, open: Open, end: u32) {
        if (open.count as usize) <= SMALL_OBJECT {
            return;
        }
        let mut seen = HashSet::with_capacity(open.count as usize);
        let twice = self.tape.value(self.bytes, open.node).keys_before(end).find_map(|(node, key)| (!seen.insert(key)).then_some(node));
        if let Some(key) = twice {
            if let Some(top) = self.tape.stack.last_mut() {
                top.key = key;
            }
            self.note_duplicate(key);
        }
    }

    fn note_duplicate(&mut self, key: u32) {
        let at = self.tape.nodes.get(key as usize).map_or(self.at, |node| node.start as usize);
        self.note(Flaw::DuplicateKey, at, "the field stands twice in its object".to_owned());
    }

    fn note(&mut self, flaw: Flaw, at: usize, message: String) {
        let rank = |flaw| match flaw {
            Flaw::LoneSurrogate => 0,
            Flaw::TooDeep => 1,
            _ => 2,
        };
        if self.soft.as_ref().is_none_or(|held| rank(flaw) < rank(held.flaw)) {
            self.soft = Some(JsonError { flaw, at, path: self.tape.open_path(self.bytes), message });
        }
    }

    fn push(&mut self, kind: Kind, start: usize, text: (u32, u32)) {
        let next = self.tape.nodes.len() as u32 + 1;
        self.tape.nodes.push(Node { kind, start: start as u32, end: self.at as u32, next, text });
    }

    fn skip_space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, message: &str) -> (usize, String) {
        (self.at, format!("{message} (byte {} of the record)", self.at - self.base))
    }

    fn fail<T>(&self, message: &str) -> Step<T> {
        Err(self.error(message))
    }
}

/// A view of one node.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    tape: &'a Tape,
    source: &'a [u8],
    index: u32,
}

impl<'a> Value<'a> {
    fn node(self) -> Node {
        self.tape.nodes[self.index as usize]
    }

    pub fn index(self) -> u32 {
        self.index
    }

    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// Byte range in the source.
    pub fn range(self) -> std::ops::Range<usize> {
        let node = self.node();
        node.start as usize..node.end as usize
    }

    /// The text as written, brackets and quotes included.
    pub fn raw(self) -> &'a str {
        std::str::from_utf8(self.source.get(self.range()).unwrap_or_default()).unwrap_or_default()
    }

    /// The decoded text of a string, empty for other kinds.
    pub fn as_str(self) -> &'a str {
        let node = self.node();
        if node.kind != Kind::String {
            return "";
        }
        if node.text == IN_SOURCE {
            let inner = self.source.get(node.start as usize + 1..node.end as usize - 1).unwrap_or_default();
            std::str::from_utf8(inner).unwrap_or_default()
        } else {
            self.tape.text.get(node.text.0 as usize..node.text.1 as usize).unwrap_or_default()
        }
    }

    /// The root of a tape that holds one document.
    pub fn root(self) -> Value<'a> {
        self.at(0)
    }

    /// Another node of the same tape.
    pub fn sibling(self, index: u32) -> Value<'a> {
        self.at(index)
    }

    fn at(self, index: u32) -> Value<'a> {
        Value { index, ..self }
    }

    /// (key, value) of an object in document order; empty for other kinds.
    pub fn entries(self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let node = self.node();
        let end = if node.kind == Kind::Object { node.next } else { self.index + 1 };
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (key, value) = (self.at(at), self.at(at + 1));
                at = value.node().next;
                (key.as_str(), value)
            })
        })
    }

    /// (node, key) of an object that is still being parsed, up to the node `end`.
    fn keys_before(self, end: u32) -> impl Iterator<Item = (u32, &'a str)> {
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let key = (at, self.at(at).as_str());
                at = self.at(at + 1).node().next;
                key
            })
        })
    }

    /// Elements of an array; empty for other kinds.
    pub fn items(self) -> impl Iterator<Item = Value<'a>> {
        let node = self.node();
        let end = if node.kind == Kind::Array { node.next } else { self.index + 1 };
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let item = self.at(at);
                at = item.node().next;
                item
            })
        })
    }

    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.entries().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// Follows a JSON Pointer's tokens through objects.
    pub fn walk(self, tokens: &[String]) -> Option<Value<'a>> {
        tokens.iter().try_fold(self, |value, token| value.get(token))
    }

    /// Compact JSON; numbers keep the digits they were written with.
    pub fn write_compact(self, out: &mut String) {
        match self.kind() {
            Kind::Object => {
                out.push('{');
                for (position, (key, value)) in self.entries().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    write_string(key, out);
                    out.push(':');
                    value.write_compact(out);
                }
                out.push('}');
            }
            Kind::Array => {
                out.push('[');
                for (position, item) in self.items().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    item.write_compact(out);
                }
                out.push(']');
            }
            Kind::String => write_string(self.as_str(), out),
            _ => out.push_str(self.raw()),
        }
    }

    pub fn compact(self) -> String {
        let mut out = String::new();
        self.write_compact(&mut out);
        out
    }

    /// The value as serde_json holds it: for messages and for checks that only the `jsonschema` crate knows.
    pub fn to_serde(self) -> serde_json::Value {
        match self.kind() {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool(flag) => flag.into(),
            Kind::Int(int) => int.into(),
            Kind::BigInt(_) | Kind::Float(_) => serde_json::from_str(self.raw()).unwrap_or(serde_json::Value::Null),
            Kind::String => self.as_str().into(),
            Kind::Array => self.items().map(Value::to_serde).collect(),
            Kind::Object => serde_json::Value::Object(self.entries().map(|(key, value)| (key.to_owned(), value.to_serde())).collect()),
        }
    }
}

/// Appends a JSON string literal.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Clamped: beyond it no literal that fits in memory has a value that fits a column.
fn exponent(text: &str) -> i64 {
    const MOST: i64 = 1 << 40;
    let clamped = if text.starts_with('-') { -MOST } else { MOST };
    text.trim_start_matches('+').parse().map_or(clamped, |exponent: i64| exponent.clamp(-MOST, MOST))
}

/// A number literal as exact decimal: sign, digits without leading zeros, and the power of ten of the last digit.
#[derive(Debug, PartialEq, Eq)]
pub struct Exact {
    pub negative: bool,
    pub digits: Vec<u8>,
    pub exponent: i64,
}

impl Exact {
    /// Of a literal that the parser accepted.
    pub fn of(literal: &str) -> Exact {
        let (negative, rest) = match literal.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, literal),
        };
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], exponent(&rest[at + 1..])),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').skip_while(|d| *d == 0).collect();
        let mut exponent = exponent - fraction.len() as i64;
        while digits.last() == Some(&0) {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            exponent = 0;
        }
        Exact { negative, digits, exponent }
    }

    /// The value × 10^scale as an integer of at most `precision` digits, if it is one.
    pub fn scaled(&self, precision: u32, scale: i32) -> Option<i128> {
        let shift = self.exponent.checked_add(i64::from(scale))?;
        if self.digits.is_empty() {
            return Some(0);
        }
        if shift < 0 || self.digits.len() as i64 + shift > i64::from(precision) {
            return None;
        }
        let magnitude = self.digits.iter().fold(0_i128, |sum, digit| sum * 10 + i128::from(*digit)) * 10_i128.pow(shift as u32);
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// As a 64-bit integer, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        self.scaled(19, 0).and_then(|value| i64::try_from(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<String, (Flaw, String)> {
        let mut tape = Tape::new();
        let root = tape.parse(text, 0..text.len(), 8).map_err(|error| (error.flaw, error.path))?;
        Ok(tape.value(text, root).compact())
    }

    #[test]
    fn agrees_with_serde_json_on_what_is_json() {
        for text in [
            r#"{"a":[1,2.5,-3e2,true,null,"x\n\u00e9\ud83d\ude00"],"b":{}}"#,
            " [ ] ",
            "1 2",
            "{\"a\":01}",
            "{\"a\":1,}",
            "[1,]",
            "{\"a\" 1}",
            "{a:1}",
            "nul",
            "NaN",
            "-",
            "1.",
            "1e",
            "\"\t\"",
            "\"\\x\"",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "",
            "{",
            "[[[",
            "\"abc",
        ] {
            let serde = serde_json::from_str::<serde_json::Value>(text);
            let ours = parse(text.as_bytes());
            assert_eq!(ours.is_ok(), serde.is_ok(), "{text}: {ours:?}");
            if let (Ok(ours), Ok(serde)) = (ours, serde) {
                assert_eq!(serde_json::from_str::<serde_json::Value>(&ours).ok(), Some(serde));
            }
        }
    }

    #[test]
    fn the_gravest_flaw_wins_and_names_its_path() {
        assert_eq!(parse(b"{\"a\":{\"b\":\"\\ud800\"}}"), Err((Flaw::LoneSurrogate, "$.a.b".into())));
        assert_eq!(parse(b"{\"a\":1,\"a\":2}"), Err((Flaw::DuplicateKey, "$.a".into())));
        assert_eq!(parse(b"{\"a\":1,\"a\":\"\\udc00\"}"), Err((Flaw::LoneSurrogate, "$.a".into())));
        assert_eq!(parse(b"{\"a\":1,\"a\":x}").map_err(|e| e.0), Err(Flaw::Malformed));
        assert_eq!(parse(b"{\"a\":[1,{\"b").map_err(|e| e.0), Err(Flaw::Truncated));
        assert_eq!(parse(b"[[[[[[[[[]]]]]]]]]").map_err(|e| e.0), Err(Flaw::TooDeep));
        assert_eq!(parse(b"{\"a\":\"\xff\"}").map_err(|e| e.0), Err(Flaw::InvalidUtf8));
        assert_eq!(parse(b"{\"a b\":[1,{\"c\":tru}]}"), Err((Flaw::Malformed, "$['a b'][1].c".into())));
    }

    #[test]
    fn exact_decimals() {
        assert_eq!(Exact::of("12.50").scaled(12, 2), Some(1250));
        assert_eq!(Exact::of("12.505").scaled(12, 2), None);
        assert_eq!(Exact::of("-1e3").as_i64(), Some(-1000));
        assert_eq!(Exact::of("9223372036854775807").as_i64(), Some(i64::MAX));
        assert_eq!(Exact::of("9223372036854775808").as_i64(), None);
        assert_eq!(Exact::of("0e999999999999").as_i64(), Some(0));
        for beyond in
            ["1e999999999999", "1e9223372036854775807", "10e9223372036854775807", "1.5e-9223372036854775808", "1e-99999999999999999999"]
        {
            assert_eq!(Exact::of(beyond).as_i64(), None, "{beyond}");
        }
    }
}
