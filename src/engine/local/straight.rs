//! Values that are read from a record's bytes straight into their column.
//!
//! A [`Form`] is what the contract says of a place, as far as it can be held against the bytes at once: that the value is of the type, within
//! simple bounds, among the allowed texts. What it reads the contract accepts and the column holds; whatever it leaves (`None`: escapes,
//! numbers of many digits, unknown fields within an object, values that may be refused) takes the way over the tape, which decides.

use super::columns::{Column, Values};
use crate::contract::{Checks, Limit, Object, Shape, Type};
use crate::domain::json::{Exact, Kind, Quoted, number, plain_text, token};
use crate::domain::time::{Instant, parse_date, parse_duration, parse_timestamp_bytes};

/// Objects of more properties are left.
const PROPERTIES: usize = 64;
/// Beyond it not every whole number is a double.
const DOUBLES: f64 = 9_007_199_254_740_991.0;

/// How the values of a place are read.
#[derive(Debug)]
pub struct Form {
    nullable: bool,
    value: Expected,
}

#[derive(Debug)]
enum Expected {
    Boolean,
    Long { least: i64, most: i64 },
    Double { least: f64, most: f64 },
    Decimal,
    Timestamp,
    Date,
    Duration,
    Text(Box<Texts>),
    Reference { id: Quoted },
    Struct(Fields),
}

#[derive(Debug)]
struct Texts {
    allowed: Option<Vec<Box<[u8]>>>,
    shortest: u64,
    longest: u64,
}

#[derive(Debug)]
struct Fields {
    /// One for each property; `None` for one whose values are left.
    forms: Vec<Option<(Quoted, Form)>>,
    /// Bits of those that must be there.
    required: u64,
}

impl Form {
    /// `levels`: objects within objects that may still be opened.
    pub fn of(shape: &Shape, levels: usize) -> Option<Self> {
        let checks = &shape.checks;
        let value = match &shape.ty {
            Type::Boolean if shape.bare => Expected::Boolean,
            Type::Long => long(checks)?,
            Type::Double => double(checks)?,
            Type::Decimal { .. } if shape.bare => Expected::Decimal,
            Type::Timestamp { .. } if shape.bare => Expected::Timestamp,
            Type::Date if shape.bare => Expected::Date,
            Type::Duration if shape.bare => Expected::Duration,
            Type::Text => Expected::Text(Box::new(texts(checks)?)),
            Type::Reference(object) if shape.bare && levels > 0 => Expected::Reference { id: reference(object)? },
            Type::Struct(object) if shape.bare && levels > 0 => Expected::Struct(fields(object, levels - 1)?),
            _ => return None,
        };
        Some(Self { nullable: shape.nullable && shape.bare, value })
    }

    /// Reads the value that begins at `at` into the column's row, which it does not have yet, and says where it ends.
    #[inline]
    pub fn read(&self, column: &mut Column, row: usize, bytes: &[u8], at: usize) -> Option<usize> {
        if self.nullable && bytes.get(at) == Some(&b'n') {
            return bytes.get(at..)?.starts_with(b"null").then_some(at + 4);
        }
        column.pad(row);
        let end = self.value.read(column.values(), row, bytes, at)?;
        column.has_value();
        Some(end)
    }
}

fn long(checks: &Checks) -> Option<Expected> {
    let bound = |limit: Option<Limit>, none: i64| match limit {
        None => Some(none),
        Some(Limit::Int(bound)) => Some(bound),
        Some(Limit::Float(_)) => None,
    };
    let (least, most) = (bound(checks.minimum, i64::MIN)?, bound(checks.maximum, i64::MAX)?);
    only_bounds(checks).then_some(Expected::Long { least, most })
}

