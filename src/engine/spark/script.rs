//! A job as SQL files for whoever has a warehouse and no place to run `etl`: each run of them brings what is new in bronze into silver.
//!
//! They are the statements of a batch with the parts around them in SQL as well. What is new is found by comparing a listing
//! (`binaryFile`, whose contents nobody reads) with the table of what was loaded; the files of the batch are then named to the reader,
//! which takes no list, by `EXECUTE IMMEDIATE`. All that a batch goes through lies in tables of its own under `_etl/sql/`, so a run
//! that died is begun anew by the next one, and statements that write silver change nothing when they are repeated.
//!
//! What SQL cannot prove sound it does not explain: such lines are kept in `unproven`, out of silver and counted by the gate. There is
//! no ledger and no lease: one run at a time, and no other engine beside it (`docs/databricks.md`).

use std::collections::BTreeMap;

use arrow::datatypes::Schema;

use super::proof::type_name;
use super::sql::{all, literal, name, table, text};
use super::statements::{CONFLICT, FATE, FILE, LINE, NTH, Own, PROVEN, Places, Statements, nth};
use super::{Dialect, SqlDialect};
use crate::domain::PartitionColumn;
use crate::job::{Mode, OnChangedObject, Where};
use crate::plan::order::{SEPARATOR, date_text, layout_rank};
use crate::plan::{SourcePlan, marks_partition, marks_schema};

/// Files of one run: their names become part of a statement.
const FILES: usize = 2000;

/// One file: its name, and statements that are complete in themselves as a whole.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: &'static str,
    pub does: &'static str,
    pub statements: Vec<String>,
}

impl Step {
    pub fn text(&self) -> String {
        format!("-- {}\n\n{};\n", self.does, self.statements.join(";\n\n"))
    }
}

/// What tables say of themselves.
#[derive(Debug, Clone, Default)]
pub struct Described {
    pub description: Option<String>,
    pub comments: BTreeMap<String, String>,
    pub contract_version: Option<u32>,
}

pub struct Script<'p> {
    plan: &'p SourcePlan,
    dialect: SqlDialect,
    bronze: String,
    own: String,
    statements: Statements<'p>,
}

impl<'p> Script<'p> {
    /// Of one source; bronze and silver as the server names them.
    pub fn new(plan: &'p SourcePlan, dialect: SqlDialect, bronze: &str, silver: &str) -> Self {
        let (bronze, silver) = (bronze.trim_end_matches('/').to_owned(), silver.trim_end_matches('/'));
        let entity = &plan.source.entity;
        let own = format!("{silver}/_etl/sql/{entity}/{}", plan.source.database);
        let places = Places {
            bronze: bronze.clone(),
            staged: format!("{own}/staged"),
            settled: format!("{own}/settled"),
            explained: None,
            silver: format!("{silver}/{entity}"),
            marks: plan.job.upsert().map(|_| format!("{silver}/_etl/tombstones/{entity}")),
        };
        let statements = Statements { plan, dialect: Dialect::Spark, places, tables: Own::Made, day: None };
        Self { plan, dialect, bronze, own, statements }
    }

    fn own(&self, which: &str) -> String {
        table(&format!("{}/{which}", self.own))
    }

    /// In the order in which they run.
    pub fn steps(&self, silver: &Described) -> Vec<Step> {
        let step = |name, does, statements| Step { name, does, statements };
        // Silver first: a mark that a dead run left would have its delete taken for known.
        let bring: Vec<String> = [self.statements.merge()].into_iter().chain(self.statements.mark()).collect();
        vec![
            step("10_tables", "The tables, where they are not there yet.", self.tables(silver)),
            step("20_take", "What is new in bronze: the files of this run.", vec![self.take()]),
            step("30_stage", "Their lines, each proven sound as columns of silver, or kept as its text.", self.stage()),
            step("40_settle", "What becomes of each record, by what silver has.", vec![self.statements.settle(&[])]),
            step("50_gate", "Stops here where too much was not proven, before anything is written to silver.", self.gate()),
            step("60_silver", "Silver, then tombstones. Without effect when it is repeated.", bring),
            step(
                "70_loaded",
                "What was not proven is kept, and the files are done.",
                self.keep().into_iter().chain([self.loaded()]).collect(),
            ),
        ]
    }

