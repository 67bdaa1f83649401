//! A fault that a vehicle reported.

use super::{DEVICE_REF, DIAGNOSTIC_REF, Entity, LEAP_SECOND, NO_SUCH_DAY, NO_SUCH_HOUR, YEAR_10000, YEAR_ZERO};
use crate::fields::Make::{After, Bool, Either, EventTime, Guid, Id, IdIn, Int, Num, Object, Only, Raw, Word};
use crate::fields::{F, Make};
use crate::mess::Edit::{Remove, Set};
use crate::mess::{D, Scope::Anywhere};

const USER_REF: Make = Object(&[F("id", 1000, IdIn(0x300, 500))]);
const CONTROLLER_REF: Make = Either(
    20,
    &Word(&["ControllerNoneId"]),
    &Object(&[F("id", 1000, Word(&["ControllerObdPowertrainId", "ControllerGoDeviceId", "ControllerObdBodyId"]))]),
);

pub static FAULT_DATA: Entity = Entity {
    name: "FaultData",
    version: 2,
    event_time: true,
    keyed_by_start: false,
    latest_wins: true,
    deleted_by: None,
    conflict: ("count", "1000001"),
    fields: &[
        F("amberWarningLamp", 1000, Bool(80)),
        F("classCode", 30, Word(&["Unclassified", "A", "B1", "B2", "C"])),
        F("controller", 1000, CONTROLLER_REF),
        F("count", 1000, Int(1, 250)),
        F("dateTime", 1000, EventTime),
        F("device", 1000, DEVICE_REF),
        F("diagnostic", 1000, DIAGNOSTIC_REF),
        F("diagnosticSeverity", 20, Only(2, &Word(&["Critical", "Warning", "None", "Unknown"]))),
        F("dismissDateTime", 40, Either(100, &Raw(&["\"2050-01-01T00:00:00.000Z\"", "\"0001-01-01T00:00:00.000Z\""]), &After(60, 900_000))),
        F("dismissUser", 40, USER_REF),
        F(
            "effectOnComponent",
            60,
            Only(
                2,
                &Word(&[
                    "Reduced engine power; the exhaust aftertreatment cannot regenerate until the fault is cleared.",
                    "K\u{fc}hlung eingeschr\u{e4}nkt: L\u{fc}fter l\u{e4}uft dauerhaft.\\nBremsen nicht betroffen.",
                ]),
            ),
        ),
        F("failureMode", 1000, Either(300, &Word(&["NoFailureModeId"]), &Object(&[F("id", 1000, Guid)]))),
        F(
            "faultDescription",
            60,
            Only(
                2,
                &Word(&["Coolant temperature sensor: voltage below normal", "Fuel rail pressure \\\"low\\\"", "D\\u00e9faut capteur NOx"]),
            ),
        ),
        F("faultLamp", 600, Only(1, &Word(&["None", "Malfunction", "Warning", "Stop", "Protect"]))),
        F("faultLampState", 600, Only(2, &Word(&["None", "Malfunction", "Warning", "Stop", "Protect"]))),
        F("faultState", 1000, Word(&["None", "Pending", "Active", "Inactive", "Cleared"])),
        F("faultStates", 1000, Object(&[F("effectiveStatus", 1000, Word(&["FaultStatusActiveId", "FaultStatusPendingId"]))])),
        F("flashCode", 20, Object(&[F("id", 1000, Guid)])),
        F("id", 1000, Id),
        F("malfunctionLamp", 1000, Bool(120)),
        F("protectWarningLamp", 1000, Bool(10)),
        F(
            "recommendation",
            60,
            Only(2, &Word(&["Check wiring harness and connector; replace the sensor where resistance is outside 1.0\\u20131.4 k\\u03a9."])),
        ),
        F("redStopLamp", 1000, Bool(10)),
        F("riskOfBreakdown", 10, Only(1, &Int(0, 5))),
        F("riskOfBreakdown", 10, Only(2, &Num(0, 100, 2))),
        F("severity", 20, Word(&["MaintenanceOnly", "CheckAtNextHalt", "CheckImmediately", "Critical"])),
        F("sourceAddress", 30, Int(0, 255)),
    ],
    defects: &[
        D("missing_field", Anywhere, &[Remove("device"), Remove("controller"), Remove("count"), Set("device", r#"{"name":"x"}"#)]),
        D(
            "wrong_type",
            Anywhere,
            &[
                Set("count", "\"7\""),
                Set("count", "2.5"),
                Set("count", "null"),
                Set("amberWarningLamp", "1"),
                Set("device", "5"),
                Set("device", r#"{"id":7}"#),
                Set("faultStates", "\"Active\""),
            ],
        ),
        D("not_in_enum", Anywhere, &[Set("faultState", "\"Broken\""), Set("faultState", "\"active\""), Set("classCode", "\"B3\"")]),
        D("out_of_range", Anywhere, &[Set("count", "-1"), Set("sourceAddress", "256"), Set("sourceAddress", "-1")]),
        D(
            "invalid_format",
            Anywhere,
            &[Set("dateTime", NO_SUCH_DAY), Set("dismissDateTime", NO_SUCH_HOUR), Set("dismissDateTime", "\"2024-01-01\"")],
        ),
        D(
            "number_overflow",
            Anywhere,
            &[Set("count", "9223372036854775808"), Set("count", "99999999999999999999999"), Set("count", "1e19")],
        ),
        D(
            "invalid_timestamp",
            Anywhere,
            &[
                Set("dateTime", YEAR_ZERO),
                Set("dismissDateTime", YEAR_ZERO),
                Set("dismissDateTime", LEAP_SECOND),
                Set("dismissDateTime", YEAR_10000),
            ],
        ),
    ],
};