fn double(checks: &Checks) -> Option<Expected> {
    let bound = |limit: Option<Limit>, none: f64| match limit {
        None => Some(none),
        Some(Limit::Int(bound)) => Some(bound as f64).filter(|bound| bound.abs() <= DOUBLES),
        Some(Limit::Float(bound)) => Some(bound).filter(|bound| bound.abs() <= DOUBLES),
    };
    let (least, most) = (bound(checks.minimum, f64::NEG_INFINITY)?, bound(checks.maximum, f64::INFINITY)?);
    only_bounds(checks).then_some(Expected::Double { least, most })
}

/// Limits that are never asked of a number are passed by.
fn only_bounds(checks: &Checks) -> bool {
    checks.allowed.is_none() && checks.exclusive_minimum.is_none() && checks.exclusive_maximum.is_none()
}

fn texts(checks: &Checks) -> Option<Texts> {
    if checks.pattern.is_some() || checks.uuid {
        return None;
    }
    let allowed = checks.allowed.as_ref().map(|allowed| allowed.texts.iter().map(|text| text.as_bytes().into()).collect());
    Some(Texts { allowed, shortest: checks.min_length.unwrap_or(0), longest: checks.max_length.unwrap_or(u64::MAX) })
}

/// An object that has an id, which is any text, and need not have anything else.
fn reference(object: &Object) -> Option<Quoted> {
    let id = object.property("id").filter(|id| id.shape.bare && id.shape.ty == Type::Text)?;
    let others = object.properties.iter().filter(|property| property.name != id.name);
    let lone = others.into_iter().all(|property| !property.required) && object.also_required.is_empty();
    Quoted::of(&id.name).filter(|_| lone)
}

fn fields(object: &Object, levels: usize) -> Option<Fields> {
    if object.properties.len() > PROPERTIES || !object.also_required.is_empty() {
        return None;
    }
    let form = |at: usize| {
        let property = object.properties.get(at)?;
        Some((Quoted::of(&property.name)?, Form::of(&property.shape, levels)?))
    };
    let required = object.properties.iter().enumerate().filter(|(_, property)| property.required);
    let required = required.fold(0, |bits, (at, _)| bits | 1 << at);
    Some(Fields { forms: (0..object.properties.len()).map(form).collect(), required })
}

impl Texts {
    fn accept(&self, text: &[u8]) -> bool {
        let allowed = self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|one| **one == *text));
        // Characters are at most as many as bytes, and of one byte there is one.
        let bytes = text.len() as u64;
        let characters = || text.iter().filter(|byte| **byte & 0xc0 != 0x80).count() as u64;
        allowed && bytes <= self.longest && bytes >= self.shortest && (self.shortest <= 1 || characters() >= self.shortest)
    }
}

