//! The compiled checks: does a record satisfy its version's schema, and can its values be stored?
//!
//! Two passes with one rule each. [`Checker::check`] speaks for the schema: what it refuses, the `jsonschema` crate refuses
//! too (a property test holds it to that). [`storable`] speaks for the columns: integers beyond 64 bits, decimals that do not
//! fit, instants that no table can hold. A path is only built when something is refused, on the way out.

use std::fmt::Write as _;

use super::{ABSENT, Allowed, Checks, Contract, Limit, Object, Property, Scalar, Shape, Type, Version};
use crate::domain::RejectCode;
use crate::domain::json::{Exact, Kind, Value, push_key};
use crate::domain::time::{Instant, Variants, parse_date, parse_duration, parse_timestamp, parse_timestamp_bytes};

/// What was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RejectCode,
    pub message: String,
    /// Innermost step first.
    steps: Vec<PathStep>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathStep {
    Key(String),
    Index(usize),
}

impl Refusal {
    pub fn new(code: RejectCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), steps: Vec::new() }
    }

    #[must_use]
    pub fn inside(mut self, key: &str) -> Self {
        self.steps.push(PathStep::Key(key.to_owned()));
        self
    }

    fn at(mut self, index: usize) -> Self {
        self.steps.push(PathStep::Index(index));
        self
    }

    /// JSONPath from the record.
    pub fn path(&self) -> String {
        let mut path = String::from("$");
        for step in self.steps.iter().rev() {
            match step {
                PathStep::Key(key) => push_key(&mut path, key),
                PathStep::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
            }
        }
        path
    }
}

type Checked = Result<(), Refusal>;

/// Checks records against one version.
pub struct Checker<'c> {
    contract: &'c Contract,
    version: &'c Version,
    /// Unknown fields are refused everywhere, not only where the schema is closed.
    refuse_unknown: bool,
}

impl<'c> Checker<'c> {
    pub fn new(contract: &'c Contract, version: &'c Version, refuse_unknown: bool) -> Self {
        Self { contract, version, refuse_unknown }
    }

    /// Fills `slots` with the nodes of the root's properties and says whether there are unknown fields anywhere.
    pub fn check(&self, record: Value<'_>, slots: &mut [u32]) -> Result<bool, Refusal> {
        let mut unknown = false;
        let mut first_unknown = None;
        self.version.root.slots(record, slots, |key, _| {
            if !self.contract.is_reserved(key) {
                unknown = true;
                first_unknown.get_or_insert(key);
            }
        });
        let get = |at: usize| slots.get(at).copied().filter(|slot| *slot != ABSENT).map(|slot| record.sibling(slot));
        self.properties(&self.version.root, get, record, &mut unknown)?;
        self.unknown(&self.version.root, first_unknown)?;
        self.rest(record)?;
        Ok(unknown)
    }

