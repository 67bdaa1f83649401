//! A version of a contract → SQL that proves a record of it sound, and the newest version's columns of one that is. Versions whose
//! records reach the newest one by casts or defaults are not proven: those steps are the local engine's.
//!
//! The proof has three parts, each of which only a sound record passes:
//! 1. **Text**: what servers read more leniently than the contract does, or spell another way, is not proven: surrogates, escaped ASCII,
//!    replacement characters, a negative zero.
//! 2. **Kinds**: the line, wrapped, is one JSON value (`{"x":…}` and `[…]` are both read: whatever follows a value breaks one of them), and
//!    `schema_of_variant` describes it in words that match one pattern. The pattern is the contract: it has every field that may be
//!    there in the order in which they are told, and what kinds each may be of. A key that is there twice makes no variant.
//! 3. **Values**: bounds, lengths, patterns, instants, the partition columns, keys. Elements of a list are told as one merged kind, so
//!    what a merged kind cannot say (a null among texts, a field that only some elements have) is asked of the values, and where
//!    absent and null are not the same, neither is proven.
//!
//! Only after the second part is anything read as a type, so no value is ever converted from another kind.

use std::collections::BTreeMap;

use super::Dialect;
use super::sql::{double, literally, long, name, text};
use crate::contract::{Checks, Limit, Object, Property, Scalar, Shape, Source, Type, Version};
use crate::domain::time::Variants;
use crate::domain::{HIVE_DEFAULT, PartitionColumn};
use crate::job::Where;
use crate::plan::in_path::{NUMBERS, TEXTS, due};
use crate::plan::order::SEPARATOR;
use crate::plan::{Column, SourcePlan};

/// What cannot be proven in any record.
const NEVER: &str = "FALSE";
/// Greater than any finite number is none that a record may have.
const GREATEST: f64 = f64::MAX;

/// What is proven and made of one line; the names `line`, `kinds`, `one`, `j2` (of version 2), `file`, `tail`, `nth`, `said_year`… are those of
/// [`super::statements`].
#[derive(Debug, Clone)]
pub struct Proof {
    pub version: u32,
    /// Conditions on `line`.
    pub text: Vec<String>,
    /// What `kinds` matches.
    pub kinds: String,
    /// The fields of `j`, as `from_json` wants them.
    pub fields: String,
    /// Conditions on `j`.
    pub values: Vec<String>,
    /// Silver's columns and `_order`, by expressions over `j`.
    pub columns: Vec<(String, String)>,
}

/// A field of the record, by what is told of it.
struct Field {
    kinds: String,
    required: bool,
    ty: String,
}

impl Proof {
    /// `None` where no record of the version can be proven.
    pub fn of(plan: &SourcePlan, version: &Version, dialect: Dialect) -> Option<Self> {
        let contract = &plan.contract;
        let root = &version.root;
        let newest = &contract.latest().root.properties;
        let places =
            version.sources.iter().zip(newest).map(|(source, property)| place(source, property, root)).collect::<Option<Vec<_>>>()?;
        if version.rest.is_some() || !root.also_required.is_empty() || depth(root) >= plan.job.limits.nesting {
            return None;
        }
        let prover = Prover { plan, dialect, j: format!("j{}", version.number), places };
        let mut fields: BTreeMap<&str, Field> = BTreeMap::new();
        for column in PartitionColumn::ALL {
            fields.insert(column.name(), Field { kinds: "(STRING|BIGINT|VOID)".to_owned(), required: false, ty: "STRING".to_owned() });
        }
        let mut values = Vec::new();
        if let Some(field) = &contract.version_field {
            // A property of that name is judged as one, too.
            let told = Field { kinds: "(BIGINT|VOID)".to_owned(), required: false, ty: "BIGINT".to_owned() };
            fields.insert(field, told);
            values.push(format!("coalesce({}.{}, version) = {}", prover.j, name(field), version.number));
        } else {
            values.push(format!("version = {}", version.number));
        }
        for property in &root.properties {
            let own = Field { kinds: prover.kinds(&property.shape), required: property.required, ty: Prover::ty(&property.shape.ty) };
            if fields.insert(&property.name, own).is_some() && property.shape.ty != Type::Long {
                return None;
            }
        }
        for property in &root.properties {
            prover.field(&format!("{}.{}", prover.j, name(&property.name)), &property.name, &property.shape, &mut values);
        }
        values.extend(prover.partition_conditions());
        let columns = prover.columns(version.number, &mut values);
        Some(Self {
            version: version.number,
            text: text_conditions(root, plan.job.limits.record, dialect),
            kinds: format!("^OBJECT<x: OBJECT<{}>>$", pattern(&fields)),
            fields: ddl(fields.iter().map(|(name, field)| (*name, field.ty.clone())), " "),
            values,
            columns,
        })
    }
}

