//! What a table's protocol asks of whoever writes it, and whether we can give it.
//!
//! Tables of ours ask for nothing (protocol 1,2). Another program may have changed that: then rows that we wrote would break what the
//! table promises its readers, silently. So a table is asked before anything is claimed, and again on the snapshot that a commit
//! follows. Where a cluster writes the rows, only a `txn` is ours, which fewer features forbid.

use delta_kernel::schema::StructField;
use delta_kernel::snapshot::Snapshot;

use super::SilverError;

/// Who writes a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// We do, or a cluster that the same run could be given to.
    Ours,
    /// We do, and nobody could do it for us.
    OnlyOurs,
    /// A cluster; ours is the commit that says what it did.
    Cluster,
}

/// Features that ask nothing as long as they are not used: appendOnly where its property is set, invariants where a column has one.
const HARMLESS: &[&str] = &["appendOnly", "invariants"];

/// Features that ask nothing of a commit that only has a `txn`, or (in-commit timestamps) what such a commit gives.
const CLUSTERS: &[&str] = &[
    "allowColumnDefaults",
    "appendOnly",
    "changeDataFeed",
    "checkConstraints",
    "clustering",
    "columnMapping",
    "deletionVectors",
    "domainMetadata",
    "generatedColumns",
    "icebergCompatV1",
    "icebergCompatV2",
    "identityColumns",
    "inCommitTimestamp",
    "rowTracking",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

pub(super) const CLUSTERING: &str = "clustering";
/// The property that has every commit tell its time.
pub(super) const IN_COMMIT_TIMESTAMPS: &str = "delta.enableInCommitTimestamps";

/// Refuses, by name, a table whose features its writer would silently break.
pub(super) fn check(table: &str, snapshot: &Snapshot, writer: Writer) -> Result<(), SilverError> {
    let asked = asked(snapshot);
    let refused: Vec<&str> =
        asked.iter().map(String::as_str).filter(|feature| writer != Writer::Cluster || !CLUSTERS.contains(feature)).collect();
    let Some(first) = refused.first() else { return Ok(()) };
    let is_clusters = writer == Writer::Ours && asked.iter().all(|feature| CLUSTERS.contains(&feature.as_str()));
    let run = if is_clusters { "run it with --engine spark, or " } else { "" };
    Err(SilverError::Unsupported {
        table: table.to_owned(),
        what: format!("the table feature {}", refused.join(", ")),
        remedy: format!("{run}give it up (ALTER TABLE … DROP FEATURE {first}) and run again"),
    })
}

pub(super) fn has(snapshot: &Snapshot, feature: &str) -> bool {
    asked(snapshot).iter().any(|asked| asked == feature)
}

/// What the table asks of its writers, by the names of features, whether it lists features or has an older protocol that implies them.
fn asked(snapshot: &Snapshot) -> Vec<String> {
    let protocol = snapshot.table_configuration().protocol();
    let listed = protocol.reader_features().into_iter().chain(protocol.writer_features()).flatten().map(ToString::to_string);
    let mut asked: Vec<String> = listed.filter(|feature| !HARMLESS.contains(&feature.as_str())).collect();
    let mut imply = |feature: &str, used: bool| {
        if used && !asked.iter().any(|known| known == feature) {
            asked.push(feature.to_owned());
        }
    };
    let properties = snapshot.table_configuration().metadata().configuration();
    let schema = snapshot.schema();
    let in_columns = |key: &str| schema.fields().any(|field: &StructField| field.metadata().contains_key(key));
    imply("appendOnly", properties.get("delta.appendOnly").is_some_and(|on| on.eq_ignore_ascii_case("true")));
    imply("checkConstraints", properties.keys().any(|key| key.starts_with("delta.constraints.")));
    imply("changeDataFeed", properties.get("delta.enableChangeDataFeed").is_some_and(|on| on.eq_ignore_ascii_case("true")));
    imply("columnMapping", properties.get("delta.columnMapping.mode").is_some_and(|mode| mode != "none"));
    imply("generatedColumns", in_columns("delta.generationExpression"));
    imply("identityColumns", in_columns("delta.identity.start"));
    imply("column invariants", in_columns("delta.invariants"));
    let (reader, writer) = (protocol.min_reader_version(), protocol.min_writer_version());
    // Protocols of numbers: each allows more than it tells, and what is used of it is among the above.
    imply("an unknown protocol", !(matches!(reader, 1..=3) && matches!(writer, 1..=7)));
    asked
}
