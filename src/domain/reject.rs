//! Refused records: the closed list of codes and the one value that describes a refusal.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident = $name:literal, $remedy:literal;)*) => {
        /// Why a record was refused. The order is that of the steps that decide; the names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum RejectCode { $($variant,)* }

        impl RejectCode {
            pub const ALL: &[RejectCode] = &[$(RejectCode::$variant,)*];

            pub fn name(self) -> &'static str {
                match self { $(RejectCode::$variant => $name,)* }
            }

            /// What a person can do about it, for the report.
            pub fn remedy(self) -> &'static str {
                match self { $(RejectCode::$variant => $remedy,)* }
            }
        }
    };
}

codes! {
    MalformedJson = "malformed_json", "fix the writer; the bytes are not JSON";
    TruncatedRecord = "truncated_record", "ask for the object again; its end is missing";
    InvalidUtf8 = "invalid_utf8", "fix the writer's encoding; JSON is UTF-8";
    InvalidUnicode = "invalid_unicode", "fix the writer's escapes; a surrogate stands alone";
    NotAnObject = "not_an_object", "a record is a JSON object; check what else writes here";
    RecordTooLarge = "record_too_large", "raise limits.record in the job, or split the record";
    NestingTooDeep = "nesting_too_deep", "raise limits.nesting in the job if this is legitimate";
    CorruptCodec = "corrupt_codec", "ask for the object again; its compression is damaged";
    DecompressionLimit = "decompression_limit", "raise limits.decoded or limits.decoded_ratio in the job if this is no bomb";
    ErrorEnvelope = "error_envelope", "the provider answered with an error; fix the poller and fetch again";
    DuplicateField = "duplicate_field", "fix the writer; a field stands twice in one object";
    PartitionConflict = "partition_conflict", "path and payload disagree; correct one, or set partitions.<column>.on_conflict in the job";
    PartitionMissing = "partition_missing", "neither path nor payload has the column; set partitions.<column>.derive in the job";
    PartitionInvalid = "partition_invalid", "the partition value is no valid number; rename the folder or fix the payload";
    UnknownVersion = "unknown_version", "add the version to the contract, then etl reprocess";
    MissingField = "missing_field", "a required field is absent; drop it from required, or fix the writer";
    WrongType = "wrong_type", "the value has another type than the contract says; add a contract version or fix the writer";
    OutOfRange = "out_of_range", "the number is outside the contract's bounds";
    NotInEnum = "not_in_enum", "add the value to the contract's enum, then etl reprocess";
    PatternMismatch = "pattern_mismatch", "the text does not match the contract's pattern";
    InvalidFormat = "invalid_format", "the text is not of the contract's format";
    LengthLimit = "length_limit", "the value is longer or shorter than the contract allows";
    UnknownField = "unknown_field", "declare the field in the contract, or set unknown_fields: rescue in the job";
    SchemaViolation = "schema_violation", "see the message: a keyword outside the compiled set refused it";
    NumberOverflow = "number_overflow", "the number does not fit its column";
    InvalidTimestamp = "invalid_timestamp", "the instant is outside years 0001 to 9999 or in no declared form";
    KeyMissing = "key_missing", "a key field is absent or null";
    KeyConflict = "key_conflict", "the key is taken by a record with other content";
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The offset of a record whose place in its object nobody knows: a cluster read it.
pub const NO_OFFSET: u64 = u64::MAX;

/// One refused record: everything the quarantine table says about it, except what its object already says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: RejectCode,
    /// JSONPath of the value that decided, `$` for the record.
    pub path: String,
    pub message: String,
    pub schema_version: Option<u32>,
    /// In decoded bytes from the start of the object or archive member; [`NO_OFFSET`] where nobody knows.
    pub offset: u64,
    pub length: u64,
    /// The exact bytes; the first `limits.record` of them where the record is longer than that.
    pub raw: Bytes,
    /// Partition values as found, in the order year, month, day, preceded by the database.
    pub found: [Option<String>; 4],
}
