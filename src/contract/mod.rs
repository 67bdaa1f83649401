//! Contracts: the numbered JSON Schemas of an entity, compiled to columns, to checks, and to upcasts.
//!
//! A contract is loaded once per run. Each version becomes an [`Object`] of typed properties whose checks are the closed set
//! of docs/contracts.md; keywords outside of it make the version carry a [`Rest`], the whole schema in the `jsonschema` crate,
//! which runs only on records that passed the compiled checks. The newest version gives the table its columns; older versions
//! reach it through [`Source`]s, composed at load from the declared steps, so a record is read in place and never rewritten.
//!
//! Mistakes in a schema file carry the byte they stand at.

pub mod check;
pub mod columns;
pub mod convert;
pub mod evolve;
mod pattern;
pub mod predicate;
mod schema;
pub mod upcast;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::json::{Tape, Value};
use crate::domain::time::Variants;
use crate::domain::{Layout, Mistake, PartitionColumn};

pub use evolve::{Change, Verdict};
pub use schema::{full_validator, pointer};
pub use upcast::Source;

#[derive(Debug, thiserror::Error)]
pub enum LoadContractError {
    #[error("no contract for {entity}: {} has no numbered schema files (expected {entity}/1.json)", dir.display())]
    NoVersions { entity: String, dir: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Mistake(Box<Mistake>),
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Boolean,
    Long,
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// `asserted`: the schema says `format: date-time`, so a malformed text is the schema's refusal, not the table's.
    Timestamp {
        asserted: bool,
        variants: Variants,
    },
    Date,
    Text,
    Duration,
    /// `{"id": …}` or a bare string, one STRING.
    Reference(Arc<Object>),
    Struct(Arc<Object>),
    Map(Box<Shape>),
    List(Box<Shape>),
    /// Any JSON, kept as compact text. `kinds` are JSON Schema's type names, empty for any.
    Json {
        kinds: Vec<String>,
    },
}

/// A typed place in a schema with what is asserted there.
#[derive(Debug, Clone)]
pub struct Shape {
    pub ty: Type,
    pub nullable: bool,
    pub checks: Checks,
    /// Nothing is asserted but the type.
    pub bare: bool,
    pub description: Option<String>,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && self.nullable == other.nullable && self.checks == other.checks
    }
}

/// A number that a schema names as a bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    Int(i64),
    Float(f64),
}

/// The compiled assertions of one place, by the order in which they are decided.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    pub allowed: Option<Allowed>,
    pub minimum: Option<Limit>,
    pub maximum: Option<Limit>,
    pub exclusive_minimum: Option<Limit>,
    pub exclusive_maximum: Option<Limit>,
    /// Code points of a text, elements of an array, fields of an object.
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub pattern: Option<Pattern>,
    pub uuid: bool,
}

impl PartialEq for Checks {
    fn eq(&self, other: &Self) -> bool {
        let bounds = |checks: &Checks| {
            (
                (checks.minimum, checks.maximum, checks.exclusive_minimum, checks.exclusive_maximum),
                (checks.min_length, checks.max_length, checks.min_items, checks.max_items),
                (checks.min_properties, checks.max_properties, checks.uuid),
            )
        };
        self.allowed == other.allowed
            && bounds(self) == bounds(other)
            && self.pattern.as_ref().map(|pattern| &pattern.source) == other.pattern.as_ref().map(|pattern| &pattern.source)
    }
}

/// `enum` or `const`: texts apart, since they are nearly all there is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Allowed {
    pub texts: Vec<String>,
    pub others: Vec<Scalar>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
}

#[derive(Debug, Clone)]
pub struct Pattern {
    pub source: String,
    pub regex: regex::Regex,
}

#[derive(Debug, Clone)]
pub struct Property {
    pub name: String,
    pub shape: Shape,
    pub required: bool,
}

/// Properties in contract order, with the way from a name to its place.
#[derive(Debug, Clone, Default)]
pub struct Object {
    pub properties: Vec<Property>,
    /// `required` names that `properties` does not declare.
    pub also_required: Vec<String>,
    /// `additionalProperties: false`.
    pub closed: bool,
    index: HashMap<String, usize>,
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.closed == other.closed
            && self.also_required == other.also_required
            && self.properties.len() == other.properties.len()
            && self
                .properties
                .iter()
                .zip(&other.properties)
                .all(|(a, b)| a.name == b.name && a.required == b.required && a.shape == b.shape)
    }
}

/// Slot of a property that a record does not have.
pub use crate::domain::json::ABSENT;

impl Object {
    pub fn new(properties: Vec<Property>, also_required: Vec<String>, closed: bool) -> Self {
        let index = properties.iter().enumerate().map(|(at, property)| (property.name.clone(), at)).collect();
        Self { properties, also_required, closed, index }
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub fn property(&self, name: &str) -> Option<&Property> {
        self.position(name).and_then(|at| self.properties.get(at))
    }

    /// Writes the node of each property to `slots` ([`ABSENT`] where there is none) and calls `unknown` for other fields.
    /// A feed repeats its key order, so the property after the last one found is tried before the hash.
    pub fn slots<'a>(&self, value: Value<'a>, slots: &mut [u32], mut unknown: impl FnMut(&'a str, Value<'a>)) {
        slots.fill(ABSENT);
        let mut expected = 0;
        for (key, field) in value.fields() {
            let predicted = self.properties.get(expected).is_some_and(|property| property.name.as_bytes() == key.as_bytes());
            match if predicted { Some(expected) } else { self.position(key.as_str()) } {
                Some(at) => {
                    slots[at] = field.index();
                    expected = at + 1;
                }
                None => unknown(key.as_str(), field),
            }
        }
    }
}