    fn tables(&self, silver: &Described) -> Vec<String> {
        let columns = &self.plan.columns;
        let places = &self.statements.places;
        let mut made = vec![create(&places.silver, &columns.schema, &columns.partition_by, silver)];
        if let Some(marks) = &places.marks {
            let description = Some(format!("Deletes of {} and records that changed nothing.", self.plan.source.entity));
            let described = Described { description, ..Described::default() };
            made.push(create(marks, &marks_schema(columns), &marks_partition(), &described));
        }
        let own = |which: &str, columns: &str| format!("CREATE TABLE IF NOT EXISTS {} ({columns}) USING DELTA", self.own(which));
        made.push(own("loaded", "file STRING, size BIGINT, modified TIMESTAMP, batch STRING, loaded_at TIMESTAMP"));
        made.push(own("unproven", "reason STRING, file STRING, nth STRING, line STRING, batch STRING, kept_at TIMESTAMP"));
        made
    }

    /// New files with what their paths say, in the order in which they count.
    fn take(&self) -> String {
        let (job, source) = (&self.plan.job, &self.plan.source);
        let folder = format!("database={}/entity={}", source.database, source.entity);
        let listed = match self.dialect {
            SqlDialect::Databricks => {
                format!(
                    "read_files({}, format => 'binaryFile', recursiveFileLookup => true)",
                    literal(&format!("{}/{folder}", self.bronze))
                )
            }
            SqlDialect::Spark => {
                format!("binaryFile.{} WITH ('recursiveFileLookup' = 'true')", name(&format!("{}/{folder}", self.bronze)))
            }
        };
        let separator = text(&SEPARATOR.to_string());
        let rules = self.plan.contract.defaults.iter().map(|rule| {
            let layout = rule.layout.map(|layout| format!("layout = '{}'", layout_rank(layout)));
            let before = rule.before.map(|before| format!("on_date < '{}'", date_text(before)));
            let conditions: Vec<String> = layout.into_iter().chain(before).collect();
            format!(" WHEN {} THEN {}", all(&conditions), rule.version)
        });
        let version = format!("CASE{} ELSE {} END", rules.collect::<String>(), self.plan.contract.latest().number);
        let version = if self.plan.contract.defaults.is_empty() { self.plan.contract.latest().number.to_string() } else { version };
        let speaks = |column: PartitionColumn| job.partition(column).place != Where::Payload;
        let number = |column: PartitionColumn| {
            let said = if speaks(column) { format!("in_{}", column.name()) } else { "NULL".to_owned() };
            format!("CAST({said} AS INT) AS said_{}", column.name())
        };
        format!(
            "CREATE OR REPLACE TABLE {} USING DELTA AS\nWITH listed AS (\n  SELECT path, length AS size, modificationTime AS modified, \
             regexp_extract(path, {}, 1) AS rest\n  FROM {listed}\n), parted AS (\n  SELECT *, concat({}, rest) AS file, \
             CASE WHEN rest RLIKE {} THEN '1' WHEN rest RLIKE {} THEN '0' END AS layout,\n    \
             TRY_CAST(nullif(regexp_extract(rest, '^year=([0-9]+)/', 1), '') AS INT) AS in_year, \
             TRY_CAST(nullif(regexp_extract(rest, '/month=([0-9]+)/', 1), '') AS INT) AS in_month, \
             TRY_CAST(nullif(regexp_extract(rest, '/day=([0-9]+)/', 1), '') AS INT) AS in_day\n  FROM listed\n), dated AS (\n  \
             SELECT *, concat(lpad(in_year, 4, '0'), '-', lpad(coalesce(in_month, 1), 2, '0'), '-', lpad(coalesce(in_day, 1), 2, '0')) AS on_date\n  \
             FROM parted WHERE layout IS NOT NULL\n), new AS (\n  SELECT d.*, concat(layout, {separator}, on_date, {separator}, \
             regexp_extract(rest, '([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}})[^/]*$', 1), {separator}, file) AS tail\n  \
             FROM dated d LEFT ANTI JOIN {} l ON l.file = d.file{}\n  \
             WHERE TRY_CAST(on_date AS DATE) IS NOT NULL AND in_year BETWEEN 1 AND 9999 AND NOT rest RLIKE {}\n), placed AS (\n  SELECT *, \
             row_number() OVER (ORDER BY tail) AS place, sum(size) OVER (ORDER BY tail ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before\n  \
             FROM new\n)\nSELECT p.file, p.size, p.modified, p.tail, {} AS said_database, {} AS said_entity, {}, {}, {}, {version} AS version, \
             b.batch, b.ingested_at\nFROM placed p CROSS JOIN (SELECT max(id) AS batch, max(at) AS ingested_at FROM \
             (SELECT uuid() AS id, unix_micros(current_timestamp()) AS at)) b\nWHERE place <= {} AND coalesce(before, 0) < {}",
            self.own("taken"),
            text(&format!("/{}/(.*)$", super::sql::literally(&folder))),
            text(&format!("{folder}/")),
            text("^year=[0-9]{1,4}/month=[0-9]{1,2}/day=[0-9]{1,2}/[A-Za-z0-9=+@~-][A-Za-z0-9._=+@~-]*$"),
            text("^year=[0-9]{1,4}/(month=[0-9]{1,2}/)?[A-Za-z0-9+@~-][A-Za-z0-9._+@~-]*$"),
            self.own("loaded"),
            if job.on_changed_object == OnChangedObject::Ignore { "" } else { " AND l.size = d.size AND l.modified = d.modified" },
            text("(?i)(-failed|_failed|[.](parquet|orc|avro|csv|crc|tmp|md5|sha256))$"),
            speaks(PartitionColumn::Database).to_string().to_uppercase(),
            speaks(PartitionColumn::Entity).to_string().to_uppercase(),
            number(PartitionColumn::Year),
            number(PartitionColumn::Month),
            number(PartitionColumn::Day),
            FILES.min(job.limits.batch_objects),
            job.limits.batch,
        )
    }

