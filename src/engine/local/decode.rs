//! Step 2, decode: framed bytes → documents. Here the record's own form is refused: syntax, encoding, nesting, duplicate fields,
//! what is no object, and an API's error body where data is due.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::Refused;
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

/// Where a record lies in its chunk.
#[derive(Debug, Clone)]
pub struct Place<'c> {
    pub origin: &'c Origin,
    pub bytes: &'c Bytes,
    /// Decoded offset of `bytes[0]`.
    pub base: u64,
    pub range: Range<usize>,
}

/// Why a record is refused, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub code: RejectCode,
    pub path: String,
    pub message: String,
    pub version: Option<u32>,
}

impl Place<'_> {
    /// The refusal of a record, with its exact bytes.
    pub fn reject(&self, verdict: Verdict, record: Option<Value<'_>>) -> Reject {
        Reject {
            code: verdict.code,
            path: verdict.path,
            message: verdict.message,
            schema_version: verdict.version,
            offset: self.base + self.range.start as u64,
            length: self.range.len() as u64,
            raw: self.bytes.slice(self.range.clone()),
            found: found(&self.origin.object.path, record),
        }
    }
}

/// The refusal of what is no record.
pub fn refuse(refused: Refused, origin: &Origin) -> Reject {
    Reject {
        code: refused.code,
        path: "$".to_owned(),
        message: refused.message,
        schema_version: None,
        offset: refused.offset,
        length: refused.length,
        raw: refused.raw,
        found: found(&origin.object.path, None),
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

/// Parses one record, strictly, and returns its node.
pub fn decode(tape: &mut Tape, bytes: &[u8], range: Range<usize>, job: &Job) -> Result<u32, Verdict> {
    tape.parse(bytes, range, job.limits.nesting).map_err(|error| Verdict {
        code: code_of(error.flaw),
        path: match error.flaw {
            Flaw::LoneSurrogate | Flaw::DuplicateKey => error.path,
            _ => "$".to_owned(),
        },
        message: error.message,
        version: None,
    })
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
pub fn form(value: Value<'_>, job: &Job) -> Result<(), Verdict> {
    let refused = |code, message| Err(Verdict { code, path: "$".to_owned(), message, version: None });
    if value.kind() != Kind::Object {
        return refused(RejectCode::NotAnObject, format!("a record is an object, this is {}", value.kind().name()));
    }
    if !job.records_at.is_empty() && value.get("jsonrpc").is_some() && value.get("error").is_some() {
        let message = value.get("error").and_then(|error| error.get("message")).map_or("", Value::as_str);
        return refused(RejectCode::ErrorEnvelope, format!("the API answered with an error instead of data: {message}"));
    }
    Ok(())
}
