//! The statements of a batch. Each is complete in itself: no view, variable or setting of the session but its time zone.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::proof::{Proof, type_name};
use super::sql::{all, long, name, table, text};
use super::{Dialect, condition};
use crate::domain::BronzeObject;
use crate::job::Mode;
use crate::plan::in_path::InPath;
use crate::plan::order::tail;
use crate::plan::{ORDER, PathDay, SourcePlan, path_date};

/// Of silver's columns.
const SOURCE_FILE: &str = "_source_file";

/// Columns of the staged rows beside silver's.
pub const PROVEN: &str = "_proven";
pub const LINE: &str = "_line";
pub const FILE: &str = "_file";
pub const NTH: &str = "_nth";
/// Of its line and the end of that.
pub const BYTES: &str = "_bytes";
pub const DELETES: &str = "_deletes";
/// Of the settled rows: what becomes of each.
pub const FATE: &str = "_fate";

pub const INSERT: &str = "insert";
pub const UPDATE: &str = "update";
pub const DELETE: &str = "delete";
pub const OLDER: &str = "older";
/// Its row says the same.
pub const SAME: &str = "same";
/// Another record of the batch is its key's latest, or the same.
pub const SUPERSEDED: &str = "superseded";
pub const CONFLICT: &str = "conflict";
/// A row of silver that a snapshot's day does not have any more.
pub const REMOVED: &str = "removed";

/// What staged rows are made of: silver's columns, the order, and how they came to be.
pub fn staged_schema(plan: &SourcePlan) -> SchemaRef {
    let mut fields: Vec<Field> = plan.columns.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    if plan.columns.schema.column_with_name(ORDER).is_none() {
        fields.push(Field::new(ORDER, DataType::Utf8, true));
    }
    let of = |name: &str, ty: DataType| Field::new(name, ty, true);
    fields.extend([
        of(DELETES, DataType::Boolean),
        of(PROVEN, DataType::Boolean),
        of(LINE, DataType::Utf8),
        of(FILE, DataType::Utf8),
        of(NTH, DataType::Utf8),
        of(BYTES, DataType::Int64),
    ]);
    Arc::new(Schema::new(fields))
}

pub fn settled_schema(plan: &SourcePlan) -> SchemaRef {
    let mut fields: Vec<Field> = staged_schema(plan).fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(FATE, DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

/// Places of a batch as the server is to name them.
#[derive(Debug, Clone)]
pub struct Places {
    pub bronze: String,
    pub staged: String,
    pub settled: String,
    /// Rows that were explained here, as Parquet files; where there are any.
    pub explained: Option<String>,
    pub silver: String,
    pub marks: Option<String>,
}

pub struct Statements<'p> {
    pub plan: &'p SourcePlan,
    pub dialect: Dialect,
    pub places: Places,
    /// Whether staged and settled rows go to tables that are there, or make them.
    pub tables: Own,
    /// What a snapshot's batch is all of.
    pub day: Option<&'p PathDay>,
}

/// A batch's own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    There,
    Made,
}