/// Where a record of some version has a property of the newest one; nowhere, at times.
type Place = Option<(Vec<String>, Type)>;

/// `None` where the value is not the newest version's as it stands.
fn place(source: &Source, newest: &Property, root: &Object) -> Option<Place> {
    let steps = source.steps()?;
    let Some((first, rest)) = steps.split_first() else { return Some(None) };
    let mut shape = &root.property(first)?.shape;
    for step in rest {
        let Type::Struct(object) = &shape.ty else { return None };
        shape = &object.property(step)?.shape;
    }
    let held = match (&shape.ty, &newest.shape.ty) {
        (Type::Long, Type::Double)
        | (Type::Text | Type::Reference(_), Type::Reference(_))
        | (Type::Timestamp { .. }, Type::Timestamp { .. }) => true,
        (own, newest) => own == newest,
    };
    held.then(|| Some((steps.to_vec(), shape.ty.clone())))
}

fn text_conditions(root: &Object, limit: u64, dialect: Dialect) -> Vec<String> {
    let not = |pattern: &str| format!("NOT line RLIKE {}", text(pattern));
    let mut conditions = vec![
        format!("octet_length(line) <= {limit}"),
        // Escaped ASCII, which could hide a quote or a brace, and surrogates, which could be alone.
        not(r"\\u(00[0-7]|[dD][89a-fA-F])"),
        // Decoders put it where bytes are no text.
        format!("instr(line, {}) = 0", text("\u{fffd}")),
        // A zero with a sign is another number than one without, to some.
        not(r"[:\[,][ \t]*-0([.]0*)?([eE][+-]?[0-9]+)?[ \t\r]*[,}\]]"),
        // A key that is worded like the description of a record.
        not(": (STRING|BIGINT|DOUBLE|DECIMAL|BOOLEAN|OBJECT|ARRAY|VOID|VARIANT|FLOAT|DATE|TIMESTAMP|BINARY)"),
    ];
    if dialect == Dialect::Spark {
        conditions.push("is_valid_utf8(line)".to_owned());
    }
    if root.properties.iter().any(|property| has_reference(&property.shape.ty)) {
        // Else a text could be taken for the object of a reference.
        conditions.push(format!("instr(line, {}) = 0", text("\"{")));
    }
    conditions
}

fn has_reference(ty: &Type) -> bool {
    match ty {
        Type::Reference(_) => true,
        Type::Struct(object) => object.properties.iter().any(|property| has_reference(&property.shape.ty)),
        Type::List(inner) | Type::Map(inner) => has_reference(&inner.ty),
        _ => false,
    }
}

fn depth(object: &Object) -> usize {
    fn of(ty: &Type) -> usize {
        match ty {
            Type::Struct(object) | Type::Reference(object) => depth(object),
            Type::List(inner) | Type::Map(inner) => 1 + of(&inner.ty),
            _ => 0,
        }
    }
    1 + object.properties.iter().map(|property| of(&property.shape.ty)).max().unwrap_or(0)
}

