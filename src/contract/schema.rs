//! JSON Schema text → [`Version`]: reads the keywords, keeps the place of every mistake.

use std::path::PathBuf;
use std::sync::Arc;

use super::upcast::Step;
use super::{Allowed, Checks, DefaultRule, Limit, Object, Parsed, Pattern, Property, Rest, Scalar, Shape, Type, Version, pattern};
use crate::domain::json::{Kind, Value};
use crate::domain::time::{Variants, parse_date, parse_duration};
use crate::domain::{Layout, Mistake, PartitionColumn};

/// Schemas nested deeper than this are a `$ref` that refers to itself.
const MAX_SCHEMA_DEPTH: usize = 32;

/// Keywords that say nothing about validity.
const ANNOTATIONS: &[&str] =
    &["$schema", "$id", "$comment", "$defs", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"];

#[derive(Debug, Default)]
pub struct RootKeywords {
    pub version_field: Option<String>,
    pub defaults: Vec<DefaultRule>,
}

struct Compiler<'a> {
    parsed: &'a Parsed<'a>,
    /// Keywords left to the `jsonschema` crate.
    rest: Vec<String>,
}

pub fn compile(number: u32, file: PathBuf, text: &str) -> Result<(Version, RootKeywords, Vec<Step>), Mistake> {
    let parsed = Parsed::new(&file, text)?;
    let root = parsed.root();
    let mut compiler = Compiler { parsed: &parsed, rest: Vec::new() };
    let (object, keywords, steps) = compiler.root(root)?;
    let json = root.to_serde();
    let validator = full_validator(&json).map_err(|error| parsed.mistake(root, format!("not a valid JSON Schema: {error}"), None))?;
    compiler.rest.sort();
    compiler.rest.dedup();
    let rest = (!compiler.rest.is_empty()).then_some(Rest { keywords: compiler.rest, validator });
    let version = Version {
        number,
        root: Arc::new(object),
        rest,
        sources: Vec::new(),
        description: text_of(root.get("description")),
        decision: text_of(root.get("x-decision")),
        json,
        file,
        text: text.to_owned(),
    };
    Ok((version, keywords, steps))
}

