//! Steps 2 to 5 for the records of one chunk, one record after the other.
//!
//! Nearly every record is sound, and of those nearly every one spells its fields in the order of the one before. So each is first
//! tried the quick way: its fields are looked up by names that were put together when the batch began ([`Program`]); values of the
//! usual kinds go from the bytes into their columns at once ([`Form`]), on the assumption that the record is of the version that the
//! one before was of; the others are parsed into a tape of its own that stays in the cache, checked, and appended to the columns in one
//! go. Where anything is unusual what was appended is taken back, and the record goes the exact way, step by step, which also knows
//! what is wrong. The exact way decides; the quick one may only say what that would say. A property test holds it to this.

use std::ops::Range;

use bytes::Bytes;

use super::columns::Column;
use super::decode::{self, Origin, Place, Verdict};
use super::enrich::{self, Dates, Derivation, EnrichError, Enriched, Part, Properties, Technical, enrich, rescued};
use super::frame::Frames;
use super::reconcile::{Parts, agree, reconcile};
use super::straight::Form;
use super::validate::{checker, digits, validate};
use crate::contract::check::storable;
use crate::contract::{ABSENT, Property, Source, Version};
use crate::domain::json::{Found, Kind, Names, TAKEN, Tape, Value, push_key};
use crate::domain::{PartitionColumn, Reject, RejectCode};
use crate::job::UnknownFields;
use crate::plan::in_path::InPath;
use crate::plan::{BatchPlan, path_date};

/// A field that makes a record of an API's answer suspicious.
const ENVELOPE: &str = "jsonrpc";

/// What a batch's records are looked up by.
#[derive(Debug)]
pub struct Program {
    names: Names,
    /// Names of the partition columns, in the order of [`PartitionColumn::ALL`].
    partition: [Option<usize>; 5],
    version_field: Option<usize>,
    envelope: Option<usize>,
    versions: Vec<Spelling>,
    derivation: Derivation,
    /// Whether records are tried the quick way.
    quick: bool,
}

/// How a version spells the contract's properties.
#[derive(Debug)]
struct Spelling {
    number: u32,
    /// For each of its properties its name.
    names: Vec<usize>,
    /// For each of its properties whether its texts are looked at by nobody else.
    forms: Vec<bool>,
    /// Names of other versions, which are unknown to it.
    foreign: Vec<usize>,
    /// For each of the newest version's properties: its own one, where that is of the same type and stored as it stands.
    as_they_stand: Vec<Option<usize>>,
    /// For each name the newest version's property that its values are read into at once, and how.
    straight: Vec<Option<(usize, Form)>>,
    /// Names that a record must have.
    required: Vec<usize>,
    all: Places,
    /// Where nothing is read into at once.
    others: Places,
}

/// Some of a version's properties, and some of the newest one's.
#[derive(Debug)]
struct Places {
    own: Vec<usize>,
    newest: Vec<usize>,
}

impl Program {
    pub fn new(plan: &BatchPlan) -> Self {
        let contract = &plan.of.contract;
        let properties = contract.versions().flat_map(|version| version.root.properties.iter().map(|property| property.name.as_str()));
        let envelope = (!plan.of.job.records_at.is_empty()).then_some(ENVELOPE);
        let reserved = PartitionColumn::ALL.map(PartitionColumn::name);
        let names = Names::new(properties.chain(reserved).chain(contract.version_field.as_deref()).chain(envelope));
        let spelling = |version: &Version| Spelling::new(version, &names, plan);
        Self {
            partition: reserved.map(|name| names.position(name)),
            version_field: contract.version_field.as_deref().and_then(|name| names.position(name)),
            envelope: envelope.and_then(|name| names.position(name)),
            versions: contract.versions().map(spelling).collect(),
            derivation: Derivation::new(plan),
            names,
            quick: true,
        }
    }

    /// The exact way only: what the quick one is measured by.
    #[must_use]
    pub fn exactly(self) -> Self {
        Self { quick: false, ..self }
    }
}