/// Fields are told in the order of their names, divided by commas.
fn pattern(fields: &BTreeMap<&str, Field>) -> String {
    let field = |(name, field): (&&str, &Field)| {
        let told = format!("`?{}`?: {}(, )?", literally(name), field.kinds);
        if field.required { told } else { format!("({told})?") }
    };
    fields.iter().map(field).collect()
}

fn ddl<'n>(fields: impl Iterator<Item = (&'n str, String)>, between: &str) -> String {
    fields.map(|(field, ty)| format!("{}{between}{ty}", name(field))).collect::<Vec<_>>().join(", ")
}

/// Whether a value's kind was told together with those of its neighbours in a list, so that it does not say which of them have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merged {
    No,
    /// No field of the line is null.
    WithoutNulls,
    Yes,
    YesWithoutNulls,
}

impl Merged {
    fn in_list(self) -> Self {
        match self {
            Self::No | Self::Yes => Self::Yes,
            Self::WithoutNulls | Self::YesWithoutNulls => Self::YesWithoutNulls,
        }
    }

    /// Whether a field must be seen to be there.
    fn asks(self, property: &Property) -> bool {
        match self {
            Self::No | Self::WithoutNulls => false,
            Self::YesWithoutNulls => property.required,
            Self::Yes => property.required || !property.shape.nullable,
        }
    }
}

struct Prover<'p> {
    plan: &'p SourcePlan,
    dialect: Dialect,
    /// What was read of the line.
    j: String,
    /// For each property of the newest version.
    places: Vec<Place>,
}