impl Statements<'_> {
    /// Bronze → staged rows: what is proven as silver's columns, all else as its text.
    pub fn stage(&self, objects: &[(BronzeObject, InPath)], batch: &str, ingested_at: i64) -> String {
        let lines = objects.iter().map(|(object, in_path)| self.lines(object, in_path, batch, ingested_at));
        self.stage_lines(&lines.collect::<Vec<_>>().join("\n  UNION ALL "))
    }

    /// The same from rows of a line each: `line`, `nth`, `file`, `tail`, what the path said (`said_…`), `version`, `batch` and
    /// `ingested_at` (µs since 1970).
    pub fn stage_lines(&self, lines: &str) -> String {
        let proofs: Vec<Proof> = self.plan.contract.versions().filter_map(|version| Proof::of(self.plan, version, self.dialect)).collect();
        let each = |made: &dyn Fn(&Proof) -> String| proofs.iter().map(|proof| format!(", {}", made(proof))).collect::<Vec<_>>().concat();
        let formed = each(&|proof| {
            let own = [format!("kinds RLIKE {}", text(&proof.kinds))];
            format!(
                "coalesce({}, FALSE) AS formed{}",
                all(&[&["one".to_owned()], own.as_slice(), proof.text.as_slice()].concat()),
                proof.version
            )
        });
        let read = each(&|proof| format!("from_json(CASE WHEN formed{0} THEN line END, {1}) AS j{0}", proof.version, text(&proof.fields)));
        let proven = each(&|proof| format!("formed{0} AND coalesce({1}, FALSE) AS proven{0}", proof.version, all(&proof.values)));
        let any: Vec<String> = proofs.iter().map(|proof| format!("proven{}", proof.version)).collect();
        let any = if any.is_empty() { "FALSE".to_owned() } else { format!("({})", any.join(" OR ")) };
        let keep = if self.plan.job.mode == Mode::Append { "TRUE".to_owned() } else { format!("NOT {any}") };
        let schema = staged_schema(self.plan);
        let made: Vec<&Field> = schema.fields().iter().map(AsRef::as_ref).take_while(|field| field.name() != DELETES).collect();
        let columns: Vec<String> = made
            .iter()
            .enumerate()
            .map(|(at, field)| {
                let ways: String = proofs
                    .iter()
                    .filter_map(|proof| Some(format!(" WHEN proven{} THEN {}", proof.version, proof.columns.get(at)?.1)))
                    .collect();
                let value = if ways.is_empty() { "NULL".to_owned() } else { format!("CASE{ways} END") };
                format!("{value} AS {}", name(field.name()))
            })
            .collect();
        let deletes = self
            .plan
            .deletes
            .as_ref()
            .map_or_else(|| "FALSE".to_owned(), |deletes| format!("coalesce({}, FALSE)", condition::sql(deletes.logical())));
        let rows = format!(
            "WITH lines AS (\n{lines}\n), told AS (\n  SELECT *, schema_of_variant(try_parse_json(concat({}, line, '}}'))) AS kinds, \
             try_parse_json(concat('[', line, ']')) IS NOT NULL AS one\n  FROM lines WHERE NOT line RLIKE {}\n), looked AS (\n  \
             SELECT *{formed} FROM told\n), parsed AS (\n  SELECT *{read} FROM looked\n), judged AS (\n  SELECT *{proven} FROM parsed\n), \
             made AS (\n  SELECT {},\n    {any} AS {}, CASE WHEN {keep} THEN line END AS {}, file AS {}, nth AS {}, CAST(octet_length(line) + 1 AS BIGINT) AS {}\n  FROM judged\n)\n\
             SELECT *, {deletes} AS {} FROM made",
            text("{\"x\":"),
            text("^[ \t\r]*$"),
            columns.join(",\n    "),
            name(PROVEN),
            name(LINE),
            name(FILE),
            name(NTH),
            name(BYTES),
            name(DELETES),
        );
        self.insert(&self.places.staged, &schema, &rows)
    }

    fn lines(&self, object: &BronzeObject, in_path: &InPath, batch: &str, ingested_at: i64) -> String {
        let file = format!("{}/{}", self.places.bronze.trim_end_matches('/'), object.key);
        let number = |number: Option<i32>| number.map_or_else(|| "CAST(NULL AS INT)".to_owned(), |number| format!("CAST({number} AS INT)"));
        let ([(database, _), (entity, _)], [(year, ..), (month, ..), (day, ..)]) = (in_path.texts, in_path.numbers);
        format!(
            "SELECT value AS line, {} AS nth, {} AS file, {} AS tail, {} AS said_database, {} AS said_entity, {} AS said_year, \
             {} AS said_month, {} AS said_day, {} AS version, {} AS batch, {} AS ingested_at FROM text.{}",
            nth(self.dialect),
            text(&object.key),
            text(&tail(object, &object.key)),
            database.to_string().to_uppercase(),
            entity.to_string().to_uppercase(),
            number(year),
            number(month),
            number(day),
            self.plan.contract.default_version(object.layout, path_date(&object.path)),
            text(batch),
            long(ingested_at),
            name(&file),
        )
    }

    /// Appends rows to a table of ours.
    fn insert(&self, to: &str, schema: &Schema, rows: &str) -> String {
        let columns: Vec<String> = schema.fields().iter().map(|field| name(field.name())).collect();
        let typed: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| format!("CAST(r.{0} AS {1}) AS {0}", name(field.name()), type_name(field.data_type())))
            .collect();
        match self.dialect {
            _ if self.tables == Own::Made => {
                format!("CREATE OR REPLACE TABLE {} USING DELTA AS\nSELECT {} FROM (\n{rows}\n) r", table(to), typed.join(", "))
            }
            Dialect::Spark => {
                format!("INSERT INTO {} ({})\nSELECT {} FROM (\n{rows}\n) r", table(to), columns.join(", "), typed.join(", "))
            }
            Dialect::Sail => {
                let values: Vec<String> = columns.iter().map(|column| format!("s.{column}")).collect();
                format!(
                    "MERGE INTO {} t USING (\nSELECT {} FROM (\n{rows}\n) r\n) s ON FALSE\nWHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
                    table(to),
                    typed.join(", "),
                    columns.join(", "),
                    values.join(", ")
                )
            }
        }
    }

    /// How many lines each object has, how many of them are proven, and the bytes of all.
    pub fn counted(&self) -> String {
        format!(
            "SELECT {0} AS file, count(*) AS lines, count_if({1}) AS proven, sum({2}) AS bytes FROM {3} GROUP BY {0}",
            name(FILE),
            name(PROVEN),
            name(BYTES),
            table(&self.places.staged)
        )
    }

    pub fn unproven(&self) -> String {
        // Bytes that are no text cannot be sent as one.
        let line = match self.dialect {
            Dialect::Spark => format!("make_valid_utf8({})", name(LINE)),
            Dialect::Sail => name(LINE),
        };
        format!(
            "SELECT {0} AS file, {1} AS nth, {line} AS line FROM {2} WHERE NOT {3} ORDER BY {0}, {1}",
            name(FILE),
            name(NTH),
            table(&self.places.staged),
            name(PROVEN)
        )
    }

    /// Staged rows but for those of `elsewhere`, and what was explained here, each with what becomes of it.
    pub fn settle(&self, elsewhere: &[String]) -> String {
        let schema = staged_schema(self.plan);
        let columns: Vec<String> = schema.fields().iter().map(|field| name(field.name())).collect();
        let columns = columns.join(", ");
        let left_out = if elsewhere.is_empty() {
            String::new()
        } else {
            let files: Vec<String> = elsewhere.iter().map(|file| text(file)).collect();
            format!(" AND {} NOT IN ({})", name(FILE), files.join(", "))
        };
        let explained = self
            .places
            .explained
            .as_ref()
            .map(|at| format!("\n  UNION ALL SELECT {columns} FROM parquet.{}", name(at)))
            .unwrap_or_default();
        let staged = format!("SELECT {columns} FROM {} WHERE {}{left_out}{explained}", table(&self.places.staged), name(PROVEN));
        let rows = match self.day {
            _ if self.plan.job.mode == Mode::Append => self.fates_of_appends(&staged, &columns),
            Some(day) if day.outdated => self.fates_of_the_past(&staged, &columns),
            _ => self.fates_of_upserts(&staged, &columns),
        };
        self.insert(&self.places.settled, &settled_schema(self.plan), &rows)
    }

    fn keys(&self) -> Vec<String> {
        self.plan.columns.key_fields().iter().map(|field| name(field.name())).collect()
    }

    fn properties(&self) -> Vec<&Field> {
        self.plan.columns.properties.iter().map(|at| self.plan.columns.schema.field(*at)).collect()
    }

    /// Contract properties of two rows are the same.
    fn equal(&self, a: &str, b: &str) -> String {
        let same = |field: &&Field| {
            let (a, b) = (format!("{a}.{}", name(field.name())), format!("{b}.{}", name(field.name())));
            format!("{} <=> {}", comparable(&a, field.data_type()), comparable(&b, field.data_type()))
        };
        let same: Vec<String> = self.properties().iter().map(same).collect();
        format!("({})", same.join(" AND "))
    }

    fn on_keys(&self, a: &str, b: &str) -> String {
        self.keys().iter().map(|key| format!("{a}.{key} = {b}.{key}")).collect::<Vec<_>>().join(" AND ")
    }

    /// Rows of silver that could have one of the batch's keys, with the columns that decide.
    fn there(&self, with: &[&str]) -> String {
        let mut columns: Vec<String> = self.properties().iter().map(|field| name(field.name())).collect();
        columns.extend(with.iter().map(|column| name(column)));
        columns.push("TRUE AS there".to_owned());
        format!("SELECT {} FROM {} WHERE database = {}", columns.join(", "), table(&self.places.silver), text(&self.plan.source.database))
    }

    /// The first record of a key is the row; an equal one is a duplicate, another one a conflict.
    fn fates_of_appends(&self, staged: &str, columns: &str) -> String {
        let keys = self.keys().join(", ");
        let columns: String = columns.split(", ").map(|column| format!("r.{column}")).collect::<Vec<_>>().join(", ");
        format!(
            "WITH staged AS (\n  {staged}\n), ranked AS (\n  SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY {ORDER}) AS place FROM \
             staged\n), firsts AS (\n  SELECT * FROM ranked WHERE place = 1\n), present AS (\n  {}\n)\nSELECT {columns}, CASE WHEN t.there AND {} \
             THEN '{SAME}' WHEN t.there THEN '{CONFLICT}' WHEN r.place = 1 THEN '{INSERT}' WHEN {} THEN '{SUPERSEDED}' ELSE '{CONFLICT}' END AS {}\n\
             FROM ranked r JOIN firsts f ON {} LEFT JOIN present t ON {}",
            self.there(&[]),
            self.equal("t", "r"),
            self.equal("f", "r"),
            name(FATE),
            self.on_keys("f", "r"),
            self.on_keys("t", "r"),
        )
    }

    /// The latest record of a key is the row, unless a later one is known.
    fn fates_of_upserts(&self, staged: &str, columns: &str) -> String {
        let keys = self.keys().join(", ");
        let ours: Vec<String> = self.keys().iter().map(|key| format!("f.{key}")).collect();
        let each: String = columns.split(", ").map(|column| format!("r.{column}")).collect::<Vec<_>>().join(", ");
        let database = text(&self.plan.source.database);
        let none = format!("SELECT {keys}, {ORDER} AS latest FROM staged WHERE FALSE");
        // What the file said before, wherever in it, does not stand against what it says now.
        let marks = self.places.marks.as_ref().map_or(none, |marks| {
            format!(
                "SELECT {0}, max(m.`order`) AS latest FROM {1} m JOIN (SELECT {keys}, {SOURCE_FILE} FROM ranked WHERE place = 1) f ON {2} \
                 WHERE m.database = {database} AND NOT {3} <=> f.{SOURCE_FILE} GROUP BY {0}",
                ours.join(", "),
                table(marks),
                self.on_keys("m", "f"),
                file_of("m.`order`"),
            )
        });
        // A snapshot's rows have no order: the day has it.
        let ordered = self.plan.columns.schema.column_with_name(ORDER).is_some();
        let older = format!("t.{ORDER} > r.{ORDER} AND NOT {} <=> r.{SOURCE_FILE}", file_of(&format!("t.{ORDER}")));
        format!(
            "WITH staged AS (\n  {staged}\n), ranked AS (\n  SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY {ORDER} DESC) AS place \
             FROM staged\n), present AS (\n  {}\n), marked AS (\n  {marks}\n)\nSELECT {each}, CASE WHEN r.place > 1 THEN '{SUPERSEDED}' \
             WHEN coalesce({}, FALSE) OR coalesce(m.latest > r.{ORDER}, FALSE) THEN '{OLDER}' \
             WHEN r.{} THEN '{DELETE}' WHEN t.there IS NULL THEN '{INSERT}' WHEN {} THEN '{SAME}' ELSE '{UPDATE}' END AS {}\n\
             FROM ranked r LEFT JOIN present t ON {} LEFT JOIN marked m ON {}{}",
            self.there(if ordered { &[ORDER] } else { &[] }),
            if ordered { older.as_str() } else { "FALSE" },
            name(DELETES),
            self.equal("t", "r"),
            name(FATE),
            self.on_keys("t", "r"),
            self.on_keys("m", "r"),
            self.day.map(|_| self.gone(columns)).unwrap_or_default(),
        )
    }

    /// Rows of which a snapshot's day says nothing, if it says anything at all.
    fn gone(&self, columns: &str) -> String {
        let silver = &self.plan.columns.schema;
        let has = |column: &str| silver.fields().iter().any(|field| name(field.name()) == column);
        let typed: BTreeMap<String, String> =
            staged_schema(self.plan).fields().iter().map(|field| (name(field.name()), type_name(field.data_type()))).collect();
        let value = |column: &str| match typed.get(column) {
            Some(ty) if !has(column) => format!("CAST(NULL AS {ty}) AS {column}"),
            _ => format!("g.{column}"),
        };
        let values: Vec<String> = columns.split(", ").map(value).collect();
        format!(
            "\nUNION ALL SELECT {}, '{REMOVED}' AS {} FROM {} g LEFT ANTI JOIN staged s ON {} CROSS JOIN (SELECT count(*) AS sound FROM staged) n \
             WHERE n.sound > 0 AND g.database = {}",
            values.join(", "),
            name(FATE),
            table(&self.places.silver),
            self.on_keys("g", "s"),
            text(&self.plan.source.database),
        )
    }

    /// A later day is what the table has.
    fn fates_of_the_past(&self, staged: &str, columns: &str) -> String {
        let keys = self.keys().join(", ");
        format!(
            "SELECT {columns}, CASE WHEN place > 1 THEN '{SUPERSEDED}' ELSE '{OLDER}' END AS {} FROM (SELECT *, row_number() OVER (PARTITION BY \
             {keys} ORDER BY {ORDER} DESC) AS place FROM ({staged}) staged) ranked",
            name(FATE)
        )
    }

    pub fn fates(&self) -> String {
        format!("SELECT {0} AS fate, count(*) AS records FROM {1} GROUP BY {0}", name(FATE), table(&self.places.settled))
    }

    /// Records whose key is taken by another content.
    pub fn conflicts(&self) -> String {
        format!(
            "SELECT {0} AS file, {1} AS nth, {2} AS line, CAST(_source_offset AS BIGINT) AS source_offset, CAST(_schema_version AS INT) AS \
             schema_version FROM {3} WHERE {4} = '{CONFLICT}' ORDER BY {0}, {1}",
            name(FILE),
            name(NTH),
            name(LINE),
            table(&self.places.settled),
            name(FATE)
        )
    }

    /// Deletes, and records that changed nothing, are remembered; again without effect.
    pub fn mark(&self) -> Option<String> {
        let marks = self.places.marks.as_ref()?;
        let keys = self.keys();
        let on = self.on_keys("t", "s");
        let silver = self.on_keys("p", "s");
        let columns = [keys.clone(), ["database", "order", "kind", "batch", "marked_at", "marked_on"].map(name).to_vec()].concat();
        let values: Vec<String> = columns.iter().map(|column| format!("s.{column}")).collect();
        let marked_at = "s._ingested_at";
        // A record that is the row already needs no mark.
        Some(format!(
            "MERGE INTO {} t USING (\nSELECT {}, s.database AS `database`, s.{ORDER} AS `order`, CASE WHEN s.{FATE} = '{DELETE}' THEN 'deleted' \
             ELSE 'unchanged' END AS `kind`, s._batch AS `batch`, {marked_at} AS `marked_at`, to_date({marked_at}) AS `marked_on`\nFROM {} s \
             LEFT JOIN (SELECT {}, {ORDER} FROM {} WHERE database = {}) p ON {silver} AND p.{ORDER} = s.{ORDER}\nWHERE s.{FATE} IN ('{DELETE}', '{SAME}') AND p.{ORDER} IS NULL\n) s\nON t.database = {} AND {on} AND \
             t.`order` = s.`order`\nWHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
            table(marks),
            keys.iter().map(|key| format!("s.{key} AS {key}")).collect::<Vec<_>>().join(", "),
            table(&self.places.settled),
            keys.join(", "),
            table(&self.places.silver),
            text(&self.plan.source.database),
            text(&self.plan.source.database),
            columns.join(", "),
            values.join(", "),
        ))
    }

    /// Settled rows → silver; again without effect.
    pub fn merge(&self) -> String {
        let columns: Vec<String> = self.plan.columns.schema.fields().iter().map(|field| name(field.name())).collect();
        let set: Vec<String> = columns.iter().map(|column| format!("{column} = s.{column}")).collect();
        let values: Vec<String> = columns.iter().map(|column| format!("s.{column}")).collect();
        let date = if self.plan.columns.date_follows_from_key { " AND t.event_date = s.event_date" } else { "" };
        let changes = if self.plan.job.mode == Mode::Append {
            String::new()
        } else {
            format!(
                "\nWHEN MATCHED AND s.{FATE} IN ('{DELETE}', '{REMOVED}') THEN DELETE\nWHEN MATCHED AND s.{FATE} = '{UPDATE}' AND NOT (t._batch <=> s._batch) THEN \
                 UPDATE SET {}",
                set.join(", ")
            )
        };
        format!(
            "MERGE INTO {} t USING (\nSELECT {}, {FATE} FROM {} WHERE {FATE} IN ('{INSERT}', '{UPDATE}', '{DELETE}', '{REMOVED}')\n) s\nON t.database = {} AND \
             {}{date}{changes}\nWHEN NOT MATCHED AND s.{FATE} IN ('{INSERT}', '{UPDATE}') THEN INSERT ({}) VALUES ({})",
            table(&self.places.silver),
            columns.join(", "),
            table(&self.places.settled),
            text(&self.plan.source.database),
            self.on_keys("t", "s"),
            columns.join(", "),
            values.join(", "),
        )
    }
}

