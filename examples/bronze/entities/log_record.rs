//! A position of a vehicle.

use super::{DEVICE_REF, Entity, LEAP_SECOND, NO_SUCH_DAY, NO_SUCH_HOUR, YEAR_10000, YEAR_ZERO};
use crate::fields::F;
use crate::fields::Make::{Either, EventTime, Id, Int, Num, Raw};
use crate::mess::Edit::{Remove, Set};
use crate::mess::{D, Scope::Anywhere};

pub static LOG_RECORD: Entity = Entity {
    name: "LogRecord",
    version: 1,
    event_time: true,
    keyed_by_start: false,
    latest_wins: false,
    deleted_by: None,
    conflict: ("speed", "987"),
    fields: &[
        F("dateTime", 1000, EventTime),
        F("device", 1000, DEVICE_REF),
        F("id", 1000, Id),
        F("isLastActive", 20, Raw(&["null", "true", "false"])),
        F("latitude", 1000, Num(359_000_000, 692_000_000, 7)),
        F("longitude", 1000, Num(-99_000_000, 299_000_000, 7)),
        F("speed", 1000, Either(5, &Raw(&["-1", "0.5"]), &Int(0, 130))),
    ],
    defects: &[
        D("missing_field", Anywhere, &[Remove("speed"), Remove("latitude"), Remove("device"), Set("device", "{}")]),
        D(
            "wrong_type",
            Anywhere,
            &[
                Set("latitude", "\"48.137\""),
                Set("speed", "null"),
                Set("isLastActive", "\"true\""),
                Set("longitude", "[11.5]"),
                Set("device", "null"),
            ],
        ),
        D("out_of_range", Anywhere, &[Set("latitude", "90.0000001"), Set("longitude", "-180.5"), Set("speed", "-2")]),
        D("invalid_format", Anywhere, &[Set("dateTime", NO_SUCH_DAY), Set("dateTime", NO_SUCH_HOUR), Set("dateTime", "\"\"")]),
        D("invalid_timestamp", Anywhere, &[Set("dateTime", YEAR_ZERO), Set("dateTime", LEAP_SECOND), Set("dateTime", YEAR_10000)]),
    ],
};