impl Prover<'_> {
    /// What the partition columns say agrees, or only one place says it.
    fn partition_conditions(&self) -> Vec<String> {
        let (plan, j) = (self.plan, &self.j);
        let mut conditions = Vec::new();
        let absent = |field: &str| format!("({j}.{field} IS NULL OR {j}.{field} = {})", text(HIVE_DEFAULT));
        for column in TEXTS {
            let (field, asked) = (name(column.name()), plan.job.partition(column).place != Where::Path);
            let said = format!("said_{}", column.name());
            let agrees = format!("{j}.{field} = {}", text(due(column, plan)));
            conditions.push(if asked { format!("({agrees} OR ({} AND {said}))", absent(&field)) } else { said });
        }
        for (column, most) in NUMBERS {
            let rule = plan.job.partition(column);
            let (field, said) = (name(column.name()), format!("said_{}", column.name()));
            if rule.place != Where::Path {
                let number = format!("TRY_CAST({j}.{field} AS INT)");
                let agrees = format!(
                    "({} AND {number} BETWEEN 1 AND {most} AND coalesce({said}, {number}) = {number})",
                    whole(&format!("{j}.{field}"), "^[0-9]{1,9}$")
                );
                conditions.push(format!("({} OR {agrees})", absent(&field)));
            }
            conditions.push(format!("{} IS NOT NULL", self.part(column)));
        }
        conditions
    }

    /// Year, month or day of a record whose partition columns agree.
    fn part(&self, column: PartitionColumn) -> String {
        let (plan, j) = (self.plan, &self.j);
        let rule = plan.job.partition(column);
        let mut ways = vec![format!("said_{}", column.name())];
        if rule.place != Where::Path {
            ways.push(format!("TRY_CAST(nullif({j}.{}, {}) AS INT)", name(column.name()), text(HIVE_DEFAULT)));
        }
        let function = match column {
            PartitionColumn::Year => "year",
            PartitionColumn::Month => "month",
            _ => "dayofmonth",
        };
        if let Some(at) = rule.derive.as_ref().and_then(|from| plan.contract.latest().root.position(from)) {
            ways.push(format!("{function}({})", self.property(at)));
        }
        format!("CAST(coalesce({}) AS INT)", ways.join(", "))
    }

    /// What silver has for a property of the newest version.
    fn property(&self, at: usize) -> String {
        let Some(Some((path, ty))) = self.places.get(at) else { return "NULL".to_owned() };
        if let (Type::Decimal { precision, scale }, Dialect::Spark, [only]) = (ty, self.dialect, path.as_slice()) {
            return decimal(only, *precision, *scale).unwrap_or_else(|| "NULL".to_owned());
        }
        let steps: Vec<String> = path.iter().map(|step| name(step)).collect();
        let value = Self::value(&format!("{}.{}", self.j, steps.join(".")), ty, 0);
        match (ty, &self.plan.contract.latest().root.properties[at].shape.ty) {
            (Type::Long, Type::Double) => format!("CAST({value} AS DOUBLE)"),
            _ => value,
        }
    }

    /// The words that tell of a value of this shape.
    fn kinds(&self, shape: &Shape) -> String {
        let kinds = match &shape.ty {
            Type::Boolean => "BOOLEAN".to_owned(),
            Type::Long => "BIGINT".to_owned(),
            Type::Double | Type::Decimal { .. } => "BIGINT|DOUBLE|DECIMAL[(][0-9]+,[0-9]+[)]".to_owned(),
            Type::Timestamp { .. } | Type::Date | Type::Text | Type::Duration => "STRING".to_owned(),
            Type::Reference(object) => format!("STRING|OBJECT<{}>", self.inside(object)),
            Type::Struct(object) => format!("OBJECT<{}>", self.inside(object)),
            Type::Map(inner) => format!("OBJECT<((`[^`<>]+`|[A-Za-z_][A-Za-z0-9_]*): {}(, )?)*>", self.kinds(inner)),
            Type::List(inner) => format!("ARRAY<({}|VOID)>", self.kinds(inner)),
            // Its text is kept as it stands, which no server tells.
            Type::Json { .. } => "-".to_owned(),
        };
        if shape.nullable && may_be_null(&shape.checks) { format!("({kinds}|VOID)") } else { format!("({kinds})") }
    }

    fn inside(&self, object: &Object) -> String {
        let fields = object.properties.iter().map(|property| {
            let field = Field { kinds: self.kinds(&property.shape), required: property.required, ty: String::new() };
            (property.name.as_str(), field)
        });
        pattern(&fields.collect())
    }

    /// As what `from_json` reads it.
    fn ty(ty: &Type) -> String {
        match ty {
            Type::Boolean => "BOOLEAN".to_owned(),
            Type::Long => "BIGINT".to_owned(),
            Type::Double => "DOUBLE".to_owned(),
            Type::Struct(object) => {
                let fields = object.properties.iter().map(|property| (property.name.as_str(), Self::ty(&property.shape.ty)));
                format!("STRUCT<{}>", ddl(fields, ": "))
            }
            Type::Map(inner) => format!("MAP<STRING, {}>", Self::ty(&inner.ty)),
            Type::List(inner) => format!("ARRAY<{}>", Self::ty(&inner.ty)),
            _ => "STRING".to_owned(),
        }
    }

    /// Conditions on a property of the record.
    fn field(&self, at: &str, property: &str, shape: &Shape, conditions: &mut Vec<String>) {
        if let Type::Decimal { precision, scale } = shape.ty {
            if shape.nullable && self.dialect == Dialect::Sail {
                conditions.push(format!("{at} IS NULL"));
                return;
            }
            let (exact, fits) = (exact(property), decimal(property, precision, scale));
            match (self.dialect, exact, fits) {
                (Dialect::Spark, Some(exact), Some(fits)) => conditions.push(format!("({at} IS NULL OR {exact} = {fits})")),
                _ => conditions.push(format!("{at} IS NULL")),
            }
            bounds(&shape.checks, at, true, conditions);
            return;
        }
        // Where no field of the line is null, one that is read as NULL is absent.
        let (mut strict, mut loose) = (Vec::new(), Vec::new());
        Self::sound(at, shape, Merged::No, 0, &mut strict);
        Self::sound(at, shape, Merged::WithoutNulls, 0, &mut loose);
        if strict == loose {
            conditions.extend(strict);
        } else {
            let nulls = text(r":[ \t\r]*null");
            conditions.push(format!("(({}) OR (NOT line RLIKE {nulls} AND {}))", strict.join(" AND "), loose.join(" AND ")));
        }
    }

    /// Conditions on a value that may be NULL.
    fn sound(at: &str, shape: &Shape, merged: Merged, depth: usize, conditions: &mut Vec<String>) {
        let checks = &shape.checks;
        let mut own = Vec::new();
        if !shape.bare {
            bounds(checks, at, matches!(shape.ty, Type::Double), &mut own);
            lengths(checks, &shape.ty, at, &mut own);
            if let Some(pattern) = &checks.pattern {
                own.push(matches(at, pattern.regex.as_str()));
            }
            if checks.uuid {
                own.push(whole(at, "^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"));
            }
            if let Some(allowed) = &checks.allowed {
                own.push(Self::allowed(at, &shape.ty, allowed));
            }
        }
        match &shape.ty {
            Type::Double => own.push(format!("abs({at}) <= {}", double(GREATEST))),
            Type::Decimal { .. } => own.push(NEVER.to_owned()),
            Type::Timestamp { variants, .. } => own.push(instant_condition(at, *variants)),
            Type::Date => own.push(format!(
                "({} AND TRY_CAST({at} AS DATE) IS NOT NULL AND substring({at}, 1, 4) <> '0000')",
                whole(at, "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
            )),
            Type::Duration => {
                own.push(whole(at, "^-?([0-9]{1,8}[.])?([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,7})?$"));
            }
            Type::Reference(object) if !object.properties.iter().all(is_told_by_its_kind) => {
                own.push(format!("NOT {at} LIKE '{{%'"));
            }
            Type::Struct(object) => {
                for property in &object.properties {
                    let inner = format!("{at}.{}", name(&property.name));
                    if merged.asks(property) {
                        own.push(format!("{inner} IS NOT NULL"));
                    }
                    Self::sound(&inner, &property.shape, merged, depth, &mut own);
                }
            }
            Type::List(inner) => {
                let element = format!("e{depth}");
                let mut each = Vec::new();
                if !inner.nullable {
                    each.push(format!("{element} IS NOT NULL"));
                }
                Self::sound(&element, inner, merged.in_list(), depth + 1, &mut each);
                if !each.is_empty() {
                    own.push(format!("forall({at}, {element} -> coalesce({}, FALSE))", each.join(" AND ")));
                }
            }
            Type::Map(inner) if !Self::stands(&inner.ty) => own.push(format!("size({at}) = 0")),
            Type::Map(inner) => {
                let value = format!("e{depth}");
                let mut each = Vec::new();
                Self::sound(&value, inner, merged, depth + 1, &mut each);
                if !each.is_empty() {
                    own.push(format!("forall(map_values({at}), {value} -> coalesce({}, FALSE))", each.join(" AND ")));
                }
            }
            _ => {}
        }
        if !own.is_empty() {
            conditions.push(format!("({at} IS NULL OR ({}))", own.join(" AND ")));
        }
    }

    fn allowed(at: &str, ty: &Type, allowed: &crate::contract::Allowed) -> String {
        let others = allowed.others.iter().filter_map(|scalar| match (scalar, ty) {
            (Scalar::Bool(value), Type::Boolean) => Some(value.to_string().to_uppercase()),
            (Scalar::Int(value), Type::Long) => Some(long(*value)),
            (Scalar::Int(value), Type::Double) => Some(double(*value as f64)),
            (Scalar::Float(value), Type::Double) => Some(double(*value)),
            _ => None,
        });
        let is_text = matches!(ty, Type::Text | Type::Timestamp { .. } | Type::Date | Type::Duration);
        let texts = allowed.texts.iter().filter(|_| is_text).map(|value| text(value));
        let all: Vec<String> = others.chain(texts).collect();
        if all.is_empty() { NEVER.to_owned() } else { format!("{at} IN ({})", all.join(", ")) }
    }

    /// Whether `from_json` gives the value as silver has it.
    fn stands(ty: &Type) -> bool {
        match ty {
            Type::Boolean | Type::Long | Type::Double | Type::Text => true,
            Type::Struct(object) => object.properties.iter().all(|property| Self::stands(&property.shape.ty)),
            Type::List(inner) | Type::Map(inner) => Self::stands(&inner.ty),
            _ => false,
        }
    }

    /// What silver has of a value that is sound.
    fn value(at: &str, ty: &Type, depth: usize) -> String {
        if Self::stands(ty) {
            return at.to_owned();
        }
        match ty {
            Type::Timestamp { variants, .. } => instant(at, *variants),
            Type::Date => format!("TRY_CAST({at} AS DATE)"),
            Type::Duration => duration(at),
            Type::Reference(_) => format!("CASE WHEN {at} LIKE '{{%' THEN get_json_object({at}, '$.id') ELSE {at} END"),
            Type::Struct(object) => {
                let fields = object.properties.iter().map(|property| {
                    let inner = format!("{at}.{}", name(&property.name));
                    format!("{}, {}", text(&property.name), Self::value(&inner, &property.shape.ty, depth))
                });
                let fields: Vec<String> = fields.collect();
                format!("CASE WHEN {at} IS NOT NULL THEN named_struct({}) END", fields.join(", "))
            }
            Type::List(inner) => {
                let element = format!("e{depth}");
                format!("transform({at}, {element} -> {})", Self::value(&element, &inner.ty, depth + 1))
            }
            // Only an empty one was proven.
            Type::Map(_) | Type::Json { .. } | Type::Decimal { .. } | Type::Boolean | Type::Long | Type::Double | Type::Text => {
                "NULL".to_owned()
            }
        }
    }

    fn columns(&self, version: u32, conditions: &mut Vec<String>) -> Vec<(String, String)> {
        let plan = self.plan;
        let properties = &plan.contract.latest().root.properties;
        let columns = &plan.columns;
        for at in &columns.key {
            if let Column::Property(at) = columns.columns[*at] {
                conditions.push(format!("{} IS NOT NULL", self.property(at)));
            }
        }
        let mut made = Vec::new();
        for (column, field) in columns.columns.iter().zip(columns.schema.fields()) {
            let value = match column {
                Column::Property(at) => self.property(*at),
                Column::Database => text(&plan.source.database),
                Column::EventDate => columns.event_time.map_or_else(|| "NULL".to_owned(), |at| format!("to_date({})", self.property(at))),
                Column::Year => self.part(PartitionColumn::Year),
                Column::Month => self.part(PartitionColumn::Month),
                Column::Day => self.part(PartitionColumn::Day),
                Column::SourceFile => "file".to_owned(),
                Column::SourceOffset | Column::SourceLength | Column::Rescued => "NULL".to_owned(),
                Column::SchemaVersion => version.to_string(),
                Column::Batch => "batch".to_owned(),
                Column::IngestedAt => "timestamp_micros(ingested_at)".to_owned(),
                Column::Order => continue,
            };
            let ty = type_name(field.data_type());
            let bare = matches!(column, Column::Property(at) if Self::stands(&properties[*at].shape.ty) && value != "NULL");
            made.push((field.name().clone(), if bare { value } else { format!("CAST({value} AS {ty})") }));
        }
        let separator = text(&SEPARATOR.to_string());
        let prefixes: Vec<String> = columns
            .order_by
            .iter()
            .filter_map(|at| match columns.columns[*at] {
                Column::Property(at) => {
                    Some(format!("coalesce({}, ''), {separator}, ", order_text(&self.property(at), &properties[at].shape.ty)))
                }
                _ => None,
            })
            .collect();
        made.push((crate::plan::ORDER.to_owned(), format!("concat({}tail, {separator}, nth)", prefixes.concat())));
        made
    }
}

