//! Where damage ends: looks at bytes, knows nothing of the stream.

use std::ops::Range;

/// JSON's white space; a form feed, say, is none.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

pub(super) fn is_punctuation(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':')
}

/// End of the line that holds `at`, where everything from `start` balances exactly there.
pub(super) fn balanced_line(bytes: &[u8], start: usize, at: usize) -> Option<usize> {
    if memchr::memchr(b'\n', &bytes[start..at]).is_some() {
        return None;
    }
    let line_end = at + memchr::memchr(b'\n', &bytes[at..])?;
    let end = balance(&bytes[..line_end], start)?;
    bytes[end..line_end].iter().all(|byte| is_space(*byte) || *byte == b',').then_some(end)
}

/// Whether the object that begins at `start` is the rest of its line.
pub(super) fn ends_its_line(bytes: &[u8], start: usize) -> bool {
    let Some(end) = balance(bytes, start) else { return false };
    bytes[end..].iter().take_while(|byte| **byte != b'\n').all(|byte| is_space(*byte))
}

/// First line after `start` and up to `at` that begins with a brace.
pub(super) fn first_line_brace(bytes: &[u8], start: usize, at: usize) -> Option<usize> {
    let until = bytes.len().min(at + 1);
    memchr::memchr_iter(b'{', bytes.get(start + 1..until)?).map(|found| start + 1 + found).find(|brace| bytes[brace - 1] == b'\n')
}

/// End of the value at `start` by brackets and strings alone.
pub(super) fn balance(bytes: &[u8], start: usize) -> Option<usize> {
    let mut open = Vec::new();
    let mut in_string = false;
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'\n' if in_string => return None,
            b'{' | b'[' if !in_string => open.push(byte),
            b'}' | b']' if !in_string => {
                let opener = if byte == b'}' { b'{' } else { b'[' };
                if open.pop() != Some(opener) {
                    return None;
                }
                if open.is_empty() {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

pub(super) fn skip_space(bytes: &[u8], at: usize) -> usize {
    at + bytes.get(at..).map_or(0, |rest| rest.iter().take_while(|byte| is_space(**byte)).count())
}

/// `{"name":` at `at`: its key.
pub(super) fn first_key(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    const MAX_KEY: usize = 128;
    let quote = skip_space(bytes, at + 1);
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let inner = bytes.get(quote + 1..bytes.len().min(quote + 1 + MAX_KEY))?;
    let length = inner.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'{' | b'}'))?;
    let colon = skip_space(bytes, quote + length + 2);
    (inner[length] == b'"' && bytes.get(colon) == Some(&b':')).then(|| (&inner[..length], colon))
}

pub(super) fn begins_record(bytes: &[u8], at: usize) -> bool {
    first_key(bytes, at).is_some()
}

pub(super) fn line_begins(bytes: &[u8], at: usize, start: usize) -> bool {
    at > start && bytes[at - 1] == b'\n'
}

pub(super) fn after_comma(bytes: &[u8], at: usize, start: usize) -> bool {
    bytes[start..at].iter().rev().find(|byte| !is_space(**byte)) == Some(&b',')
}

/// Whether what begins at `at` is where the value of a field or an element of a list is due.
pub(super) fn stands_for_value(bytes: &[u8], start: usize, at: usize) -> bool {
    matches!(bytes[start..at].iter().rev().find(|byte| !is_space(**byte)), Some(b':' | b'[' | b','))
}

/// `{}` alone on a line.
pub(super) fn starts_empty_record(bytes: &[u8], at: usize, start: usize) -> bool {
    line_begins(bytes, at, start) && bytes.get(skip_space(bytes, at + 1)) == Some(&b'}')
}

/// A comma before a record, or the bracket that closes the array: what follows garbage inside of an array.
pub(super) fn array_goes_on(bytes: &[u8], at: usize) -> bool {
    let next = skip_space(bytes, at + 1);
    match bytes[at] {
        b',' => bytes.get(next) == Some(&b'{') && begins_record(bytes, next),
        _ => matches!(bytes.get(next), None | Some(b'}' | b',' | b'{' | b'[')),
    }
}

/// The names of the first two fields of the object at `at`, if the first value is short: in damage every brace may be asked.
pub(super) fn leading_keys(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    const LONGEST: usize = 1 << 10;
    let (first, colon) = first_key(bytes, at)?;
    let value = skip_space(bytes, colon + 1);
    let bytes = &bytes[..bytes.len().min(value + LONGEST)];
    let end = match bytes.get(value)? {
        b'{' | b'[' => balance(bytes, value)?,
        b'"' => {
            let mut at = value + 1;
            while *bytes.get(at)? != b'"' {
                at += 1 + usize::from(bytes[at] == b'\\');
            }
            at + 1
        }
        _ => value + bytes[value..].iter().position(|byte| matches!(byte, b',' | b'}'))?,
    };
    let comma = skip_space(bytes, end);
    (bytes.get(comma) == Some(&b',')).then_some(())?;
    Some((first, first_key(bytes, comma)?.0))
}

/// A brace that a string swallowed because the record before it was cut inside of a string.
pub(super) fn brace_ending_string(bytes: &[u8], string: &Range<usize>, start: usize) -> Option<usize> {
    let inner = bytes.get(string.start + 1..string.end.checked_sub(1)?)?;
    let last = inner.iter().rposition(|byte| !is_space(*byte))?;
    let brace = string.start + 1 + last;
    (bytes[brace] == b'{' && brace > start && begins_record(bytes, brace)).then_some(brace)
}

/// End of a scalar that stands alone where a record is due.
pub(super) fn scalar(bytes: &[u8], start: usize, ended: bool) -> Option<usize> {
    let rest = &bytes[start..];
    let length = match rest.first()? {
        b'"' => {
            let mut at = 1;
            while *rest.get(at)? != b'"' {
                if rest[at] == b'\n' {
                    return None;
                }
                at += 1 + usize::from(rest[at] == b'\\');
            }
            at + 1
        }
        _ => rest
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'{' | b'[' | b']'))
            .or(ended.then_some(rest.len()))?,
    };
    let text = std::str::from_utf8(&rest[..length]).ok()?;
    serde_json::from_str::<serde_json::Value>(text).ok()?;
    let after = rest.get(length);
    (after.is_some() || ended).then_some(())?;
    after.is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'{' | b'[' | b']')).then_some(start + length)
}
