//! Step 4, validate: which contract version a record claims, whether it satisfies that schema, and whether the newest
//! version's columns can hold it.

use super::decode::Verdict;
use crate::contract::check::{Checker, Refusal, storable};
use crate::contract::{ABSENT, Contract, Version};
use crate::domain::RejectCode;
use crate::domain::json::{Kind, Value};
use crate::job::UnknownFields;
use crate::plan::SourcePlan;

/// A record's version, and whether it has fields that this does not declare; `slots` get the nodes of the version's properties.
pub fn validate<'p>(record: Value<'_>, default: u32, slots: &mut Vec<u32>, plan: &'p SourcePlan) -> Result<(&'p Version, bool), Verdict> {
    let contract: &Contract = &plan.contract;
    let version = version_of(record, contract, default).map_err(|refusal| refused(refusal, None))?;
    slots.clear();
    slots.resize(version.root.properties.len(), ABSENT);
    let checked = checker(version, plan).check(record, slots).and_then(|unknown| {
        fits_columns(record, slots, version, contract)?;
        Ok(unknown)
    });
    checked.map(|unknown| (version, unknown)).map_err(|refusal| refused(refusal, Some(version.number)))
}

pub fn checker<'p>(version: &'p Version, plan: &'p SourcePlan) -> Checker<'p> {
    Checker::new(&plan.contract, version, plan.job.unknown_fields == UnknownFields::Quarantine)
}

fn refused(refusal: Refusal, version: Option<u32>) -> Verdict {
    Verdict { code: refusal.code, path: refusal.path(), message: refusal.message, version }
}

/// A version as a text: digits and nothing else.
pub fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn version_of<'c>(record: Value<'_>, contract: &'c Contract, default: u32) -> Result<&'c Version, Refusal> {
    let field = contract.version_field.as_deref().and_then(|name| Some((name, record.get(name)?)));
    let stated = field.filter(|(_, value)| value.kind() != Kind::Null);
    let number = match stated {
        None => Some(default),
        Some((_, value)) => match value.kind() {
            Kind::String => digits(value.as_str()),
            _ => crate::contract::check::as_long(value).and_then(|number| u32::try_from(number).ok()),
        },
    };
    number.and_then(|number| contract.version(number)).ok_or_else(|| {
        let known: Vec<String> = contract.versions().map(|version| version.number.to_string()).collect();
        let said = stated.map_or_else(|| default.to_string(), |(_, value)| value.compact());
        let refusal =
            Refusal::new(RejectCode::UnknownVersion, format!("version {said} is not in the contract, which has {}", known.join(", ")));
        stated.map_or(refusal.clone(), |(name, _)| refusal.inside(name))
    })
}

fn fits_columns(record: Value<'_>, slots: &[u32], version: &Version, contract: &Contract) -> Result<(), Refusal> {
    for (source, property) in version.sources.iter().zip(&contract.latest().root.properties) {
        let resolved = source.resolve(record, slots).map_err(|refusal| refusal.inside(&property.name))?;
        if let Some(value) = resolved.value() {
            storable(&property.shape, value)
                .map_err(|refusal| source.path.iter().rev().fold(refusal, |refusal, step| refusal.inside(step)))?;
        }
    }
    Ok(())
}