/// How `_order` spells a value.
fn order_text(value: &str, ty: &Type) -> String {
    match ty {
        Type::Long | Type::Duration => {
            format!("lpad(CAST(CAST({value} AS DECIMAL(20, 0)) + CAST('9223372036854775808' AS DECIMAL(20, 0)) AS STRING), 20, '0')")
        }
        Type::Date => format!("CAST({value} AS STRING)"),
        Type::Timestamp { .. } => {
            format!("concat(date_format({value}, 'yyyy-MM-dd'), 'T', date_format({value}, 'HH:mm:ss.SSSSSS'), 'Z')")
        }
        _ => value.to_owned(),
    }
}

/// Whether a field's kind is all that is asserted of it.
fn is_told_by_its_kind(property: &Property) -> bool {
    property.shape.bare && matches!(property.shape.ty, Type::Text | Type::Boolean | Type::Long)
}

fn may_be_null(checks: &Checks) -> bool {
    checks.allowed.as_ref().is_none_or(|allowed| allowed.others.contains(&Scalar::Null))
}

fn bounds(checks: &Checks, at: &str, floats: bool, conditions: &mut Vec<String>) {
    let limits = [(checks.minimum, ">="), (checks.maximum, "<="), (checks.exclusive_minimum, ">"), (checks.exclusive_maximum, "<")];
    for (limit, comparison) in limits.into_iter().filter_map(|(limit, comparison)| Some((limit?, comparison))) {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        conditions.push(match limit {
            Limit::Int(limit) if !floats => format!("{at} {comparison} {}", long(limit)),
            Limit::Int(limit) if (limit as f64).abs() < EXACT => format!("CAST({at} AS DOUBLE) {comparison} {}", double(limit as f64)),
            Limit::Float(limit) if floats || limit.abs() < EXACT => format!("CAST({at} AS DOUBLE) {comparison} {}", double(limit)),
            _ => NEVER.to_owned(),
        });
    }
}

