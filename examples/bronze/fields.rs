//! How a record is made: a table of fields, interpreted straight into bytes. The tables read like the wire (constant
//! key order) and need no value in memory, which keeps a record at a microsecond or two.

use crate::rng::{Rng, mix};
use crate::text;

/// A field: name on the wire, how often it is there (per mille), how its value is made.
pub struct F(pub &'static str, pub u32, pub Make);

pub enum Make {
    /// The record's own id: `"b1A"`.
    Id,
    /// The record's own id, GUID-backed: `"a…"`.
    OwnGuid,
    /// Some GUID-backed id.
    Guid,
    /// The record's feed version, 16 hex digits.
    Version,
    /// The id of the record's device.
    Device,
    EventTime,
    /// The event time and so many seconds, from … to.
    After(i64, i64),
    /// A moment between two days since 1970, as the wire writes it, with a space for the T, and as a bare date.
    Moment(i64, i64),
    Spaced(i64, i64),
    Bare(i64, i64),
    /// True so often, per mille.
    Bool(u32),
    /// From … to; now and then written `3.0`.
    Int(i64, i64),
    /// From … to, both times 10^decimals; whole numbers now and then.
    Num(i64, i64, u32),
    /// A duration up to so many seconds, with and without a fraction.
    Span(u64),
    /// An integer-backed id: first number, how many.
    IdIn(u64, u64),
    /// One of these strings, written in quotes (JSON escapes are the table's business).
    Word(&'static [&'static str]),
    /// One of these JSON texts.
    Raw(&'static [&'static str]),
    /// A string with the record's number in the middle.
    Numbered(&'static str, &'static str),
    Object(&'static [F]),
    /// So many elements, from … to.
    List(u64, u64, &'static Make),
    /// The first so often, per mille, else the second.
    Either(u32, &'static Make, &'static Make),
    /// A field of this contract version only.
    Only(u32, &'static Make),
}

/// What one record is about.
pub struct Subject {
    pub version: u32,
    /// Unique among the records of an entity and database.
    pub number: u64,
    pub id: u64,
    pub device: u64,
    pub event_ms: i64,
    pub rng: Rng,
}

pub fn write_object(out: &mut Vec<u8>, fields: &[F], subject: &mut Subject) {
    let mut before = b'{';
    for F(name, chance, make) in fields {
        if matches!(make, Make::Only(version, _) if *version != subject.version) {
            continue;
        }
        if *chance < 1000 && !subject.rng.permille(*chance) {
            continue;
        }
        out.push(before);
        before = b',';
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        write_value(out, make, subject);
    }
    if before == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, make: &Make, subject: &mut Subject) {
    match make {
        Make::Id => quoted(out, |out| id(out, subject.id)),
        Make::OwnGuid => quoted(out, |out| text::guid(out, (u128::from(mix(subject.number)) << 64) | u128::from(subject.number))),
        Make::Guid => {
            let bits = u128::from(mix(subject.rng.below(4000)));
            quoted(out, |out| text::guid(out, (bits << 64) | bits.rotate_left(17)));
        }
        Make::Version => quoted(out, |out| text::hex16(out, subject.id)),
        Make::Device => quoted(out, |out| id(out, subject.device)),
        Make::EventTime => quoted(out, |out| text::timestamp(out, subject.event_ms, b'T')),
        Make::After(low, high) => {
            let millis = subject.event_ms + subject.rng.between(*low, *high) * 1000;
            quoted(out, |out| text::timestamp(out, millis, b'T'));
        }
        Make::Moment(low, high) => moment(out, subject.rng.between(low * text::DAY_MS, high * text::DAY_MS), b'T'),
        Make::Spaced(low, high) => moment(out, subject.rng.between(low * text::DAY_MS, high * text::DAY_MS), b' '),
        Make::Bare(low, high) => {
            let days = subject.rng.between(*low, *high);
            quoted(out, |out| text::date(out, days));
        }
        Make::Bool(chance) => {
            let value: &[u8] = if subject.rng.permille(*chance) { b"true" } else { b"false" };
            out.extend_from_slice(value);
        }
        Make::Int(low, high) => {
            text::int(out, subject.rng.between(*low, *high));
            if subject.rng.permille(2) {
                out.extend_from_slice(b".0");
            }
        }
        Make::Num(low, high, decimals) => {
            let scaled = subject.rng.between(*low, *high);
            let unit = 10i64.pow(*decimals);
            let whole = subject.rng.permille(200);
            text::decimal(out, if whole { scaled / unit * unit } else { scaled }, *decimals);
        }
        Make::Span(seconds) => {
            let whole = subject.rng.below(seconds + 1) * 10_000_000;
            let fraction = if subject.rng.permille(600) { 0 } else { subject.rng.below(1000) * 10_000 + subject.rng.below(2) * 1234 };
            quoted(out, |out| text::duration(out, whole + fraction));
        }
        Make::IdIn(first, count) => {
            let number = first + subject.rng.below(*count);
            quoted(out, |out| id(out, number));
        }
        Make::Word(words) => {
            let word = subject.rng.pick(words);
            quoted(out, |out| out.extend_from_slice(word.as_bytes()));
        }
        Make::Raw(texts) => out.extend_from_slice(subject.rng.pick(texts).as_bytes()),
        Make::Numbered(before, after) => quoted(out, |out| {
            out.extend_from_slice(before.as_bytes());
            text::uint(out, subject.number);
            out.extend_from_slice(after.as_bytes());
        }),
        Make::Object(fields) => write_object(out, fields, subject),
        Make::List(low, high, element) => {
            let count = subject.rng.between(*low as i64, *high as i64);
            out.push(b'[');
            for at in 0..count {
                if at > 0 {
                    out.push(b',');
                }
                write_value(out, element, subject);
            }
            out.push(b']');
        }
        Make::Either(chance, first, second) => {
            let first_it_is = subject.rng.permille(*chance);
            write_value(out, if first_it_is { first } else { second }, subject);
        }
        Make::Only(_, make) => write_value(out, make, subject),
    }
}

fn moment(out: &mut Vec<u8>, millis: i64, between: u8) {
    quoted(out, |out| text::timestamp(out, millis, between));
}

fn id(out: &mut Vec<u8>, number: u64) {
    out.push(b'b');
    text::hex_upper(out, number);
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}