    fn properties<'a>(&self, object: &Object, get: impl Fn(usize) -> Option<Value<'a>>, value: Value<'a>, unknown: &mut bool) -> Checked {
        for (at, property) in object.properties.iter().enumerate() {
            match get(at) {
                Some(field) => self.shape(&property.shape, field, unknown).map_err(|refusal| refusal.inside(&property.name))?,
                None if property.required => return Err(missing(&property.name)),
                None => {}
            }
        }
        match object.also_required.iter().find(|name| value.get(name).is_none()) {
            Some(name) => Err(missing(name)),
            None => Ok(()),
        }
    }

    fn unknown(&self, object: &Object, first: Option<&str>) -> Checked {
        match first {
            Some(name) if self.refuses_unknown(object) => {
                Err(Refusal::new(RejectCode::UnknownField, "the contract does not declare this field").inside(name))
            }
            _ => Ok(()),
        }
    }

    fn object(&self, object: &Object, value: Value<'_>, unknown: &mut bool) -> Checked {
        let mut slots = vec![ABSENT; object.properties.len()];
        let mut first_unknown = None;
        object.slots(value, &mut slots, |key, _| {
            first_unknown.get_or_insert(key);
        });
        *unknown |= first_unknown.is_some();
        let get = |at: usize| slots.get(at).copied().filter(|slot| *slot != ABSENT).map(|slot| value.sibling(slot));
        self.properties(object, get, value, unknown)?;
        self.unknown(object, first_unknown)
    }

    fn shape(&self, shape: &Shape, value: Value<'_>, unknown: &mut bool) -> Checked {
        let kind = value.kind();
        if kind == Kind::Null && shape.nullable {
            return check_values(&shape.checks, value);
        }
        if !accepts(&shape.ty, kind) {
            let message = format!("expected {}, found {}", expected(&shape.ty), kind.name());
            return Err(Refusal::new(RejectCode::WrongType, message));
        }
        check_values(&shape.checks, value)?;
        check_form(&shape.ty, value)?;
        match &shape.ty {
            Type::Struct(object) => self.object(object, value, unknown),
            Type::Reference(object) if kind == Kind::Object => self.object(object, value, unknown),
            Type::Map(inner) => {
                value.entries().try_for_each(|(key, field)| self.shape(inner, field, unknown).map_err(|refusal| refusal.inside(key)))
            }
            Type::List(inner) => {
                value.items().enumerate().try_for_each(|(at, item)| self.shape(inner, item, unknown).map_err(|refusal| refusal.at(at)))
            }
            _ => Ok(()),
        }
    }

    /// Whether a value satisfies its shape: what [`Self::check`] says, without saying why not. `forms`: texts are looked at too that
    /// are times, dates or durations; whoever parses them anyway need not ask.
    pub fn accepts(&self, shape: &Shape, value: Value<'_>, forms: bool, unknown: &mut bool) -> bool {
        let kind = value.kind();
        if kind.is_null() && shape.nullable {
            return shape.bare || check_values(&shape.checks, value).is_ok();
        }
        if !accepts(&shape.ty, kind) || !(shape.bare || check_values(&shape.checks, value).is_ok()) {
            return false;
        }
        match &shape.ty {
            Type::Timestamp { .. } | Type::Date | Type::Duration => !forms || check_form(&shape.ty, value).is_ok(),
            Type::Struct(object) => self.accepts_object(object, value, forms, unknown),
            // Of a reference nothing but the id is parsed by anybody else.
            Type::Reference(object) if matches!(kind, Kind::Object) => self.accepts_object(object, value, true, unknown),
            Type::Map(inner) => value.fields().all(|(_, field)| self.accepts(inner, field, forms, unknown)),
            Type::List(inner) => value.items().all(|item| self.accepts(inner, item, forms, unknown)),
            _ => true,
        }
    }

    fn accepts_object(&self, object: &Object, value: Value<'_>, forms: bool, unknown: &mut bool) -> bool {
        const FEW: usize = 16;
        let (mut few, mut many) = ([ABSENT; FEW], Vec::new());
        let slots = match few.get_mut(..object.properties.len()) {
            Some(slots) => slots,
            None => {
                many.resize(object.properties.len(), ABSENT);
                many.as_mut_slice()
            }
        };
        let mut others = false;
        object.slots(value, slots, |_, _| others = true);
        *unknown |= others;
        if others && self.refuses_unknown(object) {
            return false;
        }
        let sound = object.properties.iter().zip(slots.iter()).all(|(property, slot)| match *slot {
            ABSENT => !property.required,
            slot => self.accepts(&property.shape, value.sibling(slot), forms, unknown),
        });
        sound && object.also_required.iter().all(|name| value.get(name).is_some())
    }

    /// Whether an object may have no other fields than those that the schema declares.
    pub fn refuses_unknown(&self, object: &Object) -> bool {
        object.closed || self.refuse_unknown
    }

    /// Whether the keywords that are not compiled hold.
    pub fn accepts_rest(&self, record: Value<'_>) -> bool {
        self.rest(record).is_ok()
    }

    fn rest(&self, record: Value<'_>) -> Checked {
        let Some(rest) = &self.version.rest else { return Ok(()) };
        let instance = record.to_serde();
        match rest.validator.validate(&instance) {
            Ok(()) => Ok(()),
            Err(error) => {
                let mut refusal = Refusal::new(RejectCode::SchemaViolation, error.to_string());
                let pointer = error.instance_path().to_string();
                for token in super::schema::pointer(&pointer).into_iter().rev() {
                    refusal = match token.parse() {
                        Ok(index) => refusal.at(index),
                        Err(_) => refusal.inside(&token),
                    };
                }
                Err(refusal)
            }
        }
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(RejectCode::MissingField, "the contract requires this field").inside(name)
}

