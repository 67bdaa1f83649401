//! Older versions → the newest: where in a record of version n each of the newest properties is found.
//!
//! The declared steps are composed once at load. A record is then read in place: a path, a default, casts.

use std::collections::BTreeMap;

use super::check::Refusal;
use super::{ABSENT, Type, Version};
use crate::domain::json::{Kind, Tape, Value, write_string};
use crate::domain::{Mistake, RejectCode};

/// One declared step from version n−1 to n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Rename { from: String, to: String },
    Move { from: Vec<String>, to: Vec<String> },
    Default { field: String, value: String },
    Cast { field: String, to: String },
}

/// Where a property of the newest version comes from in a record of an older one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Empty where the record cannot have it.
    pub path: Vec<String>,
    /// Position of `path[0]` among the version's own properties.
    slot: Option<usize>,
    pub(super) default: Option<String>,
    pub(super) casts: Vec<String>,
    /// Fields inside of it that a later version keeps elsewhere.
    pub(super) moved_out: Vec<Vec<String>>,
}

/// What a record has for a property of the newest version.
pub enum Resolved<'a> {
    Absent,
    Read(Value<'a>),
    Made(OwnedJson),
}

/// A value that the record does not hold as such: a default, or the result of a cast.
pub struct OwnedJson {
    text: String,
    tape: Tape,
}

impl OwnedJson {
    fn new(text: String) -> Self {
        let mut tape = Tape::new();
        // As deep as the record, whose nesting was bounded when it was parsed.
        if tape.parse(text.as_bytes(), 0..text.len(), usize::MAX).is_err() {
            return Self::new("null".to_owned());
        }
        Self { text, tape }
    }

    pub fn value(&self) -> Value<'_> {
        self.tape.value(self.text.as_bytes(), 0)
    }
}

impl<'a> Resolved<'a> {
    pub fn value(&'a self) -> Option<Value<'a>> {
        match self {
            Resolved::Absent => None,
            Resolved::Read(value) => Some(*value),
            Resolved::Made(owned) => Some(owned.value()),
        }
    }
}

impl Source {
    pub fn slot(&self) -> Option<usize> {
        self.slot
    }

    /// The version's own property that is the newest one's as it stands.
    pub fn as_it_stands(&self) -> Option<usize> {
        let changed = self.path.len() != 1 || self.default.is_some() || !self.casts.is_empty() || !self.moved_out.is_empty();
        self.slot.filter(|_| !changed)
    }

    /// The fields to walk to a value that is the newest version's as it is found; none where a record cannot have it, and `None`
    /// where something is made of what is found.
    pub fn steps(&self) -> Option<&[String]> {
        (self.default.is_none() && self.casts.is_empty() && self.moved_out.is_empty()).then_some(self.path.as_slice())
    }

    pub fn resolve<'a>(&self, record: Value<'a>, slots: &[u32]) -> Result<Resolved<'a>, Refusal> {
        let found = self
            .slot
            .and_then(|slot| slots.get(slot).copied())
            .filter(|slot| *slot != ABSENT)
            .and_then(|slot| record.sibling(slot).walk(self.path.get(1..).unwrap_or_default()));
        let resolved = match (found, &self.default) {
            (Some(value), _) if self.moved_out.is_empty() => Resolved::Read(value),
            (Some(value), _) => {
                let mut text = String::new();
                write_without(value, &self.moved_out.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut text);
                Resolved::Made(OwnedJson::new(text))
            }
            (None, Some(default)) => Resolved::Made(OwnedJson::new(default.clone())),
            (None, None) => Resolved::Absent,
        };
        self.casts.iter().try_fold(resolved, cast)
    }
}

/// Compact JSON without the fields at some paths.
fn write_without(value: Value<'_>, paths: &[&[String]], out: &mut String) {
    if paths.is_empty() || value.kind() != Kind::Object {
        value.write_compact(out);
        return;
    }
    let mut separator = '{';
    for (key, field) in value.entries() {
        let below: Vec<&[String]> =
            paths.iter().filter(|path| path.first().is_some_and(|step| step == key)).map(|path| &path[1..]).collect();
        if below.iter().any(|path| path.is_empty()) {
            continue;
        }
        out.push(separator);
        write_string(key, out);
        out.push(':');
        write_without(field, &below, out);
        separator = ',';
    }
    out.push_str(if separator == '{' { "{}" } else { "}" });
}

