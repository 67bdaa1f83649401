//! Changes to a compact JSON object that has just been written: find, set, remove and reorder its members, print it
//! over several lines. Member names here have no escapes and the object is sound.

use std::ops::Range;

use crate::rng::Rng;

/// Where the members (`"name":value`) of the object stand.
fn members(object: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (1, 0usize);
    let mut quotes = Quotes::default();
    for (at, &byte) in object.iter().enumerate() {
        if quotes.inside(byte) {
            continue;
        }
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 1 => {
                found.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start + 1 < object.len() {
        found.push(start..object.len() - 1);
    }
    found
}

fn is_named(member: &[u8], name: &str) -> bool {
    let (open, close) = (name.len() + 1, name.len() + 2);
    member.len() > close && &member[1..open] == name.as_bytes() && &member[open..=close] == b"\":"
}

/// The JSON text of a member's value.
pub fn value<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let member = members(object).into_iter().find(|member| is_named(&object[member.clone()], name))?;
    Some(&object[member.start + name.len() + 3..member.end])
}

/// Puts `raw` in the place of the member's value, or adds the member at the end.
pub fn set(object: &mut Vec<u8>, name: &str, raw: &[u8]) {
    let mut member = format!("\"{name}\":").into_bytes();
    member.extend_from_slice(raw);
    let found = members(object);
    let place = found.iter().find(|at| is_named(&object[(*at).clone()], name)).cloned();
    match place {
        Some(at) => drop(object.splice(at, member)),
        None => append(object, &member),
    }
}

/// Adds the bytes as a last member, whatever they are.
pub fn append(object: &mut Vec<u8>, member: &[u8]) {
    object.pop();
    if object.len() > 1 {
        object.push(b',');
    }
    object.extend_from_slice(member);
    object.push(b'}');
}

pub fn remove(object: &mut Vec<u8>, name: &str) {
    let mut kept = members(object);
    kept.retain(|at| !is_named(&object[at.clone()], name));
    *object = joined(object, &kept);
}

/// Brings the members of the object that starts at `start` into another order.
pub fn shuffle(out: &mut Vec<u8>, start: usize, rng: &mut Rng) {
    let object = out.split_off(start);
    let mut order = members(&object);
    for last in (1..order.len()).rev() {
        order.swap(last, rng.below(last as u64 + 1) as usize);
    }
    out.extend_from_slice(&joined(&object, &order));
}

fn joined(object: &[u8], members: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len());
    out.push(b'{');
    for (at, member) in members.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&object[member.clone()]);
    }
    out.push(b'}');
    out
}

/// Appends the object over several lines, indented by two.
pub fn pretty(out: &mut Vec<u8>, object: &[u8]) {
    let mut depth = 0usize;
    let mut quotes = Quotes::default();
    for &byte in object {
        if quotes.inside(byte) {
            out.push(byte);
            continue;
        }
        match byte {
            b'{' | b'[' => {
                depth += 1;
                out.push(byte);
                new_line(out, depth);
            }
            b'}' | b']' => {
                depth -= 1;
                new_line(out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                new_line(out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.push(byte),
        }
    }
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}

/// Follows the string literals of a JSON text.
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    /// Takes the next byte; true where it belongs to a string, its quotes included.
    fn inside(&mut self, byte: u8) -> bool {
        let was_open = self.open;
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = was_open;
        } else if byte == b'"' {
            self.open = !was_open;
        }
        was_open || byte == b'"'
    }
}