fn accepts(ty: &Type, kind: Kind) -> bool {
    match ty {
        Type::Boolean => matches!(kind, Kind::Bool(_)),
        Type::Long => kind.is_integral(),
        Type::Double | Type::Decimal { .. } => kind.as_f64().is_some(),
        Type::Timestamp { .. } | Type::Date | Type::Text | Type::Duration => matches!(kind, Kind::String),
        Type::Reference(_) => matches!(kind, Kind::String | Kind::Object),
        Type::Struct(_) | Type::Map(_) => matches!(kind, Kind::Object),
        Type::List(_) => matches!(kind, Kind::Array),
        Type::Json { kinds } => {
            kinds.is_empty()
                || kinds.iter().any(|name| match name.as_str() {
                    "integer" => kind.is_integral(),
                    "number" => kind.as_f64().is_some(),
                    name => name == kind.name(),
                })
        }
    }
}

fn expected(ty: &Type) -> String {
    match ty {
        Type::Boolean => "boolean".to_owned(),
        Type::Long => "integer".to_owned(),
        Type::Double | Type::Decimal { .. } => "number".to_owned(),
        Type::Timestamp { .. } | Type::Date | Type::Text | Type::Duration => "string".to_owned(),
        Type::Reference(_) => "object with an id, or string".to_owned(),
        Type::Struct(_) | Type::Map(_) => "object".to_owned(),
        Type::List(_) => "array".to_owned(),
        Type::Json { kinds } => kinds.join(" or "),
    }
}

