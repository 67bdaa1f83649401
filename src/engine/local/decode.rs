//! Step 2, decode: framed bytes → documents. Here the record's own form is refused: syntax, encoding, nesting, duplicate fields,
//! what is no object, and an API's error body where data is due.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::Frames;
use crate::domain::json::{Flaw, Kind, Tape, Value};
use crate::domain::{BronzeObject, PartitionColumn, PathValues, Reject, RejectCode};
use crate::job::Job;

/// The stream that records come from.
#[derive(Debug, Clone)]
pub struct Origin {
    pub object: Arc<BronzeObject>,
    /// The object's key, and `!/member` within an archive.
    pub file: Arc<str>,
}

/// One document and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub root: u32,
    /// In the chunk's bytes.
    pub start: u32,
    pub end: u32,
}

/// A chunk of documents of one stream, in order, and what was refused so far.
#[derive(Debug)]
pub struct Decoded {
    pub origin: Origin,
    pub bytes: Bytes,
    /// Decoded offset of `bytes[0]`.
    pub base: u64,
    pub tape: Tape,
    pub rows: Vec<Row>,
    pub rejects: Vec<Reject>,
    /// Records framed, refused ones included.
    pub read: u64,
}

impl Decoded {
    pub fn value(&self, row: &Row) -> Value<'_> {
        self.tape.value(&self.bytes, row.root)
    }

    pub fn offset(&self, row: &Row) -> u64 {
        self.base + u64::from(row.start)
    }

    /// The refusal of a document, with its exact bytes.
    pub fn reject(&self, row: &Row, code: RejectCode, path: String, message: String, version: Option<u32>) -> Reject {
        Reject {
            code,
            path,
            message,
            schema_version: version,
            offset: self.offset(row),
            length: u64::from(row.end - row.start),
            raw: self.bytes.slice(row.start as usize..row.end as usize),
            found: found(&self.origin.object.path, Some(self.value(row))),
        }
    }
}

/// Partition values as found: the path's text, else the payload's.
pub fn found(path: &PathValues, record: Option<Value<'_>>) -> [Option<String>; 4] {
    [PartitionColumn::Database, PartitionColumn::Year, PartitionColumn::Month, PartitionColumn::Day].map(|column| {
        path.get(column).map(str::to_owned).or_else(|| {
            let value = record?.get(column.name())?;
            match value.kind() {
                Kind::Null => None,
                Kind::String => Some(value.as_str().to_owned()),
                _ => Some(value.compact()),
            }
        })
    })
}

pub fn decode(frames: Frames, origin: &Origin, job: &Job) -> Decoded {
    let read = (frames.records.len() + frames.refused.len()) as u64;
    let mut decoded = Decoded {
        origin: origin.clone(),
        bytes: frames.bytes,
        base: frames.base,
        tape: Tape::new(),
        rows: Vec::with_capacity(frames.records.len()),
        rejects: Vec::new(),
        read,
    };
    let path = &origin.object.path;
    decoded.rejects.extend(frames.refused.into_iter().map(|refused| Reject {
        code: refused.code,
        path: "$".to_owned(),
        message: refused.message,
        schema_version: None,
        offset: refused.offset,
        length: refused.length,
        raw: refused.raw,
        found: found(path, None),
    }));
    for range in frames.records {
        let (start, end) = (range.start as u32, range.end as u32);
        match decoded.tape.parse(&decoded.bytes, range.clone(), job.limits.nesting) {
            Ok(root) => {
                let row = Row { root, start, end };
                match form(decoded.value(&row), job) {
                    None => decoded.rows.push(row),
                    Some((code, message)) => {
                        let reject = decoded.reject(&row, code, "$".to_owned(), message, None);
                        decoded.rejects.push(reject);
                    }
                }
            }
            Err(error) => {
                let reject = Reject {
                    code: code_of(error.flaw),
                    path: match error.flaw {
                        Flaw::LoneSurrogate | Flaw::DuplicateKey => error.path,
                        _ => "$".to_owned(),
                    },
                    message: error.message,
                    schema_version: None,
                    offset: decoded.base + range.start as u64,
                    length: (range.end - range.start) as u64,
                    raw: decoded.bytes.slice(range),
                    found: found(path, None),
                };
                decoded.rejects.push(reject);
            }
        }
    }
    decoded
}

fn code_of(flaw: Flaw) -> RejectCode {
    match flaw {
        Flaw::Truncated => RejectCode::TruncatedRecord,
        Flaw::Malformed => RejectCode::MalformedJson,
        Flaw::InvalidUtf8 => RejectCode::InvalidUtf8,
        Flaw::LoneSurrogate => RejectCode::InvalidUnicode,
        Flaw::TooDeep => RejectCode::NestingTooDeep,
        Flaw::DuplicateKey => RejectCode::DuplicateField,
    }
}

/// What is JSON and yet no record.
fn form(value: Value<'_>, job: &Job) -> Option<(RejectCode, String)> {
    if value.kind() != Kind::Object {
        return Some((RejectCode::NotAnObject, format!("a record is an object, this is {}", value.kind().name())));
    }
    if !job.records_at.is_empty() && value.get("jsonrpc").is_some() && value.get("error").is_some() {
        let message = value.get("error").and_then(|error| error.get("message")).map_or("", Value::as_str);
        return Some((RejectCode::ErrorEnvelope, format!("the API answered with an error instead of data: {message}")));
    }
    None
}