fn lengths(checks: &Checks, ty: &Type, at: &str, conditions: &mut Vec<String>) {
    let mut within = |measure: String, min: Option<u64>, max: Option<u64>| {
        conditions.extend(min.map(|min| format!("{measure} >= {min}")));
        conditions.extend(max.map(|max| format!("{measure} <= {max}")));
    };
    let is_text = matches!(ty, Type::Text | Type::Timestamp { .. } | Type::Date | Type::Duration);
    match ty {
        _ if is_text => within(format!("char_length({at})"), checks.min_length, checks.max_length),
        Type::List(_) => within(format!("size({at})"), checks.min_items, checks.max_items),
        Type::Map(_) => within(format!("size({at})"), checks.min_properties, checks.max_properties),
        Type::Struct(_) | Type::Reference(_) | Type::Json { .. } => conditions.push(NEVER.to_owned()),
        _ => {}
    }
}

/// The whole text matches a pattern that no empty text does: `$` alone also stands before a last line feed, and what does not match is
/// extracted as an empty text.
fn whole(at: &str, pattern: &str) -> String {
    format!("({at} <> '' AND regexp_extract({at}, {}, 0) = {at})", text(pattern))
}

/// Some part of the text matches a pattern that has been spelled for the `regex` crate; of texts and patterns in printable ASCII,
/// without the operators that only one of the dialects has.
fn matches(at: &str, pattern: &str) -> String {
    let foreign = ["&&", "--", "~~", "\\u", "\\x", "[^\\n"];
    if !pattern.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || foreign.iter().any(|part| pattern.contains(part)) {
        return NEVER.to_owned();
    }
    format!("({at} RLIKE {} AND NOT {at} RLIKE '[^ -~]')", text(pattern))
}