impl Spelling {
    fn new(version: &Version, names: &Names, plan: &BatchPlan) -> Self {
        let contract = &plan.of.contract;
        let own: Vec<usize> = version.root.properties.iter().filter_map(|property| names.position(&property.name)).collect();
        let newest = &contract.latest().root.properties;
        let ty = |at: usize| &version.root.properties[at].shape.ty;
        let stands = |(source, newest): (&Source, &Property)| source.as_it_stands().filter(|at| *ty(*at) == newest.shape.ty);
        let as_they_stand: Vec<Option<usize>> = version.sources.iter().zip(newest).map(stands).collect();
        let straight = straight(version, &own, &as_they_stand, names, plan);
        let stored = |at: usize| as_they_stand.contains(&Some(at));
        let is_straight = |at: usize| own.get(at).is_some_and(|name| straight[*name].is_some());
        let all = Places { own: (0..own.len()).collect(), newest: (0..as_they_stand.len()).collect() };
        let others = Places {
            own: all.own.iter().copied().filter(|at| !is_straight(*at)).collect(),
            newest: all.newest.iter().copied().filter(|at| !as_they_stand[*at].is_some_and(is_straight)).collect(),
        };
        let required = version.root.properties.iter().zip(&own).filter(|(property, _)| property.required).map(|(_, name)| *name);
        let foreign = contract.versions().flat_map(|other| &other.root.properties).map(|property| property.name.as_str());
        let foreign = foreign.filter(|name| version.root.position(name).is_none() && !contract.is_reserved(name));
        Self {
            number: version.number,
            forms: (0..own.len()).map(|at| !stored(at)).collect(),
            foreign: foreign.filter_map(|name| names.position(name)).collect(),
            required: required.collect(),
            all,
            others,
            names: own,
            as_they_stand,
            straight,
        }
    }
}

/// Only fields that nobody else asks for: the keywords that are not compiled see the whole record, and an older version's property may
/// be the source of several of the newest's.
fn straight(
    version: &Version,
    own: &[usize],
    as_they_stand: &[Option<usize>],
    names: &Names,
    plan: &BatchPlan,
) -> Vec<Option<(usize, Form)>> {
    let mut straight: Vec<Option<(usize, Form)>> = (0..names.len()).map(|_| None).collect();
    if version.rest.is_some() {
        return straight;
    }
    let contract = &plan.of.contract;
    let levels = plan.of.job.limits.nesting.saturating_sub(1);
    for (newest, at) in as_they_stand.iter().enumerate().filter_map(|(newest, at)| Some((newest, (*at)?))) {
        let property = &version.root.properties[at];
        let sources = version.sources.iter().filter(|source| source.slot() == Some(at)).count();
        if sources == 1
            && !contract.is_reserved(&property.name)
            && property.name != ENVELOPE
            && let Some(place) = own.get(at).and_then(|name| straight.get_mut(*name))
        {
            *place = Form::of(&property.shape, levels).map(|form| (newest, form));
        }
    }
    straight
}

/// Frames of one stream → rows.
pub fn transform(frames: Frames, origin: &Origin, plan: &BatchPlan, program: &Program) -> Result<Enriched, EnrichError> {
    let mut rows = Rows::new(frames.records.len(), plan, program);
    rows.read(frames, origin);
    rows.finish()
}

/// Rows in the making: of one stream, or of several small ones that share their columns.
pub struct Rows<'c> {
    plan: &'c BatchPlan,
    program: &'c Program,
    tape: Tape,
    names: Names,
    /// The place of the version that the last record was of among the program's.
    usual: usize,
    /// Whether a value of the last record that might have been read at once was left.
    left: bool,
    /// Nodes by name, and by property of the record's version.
    by_name: Vec<u32>,
    slots: Vec<u32>,
    columns: Vec<Column>,
    technical: Technical,
    parts: Vec<Part>,
    /// Refusals of the part that is being read.
    rejects: Vec<Reject>,
    /// Records that went the exact way.
    exact: usize,
}

/// What the records of a part have in common.
struct Stream<'c> {
    origin: &'c Origin,
    bytes: &'c Bytes,
    base: u64,
    /// All of it is UTF-8.
    utf8: bool,
    /// `None` sends every record the exact way.
    in_path: Option<InPath>,
    default_version: u32,
}

/// What is known of a record whose properties are in the columns.
struct Taken {
    version: u32,
    dates: Dates,
    rescued: Option<String>,
}

impl<'c> Rows<'c> {
    /// Makes room for so many rows.
    pub fn new(rows: usize, plan: &'c BatchPlan, program: &'c Program) -> Self {
        Self {
            plan,
            program,
            usual: 0,
            left: false,
            tape: Tape::new(),
            names: program.names.clone(),
            by_name: vec![ABSENT; program.names.len()],
            slots: Vec::new(),
            columns: plan.of.contract.latest().root.properties.iter().map(|property| Column::new(&property.shape.ty, rows)).collect(),
            technical: Technical::default(),
            parts: Vec::new(),
            rejects: Vec::new(),
            exact: 0,
        }
    }