    /// The reader wants its files named: the statement is put together from those that were taken. A line's place is its number in its
    /// file, which is the same whatever files are read beside it.
    fn stage(&self) -> Vec<String> {
        // Stands for the source of lines until the files are known; no text of a job can hold it.
        const HOLE: &str = "\u{1}lines\u{1}";
        let statement = self.statements.stage_lines(HOLE);
        let (before, after) = statement.split_once(HOLE).unwrap_or((&statement, ""));
        let columns =
            "t.file, t.tail, t.said_database, t.said_entity, t.said_year, t.said_month, t.said_day, t.version, t.batch, t.ingested_at";
        let none =
            format!("SELECT CAST(NULL AS STRING) AS line, CAST(NULL AS STRING) AS nth, {columns} FROM {} t WHERE FALSE", self.own("taken"));
        let folder = format!("database={}/entity={}", self.plan.source.database, self.plan.source.entity);
        let some = format!(
            "SELECT l.line, concat('l', lpad(row_number() OVER (PARTITION BY l.file ORDER BY l.nth), 20, '0')) AS nth, {columns} FROM (SELECT value AS line, {} AS nth, regexp_extract(_metadata.file_path, {}, 1) AS file FROM \
             text.`{}/{{",
            nth(Dialect::Spark),
            text(&format!("({}/.*)$", super::sql::literally(&folder))),
            self.bronze.replace('`', "``"),
        );
        let joined = format!("}}`) l JOIN {} t ON t.file = l.file", self.own("taken"));
        vec![
            "DECLARE OR REPLACE VARIABLE etl_stage STRING".to_owned(),
            format!(
                "SET VARIABLE etl_stage = (SELECT concat({}, CASE WHEN count(*) = 0 THEN {} ELSE concat({}, array_join(sort_array(collect_list(file)), \
                 ','), {}) END, {}) FROM {})",
                literal(before),
                literal(&none),
                literal(&some),
                literal(&joined),
                literal(after),
                self.own("taken")
            ),
            "EXECUTE IMMEDIATE etl_stage".to_owned(),
        ]
    }