fn check_values(checks: &Checks, value: Value<'_>) -> Checked {
    let kind = value.kind();
    if let Some(allowed) = &checks.allowed
        && !is_allowed(allowed, value)
    {
        return Err(Refusal::new(RejectCode::NotInEnum, format!("{} is not among the allowed values", shown(value))));
    }
    if kind.as_f64().is_some() && !in_simple_range(checks, kind) {
        check_range(checks, kind, value)?;
    }
    let length = |count: usize, min: Option<u64>, max: Option<u64>, unit: &str| {
        let count = count as u64;
        let limit = match (min.filter(|min| count < *min), max.filter(|max| count > *max)) {
            (Some(min), _) => format!("at least {min}"),
            (_, Some(max)) => format!("at most {max}"),
            _ => return Ok(()),
        };
        Err(Refusal::new(RejectCode::LengthLimit, format!("{count} {unit}, the contract allows {limit}")))
    };
    match kind {
        Kind::String if checks.min_length.is_some() || checks.max_length.is_some() => {
            // Every byte but a continuation begins a character.
            let characters = value.as_bytes().iter().filter(|byte| *byte & 0xc0 != 0x80).count();
            length(characters, checks.min_length, checks.max_length, "characters")?;
        }
        Kind::Array if checks.min_items.is_some() || checks.max_items.is_some() => {
            length(value.items().count(), checks.min_items, checks.max_items, "elements")?;
        }
        Kind::Object if checks.min_properties.is_some() || checks.max_properties.is_some() => {
            length(value.fields().count(), checks.min_properties, checks.max_properties, "fields")?;
        }
        _ => {}
    }
    match &checks.pattern {
        Some(pattern) if matches!(kind, Kind::String) && !pattern.regex.is_match(value.as_str()) => {
            Err(Refusal::new(RejectCode::PatternMismatch, format!("{} does not match {}", shown(value), pattern.source)))
        }
        _ => Ok(()),
    }?;
    if checks.uuid && kind == Kind::String && !is_uuid(value.as_str()) {
        return Err(Refusal::new(RejectCode::InvalidFormat, format!("{} is not a UUID", shown(value))));
    }
    Ok(())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// The forms that the schema itself asserts.
fn check_form(ty: &Type, value: Value<'_>) -> Checked {
    if value.kind() != Kind::String {
        return Ok(());
    }
    let text = value.as_str();
    let form = match ty {
        Type::Timestamp { asserted: true, variants } if parse_timestamp(text, *variants) == Instant::Malformed => "an RFC 3339 date-time",
        Type::Date if parse_date(text).is_none() => "a date",
        Type::Duration if parse_duration(text).is_none() => "a duration [d.]hh:mm:ss[.f]",
        _ => return Ok(()),
    };
    Err(Refusal::new(RejectCode::InvalidFormat, format!("{} is not {form}", shown(value))))
}

fn is_allowed(allowed: &Allowed, value: Value<'_>) -> bool {
    match value.kind() {
        Kind::String => allowed.texts.iter().any(|text| text.as_bytes() == value.as_bytes()),
        Kind::Array | Kind::Object => false,
        kind => allowed.others.iter().any(|scalar| match (scalar, kind) {
            (Scalar::Null, Kind::Null) => true,
            (Scalar::Bool(a), Kind::Bool(b)) => *a == b,
            (Scalar::Int(a), Kind::Int(b)) => *a == b,
            (Scalar::Int(a), kind) => kind.as_f64() == Some(*a as f64),
            (Scalar::Float(a), kind) => kind.as_f64() == Some(*a),
            _ => false,
        }),
    }
}

/// An integer that lies within integers: what most numbers are and most bounds ask for.
fn in_simple_range(checks: &Checks, kind: Kind) -> bool {
    let Kind::Int(int) = kind else { return false };
    let least = match checks.minimum {
        None => i64::MIN,
        Some(Limit::Int(least)) => least,
        Some(Limit::Float(_)) => return false,
    };
    let most = match checks.maximum {
        None => i64::MAX,
        Some(Limit::Int(most)) => most,
        Some(Limit::Float(_)) => return false,
    };
    checks.exclusive_minimum.is_none() && checks.exclusive_maximum.is_none() && (least..=most).contains(&int)
}

fn check_range(checks: &Checks, kind: Kind, value: Value<'_>) -> Checked {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let against = |limit: &Limit| match (limit, kind) {
        (Limit::Int(limit), Kind::Int(int)) => int.cmp(limit),
        (Limit::Int(limit), kind) => order(kind, *limit as f64),
        (Limit::Float(limit), kind) => order(kind, *limit),
    };
    let bad = |limit: &Option<Limit>, refused: &[std::cmp::Ordering]| limit.as_ref().is_some_and(|limit| refused.contains(&against(limit)));
    let broken = [
        (bad(&checks.minimum, &[Less]), "minimum", checks.minimum),
        (bad(&checks.maximum, &[Greater]), "maximum", checks.maximum),
        (bad(&checks.exclusive_minimum, &[Less, Equal]), "exclusiveMinimum", checks.exclusive_minimum),
        (bad(&checks.exclusive_maximum, &[Greater, Equal]), "exclusiveMaximum", checks.exclusive_maximum),
    ];
    match broken.into_iter().find(|(broken, _, _)| *broken) {
        Some((_, keyword, limit)) => {
            let limit = match limit {
                Some(Limit::Int(int)) => int.to_string(),
                Some(Limit::Float(float)) => float.to_string(),
                None => String::new(),
            };
            Err(Refusal::new(RejectCode::OutOfRange, format!("{} breaks {keyword} {limit}", value.raw())))
        }
        None => Ok(()),
    }
}

fn order(kind: Kind, limit: f64) -> std::cmp::Ordering {
    kind.as_f64().and_then(|value| value.partial_cmp(&limit)).unwrap_or(std::cmp::Ordering::Equal)
}

/// A value for a message: short, as written.
fn shown(value: Value<'_>) -> String {
    const SHOWN_CHARS: usize = 80;
    let raw = value.raw();
    match raw.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &raw[..at]),
        None => raw.to_owned(),
    }
}

