//! What goes wrong: each defect makes a sound record into one that is refused with exactly one code. All else about
//! the record stays right, and no other record has its key. Only the conflict has another's key by intent; where the
//! latest record wins it is a duplicate and no refusal.

use crate::rng::Rng;
use crate::splice;

/// A defect: its code, where it can stand, and the edits that bring it about (one of them is taken).
pub struct D(pub &'static str, pub Scope, pub &'static [Edit]);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Anywhere,
    /// The record stands for itself: not in an array, an envelope or a pretty-printed object.
    Framed,
    /// One record per line.
    Lines,
    /// The payload has partition columns.
    YearRoot,
    /// … and they cannot be derived from an event time.
    YearRootUntimed,
}

pub enum Edit {
    /// Adds these bytes as a last member; they may break the record's form, but brackets and quotes stay balanced.
    Append(&'static [u8]),
    /// Puts a line in the place of the record.
    Line(&'static str),
    Set(&'static str, &'static str),
    Remove(&'static str),
    /// An id of more than 64 characters.
    LongId,
    /// A second member with this name (in JSON, escapes allowed) and the id as value.
    IdAgain(&'static str),
    /// Arrays, so many in each other.
    Deep(usize),
    /// The year before the path's.
    OtherYear,
    /// Another content for the key of an earlier record of the object.
    Conflict,
}

use Edit::{Append, Conflict, Deep, IdAgain, Line, LongId, OtherYear, Remove, Set};
use Scope::{Anywhere, Framed, Lines, YearRoot, YearRootUntimed};

/// Decided per object, not per record: see `layout`.
pub const TRUNCATED: &str = "truncated_record";
pub const CORRUPT: &str = "corrupt_codec";
pub const TOO_LARGE: &str = "record_too_large";

/// The defects of every entity.
pub static GENERAL: [D; 15] = [
    D(
        "malformed_json",
        Framed,
        &[
            Append(b"\"note\":NaN"),
            Append(b"\"note\":flase"),
            Append(b"\"note\":"),
            Append(b""),
            Append(b"\"note\" \"x\""),
            Append(b"\"note\":01"),
            Append(b"\"note\":-Infinity"),
            Append(b"note:1"),
        ],
    ),
    D("malformed_json", Framed, &[Append(b"\"note\":\"a\0b\""), Append(b"\"note\":\"a\x01b\""), Append(b"\"note\":\"a\tb\"")]),
    D(
        "malformed_json",
        Lines,
        &[
            Line("ERROR: connection reset by peer"),
            Line("upload interrupted, retrying in 5 s"),
            Line("<html><body>502 Bad Gateway</body></html>"),
        ],
    ),
    D(
        "invalid_utf8",
        Framed,
        &[
            Append(b"\"note\":\"M\xFCnchen\""),
            Append(b"\"note\":\"\xFF\xFE\""),
            Append(b"\"note\":\"a\xC0\xAFb\""),
            Append(b"\"note\":\"a\xED\xA0\x80b\""),
        ],
    ),
    D("invalid_unicode", Framed, &[Append(br#""note":"\ud800""#), Append(br#""note":"\udc00x""#), Append(br#""note":"\ud83dx""#)]),
    D("not_an_object", Lines, &[Line("42"), Line("\"just a text\""), Line("true"), Line("null"), Line("-0.5")]),
    D("nesting_too_deep", Framed, &[Deep(100), Deep(1000)]),
    D("duplicate_field", Framed, &[IdAgain("id"), IdAgain("id"), IdAgain("\\u0069d")]),
    D(
        "error_envelope",
        Lines,
        &[Line(
            r#"{"error":{"code":-32000,"message":"API calls quota exceeded. Maximum admitted 10 per 1m.","data":{"id":"7f2b1c9e-5d1a-4f3e-9a53-0c6f2f1f7d11","type":"OverLimitException","requestIndex":0},"errors":[{"message":"API calls quota exceeded.","name":"OverLimitException"}],"name":"JSONRPCError"},"jsonrpc":"2.0"}"#,
        )],
    ),
    D("partition_conflict", YearRoot, &[OtherYear]),
    D("partition_invalid", YearRoot, &[Set("month", "\"13x\"")]),
    D("partition_missing", YearRootUntimed, &[Remove("month"), Remove("day")]),
    D("unknown_version", Anywhere, &[Set("schemaVersion", "99"), Set("schemaVersion", "\"99\"")]),
    D("length_limit", Anywhere, &[LongId]),
    D("key_conflict", Anywhere, &[Conflict]),
];

impl D {
    pub fn is_conflict(&self) -> bool {
        matches!(self.2, [Conflict])
    }

    /// Does the defect to a sound record. `year` is the path's.
    pub fn apply(&self, record: &mut Vec<u8>, year: i64, rng: &mut Rng) {
        match rng.pick(self.2) {
            Append(member) => splice::append(record, member),
            Line(line) => {
                record.clear();
                record.extend_from_slice(line.as_bytes());
            }
            Set(name, raw) => splice::set(record, name, raw.as_bytes()),
            Remove(name) => splice::remove(record, name),
            LongId => {
                let mut id = id_of(record);
                id.pop();
                id.extend_from_slice(&[b'0'; 64]);
                id.push(b'"');
                splice::set(record, "id", &id);
            }
            IdAgain(name) => {
                let mut member = format!("\"{name}\":").into_bytes();
                member.extend_from_slice(&id_of(record));
                splice::append(record, &member);
            }
            Deep(levels) => {
                let mut member = b"\"note\":".to_vec();
                member.resize(member.len() + levels, b'[');
                member.resize(member.len() + levels, b']');
                splice::append(record, &member);
            }
            OtherYear => splice::set(record, "year", (year - 1).to_string().as_bytes()),
            Conflict => {}
        }
    }
}

/// The JSON text of the record's id; every good record has one.
fn id_of(record: &[u8]) -> Vec<u8> {
    splice::value(record, "id").unwrap_or(b"\"\"").to_vec()
}

/// Cuts a sound record somewhere in its middle, between two characters.
pub fn truncate(record: &mut Vec<u8>, rng: &mut Rng) {
    let mut cut = record.len() / 4 + rng.below(record.len() as u64 / 2) as usize;
    while cut > 1 && record[cut] & 0xC0 == 0x80 {
        cut -= 1;
    }
    record.truncate(cut);
}