    /// Appends the rows of a stream's next frames.
    pub fn read(&mut self, frames: Frames, origin: &Origin) {
        let Frames { bytes, base, records, refused } = frames;
        let object = &origin.object;
        let default_version = self.plan.of.contract.default_version(object.layout, path_date(&object.path));
        let stream = Stream {
            origin,
            bytes: &bytes,
            base,
            utf8: std::str::from_utf8(&bytes).is_ok(),
            in_path: if self.program.quick { InPath::of(&object.path, &self.plan.of) } else { None },
            default_version,
        };
        self.usual = self.program.versions.iter().position(|spelling| spelling.number == default_version).unwrap_or(0);
        let (first, read) = (self.technical.places.len(), (records.len() + refused.len()) as u64);
        self.rejects.extend(refused.into_iter().map(|refused| decode::refuse(refused, origin)));
        for range in records {
            self.take(&stream, range);
        }
        let (rows, rejects) = (first..self.technical.places.len(), std::mem::take(&mut self.rejects));
        self.parts.push(Part { origin: origin.clone(), bytes, base, rows, rejects, read });
    }

    /// Bytes that were read.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    pub fn finish(self) -> Result<Enriched, EnrichError> {
        let Self { plan, columns, technical, parts, exact, .. } = self;
        enrich(Properties { parts, columns, technical, exact }, plan)
    }

    fn take(&mut self, stream: &Stream<'_>, range: Range<usize>) {
        let rows = self.technical.places.len();
        let place = enrich::Place { start: range.start as u32, end: range.end as u32 };
        let taken = match self.quick(stream, range.clone()) {
            Some(taken) => Ok(taken),
            None => {
                self.truncate(rows);
                self.exact += 1;
                self.exact(stream, range)
            }
        };
        match taken {
            Ok(taken) => {
                self.technical.places.push(place);
                self.technical.versions.push(taken.version as i32);
                self.technical.dates.push(taken.dates);
                self.technical.rescued.push(taken.rescued);
            }
            Err(reject) => {
                self.truncate(rows);
                self.rejects.push(*reject);
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// A sound record of the usual form; `None` says nothing about others.
    fn quick(&mut self, stream: &Stream<'_>, range: Range<usize>) -> Option<Taken> {
        let in_path = stream.in_path.as_ref()?;
        if !stream.utf8 && std::str::from_utf8(stream.bytes.get(range.clone())?).is_err() {
            return None;
        }
        let row = self.technical.places.len();
        let found = self.parse(stream, range, row)?;
        let record = self.tape.value(stream.bytes, found.root);
        let by_name = &self.by_name;
        let named = |name: Option<usize>| node(record, *by_name.get(name?)?);
        if named(self.program.envelope).is_some() {
            return None;
        }
        let parts = agree(in_path, |column| named(self.program.partition[column]), &self.plan.of)?;
        let spelling = self.program.versions.get(self.usual)?;
        let version = self.plan.of.contract.version(spelling.number)?;
        let checker = checker(version, &self.plan.of);
        let mut unknown = found.unknown || spelling.foreign.iter().any(|name| by_name[*name] != ABSENT);
        if unknown && checker.refuses_unknown(&version.root) {
            return None;
        }
        if spelling.required.iter().any(|name| by_name[*name] == ABSENT) {
            return None;
        }
        let places = if self.left { &spelling.all } else { &spelling.others };
        for at in &places.own {
            let (property, slot) = (&version.root.properties[*at], by_name[spelling.names[*at]]);
            if slot < TAKEN && !checker.accepts(&property.shape, record.sibling(slot), spelling.forms[*at], &mut unknown) {
                return None;
            }
        }
        let required = version.root.also_required.iter().all(|name| record.get(name).is_some());
        if !required || (version.rest.is_some() && !checker.accepts_rest(record)) {
            return None;
        }
        if !places.newest.is_empty() {
            self.slots.clear();
            self.slots.extend(spelling.names.iter().map(|name| by_name[*name]));
        }
        let newest = &self.plan.of.contract.latest().root.properties;
        for at in &places.newest {
            let (column, source) = (self.columns.get_mut(*at)?, &version.sources[*at]);
            let whole = match spelling.as_they_stand[*at] {
                Some(own) => column.set(row, self.slots.get(own).and_then(|slot| node(record, *slot))),
                None => {
                    let resolved = source.resolve(record, &self.slots).ok()?;
                    let value = resolved.value();
                    value.is_none_or(|value| storable(&newest[*at].shape, value).is_ok()) && column.set(row, value)
                }
            };
            if !whole {
                return None;
            }
        }
        let dates = self.program.derivation.dates(parts, &self.columns, row).ok()?;
        Some(Taken { version: version.number, dates, rescued: rescue(unknown, record, version, self.plan) })
    }

    /// Once more where the record turns out to be of another version than the last one.
    fn parse(&mut self, stream: &Stream<'_>, range: Range<usize>, row: usize) -> Option<Found> {
        let found = self.parse_as_usual(stream.bytes, range.clone(), row)?;
        let number = self.stated_version(stream, found)?;
        let version = self.program.versions.iter().position(|spelling| spelling.number == number)?;
        if version == self.usual {
            return Some(found);
        }
        self.truncate(row);
        self.usual = version;
        self.parse_as_usual(stream.bytes, range, row)
    }

    fn parse_as_usual(&mut self, bytes: &[u8], range: Range<usize>, row: usize) -> Option<Found> {
        let (columns, straight) = (&mut self.columns, &self.program.versions.get(self.usual)?.straight);
        let left = &mut self.left;
        *left = false;
        let nesting = self.plan.of.job.limits.nesting;
        self.tape.clear();
        self.tape.parse_quick(bytes, range, nesting, &mut self.names, &mut self.by_name, |name, bytes, at| {
            let (column, form) = straight.get(name)?.as_ref()?;
            let end = form.read(columns.get_mut(*column)?, row, bytes, at);
            *left |= end.is_none();
            end
        })
    }

    /// The number of the version that the record says it is of, or is of by default.
    fn stated_version(&self, stream: &Stream<'_>, found: Found) -> Option<u32> {
        let record = self.tape.value(stream.bytes, found.root);
        let stated = self.program.version_field.and_then(|name| node(record, *self.by_name.get(name)?));
        match stated.map(|value| (value.kind(), value)) {
            None | Some((Kind::Null, _)) => Some(stream.default_version),
            Some((Kind::Int(number), _)) => u32::try_from(number).ok(),
            Some((Kind::String, text)) => digits(text.as_str()),
            Some(_) => None,
        }
    }

    fn exact(&mut self, stream: &Stream<'_>, range: Range<usize>) -> Result<Taken, Box<Reject>> {
        let (&Stream { origin, bytes, base, .. }, plan) = (stream, self.plan);
        let place = Place { origin, bytes, base, range: range.clone() };
        self.tape.clear();
        let root = decode::decode(&mut self.tape, bytes, range, &plan.of.job).map_err(|verdict| Box::new(place.reject(verdict, None)))?;
        let record = self.tape.value(bytes, root);
        let row = self.technical.places.len();
        let judged = judge(record, stream.default_version, &mut self.slots, origin, plan).and_then(|(parts, version, unknown)| {
            let newest = &plan.of.contract.latest().root.properties;
            for ((column, source), property) in self.columns.iter_mut().zip(&version.sources).zip(newest) {
                let whole = match source.resolve(record, &self.slots) {
                    Ok(resolved) => column.set(row, resolved.value()),
                    Err(_) => false,
                };
                if !whole {
                    return Err(unheld(property, version.number));
                }
            }
            let dates = self.program.derivation.dates(parts, &self.columns, row);
            let dates = dates.map_err(|verdict| Verdict { version: Some(version.number), ..verdict })?;
            Ok(Taken { version: version.number, dates, rescued: rescue(unknown, record, version, plan) })
        });
        judged.map_err(|verdict| Box::new(place.reject(verdict, Some(record))))
    }
}

fn node(record: Value<'_>, slot: u32) -> Option<Value<'_>> {
    (slot < TAKEN).then(|| record.sibling(slot))
}

/// The steps between decoding and enriching.
fn judge<'p>(
    record: Value<'_>,
    default_version: u32,
    slots: &mut Vec<u32>,
    origin: &Origin,
    plan: &'p BatchPlan,
) -> Result<(Parts, &'p Version, bool), Verdict> {
    decode::form(record, &plan.of.job)?;
    let parts = reconcile(&origin.object.path, record, &plan.of)?;
    let (version, unknown) = validate(record, default_version, slots, &plan.of)?;
    Ok((parts, version, unknown))
}

/// The steps before have looked at what the column holds, but not at every part of it.
fn unheld(property: &Property, version: u32) -> Verdict {
    let mut path = "$".to_owned();
    push_key(&mut path, &property.name);
    let message = "some part of it is of another type in the contract's newest version, or too long for a column".to_owned();
    Verdict { code: RejectCode::WrongType, path, message, version: Some(version) }
}

fn rescue(unknown: bool, record: Value<'_>, version: &Version, plan: &BatchPlan) -> Option<String> {
    let keep = unknown && plan.of.job.unknown_fields == UnknownFields::Rescue;
    if keep { rescued(record, version, plan) } else { None }
}