/// The whole schema in the `jsonschema` crate, formats asserted, our own string forms included: the oracle and the rest.
pub fn full_validator(schema: &serde_json::Value) -> Result<jsonschema::Validator, String> {
    struct DurationForm;
    impl<'i> jsonschema::Keyword<'i> for DurationForm {
        fn validate(&self, instance: &'i serde_json::Value) -> Result<(), jsonschema::ValidationError<'i>> {
            if self.is_valid(instance) { Ok(()) } else { Err(jsonschema::ValidationError::custom("not a duration [d.]hh:mm:ss[.f]")) }
        }
        fn is_valid(&self, instance: &'i serde_json::Value) -> bool {
            instance.as_str().is_none_or(|text| parse_duration(text).is_some())
        }
    }
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .with_keyword("x-duration", |_, _, _| Ok(Box::new(DurationForm)))
        .build(schema)
        .map_err(|error| error.to_string())
}

fn text_of(value: Option<Value<'_>>) -> Option<String> {
    value.filter(|value| value.kind() == Kind::String).map(|value| value.as_str().to_owned())
}

impl Compiler<'_> {
    fn fail<T>(&self, at: Value<'_>, message: impl Into<String>, help: Option<&str>) -> Result<T, Mistake> {
        Err(self.parsed.mistake(at, message, help))
    }

    fn root(&mut self, root: Value<'_>) -> Result<(Object, RootKeywords, Vec<Step>), Mistake> {
        if root.get("type").is_none_or(|ty| ty.as_str() != "object") {
            return self.fail(root, "the root of a contract must say \"type\": \"object\"", None);
        }
        let mut keywords = RootKeywords::default();
        let mut steps = Vec::new();
        for (key, value) in root.entries() {
            match key {
                "x-version-field" => keywords.version_field = Some(self.text(value)?),
                "x-default-version" => keywords.defaults = self.default_rules(value)?,
                "x-upcast" => steps = self.upcast_steps(value)?,
                "x-decision" => drop(self.text(value)?),
                _ => {}
            }
        }
        let object = self.object(root, 0)?;
        for property in &object.properties {
            if PartitionColumn::from_name(&property.name).is_some() || property.name.starts_with('_') {
                let at = root.get("properties").and_then(|all| all.get(&property.name)).unwrap_or(root);
                return self.fail(at, format!("`{}` is a column that etl itself writes", property.name), Some("rename the property"));
            }
        }
        Ok((object, keywords, steps))
    }

    fn text(&self, value: Value<'_>) -> Result<String, Mistake> {
        match value.kind() {
            Kind::String => Ok(value.as_str().to_owned()),
            other => self.fail(value, format!("expected a string, found {}", other.name()), None),
        }
    }

    fn size(&self, value: Value<'_>) -> Result<u64, Mistake> {
        match value.kind() {
            Kind::Int(int) if int >= 0 => Ok(int as u64),
            _ => self.fail(value, "expected a whole number from 0", None),
        }
    }

    fn limit(&self, value: Value<'_>) -> Result<Limit, Mistake> {
        match value.kind() {
            Kind::Int(int) => Ok(Limit::Int(int)),
            Kind::Float(float) | Kind::BigInt(float) => Ok(Limit::Float(float)),
            _ => self.fail(value, "expected a number", None),
        }
    }

    fn default_rules(&self, value: Value<'_>) -> Result<Vec<DefaultRule>, Mistake> {
        if let Kind::Int(_) = value.kind() {
            return Ok(vec![DefaultRule { layout: None, before: None, version: self.size(value)? as u32 }]);
        }
        if value.kind() != Kind::Array {
            return self.fail(value, "expected a version number or a list of rules", None);
        }
        value.items().map(|rule| self.default_rule(rule)).collect()
    }

    fn default_rule(&self, rule: Value<'_>) -> Result<DefaultRule, Mistake> {
        let mut compiled = DefaultRule { layout: None, before: None, version: 0 };
        for (key, value) in rule.entries() {
            match key {
                "layout" => {
                    compiled.layout = match self.text(value)?.as_str() {
                        "firehose" => Some(Layout::Firehose),
                        "year_root" => Some(Layout::YearRoot),
                        _ => return self.fail(value, "a layout is firehose or year_root", None),
                    };
                }
                "before" => match parse_date(&self.text(value)?) {
                    Some(Some(days)) => compiled.before = Some(days),
                    _ => return self.fail(value, "expected a date like 2024-07-01", None),
                },
                "version" => compiled.version = self.size(value)? as u32,
                _ => return self.fail(value, format!("unknown key `{key}` in a rule of x-default-version"), None),
            }
        }
        if compiled.version == 0 {
            return self.fail(rule, "the rule names no version", None);
        }
        Ok(compiled)
    }

    fn upcast_steps(&self, value: Value<'_>) -> Result<Vec<Step>, Mistake> {
        value
            .items()
            .map(|step| {
                let Some((verb, body)) = step.entries().next() else { return self.fail(step, "an empty upcast step", None) };
                let field = |name: &str| match body.get(name) {
                    Some(value) => self.text(value),
                    None => self.fail(body, format!("`{verb}` needs `{name}`"), None),
                };
                match verb {
                    "rename" => Ok(Step::Rename { from: field("from")?, to: field("to")? }),
                    "move" => Ok(Step::Move { from: pointer(&field("from")?), to: pointer(&field("to")?) }),
                    "default" => match body.get("value") {
                        Some(value) => Ok(Step::Default { field: field("field")?, value: value.compact() }),
                        None => self.fail(body, "`default` needs `value`", None),
                    },
                    "cast" => match field("to")?.as_str() {
                        to @ ("string" | "integer" | "number" | "boolean") => Ok(Step::Cast { field: field("field")?, to: to.to_owned() }),
                        _ => self.fail(body, "a cast goes to string, integer, number or boolean", None),
                    },
                    _ => self.fail(step, format!("unknown upcast step `{verb}`"), Some("rename, default, cast or move")),
                }
            })
            .collect()
    }

    fn object(&mut self, schema: Value<'_>, depth: usize) -> Result<Object, Mistake> {
        let mut required = Vec::new();
        if let Some(list) = schema.get("required") {
            for name in list.items() {
                required.push(self.text(name)?);
            }
        }
        let mut properties = Vec::new();
        if let Some(declared) = schema.get("properties") {
            for (name, value) in declared.entries() {
                let shape = self.shape(value, depth + 1)?;
                let is_required = required.iter().any(|wanted| wanted == name);
                properties.push(Property { name: name.to_owned(), shape, required: is_required });
            }
        }
        required.retain(|name| !properties.iter().any(|property| property.name == *name));
        let closed = match schema.get("additionalProperties").map(|value| (value, value.kind())) {
            None | Some((_, Kind::Bool(true))) => false,
            Some((_, Kind::Bool(false))) => true,
            Some(_) => {
                self.rest.push("additionalProperties".to_owned());
                false
            }
        };
        if depth == 0 {
            self.leave_to_rest(schema, &["type", "properties", "required", "additionalProperties"]);
        }
        Ok(Object::new(properties, required, closed))
    }

    /// Notes every keyword that neither `known` nor an annotation covers.
    fn leave_to_rest(&mut self, schema: Value<'_>, known: &[&str]) {
        for (key, _) in schema.entries() {
            if !known.contains(&key) && !ANNOTATIONS.contains(&key) && !key.starts_with("x-") {
                self.rest.push(key.to_owned());
            }
        }
    }

    fn resolve<'v>(&self, schema: Value<'v>) -> Result<Value<'v>, Mistake>
    where
        Self: 'v,
    {
        let Some(reference) = schema.get("$ref") else { return Ok(schema) };
        let target = reference.as_str().strip_prefix("#/").map(|path| pointer(&format!("/{path}")));
        let root = schema.root();
        match target.and_then(|tokens| root.walk(&tokens)) {
            Some(found) => Ok(found),
            None => self.fail(reference, format!("`{}` refers to nothing in this file", reference.as_str()), Some("use #/$defs/<name>")),
        }
    }

    fn shape(&mut self, written: Value<'_>, depth: usize) -> Result<Shape, Mistake> {
        if depth > MAX_SCHEMA_DEPTH {
            return self.fail(written, "the schema refers to itself or nests too deep", None);
        }
        if written.kind() != Kind::Object {
            return self.fail(written, "expected a schema object", None);
        }
        let schema = self.resolve(written)?;
        if schema.index() != written.index() {
            self.leave_to_rest(written, &["$ref"]);
        }
        let (kinds, nullable) = self.kinds(schema)?;
        let mut known = vec!["type", "enum", "const"];
        let ty = self.ty(schema, &kinds, depth, &mut known)?;
        let mut checks = self.checks(schema, &mut known)?;
        if let Type::Text = ty
            && let Some(format) = schema.get("format")
        {
            checks.uuid = format.as_str() == "uuid";
            if checks.uuid {
                known.push("format");
            }
        }
        self.leave_to_rest(schema, &known);
        let description = text_of(written.get("description")).or_else(|| text_of(schema.get("description")));
        Ok(Shape { ty, nullable, bare: checks == Checks::default(), checks, description })
    }

    fn kinds(&self, schema: Value<'_>) -> Result<(Vec<String>, bool), Mistake> {
        let Some(ty) = schema.get("type") else { return Ok((Vec::new(), true)) };
        let mut kinds = match ty.kind() {
            Kind::Array => ty.items().map(|kind| self.text(kind)).collect::<Result<Vec<_>, _>>()?,
            _ => vec![self.text(ty)?],
        };
        for kind in &kinds {
            if !["null", "boolean", "integer", "number", "string", "array", "object"].contains(&kind.as_str()) {
                return self.fail(ty, format!("`{kind}` is no JSON type"), Some("null, boolean, integer, number, string, array or object"));
            }
        }
        let before = kinds.len();
        kinds.retain(|kind| kind != "null");
        let nullable = kinds.len() < before;
        kinds.sort();
        Ok((kinds, nullable))
    }

    fn ty(&mut self, schema: Value<'_>, kinds: &[String], depth: usize, known: &mut Vec<&'static str>) -> Result<Type, Mistake> {
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        if schema.get("x-ref").is_some() {
            return self.reference(schema, &kinds, depth, known);
        }
        Ok(match kinds.as_slice() {
            ["boolean"] => Type::Boolean,
            ["integer"] => Type::Long,
            ["number"] | ["integer", "number"] => self.number(schema)?,
            ["string"] => self.string(schema, known)?,
            ["object"] => self.object_type(schema, depth, known)?,
            ["array"] => {
                known.push("items");
                let items = match schema.get("items").filter(|items| items.kind() == Kind::Object) {
                    Some(items) => self.shape(items, depth + 1)?,
                    None => any_json(),
                };
                Type::List(Box::new(items))
            }
            _ => Type::Json { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect() },
        })
    }

    fn reference(&mut self, schema: Value<'_>, kinds: &[&str], depth: usize, known: &mut Vec<&'static str>) -> Result<Type, Mistake> {
        let help = Some("\"type\": [\"object\", \"string\"], \"required\": [\"id\"], \"properties\": {\"id\": {\"type\": \"string\"}}");
        known.extend(["properties", "required", "additionalProperties"]);
        let object = self.object(schema, depth)?;
        let id = object.property("id").is_some_and(|id| id.required && id.shape.ty == Type::Text && !id.shape.nullable);
        if kinds != ["object", "string"] || !id {
            return self.fail(schema, "an x-ref is an object with a required string `id`, or a string", help);
        }
        Ok(Type::Reference(Arc::new(object)))
    }

    fn number(&self, schema: Value<'_>) -> Result<Type, Mistake> {
        let Some(decimal) = schema.get("x-decimal") else { return Ok(Type::Double) };
        let parts: Vec<Kind> = decimal.items().map(Value::kind).collect();
        match parts.as_slice() {
            [Kind::Int(precision @ 1..=38), Kind::Int(scale)] if *scale >= 0 && scale <= precision => {
                Ok(Type::Decimal { precision: *precision as u8, scale: *scale as i8 })
            }
            _ => self.fail(decimal, "expected [precision 1 to 38, scale 0 to precision]", None),
        }
    }

    fn string(&self, schema: Value<'_>, known: &mut Vec<&'static str>) -> Result<Type, Mistake> {
        if let Some(declared) = schema.get("x-timestamp") {
            let mut variants = Variants::default();
            for variant in declared.items() {
                match variant.as_str() {
                    "space" => variants.space = true,
                    "date" => variants.date = true,
                    other => return self.fail(variant, format!("`{other}` is no variant of a timestamp"), Some("space or date")),
                }
            }
            return Ok(Type::Timestamp { asserted: false, variants });
        }
        if schema.get("x-duration").is_some() {
            return Ok(Type::Duration);
        }
        Ok(match schema.get("format").map(Value::as_str) {
            Some("date-time") => {
                known.push("format");
                Type::Timestamp { asserted: true, variants: Variants::default() }
            }
            Some("date") => {
                known.push("format");
                Type::Date
            }
            _ => Type::Text,
        })
    }

    fn object_type(&mut self, schema: Value<'_>, depth: usize, known: &mut Vec<&'static str>) -> Result<Type, Mistake> {
        known.extend(["properties", "required", "additionalProperties"]);
        if schema.get("properties").is_some_and(|properties| properties.entries().next().is_some()) {
            return Ok(Type::Struct(Arc::new(self.object(schema, depth)?)));
        }
        if schema.get("required").is_some() {
            self.rest.push("required".to_owned());
        }
        let value = match schema.get("additionalProperties").filter(|value| value.kind() == Kind::Object) {
            Some(value) => self.shape(value, depth + 1)?,
            None => any_json(),
        };
        if schema.get("additionalProperties").is_some_and(|value| value.kind() == Kind::Bool(false)) {
            self.rest.push("additionalProperties".to_owned());
        }
        Ok(Type::Map(Box::new(value)))
    }

    fn checks(&mut self, schema: Value<'_>, known: &mut Vec<&'static str>) -> Result<Checks, Mistake> {
        let mut checks = Checks::default();
        for (key, value) in schema.entries() {
            let name = match key {
                "enum" => {
                    checks.allowed = self.allowed(value.items().collect());
                    "enum"
                }
                "const" => {
                    checks.allowed = self.allowed(vec![value]);
                    "const"
                }
                "minimum" => {
                    checks.minimum = Some(self.limit(value)?);
                    "minimum"
                }
                "maximum" => {
                    checks.maximum = Some(self.limit(value)?);
                    "maximum"
                }
                "exclusiveMinimum" => {
                    checks.exclusive_minimum = Some(self.limit(value)?);
                    "exclusiveMinimum"
                }
                "exclusiveMaximum" => {
                    checks.exclusive_maximum = Some(self.limit(value)?);
                    "exclusiveMaximum"
                }
                "minLength" => {
                    checks.min_length = Some(self.size(value)?);
                    "minLength"
                }
                "maxLength" => {
                    checks.max_length = Some(self.size(value)?);
                    "maxLength"
                }
                "minItems" => {
                    checks.min_items = Some(self.size(value)?);
                    "minItems"
                }
                "maxItems" => {
                    checks.max_items = Some(self.size(value)?);
                    "maxItems"
                }
                "minProperties" => {
                    checks.min_properties = Some(self.size(value)?);
                    "minProperties"
                }
                "maxProperties" => {
                    checks.max_properties = Some(self.size(value)?);
                    "maxProperties"
                }
                "pattern" => {
                    checks.pattern = self.pattern(value)?;
                    if checks.pattern.is_none() {
                        continue;
                    }
                    "pattern"
                }
                _ => continue,
            };
            known.push(name);
        }
        Ok(checks)
    }

    /// `None`, and the rest, where a value is an array or an object.
    fn allowed(&mut self, values: Vec<Value<'_>>) -> Option<Allowed> {
        let mut allowed = Allowed::default();
        for value in values {
            match value.kind() {
                Kind::String => allowed.texts.push(value.as_str().to_owned()),
                Kind::Null => allowed.others.push(Scalar::Null),
                Kind::Bool(flag) => allowed.others.push(Scalar::Bool(flag)),
                Kind::Int(int) => allowed.others.push(Scalar::Int(int)),
                Kind::BigInt(float) | Kind::Float(float) => allowed.others.push(Scalar::Float(float)),
                Kind::Array | Kind::Object => {
                    self.rest.push("enum".to_owned());
                    return None;
                }
            }
        }
        Some(allowed)
    }

    fn pattern(&self, value: Value<'_>) -> Result<Option<Pattern>, Mistake> {
        let source = self.text(value)?;
        let Some(translated) = pattern::translate(&source) else { return Ok(None) };
        match regex::Regex::new(&translated) {
            Ok(regex) => Ok(Some(Pattern { source, regex })),
            Err(error) => self.fail(value, format!("not a usable pattern: {error}"), None),
        }
    }
}

fn any_json() -> Shape {
    Shape { ty: Type::Json { kinds: Vec::new() }, nullable: true, checks: Checks::default(), bare: true, description: None }
}

/// Tokens of a JSON Pointer.
pub fn pointer(text: &str) -> Vec<String> {
    text.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect()
}