/// One spelling for all instants: microseconds, with the zone that was given.
fn canonical(at: &str, variants: Variants) -> String {
    let zone = format!("coalesce(regexp_extract({at}, '(Z|[+-][0-9]{{2}}:[0-9]{{2}})$', 1), '')");
    let fraction = format!("substring(concat(coalesce(regexp_extract({at}, '[.]([0-9]+)', 1), ''), '000000'), 1, 6)");
    let full = format!("concat(substring({at}, 1, 10), 'T', substring({at}, 12, 8), '.', {fraction}, {zone})");
    if variants.date { format!("CASE WHEN char_length({at}) = 10 THEN concat({at}, 'T00:00:00.000000Z') ELSE {full} END") } else { full }
}

fn instant(at: &str, variants: Variants) -> String {
    format!("TRY_CAST({} AS TIMESTAMP)", canonical(at, variants))
}

fn instant_condition(at: &str, variants: Variants) -> String {
    let between = if variants.space { "[T ]" } else { "T" };
    let clock = format!("{between}[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}([.][0-9]{{1,9}})?(Z|[+-][0-9]{{2}}:[0-9]{{2}})");
    let clock = if variants.date { format!("({clock})?") } else { clock };
    let form = whole(at, &format!("^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{clock}$"));
    // An offset could carry the first and the last year beyond what a table holds.
    let year = format!(
        "(substring({at}, 1, 4) BETWEEN '0002' AND '9998' OR (substring({at}, 1, 4) <> '0000' AND NOT {at} RLIKE '[+-][0-9]{{2}}:[0-9]{{2}}$'))"
    );
    format!("({form} AND {year} AND {} IS NOT NULL)", instant(at, variants))
}

