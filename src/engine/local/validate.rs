//! Step 4, validate: which contract version a record claims, whether it satisfies that schema, and whether the newest
//! version's columns can hold it.

use super::decode::{Decoded, Row};
use super::reconcile::{Parts, Reconciled};
use crate::contract::check::{Checker, Refusal, storable};
use crate::contract::{ABSENT, Contract, Version};
use crate::domain::RejectCode;
use crate::domain::json::{Kind, Value};
use crate::job::UnknownFields;
use crate::plan::{SourcePlan, path_date};

/// A row that its contract accepts.
#[derive(Debug, Clone, Copy)]
pub struct Valid {
    pub row: Row,
    pub parts: Parts,
    pub version: u32,
    /// Where its slots begin in [`Validated::slots`].
    pub slots: u32,
    /// Whether it has fields that its version does not declare.
    pub unknown: bool,
}

#[derive(Debug)]
pub struct Validated {
    pub decoded: Decoded,
    pub rows: Vec<Valid>,
    /// For each row the nodes of its version's properties.
    pub slots: Vec<u32>,
}

pub fn validate(reconciled: Reconciled, plan: &SourcePlan) -> Validated {
    let Reconciled { mut decoded, parts } = reconciled;
    let contract: &Contract = &plan.contract;
    let refuse_unknown = plan.job.unknown_fields == UnknownFields::Quarantine;
    let object = &decoded.origin.object;
    let default = contract.default_version(object.layout, path_date(&object.path));
    let mut rows = Vec::with_capacity(decoded.rows.len());
    let mut slots = Vec::new();
    let mut rejects = Vec::new();
    for (row, parts) in decoded.rows.iter().zip(parts) {
        let record = decoded.value(row);
        let from = slots.len();
        let outcome = version_of(record, contract, default).and_then(|version| {
            slots.resize(from + version.root.properties.len(), ABSENT);
            let unknown = Checker::new(contract, version, refuse_unknown).check(record, &mut slots[from..]);
            let outcome = unknown.and_then(|unknown| fits_columns(record, &slots[from..], version, contract).map(|()| unknown));
            outcome.map(|unknown| (version.number, unknown)).map_err(|refusal| (refusal, Some(version.number)))
        });
        match outcome {
            Ok((version, unknown)) => rows.push(Valid { row: *row, parts, version, slots: from as u32, unknown }),
            Err((refusal, version)) => {
                slots.truncate(from);
                rejects.push(decoded.reject(row, refusal.code, refusal.path(), refusal.message, version));
            }
        }
    }
    decoded.rejects.append(&mut rejects);
    Validated { decoded, rows, slots }
}

fn version_of<'c>(record: Value<'_>, contract: &'c Contract, default: u32) -> Result<&'c Version, (Refusal, Option<u32>)> {
    let field = contract.version_field.as_deref().and_then(|name| Some((name, record.get(name)?)));
    let stated = field.filter(|(_, value)| value.kind() != Kind::Null);
    let number = match stated {
        None => Some(default),
        Some((_, value)) => match value.kind() {
            Kind::String => value.as_str().parse().ok(),
            _ => crate::contract::check::as_long(value).and_then(|number| u32::try_from(number).ok()),
        },
    };
    number.and_then(|number| contract.version(number)).ok_or_else(|| {
        let known: Vec<String> = contract.versions().map(|version| version.number.to_string()).collect();
        let said = stated.map_or_else(|| default.to_string(), |(_, value)| value.compact());
        let refusal =
            Refusal::new(RejectCode::UnknownVersion, format!("version {said} is not in the contract, which has {}", known.join(", ")));
        (stated.map_or(refusal.clone(), |(name, _)| refusal.inside(name)), None)
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