fn cast<'a>(resolved: Resolved<'a>, to: &String) -> Result<Resolved<'a>, Refusal> {
    let Some(value) = resolved.value() else { return Ok(Resolved::Absent) };
    let text = value.as_str();
    let made = match (to.as_str(), value.kind()) {
        (_, Kind::Null) => Some("null".to_owned()),
        ("string", Kind::String) | ("boolean", Kind::Bool(_)) => Some(value.compact()),
        ("string", _) => {
            let mut literal = String::new();
            write_string(&value.compact(), &mut literal);
            Some(literal)
        }
        ("integer" | "number", Kind::Int(_) | Kind::BigInt(_) | Kind::Float(_)) => Some(value.raw().to_owned()),
        ("integer", Kind::String) => text.parse::<i64>().ok().map(|number| number.to_string()),
        ("number", Kind::String) => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|_| text.to_owned()),
        ("integer" | "number", Kind::Bool(flag)) => Some(u8::from(flag).to_string()),
        ("boolean", Kind::Int(number @ (0 | 1))) => Some((number == 1).to_string()),
        ("boolean", Kind::String) if text == "true" || text == "false" => Some(text.to_owned()),
        _ => None,
    };
    match made {
        Some(made) => Ok(Resolved::Made(OwnedJson::new(made))),
        None => Err(Refusal::new(RejectCode::WrongType, format!("{} cannot be cast to {to}", value.raw()))),
    }
}

/// Fills every version's `sources` from the steps of the versions after it.
pub fn compose(versions: &mut BTreeMap<u32, Version>, steps: &BTreeMap<u32, Vec<Step>>) -> Result<(), Mistake> {
    let Some(latest) = versions.values().next_back().map(|version| version.root.clone()) else { return Ok(()) };
    let numbers: Vec<u32> = versions.keys().copied().collect();
    for number in &numbers {
        let own = versions[number].root.clone();
        let mut fields: BTreeMap<String, Source> = own
            .properties
            .iter()
            .map(|property| (property.name.clone(), Source { path: vec![property.name.clone()], ..Source::default() }))
            .collect();
        for later in numbers.iter().filter(|later| *later > number) {
            for step in steps.get(later).into_iter().flatten() {
                apply(&mut fields, step).map_err(|message| versions[later].mistake("\"x-upcast\"", message))?;
            }
        }
        let mut sources = Vec::with_capacity(latest.properties.len());
        for property in &latest.properties {
            let mut source = fields.remove(&property.name).unwrap_or_default();
            source.slot = source.path.first().and_then(|name| own.position(name));
            if let Some(from) = source.slot.filter(|_| source.path.len() == 1 && source.casts.is_empty()).map(|at| &own.properties[at])
                && !reaches(&from.shape.ty, &property.shape.ty)
            {
                let message = format!("`{}` of version {number} has a type that the newest version's column cannot hold", property.name);
                return Err(versions[number].mistake(&format!("\"{}\"", from.name), message));
            }
            sources.push(source);
        }
        if let Some(version) = versions.get_mut(number) {
            version.sources = sources;
        }
    }
    Ok(())
}

fn apply(fields: &mut BTreeMap<String, Source>, step: &Step) -> Result<(), String> {
    match step {
        Step::Rename { from, to } => {
            let source = fields.remove(from).ok_or_else(|| format!("renames `{from}`, which the version before does not have"))?;
            fields.insert(to.clone(), source);
        }
        Step::Move { from, to } => {
            let [target] = to.as_slice() else { return Err("moves to a top-level field only, like /c".to_owned()) };
            let (first, inner) = from.split_first().ok_or("moves from nowhere")?;
            let mut source =
                fields.get(first).cloned().ok_or_else(|| format!("moves from `{first}`, which the version before does not have"))?;
            source.path.extend(inner.iter().cloned());
            source.moved_out.clear();
            match fields.get_mut(first) {
                Some(whole) if !inner.is_empty() => whole.moved_out.push(inner.to_vec()),
                _ => drop(fields.remove(first)),
            }
            fields.insert(target.clone(), source);
        }
        Step::Default { field, value } => {
            fields.entry(field.clone()).or_default().default.get_or_insert_with(|| value.clone());
        }
        Step::Cast { field, to } => {
            fields.get_mut(field).ok_or_else(|| format!("casts `{field}`, which the version before does not have"))?.casts.push(to.clone());
        }
    }
    Ok(())
}

/// Whether every value of one type can be stored in a column of the other, record by record.
fn reaches(from: &Type, to: &Type) -> bool {
    match (from, to) {
        (Type::Long, Type::Double | Type::Decimal { .. }) | (Type::Double, Type::Decimal { .. }) | (_, Type::Json { .. }) => true,
        (Type::Struct(_), Type::Struct(_)) | (Type::Timestamp { .. }, Type::Timestamp { .. }) => true,
        (Type::Map(a), Type::Map(b)) | (Type::List(a), Type::List(b)) => reaches(&a.ty, &b.ty),
        (Type::Text | Type::Reference(_), Type::Reference(_)) => true,
        (a, b) => a == b,
    }
}
