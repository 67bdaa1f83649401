//! Strict JSON (RFC 8259) as a flat tape that keeps positions.
//!
//! One [`Tape`] serves many documents, so a chunk of records costs a handful of allocations. Nodes lie in document order;
//! a container's `next` skips its subtree. Strings without escapes are slices of the source; the others are unescaped
//! into the tape's own text. Parsing is iterative (no stack to overflow), goes on to the end of the document even where a
//! lone surrogate, a duplicate key or the nesting limit already spoils it, and reports the gravest finding:
//! a syntax error first, then unicode, then nesting, then duplicates. UTF-8 is checked before parsing.

mod exact;
mod parser;
mod quick;

use std::fmt::Write as _;

pub use exact::Exact;
use parser::Parser;
pub use quick::{Found, Names, Quoted, TAKEN, find_special, number, plain_text, token};

/// Where a value would be noted that an object does not have.
pub const ABSENT: u32 = u32::MAX;

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

    pub fn is_null(self) -> bool {
        matches!(self, Kind::Null)
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
        self.tape.nodes[self.index as usize].kind
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
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The same as bytes, which spares a look at every one of them: they were checked before they were parsed.
    pub fn as_bytes(self) -> &'a [u8] {
        let Some(node) = self.tape.nodes.get(self.index as usize).filter(|node| matches!(node.kind, Kind::String)) else { return &[] };
        if node.text == IN_SOURCE {
            self.source.get(node.start as usize + 1..node.end as usize - 1).unwrap_or_default()
        } else {
            self.tape.text.as_bytes().get(node.text.0 as usize..node.text.1 as usize).unwrap_or_default()
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
        self.fields().map(|(key, value)| (key.as_str(), value))
    }

    /// The same with the keys as values.
    pub fn fields(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        let node = self.node();
        let end = if node.kind == Kind::Object { node.next } else { self.index + 1 };
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (key, value) = (self.at(at), self.at(at + 1));
                at = value.node().next;
                (key, value)
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
        self.fields().find_map(|(name, value)| (name.as_bytes() == key.as_bytes()).then_some(value))
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
