//! Text for people and JSON for programs.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::presets;
use comfy_table::{Cell, CellAlignment, Table};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};

use super::Format;
use crate::domain::Mistake;
use crate::run::RunError;

/// Whether what goes to stderr is read by a program.
static LOGS_JSON: AtomicBool = AtomicBool::new(false);

/// Writes to stdout; a reader that went away is no error.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

pub fn println(text: &str) {
    print(&format!("{text}\n"));
}

pub fn json(value: &impl serde::Serialize) {
    written(serde_json::to_string_pretty(value));
}

/// A report: indented for a person, one line for programs and for logs that take every line for an event.
pub fn report(value: &impl serde::Serialize) {
    if std::io::stdout().is_terminal() { json(value) } else { written(serde_json::to_string(value)) }
}

/// The report as a file.
pub fn report_file(path: &Path, value: &impl serde::Serialize) {
    if let Err(error) = serde_json::to_vec_pretty(value).map_err(std::io::Error::other).and_then(|text| std::fs::write(path, text)) {
        self::error(&format!("cannot write the report to {}: {error}", path.display()));
    }
}

fn written(text: serde_json::Result<String>) {
    match text {
        Ok(text) => println(&text),
        Err(error) => self::error(&format!("cannot write the report: {error}")),
    }
}

/// Writes files, by their paths below a folder, unless two of them would be one.
pub fn files(out: &Path, files: &[(String, String)]) -> Result<(), String> {
    let mut taken = std::collections::HashSet::new();
    if let Some((twice, _)) = files.iter().find(|(path, _)| !taken.insert(path)) {
        return Err(format!(
            "two sources would both be written to {}; ask for one after the other, each with its own --out",
            out.join(twice).display()
        ));
    }
    for (path, text) in files {
        let path = out.join(path);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

pub fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

pub fn error(text: &str) {
    if LOGS_JSON.load(Ordering::Relaxed) {
        // Like a line of the log, whatever that leaves out.
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        return say(
            &serde_json::json!({"timestamp": now, "level": "ERROR", "fields": {"message": text}, "target": "silversmith"}).to_string()
        );
    }
    say(&format!("error: {text}"));
}

/// An error on stderr; a mistake in a file with the line and a caret.
pub fn run_error(error: &RunError) {
    match error.mistake() {
        Some(mistake) => self::mistake(mistake),
        None => self::error(&error.text()),
    }
}

pub fn mistake(mistake: &Mistake) {
    if LOGS_JSON.load(Ordering::Relaxed) {
        let help = mistake.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        return error(&format!("{mistake}{help}"));
    }
    let mut diagnostic = MietteDiagnostic::new(mistake.message.clone());
    if !mistake.span.is_empty() {
        diagnostic = diagnostic.with_label(LabeledSpan::at(mistake.span.clone(), "here"));
    }
    if let Some(help) = &mistake.help {
        diagnostic = diagnostic.with_help(help.clone());
    }
    let report = Report::new(diagnostic).with_source_code(NamedSource::new(&mistake.file, mistake.text.clone()));
    let theme = if std::io::stderr().is_terminal() { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    match GraphicalReportHandler::new_themed(theme).render_report(&mut text, report.as_ref()) {
        Ok(()) => say(text.trim_end()),
        Err(_) => self::error(&mistake.to_string()),
    }
}

/// Logs go to stderr; `ETL_LOG_LEVEL` filters them.
pub fn start_log(format: Format) {
    LOGS_JSON.store(format == Format::Json, Ordering::Relaxed);
    let filter = tracing_subscriber::EnvFilter::try_from_env("ETL_LOG_LEVEL").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,deltalake_core=error,delta_kernel=off,buoyant_kernel=off,silversmith=info")
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Json => builder.json().try_init(),
        Format::Text => builder.with_target(false).without_time().with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if let Err(error) = started {
        self::error(&format!("no log: {error}"));
    }
}

/// A table without rules but for its head.
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(Cell::new));
    table
}

pub fn number(count: u64) -> Cell {
    Cell::new(grouped(count)).set_alignment(CellAlignment::Right)
}

/// 1234567 → 1,234,567.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}
