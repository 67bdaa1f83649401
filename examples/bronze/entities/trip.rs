//! A drive; its key is device and start.

use super::{DEVICE_REF, Entity, NO_SUCH_DAY, NO_SUCH_MONTH, YEAR_10000, YEAR_ZERO};
use crate::fields::Make::{After, Bool, Either, EventTime, Id, IdIn, Int, Num, Object, Raw, Span, Version, Word};
use crate::fields::{F, Make};
use crate::mess::Edit::{Remove, Set};
use crate::mess::{D, Scope::Anywhere};

const DRIVER_REF: Make =
    Either(400, &Word(&["UnknownDriverId"]), &Object(&[F("id", 1000, IdIn(0x300, 500)), F("isDriver", 1000, Raw(&["true"]))]));

pub static TRIP: Entity = Entity {
    name: "Trip",
    version: 1,
    event_time: true,
    keyed_by_start: true,
    latest_wins: true,
    deleted_by: Some("deletedDateTime"),
    conflict: ("distance", "999999.5"),
    fields: &[
        F("afterHoursDistance", 1000, Either(700, &Raw(&["0"]), &Num(0, 900_000_000, 7))),
        F("afterHoursDrivingDuration", 1000, Either(700, &Word(&["00:00:00"]), &Span(7000))),
        F("afterHoursEnd", 1000, Bool(200)),
        F("afterHoursStart", 1000, Bool(200)),
        F("afterHoursStopDuration", 1000, Span(50_000)),
        F("averageSpeed", 900, Num(5_000_000, 900_000_000, 7)),
        F("deletedDateTime", 5, After(90_000, 900_000)),
        F("device", 1000, DEVICE_REF),
        F("distance", 1000, Num(0, 3_000_000_000, 7)),
        F("driver", 1000, DRIVER_REF),
        F("drivingDuration", 1000, Span(20_000)),
        F("engineHours", 950, Num(0, 57_808_048_863, 3)),
        F("id", 1000, Id),
        F("idlingDuration", 1000, Span(1200)),
        F("isSeatBeltOff", 1000, Bool(30)),
        F("maximumSpeed", 1000, Int(5, 140)),
        F("nextTripStart", 1000, Either(20, &Raw(&["\"2050-01-01T00:00:00.000Z\""]), &After(22_000, 400_000))),
        F("odometer", 950, Num(0, 1_182_036_289_745, 4)),
        F("speedRange1", 1000, Int(0, 40)),
        F("speedRange1Duration", 1000, Either(800, &Word(&["00:00:00"]), &Span(600))),
        F("speedRange2", 1000, Int(0, 20)),
        F("speedRange2Duration", 1000, Word(&["00:00:00", "00:00:00.3000000", "00:01:12"])),
        F("speedRange3", 1000, Int(0, 3)),
        F("speedRange3Duration", 1000, Word(&["00:00:00"])),
        F("start", 1000, EventTime),
        F("stop", 1000, After(60, 20_000)),
        F("stopDuration", 1000, Either(100, &Word(&["4.16:41:16", "1.00:00:00"]), &Span(400_000))),
        F("stopPoint", 1000, Object(&[F("x", 1000, Num(-99_000_000, 299_000_000, 7)), F("y", 1000, Num(359_000_000, 692_000_000, 7))])),
        F("version", 1000, Version),
        F("workDistance", 1000, Either(500, &Raw(&["0"]), &Num(0, 900_000_000, 7))),
        F("workDrivingDuration", 1000, Span(20_000)),
        F("workStopDuration", 1000, Span(20_000)),
    ],
    defects: &[
        D("missing_field", Anywhere, &[Remove("distance"), Remove("stopDuration"), Remove("stop"), Set("driver", r#"{"isDriver":true}"#)]),
        D(
            "wrong_type",
            Anywhere,
            &[
                Set("distance", "\"1.5\""),
                Set("afterHoursStart", "\"true\""),
                Set("stopPoint", "[8.4,49.0]"),
                Set("stopPoint", r#"{"x":"8.4","y":49.0}"#),
                Set("drivingDuration", "301"),
            ],
        ),
        D("out_of_range", Anywhere, &[Set("distance", "-0.5"), Set("speedRange2", "-1")]),
        D("pattern_mismatch", Anywhere, &[Set("version", "\"000000000000020G\""), Set("version", "\"0x201\"")]),
        D(
            "invalid_format",
            Anywhere,
            &[
                Set("stop", NO_SUCH_DAY),
                Set("nextTripStart", NO_SUCH_MONTH),
                Set("drivingDuration", "\"1h 5m\""),
                Set("stopDuration", "\"00:05\""),
            ],
        ),
        D("invalid_timestamp", Anywhere, &[Set("nextTripStart", YEAR_ZERO), Set("stop", YEAR_10000), Set("start", YEAR_ZERO)]),
    ],
};
