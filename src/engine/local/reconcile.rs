//! Step 3, reconcile: the truth about the columns that may stand in the path, in the payload, or in both.
//!
//! What a record has is measured on the record, never assumed from its layout. `01` and 1 are the same month.

use super::decode::Verdict;
use crate::domain::json::{Kind, Value};
use crate::domain::{HIVE_DEFAULT, PartitionColumn, PathValues, RejectCode};
use crate::job::{Job, OnConflict, PartitionRule, Where};
use crate::plan::SourcePlan;
use crate::plan::in_path::{InPath, NUMBERS, TEXTS, digits, due, unescaped};

/// Year, month and day of one record; `None` where they are to be derived from its event time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    pub year: Option<i32>,
    pub month: Option<i32>,
    pub day: Option<i32>,
}

/// What [`reconcile`] says where path and payload agree; `None` where they do not, or one of them is odd. `get` gives the
/// payload's columns in the order of [`PartitionColumn::ALL`].
pub fn agree<'a>(in_path: &InPath, get: impl Fn(usize) -> Option<Value<'a>>, plan: &SourcePlan) -> Option<Parts> {
    for (at, (said, asked)) in in_path.texts.iter().enumerate() {
        match get(at).filter(|value| *asked && !is_absent(*value)) {
            Some(value) if matches!(value.kind(), Kind::String) && value.as_bytes() == due(TEXTS[at], plan).as_bytes() => {}
            None if *said => {}
            _ => return None,
        }
    }
    let mut parts = [None; 3];
    for (at, (said, asked, derived)) in in_path.numbers.iter().enumerate() {
        let payload = get(at + TEXTS.len()).filter(|value| *asked && !is_absent(*value));
        parts[at] = match (said, payload) {
            (Some(path), Some(payload)) => Some(quick_number(payload).filter(|number| number == path)?),
            (Some(path), None) => Some(*path),
            (None, Some(payload)) => Some(quick_number(payload).filter(|number| (1..=NUMBERS[at].1).contains(number))?),
            (None, None) if *derived => None,
            (None, None) => return None,
        };
    }
    let [year, month, day] = parts;
    Some(Parts { year, month, day })
}

fn quick_number(value: Value<'_>) -> Option<i32> {
    match value.kind() {
        Kind::Int(number) => i32::try_from(number).ok(),
        Kind::String => digits(value.as_str()),
        _ => None,
    }
}

type Conflict = (PartitionColumn, RejectCode, String);

/// Settles the columns of one record, or says which of them cannot be.
pub fn reconcile(path: &PathValues, record: Value<'_>, plan: &SourcePlan) -> Result<Parts, Verdict> {
    record_parts(path, record, plan).map_err(|(column, code, message)| Verdict {
        code,
        path: format!("$.{}", column.name()),
        message,
        version: None,
    })
}

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
    value.kind().is_null() || (matches!(value.kind(), Kind::String) && value.as_bytes() == HIVE_DEFAULT.as_bytes())
}

/// Database and entity: the source decides which folder is read, so what the record says must agree with it.
fn text(
    column: PartitionColumn,
    rule: &PartitionRule,
    in_path: Option<&str>,
    in_payload: Option<Value<'_>>,
    plan: &SourcePlan,
) -> Result<(), Conflict> {
    let due = due(column, plan);
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

fn payload_number(value: Value<'_>) -> Option<i32> {
    match value.kind() {
        Kind::String => digits(value.as_str()),
        _ => crate::contract::check::as_long(value).and_then(|number| i32::try_from(number).ok()),
    }
}
