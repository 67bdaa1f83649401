//! What a measured value or a fault means.

use super::Entity;
use crate::fields::F;
use crate::fields::Make::{Bool, Either, Guid, Int, List, Num, Numbered, Object, OwnGuid, Version, Word};
use crate::mess::Edit::{Remove, Set};
use crate::mess::{D, Scope::Anywhere};

pub static DIAGNOSTIC: Entity = Entity {
    name: "Diagnostic",
    version: 1,
    event_time: false,
    keyed_by_start: false,
    latest_wins: true,
    deleted_by: None,
    conflict: ("code", "987654321"),
    fields: &[
        F("code", 980, Int(0, 70_000)),
        F("controller", 980, Either(500, &Word(&["ControllerNoneId"]), &Object(&[F("id", 1000, Word(&["ControllerObdBodyId"]))]))),
        F("conversion", 200, Num(1, 900_000, 5)),
        F("dataLength", 200, Int(1, 64)),
        F(
            "diagnosticType",
            1000,
            Word(&["None", "Sid", "Pid", "GoDiagnostic", "DataDiagnostic", "SuspectParameter", "ObdFault", "LevcFault"]),
        ),
        F("engineType", 980, Word(&["EngineTypeGenericId", "EngineTypeNoneId"])),
        F("faultResetMode", 980, Word(&["None", "AutoReset"])),
        F("id", 1000, Either(300, &Numbered("Diagnostic", "Id"), &OwnGuid)),
        F("isLogGuaranteedOnEstimateError", 980, Bool(100)),
        F("isReadOnly", 100, Bool(500)),
        F(
            "name",
            1000,
            Either(
                50,
                &Numbered("K\u{fc}hlmitteltemperatur, au\u{df}erhalb des zul\u{e4}ssigen Bereichs, Sensor ", " (\\u00b0C)"),
                &Numbered("Engine parameter ", ""),
            ),
        ),
        F("offset", 200, Num(-4_000, 4_000, 1)),
        F("parameterGroup", 200, Word(&["ParameterGroupNoneId"])),
        F("source", 980, Word(&["SourceObdId", "SourceJ1939Id", "SourceGeotabGoId"])),
        F("tamperingDiagnostics", 20, List(0, 2, &Object(&[F("id", 1000, Guid)]))),
        F("unitOfMeasure", 980, Word(&["UnitOfMeasureNoneId", "UnitOfMeasureDegreesCelsiusId"])),
        F("validLoggingPeriod", 980, Word(&["None", "Always"])),
        F("version", 1000, Version),
    ],
    defects: &[
        D("missing_field", Anywhere, &[Remove("name"), Remove("diagnosticType"), Remove("version")]),
        D(
            "wrong_type",
            Anywhere,
            &[Set("code", "\"738960445\""), Set("code", "1.5"), Set("source", "3"), Set("tamperingDiagnostics", "[5]")],
        ),
        D("not_in_enum", Anywhere, &[Set("diagnosticType", "\"NewFault\""), Set("diagnosticType", "\"none\"")]),
        D("pattern_mismatch", Anywhere, &[Set("version", "\"zz\""), Set("version", "\"00000000021568D6\"")]),
        D("number_overflow", Anywhere, &[Set("code", "9223372036854775808"), Set("dataLength", "-99999999999999999999")]),
    ],
};
