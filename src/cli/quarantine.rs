//! `etl quarantine list|show`: refused records, committed or of a stopped batch.

use std::io::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde::Serialize;

use super::{Format, Places, Tuning, output, settings};
use crate::domain::time::format_timestamp;
use crate::run::RunError;
use crate::run::inspect::{QuarantineFilter, quarantined};

#[derive(Debug, Args)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List refused records
    List(ListArgs),
    /// Show one refused record with its exact bytes
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Entity
    #[arg(long, env = "ETL_ENTITY", value_name = "E")]
    entity: String,
    /// Country [default: all]
    #[arg(long, env = "ETL_COUNTRY", value_name = "C")]
    country: Option<String>,
    /// Only this code
    #[arg(long, env = "ETL_CODE")]
    code: Option<String>,
    /// Only records of this object
    #[arg(long, env = "ETL_FILE", value_name = "KEY")]
    file: Option<String>,
    /// What stopped batches refused, instead of what is committed
    #[arg(long, env = "ETL_STOPPED")]
    stopped: bool,
    /// Records at the most
    #[arg(long, env = "ETL_LIMIT", default_value_t = 50, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    places: Places,
    /// Form of the answer on stdout
    #[arg(long, env = "ETL_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Entity
    #[arg(long, env = "ETL_ENTITY", value_name = "E")]
    entity: String,
    /// The object, as `list` names it
    #[arg(long, env = "ETL_FILE", value_name = "KEY")]
    file: String,
    /// The record's offset, as `list` names it
    #[arg(long, env = "ETL_OFFSET", value_name = "BYTE")]
    offset: i64,
    /// Only the record's bytes, as they are
    #[arg(long, env = "ETL_RAW")]
    raw: bool,
    #[command(flatten)]
    places: Places,
}

/// One row of a quarantine table.
#[derive(Debug, Serialize)]
struct Refused {
    code: String,
    path: String,
    message: String,
    schema_version: Option<i32>,
    source_file: String,
    source_offset: i64,
    source_length: i64,
    /// Lossy where the bytes are not UTF-8.
    raw: String,
    batch: String,
    quarantined_at: String,
    #[serde(skip)]
    bytes: Vec<u8>,
}

pub async fn quarantine(args: QuarantineArgs) -> Result<u8, RunError> {
    match args.verb {
        Verb::List(args) => list(args).await,
        Verb::Show(args) => show(args).await,
    }
}

async fn list(args: ListArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, None, Tuning::default()).await?;
    let filter = QuarantineFilter {
        country: args.country.clone(),
        code: args.code.clone(),
        file: args.file.clone(),
        offset: None,
        stopped: args.stopped,
        limit: args.limit,
    };
    let rows = rows(&quarantined(&settings, &args.entity, &filter).await?);
    if args.output == Format::Json {
        output::json(&rows);
        return Ok(0);
    }
    if rows.is_empty() {
        output::say("nothing is quarantined here");
        return Ok(0);
    }
    let mut table = output::table(&["code", "path", "file", "offset", "bytes", "message"]);
    for row in &rows {
        table.add_row(vec![
            Cell::new(&row.code),
            Cell::new(&row.path),
            Cell::new(&row.source_file),
            Cell::new(row.source_offset),
            Cell::new(row.source_length),
            Cell::new(&row.message),
        ]);
    }
    output::println(&table.trim_fmt());
    if rows.len() == args.limit {
        output::say(&format!("the first {}; --limit shows more", args.limit));
    }
    Ok(0)
}

async fn show(args: ShowArgs) -> Result<u8, RunError> {
    let settings = settings(String::new(), &args.places, None, Tuning::default()).await?;
    let mut found = Vec::new();
    for stopped in [false, true] {
        let filter =
            QuarantineFilter { country: None, code: None, file: Some(args.file.clone()), offset: Some(args.offset), stopped, limit: 1 };
        found.extend(rows(&quarantined(&settings, &args.entity, &filter).await?));
    }
    let Some(row) = found.first() else {
        output::error(&format!("no refused record of {} in {} at byte {}", args.entity, args.file, args.offset));
        return Ok(2);
    };
    if args.raw {
        let _ = std::io::stdout().write_all(&row.bytes);
        return Ok(0);
    }
    output::println(&format!("code      {}", row.code));
    output::println(&format!("path      {}", row.path));
    output::println(&format!("message   {}", row.message));
    output::println(&format!("object    {} at byte {}, {} bytes", row.source_file, row.source_offset, row.source_length));
    output::println(&format!("contract  {}", row.schema_version.map_or("-".to_owned(), |version| format!("version {version}"))));
    output::println(&format!("batch     {} at {}", row.batch, row.quarantined_at));
    output::println(&format!("\n{}", row.raw));
    Ok(0)
}

fn rows(batches: &[RecordBatch]) -> Vec<Refused> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| refused(batch, row))).collect()
}

fn refused(batch: &RecordBatch, row: usize) -> Refused {
    let text = |name: &str| {
        let column = batch.column_by_name(name).filter(|column| column.is_valid(row));
        column.and_then(|column| arrow::util::display::array_value_to_string(column, row).ok()).unwrap_or_default()
    };
    let long = |name: &str| {
        let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        column.filter(|column| column.is_valid(row)).map_or(0, |column| column.value(row))
    };
    let raw = batch.column_by_name("raw").map(|column| match column.as_binary_opt::<i32>() {
        Some(binary) => binary.value(row).to_vec(),
        None => column.as_binary_view_opt().map(|binary| binary.value(row).to_vec()).unwrap_or_default(),
    });
    let bytes = raw.unwrap_or_default();
    let at = batch.column_by_name("quarantined_at").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let version = batch.column_by_name("schema_version").and_then(|column| column.as_primitive_opt::<Int32Type>());
    Refused {
        code: text("code"),
        path: text("path"),
        message: text("message"),
        schema_version: version.filter(|column| column.is_valid(row)).map(|column| column.value(row)),
        source_file: text("source_file"),
        source_offset: long("source_offset"),
        source_length: long("source_length"),
        raw: String::from_utf8_lossy(&bytes).into_owned(),
        batch: text("batch"),
        quarantined_at: at.map_or_else(String::new, |column| format_timestamp(column.value(row))),
        bytes,
    }
}