/// The file in an order: the part before the last.
fn file_of(order: &str) -> String {
    let separator = text(&crate::plan::order::SEPARATOR.to_string());
    format!("substring_index(substring_index({order}, {separator}, -2), {separator}, 1)")
}

/// A line's place in its object: the split of the file, and the place in that; told from an offset by its first letter.
pub fn nth(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Spark => {
            "concat('l', lpad(CAST(_metadata.file_block_start AS STRING), 10, '0'), \
             lpad(CAST(monotonically_increasing_id() % 8589934592 AS STRING), 10, '0'))"
        }
        Dialect::Sail => "concat('l', lpad(CAST(monotonically_increasing_id() AS STRING), 20, '0'))",
    }
}

/// Maps have no equality of their own.
fn comparable(value: &str, ty: &DataType) -> String {
    match ty {
        DataType::Map(..) => {
            format!("named_struct('k', array_sort(map_keys({value})), 'v', transform(array_sort(map_keys({value})), k -> {value}[k]))")
        }
        ty if has_map(ty) => format!("to_json({value})"),
        _ => value.to_owned(),
    }
}

fn has_map(ty: &DataType) -> bool {
    match ty {
        DataType::Map(..) => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_map(field.data_type())),
        DataType::List(element) => has_map(element.data_type()),
        _ => false,
    }
}
