//! What changed from one version to the next, and whether somebody must have decided it.

use std::fmt;

use super::{Checks, Contract, Limit, Object, Shape, Type, Version};
use crate::domain::Mistake;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Same,
    Additive,
    Widening,
    Breaking,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Same => "same",
            Verdict::Additive => "additive",
            Verdict::Widening => "widening",
            Verdict::Breaking => "breaking",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub verdict: Verdict,
    /// Dotted name of the property.
    pub property: String,
    pub what: String,
}

/// Every change from `old` to `new`, in contract order.
pub fn changes(old: &Version, new: &Version) -> Vec<Change> {
    let mut found = Vec::new();
    compare_objects("", &old.root, &new.root, &mut found);
    found
}

/// A Breaking change without `x-decision` is refused.
pub fn require_decisions(contract: &Contract) -> Result<(), Mistake> {
    let versions: Vec<&Version> = contract.versions().collect();
    for pair in versions.windows(2) {
        let [old, new] = pair else { continue };
        let breaking = changes(old, new).into_iter().find(|change| change.verdict == Verdict::Breaking);
        if let Some(change) = breaking.filter(|_| new.decision.is_none()) {
            let message = format!("breaking change from version {} to {}: `{}` {}", old.number, new.number, change.property, change.what);
            let mut mistake = new.mistake("\"title\"", message);
            mistake.help = Some("say why in \"x-decision\", and how to upcast in \"x-upcast\"".to_owned());
            return Err(mistake);
        }
    }
    Ok(())
}

fn compare_objects(prefix: &str, old: &Object, new: &Object, found: &mut Vec<Change>) {
    let mut note = |verdict, name: &str, what: &str| {
        found.push(Change { verdict, property: format!("{prefix}{name}"), what: what.to_owned() });
    };
    for property in &old.properties {
        if new.property(&property.name).is_none() {
            note(Verdict::Breaking, &property.name, "is gone (removed, renamed or moved)");
        }
    }
    for property in &new.properties {
        match old.property(&property.name) {
            None if property.required => note(Verdict::Breaking, &property.name, "is new and required"),
            None => note(Verdict::Additive, &property.name, "is new"),
            Some(before) if property.required && !before.required => note(Verdict::Breaking, &property.name, "is now required"),
            Some(before) if before.required && !property.required => note(Verdict::Additive, &property.name, "is no longer required"),
            Some(_) => {}
        }
    }
    if new.closed && !old.closed {
        note(Verdict::Breaking, "additionalProperties", "is now false");
    }
    for property in &new.properties {
        if let Some(before) = old.property(&property.name) {
            compare_shapes(&format!("{prefix}{}", property.name), &before.shape, &property.shape, found);
        }
    }
}

fn compare_shapes(name: &str, old: &Shape, new: &Shape, found: &mut Vec<Change>) {
    let mut note = |verdict, what: &str| found.push(Change { verdict, property: name.to_owned(), what: what.to_owned() });
    match (&old.ty, &new.ty) {
        (Type::Long, Type::Double) => note(Verdict::Widening, "widened from integer to number"),
        (Type::Struct(a), Type::Struct(b)) | (Type::Reference(a), Type::Reference(b)) => {
            return compare_objects(&format!("{name}."), a, b, found);
        }
        (Type::List(a), Type::List(b)) | (Type::Map(a), Type::Map(b)) => return compare_shapes(&format!("{name}[]"), a, b, found),
        (a, b) if a != b => note(Verdict::Breaking, "has another type"),
        _ => {}
    }
    match (old.nullable, new.nullable) {
        (true, false) => note(Verdict::Breaking, "may no longer be null"),
        (false, true) => note(Verdict::Additive, "may now be null"),
        _ => {}
    }
    if old.checks != new.checks {
        let (verdict, what) = if loosened(&old.checks, &new.checks) {
            (Verdict::Additive, "has looser checks")
        } else {
            (Verdict::Breaking, "has tighter or other checks")
        };
        note(verdict, what);
    }
}

/// Whether everything that the old checks accept is accepted by the new ones, as far as that can be told keyword by keyword.
fn loosened(old: &Checks, new: &Checks) -> bool {
    let number = |limit: Limit| match limit {
        Limit::Int(int) => int as f64,
        Limit::Float(float) => float,
    };
    let lower = |old: Option<Limit>, new: Option<Limit>| new.is_none_or(|new| old.is_some_and(|old| number(new) <= number(old)));
    let upper = |old: Option<Limit>, new: Option<Limit>| new.is_none_or(|new| old.is_some_and(|old| number(new) >= number(old)));
    let least = |old: Option<u64>, new: Option<u64>| new.is_none_or(|new| old.is_some_and(|old| new <= old));
    let most = |old: Option<u64>, new: Option<u64>| new.is_none_or(|new| old.is_some_and(|old| new >= old));
    let values = new.allowed.as_ref().is_none_or(|new| {
        old.allowed.as_ref().is_some_and(|old| {
            old.texts.iter().all(|text| new.texts.contains(text)) && old.others.iter().all(|scalar| new.others.contains(scalar))
        })
    });
    let pattern = new.pattern.as_ref().is_none_or(|new| old.pattern.as_ref().is_some_and(|old| old.source == new.source));
    values
        && pattern
        && (!new.uuid || old.uuid)
        && lower(old.minimum, new.minimum)
        && upper(old.maximum, new.maximum)
        && lower(old.exclusive_minimum, new.exclusive_minimum)
        && upper(old.exclusive_maximum, new.exclusive_maximum)
        && least(old.min_length, new.min_length)
        && most(old.max_length, new.max_length)
        && least(old.min_items, new.min_items)
        && most(old.max_items, new.max_items)
        && least(old.min_properties, new.min_properties)
        && most(old.max_properties, new.max_properties)
}
