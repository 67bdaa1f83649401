//! The parser: one document, strictly, without recursion.

use std::collections::HashSet;

use super::{Flaw, IN_SOURCE, JsonError, Kind, Node, Open, Tape};

/// Objects of more fields are checked for duplicates with a set.
const SMALL_OBJECT: usize = 24;

type Step<T> = Result<T, (usize, String)>;

pub(super) struct Parser<'t, 'b> {
    pub(super) tape: &'t mut Tape,
    pub(super) bytes: &'b [u8],
    pub(super) base: usize,
    pub(super) at: usize,
    pub(super) max_depth: usize,
    /// The gravest flaw that does not stop the parse.
    pub(super) soft: Option<JsonError>,
}

impl Parser<'_, '_> {
    pub(super) fn document(&mut self) -> Step<u32> {
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

    pub(super) fn string(&mut self) -> Step<()> {
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