/// `[-][d.]hh:mm:ss[.f]` in microseconds.
fn duration(at: &str) -> String {
    let part = |pattern: &str| format!("coalesce(TRY_CAST(nullif(regexp_extract({at}, '{pattern}', 1), '') AS BIGINT), CAST(0 AS BIGINT))");
    let fraction = format!(
        "coalesce(TRY_CAST(substring(concat(regexp_extract({at}, '[.]([0-9]+)$', 1), '000000'), 1, 6) AS BIGINT), CAST(0 AS BIGINT))"
    );
    let (days, hours, minutes, seconds) =
        (part("^-?([0-9]+)[.]"), part("([0-9]{2}):[0-9]{2}:"), part(":([0-9]{2}):"), part(":[0-9]{2}:([0-9]{2})"));
    format!(
        "CASE WHEN {at} LIKE '-%' THEN -1 WHEN {at} IS NOT NULL THEN 1 END * (((({days} * 24 + {hours}) * 60 + {minutes}) * 60 + {seconds}) * 1000000 + {fraction})"
    )
}

/// A number of the record with all of its digits, where its name can stand in a path.
fn exact(property: &str) -> Option<String> {
    let plain = property.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then(|| format!("try_variant_get(try_parse_json(line), '$.{property}', 'decimal(38,18)')"))
}

fn decimal(property: &str, precision: u8, scale: i8) -> Option<String> {
    exact(property).map(|exact| format!("TRY_CAST({exact} AS DECIMAL({precision}, {scale}))"))
}

/// An Arrow type as SQL's.
pub fn type_name(ty: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType;
    match ty {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Timestamp(..) => "TIMESTAMP".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Binary => "BINARY".to_owned(),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| (field.name().as_str(), type_name(field.data_type())));
            format!("STRUCT<{}>", ddl(fields, ": "))
        }
        DataType::List(element) => format!("ARRAY<{}>", type_name(element.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => format!("MAP<STRING, {}>", type_name(fields[1].data_type())),
            _ => "MAP<STRING, STRING>".to_owned(),
        },
        _ => "STRING".to_owned(),
    }
}