/// The keywords that are not compiled: the whole schema, run per record by the `jsonschema` crate.
#[derive(Debug)]
pub struct Rest {
    pub keywords: Vec<String>,
    pub validator: jsonschema::Validator,
}

/// One version of a contract.
#[derive(Debug)]
pub struct Version {
    pub number: u32,
    pub root: Arc<Object>,
    pub rest: Option<Rest>,
    /// For each property of the newest version: where a record of this version has it.
    pub sources: Vec<Source>,
    /// The schema as written.
    pub json: serde_json::Value,
    pub file: PathBuf,
    pub description: Option<String>,
    decision: Option<String>,
    text: String,
}

impl Version {
    /// Points at the first place where the file says `needle`.
    fn mistake(&self, needle: &str, message: String) -> Mistake {
        let span = match self.text.find(needle) {
            Some(at) => at..at + needle.len(),
            None => 0..1.min(self.text.len()),
        };
        Mistake { file: self.file.display().to_string(), text: self.text.clone(), span, message, help: None }
    }

    pub fn decision(&self) -> Option<&str> {
        self.decision.as_deref()
    }
}

/// One rule of `x-default-version`; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRule {
    pub layout: Option<Layout>,
    /// Days since 1970; matches paths dated before it.
    pub before: Option<i32>,
    pub version: u32,
}

#[derive(Debug)]
pub struct Contract {
    pub entity: String,
    pub version_field: Option<String>,
    pub defaults: Vec<DefaultRule>,
    versions: BTreeMap<u32, Version>,
    latest: u32,
}

impl Contract {
    /// Reads `dir/<entity>/<n>.json`.
    pub fn load(dir: &Path, entity: &str) -> Result<Self, LoadContractError> {
        let folder = dir.join(entity);
        let files = numbered_files(&folder)?;
        if files.is_empty() {
            return Err(LoadContractError::NoVersions { entity: entity.to_owned(), dir: folder });
        }
        let texts = files
            .into_iter()
            .map(|(number, path)| match std::fs::read_to_string(&path) {
                Ok(text) => Ok((number, path, text)),
                Err(source) => Err(LoadContractError::Read { path, source }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::from_texts(entity, texts).map_err(|mistake| LoadContractError::Mistake(Box::new(mistake)))
    }

    /// Compiles (number, file name, text) of every version.
    pub fn from_texts(entity: &str, texts: Vec<(u32, PathBuf, String)>) -> Result<Self, Mistake> {
        let mut versions = BTreeMap::new();
        let mut root = schema::RootKeywords::default();
        let mut upcasts = BTreeMap::new();
        for (number, path, text) in texts {
            let (version, keywords, steps) = schema::compile(number, path, &text)?;
            versions.insert(number, version);
            upcasts.insert(number, steps);
            root = keywords;
        }
        let latest = versions.keys().next_back().copied().unwrap_or(1);
        let mut contract = Self { entity: entity.to_owned(), version_field: root.version_field, defaults: root.defaults, versions, latest };
        upcast::compose(&mut contract.versions, &upcasts)?;
        evolve::require_decisions(&contract)?;
        Ok(contract)
    }

    pub fn latest(&self) -> &Version {
        // `from_texts` is never given an empty list, and `latest` is one of its numbers.
        &self.versions[&self.latest]
    }

    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions.get(&number)
    }

    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.values()
    }

    /// The version of a record that does not name one; `date` is the path's, in days since 1970.
    pub fn default_version(&self, layout: Layout, date: Option<i32>) -> u32 {
        self.defaults
            .iter()
            .find(|rule| {
                rule.layout.is_none_or(|wanted| wanted == layout) && rule.before.is_none_or(|before| date.is_some_and(|date| date < before))
            })
            .map_or(self.latest, |rule| rule.version)
    }

    /// Root fields that are never unknown: the partition columns and the version field.
    pub fn is_reserved(&self, name: &str) -> bool {
        PartitionColumn::from_name(name).is_some() || self.version_field.as_deref() == Some(name)
    }

    /// Changes whenever a schema file's content does.
    pub fn fingerprint(&self) -> String {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for version in self.versions.values() {
            hasher.update(&version.number.to_le_bytes());
            hasher.update(version.json.to_string().as_bytes());
        }
        format!("{:032x}", hasher.digest128())
    }
}

fn numbered_files(folder: &Path) -> Result<Vec<(u32, PathBuf)>, LoadContractError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(LoadContractError::Read { path: folder.to_owned(), source }),
    };
    let mut files: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
        .collect();
    files.sort();
    Ok(files)
}

/// A text parsed with positions, for files that people write.
pub(crate) struct Parsed<'a> {
    pub file: String,
    pub text: &'a str,
    tape: Tape,
    root: u32,
}

impl<'a> Parsed<'a> {
    pub fn new(file: &Path, text: &'a str) -> Result<Self, Mistake> {
        let file = file.display().to_string();
        let mut tape = Tape::new();
        match tape.parse(text.as_bytes(), 0..text.len(), 128) {
            Ok(root) => Ok(Self { file, text, tape, root }),
            Err(error) => {
                let at = error.at.min(text.len().saturating_sub(1));
                Err(Mistake {
                    file,
                    text: text.to_owned(),
                    span: at..at + 1,
                    message: error.message.split(" (byte").next().unwrap_or_default().to_owned(),
                    help: None,
                })
            }
        }
    }

    pub fn root(&self) -> Value<'_> {
        self.tape.value(self.text.as_bytes(), self.root)
    }

    pub fn mistake(&self, at: Value<'_>, message: impl Into<String>, help: Option<&str>) -> Mistake {
        Mistake {
            file: self.file.clone(),
            text: self.text.to_owned(),
            span: at.range(),
            message: message.into(),
            help: help.map(str::to_owned),
        }
    }
}