    fn gate(&self) -> Vec<String> {
        let gate = &self.plan.job.gate;
        let most = gate.max_reject_count.map(|most| format!(" OR refused > {most}")).unwrap_or_default();
        let judged = format!(
            "SET VARIABLE etl_gate = (SELECT CASE WHEN (refused >= {} AND refused > {:e} * lines){most} THEN raise_error(concat('gate: ', refused, ' of ', lines, \
             ' lines were not proven or contradict what silver has, see ', {}, ' and ', {})) ELSE concat(lines, ' lines, ', refused, \
             ' kept aside') END AS gate\nFROM (SELECT (SELECT count(*) FROM {}) AS lines, (SELECT count(*) FROM {} WHERE NOT {PROVEN}) + \
             (SELECT count(*) FROM {} WHERE {FATE} = '{CONFLICT}') AS refused))",
            gate.share_from,
            gate.max_reject_share,
            text(&self.statements.places.staged),
            text(&self.statements.places.settled),
            table(&self.statements.places.staged),
            table(&self.statements.places.staged),
            table(&self.statements.places.settled),
        );
        // A variable is set at once, whatever a client makes of queries whose rows nobody asks for.
        vec!["DECLARE OR REPLACE VARIABLE etl_gate STRING".to_owned(), judged, "SELECT etl_gate AS gate".to_owned()]
    }

    /// Lines that are not silver's. Those that an earlier run kept of these files make way: it was not done with them, or they changed.
    fn keep(&self) -> [String; 2] {
        let conflicts = if self.plan.job.mode == Mode::Append {
            format!(
                "\n  UNION ALL SELECT 'key_conflict' AS reason, {FILE}, {NTH}, {LINE} FROM {} WHERE {FATE} = '{CONFLICT}'",
                table(&self.statements.places.settled)
            )
        } else {
            String::new()
        };
        let make_way =
            format!("MERGE INTO {} t USING {} s ON t.file = s.file\nWHEN MATCHED THEN DELETE", self.own("unproven"), self.own("taken"));
        let keep = format!(
            "INSERT INTO {} (reason, file, nth, line, batch, kept_at)\nSELECT k.reason, k.file, k.nth, k.line, t.batch, \
             timestamp_micros(t.ingested_at) FROM (SELECT 'unproven' AS reason, {FILE} AS file, {NTH} AS nth, {LINE} AS line FROM {} WHERE NOT \
             {PROVEN}{conflicts}) k JOIN {} t ON t.file = k.file",
            self.own("unproven"),
            table(&self.statements.places.staged),
            self.own("taken"),
        );
        [make_way, keep]
    }

    fn loaded(&self) -> String {
        format!(
            "MERGE INTO {} t USING (SELECT file, size, modified, batch, timestamp_micros(ingested_at) AS loaded_at FROM {}) s\n\
             ON t.file = s.file AND t.size = s.size AND t.modified = s.modified\nWHEN NOT MATCHED THEN INSERT *",
            self.own("loaded"),
            self.own("taken"),
        )
    }
}

/// A table of ours as Spark makes it: at our protocol, whatever the server's defaults.
fn create(place: &str, schema: &Schema, partition_by: &[String], described: &Described) -> String {
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let comment = described.comments.get(field.name()).map(|comment| format!(" COMMENT {}", literal(comment))).unwrap_or_default();
            format!("  {} {}{comment}", name(field.name()), type_name(field.data_type()))
        })
        .collect();
    let partitions: Vec<String> = partition_by.iter().map(|column| name(column)).collect();
    let comment = described.description.as_ref().map(|description| format!("\nCOMMENT {}", literal(description))).unwrap_or_default();
    let version = described.contract_version.map(|version| format!(", 'etl.contractVersion' = '{version}'")).unwrap_or_default();
    format!(
        "CREATE TABLE IF NOT EXISTS {} (\n{}\n) USING DELTA\nPARTITIONED BY ({}){comment}\nTBLPROPERTIES ('delta.minReaderVersion' = '1', \
         'delta.minWriterVersion' = '2', 'delta.enableDeletionVectors' = 'false'{version})",
        table(place),
        columns.join(",\n"),
        partitions.join(", "),
    )
}
