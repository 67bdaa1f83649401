//! Step 3, reconcile: the truth about the columns that may stand in the path, in the payload, or in both.
//!
//! What a record has is measured on the record, never assumed from its layout. `01` and 1 are the same month.

use super::decode::Decoded;
use crate::domain::json::{Kind, Value};
use crate::domain::{HIVE_DEFAULT, PartitionColumn, PathValues, Reject, RejectCode};
use crate::job::{Job, OnConflict, PartitionRule, Where};
use crate::plan::SourcePlan;

/// Year, month and day of one record; `None` where they are to be derived from its event time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    pub year: Option<i32>,
    pub month: Option<i32>,
    pub day: Option<i32>,
}

#[derive(Debug)]
pub struct Reconciled {
    pub decoded: Decoded,
    /// One for each row.
    pub parts: Vec<Parts>,
}

pub fn reconcile(mut decoded: Decoded, plan: &SourcePlan) -> Reconciled {
    let mut parts = Vec::with_capacity(decoded.rows.len());
    let mut rejects: Vec<Reject> = Vec::new();
    let rows = std::mem::take(&mut decoded.rows);
    let kept = rows.into_iter().filter(|row| match record_parts(&decoded.origin.object.path, decoded.value(row), plan) {
        Ok(found) => {
            parts.push(found);
            true
        }
        Err((column, code, message)) => {
            rejects.push(decoded.reject(row, code, format!("$.{}", column.name()), message, None));
            false
        }
    });
    let kept = kept.collect();
    decoded.rows = kept;
    decoded.rejects.append(&mut rejects);
    Reconciled { decoded, parts }
}

type Conflict = (PartitionColumn, RejectCode, String);

fn record_parts(path: &PathValues, record: Value<'_>, plan: &SourcePlan) -> Result<Parts, Conflict> {
    let job: &Job = &plan.job;
    let mut parts = Parts::default();
    for column in PartitionColumn::ALL {
        let rule = job.partition(column);
        let in_path = path.get(column).filter(|_| rule.place != Where::Payload);
        let in_payload = record.get(column.name()).filter(|value| rule.place != Where::Path && !is_absent(*value));
        match column {
            PartitionColumn::Database | PartitionColumn::Entity => text(column, rule, in_path, in_payload, plan)?,
            PartitionColumn::Year => parts.year = number(column, rule, in_path, in_payload, 1..=9999)?,
            PartitionColumn::Month => parts.month = number(column, rule, in_path, in_payload, 1..=12)?,
            PartitionColumn::Day => parts.day = number(column, rule, in_path, in_payload, 1..=31)?,
        }
    }
    Ok(parts)
}

fn is_absent(value: Value<'_>) -> bool {
    value.kind() == Kind::Null || (value.kind() == Kind::String && value.as_str() == HIVE_DEFAULT)
}

/// Database and entity: the source decides which folder is read, so what the record says must agree with it.
fn text(
    column: PartitionColumn,
    rule: &PartitionRule,
    in_path: Option<&str>,
    in_payload: Option<Value<'_>>,
    plan: &SourcePlan,
) -> Result<(), Conflict> {
    let due = if column == PartitionColumn::Database { &plan.source.database } else { &plan.source.entity };
    let payload = match in_payload {
        Some(value) if value.kind() == Kind::String => Some(value.as_str()),
        Some(value) => return Err((column, RejectCode::PartitionInvalid, format!("{} is no name", value.compact()))),
        None => None,
    };
    let chosen = match (in_path, payload) {
        (Some(path), Some(payload)) if path != payload => match rule.on_conflict {
            OnConflict::Quarantine => {
                return Err((column, RejectCode::PartitionConflict, format!("path says {path}, payload says {payload}")));
            }
            OnConflict::Path => path,
            OnConflict::Payload => payload,
        },
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) => return Err(missing(column)),
    };
    if chosen != due {
        return Err((column, RejectCode::PartitionConflict, format!("the record says {chosen}, it lies under {due}")));
    }
    Ok(())
}

fn missing(column: PartitionColumn) -> Conflict {
    (column, RejectCode::PartitionMissing, format!("neither path nor payload has {}", column.name()))
}

fn number(
    column: PartitionColumn,
    rule: &PartitionRule,
    in_path: Option<&str>,
    in_payload: Option<Value<'_>>,
    range: std::ops::RangeInclusive<i32>,
) -> Result<Option<i32>, Conflict> {
    let invalid = |place: &str, text: &str| {
        let message = format!("{place} says {text:?}, a {} is a number from {} to {}", column.name(), range.start(), range.end());
        (column, RejectCode::PartitionInvalid, message)
    };
    let path = in_path
        .map(|text| digits(&unescaped(text)).filter(|value| range.contains(value)).ok_or_else(|| invalid("path", text)))
        .transpose()?;
    let payload = in_payload
        .map(|value| payload_number(value).filter(|number| range.contains(number)).ok_or_else(|| invalid("payload", &value.compact())))
        .transpose()?;
    match (path, payload) {
        (Some(path), Some(payload)) if path != payload => match rule.on_conflict {
            OnConflict::Quarantine => Err((column, RejectCode::PartitionConflict, format!("path says {path}, payload says {payload}"))),
            OnConflict::Path => Ok(Some(path)),
            OnConflict::Payload => Ok(Some(payload)),
        },
        (Some(value), _) | (None, Some(value)) => Ok(Some(value)),
        (None, None) if rule.derive.is_some() => Ok(None),
        (None, None) => Err(missing(column)),
    }
}

/// Hive escapes characters of a folder's value as `%XX`.
fn unescaped(text: &str) -> std::borrow::Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap_or(std::borrow::Cow::Borrowed(text))
}

fn digits(text: &str) -> Option<i32> {
    let plain = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

fn payload_number(value: Value<'_>) -> Option<i32> {
    match value.kind() {
        Kind::String => digits(value.as_str()),
        _ => crate::contract::check::as_long(value).and_then(|number| i32::try_from(number).ok()),
    }
}
