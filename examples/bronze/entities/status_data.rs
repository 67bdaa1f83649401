//! A measured value.

use super::{DEVICE_REF, DIAGNOSTIC_REF, Entity, NO_SUCH_DAY, NO_SUCH_MONTH, YEAR_10000, YEAR_ZERO};
use crate::fields::F;
use crate::fields::Make::{Either, EventTime, Id, Num, Object, Version, Word};
use crate::mess::Edit::{Remove, Set};
use crate::mess::{D, Scope::Anywhere};

pub static STATUS_DATA: Entity = Entity {
    name: "StatusData",
    version: 1,
    event_time: true,
    keyed_by_start: false,
    latest_wins: false,
    deleted_by: None,
    conflict: ("data", "-987654321.5"),
    fields: &[
        F("controller", 950, Either(950, &Word(&["ControllerNoneId"]), &Object(&[F("id", 1000, Word(&["ControllerGoDeviceId"]))]))),
        F("data", 990, Num(0, 900_000_000, 3)),
        F("dateTime", 1000, EventTime),
        F("device", 1000, DEVICE_REF),
        F("diagnostic", 1000, DIAGNOSTIC_REF),
        F("id", 1000, Id),
        F("version", 1000, Version),
    ],
    defects: &[
        D("missing_field", Anywhere, &[Remove("device"), Remove("diagnostic"), Set("diagnostic", "{}")]),
        D("wrong_type", Anywhere, &[Set("data", "\"5.25\""), Set("data", "true"), Set("diagnostic", "[]"), Set("version", "201")]),
        D("pattern_mismatch", Anywhere, &[Set("version", "\"00000000021568DG\""), Set("version", "\"21568d6\"")]),
        D("invalid_format", Anywhere, &[Set("dateTime", NO_SUCH_DAY), Set("dateTime", NO_SUCH_MONTH)]),
        D("invalid_timestamp", Anywhere, &[Set("dateTime", YEAR_ZERO), Set("dateTime", YEAR_10000)]),
    ],
};