/// Whether a value that satisfies the schema also fits the column.
pub fn storable(shape: &Shape, value: Value<'_>) -> Checked {
    let kind = value.kind();
    if kind == Kind::Null {
        return Ok(());
    }
    if !accepts(&shape.ty, kind) {
        return Err(Refusal::new(RejectCode::WrongType, format!("expected {}, found {}", expected(&shape.ty), kind.name())));
    }
    match &shape.ty {
        Type::Long if !matches!(kind, Kind::Int(_)) && as_long(value).is_none() => overflow(value, "64 bits"),
        Type::Double if kind.as_f64().is_some_and(f64::is_infinite) => overflow(value, "a double"),
        Type::Decimal { precision, scale } if as_decimal(value, *precision, *scale).is_none() => {
            overflow(value, &format!("DECIMAL({precision},{scale})"))
        }
        Type::Timestamp { variants, .. } => match parse_timestamp_bytes(value.as_bytes(), *variants) {
            Instant::At(_) => Ok(()),
            _ => Err(Refusal::new(RejectCode::InvalidTimestamp, format!("{} is {}", shown(value), unstorable(*variants)))),
        },
        Type::Date if parse_date(value.as_str()).flatten().is_none() => {
            Err(Refusal::new(RejectCode::InvalidTimestamp, format!("{} is outside years 0001 to 9999", shown(value))))
        }
        Type::Duration if parse_duration(value.as_str()).is_none() => {
            Err(Refusal::new(RejectCode::InvalidFormat, format!("{} is not a duration", shown(value))))
        }
        Type::Struct(object) => object.properties.iter().try_for_each(|property| storable_field(property, value)),
        Type::Map(inner) if holds_numbers_or_times(&inner.ty) => {
            value.entries().try_for_each(|(key, field)| storable(inner, field).map_err(|refusal| refusal.inside(key)))
        }
        Type::List(inner) if holds_numbers_or_times(&inner.ty) => {
            value.items().enumerate().try_for_each(|(at, item)| storable(inner, item).map_err(|refusal| refusal.at(at)))
        }
        _ => Ok(()),
    }
}

fn storable_field(property: &Property, value: Value<'_>) -> Checked {
    if !holds_numbers_or_times(&property.shape.ty) {
        return Ok(());
    }
    match value.get(&property.name) {
        Some(field) => storable(&property.shape, field).map_err(|refusal| refusal.inside(&property.name)),
        None => Ok(()),
    }
}

/// Types whose valid values need not fit their column.
fn holds_numbers_or_times(ty: &Type) -> bool {
    match ty {
        Type::Boolean | Type::Text | Type::Reference(_) | Type::Json { .. } => false,
        Type::Long | Type::Double | Type::Decimal { .. } | Type::Timestamp { .. } | Type::Date | Type::Duration => true,
        Type::Struct(object) => object.properties.iter().any(|property| holds_numbers_or_times(&property.shape.ty)),
        Type::Map(inner) | Type::List(inner) => holds_numbers_or_times(&inner.ty),
    }
}

fn overflow(value: Value<'_>, column: &str) -> Checked {
    Err(Refusal::new(RejectCode::NumberOverflow, format!("{} does not fit {column}", shown(value))))
}

fn unstorable(variants: Variants) -> &'static str {
    if variants.space || variants.date { "no instant of years 0001 to 9999 in a declared form" } else { "no instant of years 0001 to 9999" }
}

/// An integral number as 64 bits, exactly.
pub fn as_long(value: Value<'_>) -> Option<i64> {
    match value.kind() {
        Kind::Int(int) => Some(int),
        Kind::BigInt(_) | Kind::Float(_) => Exact::of(value.raw()).as_i64(),
        _ => None,
    }
}

/// A number × 10^scale, exactly.
pub fn as_decimal(value: Value<'_>, precision: u8, scale: i8) -> Option<i128> {
    Exact::of(value.raw()).scaled(u32::from(precision), i32::from(scale))
}