impl Expected {
    /// `None` leaves the values as they were.
    #[inline]
    fn read(&self, values: &mut Values, row: usize, bytes: &[u8], at: usize) -> Option<usize> {
        match (self, values) {
            (Self::Boolean, Values::Boolean(flags)) => {
                let rest = bytes.get(at..)?;
                let (flag, length) = if rest.starts_with(b"true") { (true, 4) } else { (false, 5) };
                if !flag && !rest.starts_with(b"false") {
                    return None;
                }
                flags.push(flag);
                Some(at + length)
            }
            (Self::Long { least, most }, Values::Long(numbers)) => {
                let (Kind::Int(int), end) = number(bytes, at)? else { return None };
                if int < *least || int > *most {
                    return None;
                }
                numbers.push(int);
                Some(end)
            }
            (Self::Double { least, most }, Values::Double(numbers)) => {
                let (kind, end) = number(bytes, at)?;
                numbers.push(kind.as_f64().filter(|number| *number >= *least && *number <= *most)?);
                Some(end)
            }
            (Self::Decimal, Values::Decimal { values, precision, scale }) => {
                let (_, end) = number(bytes, at)?;
                let literal = std::str::from_utf8(bytes.get(at..end)?).ok()?;
                values.push(Exact::of(literal).scaled(u32::from(*precision), i32::from(*scale))?);
                Some(end)
            }
            (Self::Timestamp, Values::Timestamp { micros, variants }) => {
                let (text, end) = plain_text(bytes, at)?;
                let Instant::At(instant) = parse_timestamp_bytes(text, *variants) else { return None };
                micros.push(instant);
                Some(end + 1)
            }
            (Self::Date, Values::Date(days)) => {
                let (text, end) = plain_text(bytes, at)?;
                days.push(parse_date(std::str::from_utf8(text).ok()?).flatten()?);
                Some(end + 1)
            }
            (Self::Duration, Values::Duration(numbers)) => {
                let (text, end) = plain_text(bytes, at)?;
                numbers.push(parse_duration(std::str::from_utf8(text).ok()?)?);
                Some(end + 1)
            }
            (Self::Text(accepted), Values::Text(texts)) => {
                let (text, end) = plain_text(bytes, at).filter(|(text, _)| accepted.accept(text))?;
                texts.push(text)?;
                Some(end + 1)
            }
            (Self::Reference { id }, Values::Reference(texts)) => {
                let (text, end) = if bytes.get(at) == Some(&b'{') { lone_id(id, bytes, at + 1)? } else { whole(plain_text(bytes, at)?) };
                texts.push(text)?;
                Some(end)
            }
            (Self::Struct(fields), Values::Struct { children, .. }) => {
                let end = fields.read(children, row, bytes, at);
                if end.is_none() {
                    for child in children {
                        child.truncate(row);
                    }
                }
                end
            }
            _ => None,
        }
    }
}

fn whole((text, end): (&[u8], usize)) -> (&[u8], usize) {
    (text, end + 1)
}

/// What the only field of an object says, which is its id, and where the object ends.
fn lone_id<'b>(id: &Quoted, bytes: &'b [u8], at: usize) -> Option<(&'b [u8], usize)> {
    let (_, at) = token(bytes, at)?;
    if !id.begins(bytes.get(at..)?) {
        return None;
    }
    let (text, end) = plain_text(bytes, behind_colon(bytes, at + id.length())?)?;
    let (closing, end) = token(bytes, end + 1)?;
    (closing == b'}').then_some((text, end + 1))
}

fn behind_colon(bytes: &[u8], at: usize) -> Option<usize> {
    let (colon, at) = token(bytes, at)?;
    let (_, value) = token(bytes, at + 1)?;
    (colon == b':').then_some(value)
}

impl Fields {
    fn read(&self, children: &mut [Column], row: usize, bytes: &[u8], at: usize) -> Option<usize> {
        if bytes.get(at) != Some(&b'{') {
            return None;
        }
        let (mut seen, mut expected) = (0_u64, 0);
        let (mut byte, mut at) = token(bytes, at + 1)?;
        while byte != b'}' {
            let (found, form, behind) = self.field(expected, bytes, at)?;
            if seen & (1 << found) != 0 {
                return None;
            }
            seen |= 1 << found;
            expected = found + 1;
            let end = form.read(children.get_mut(found)?, row, bytes, behind_colon(bytes, behind)?)?;
            (byte, at) = token(bytes, end)?;
            match byte {
                b'}' => {}
                b',' => (byte, at) = token(bytes, at + 1).filter(|(byte, _)| *byte == b'"')?,
                _ => return None,
            }
        }
        (seen & self.required == self.required).then_some(at + 1)
    }

    /// The property that is named here, its form, and where its name ends. A feed repeats its order.
    fn field(&self, expected: usize, bytes: &[u8], at: usize) -> Option<(usize, &Form, usize)> {
        let text = bytes.get(at..)?;
        let order = (expected..self.forms.len()).chain(0..expected.min(self.forms.len()));
        order.into_iter().find_map(|found| {
            let (name, form) = self.forms[found].as_ref().filter(|(name, _)| name.begins(text))?;
            Some((found, form, at + name.length()))
        })
    }
}
