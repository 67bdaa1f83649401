//! What there is to make: per entity its fields in the provider's key order, and the defects it can have. Every good
//! record is valid under `schemas/<Entity>/`; a defect breaks one rule of it and no other.

mod device;
mod diagnostic;
mod fault_data;
mod log_record;
mod status_data;
mod trip;
mod user;

use crate::fields::Make::{Bare, Device, Either, Guid, IdIn, Moment, Object, Raw, Spaced, Word};
use crate::fields::{F, Make};
use crate::mess::D;

pub struct Entity {
    pub name: &'static str,
    /// Of the contract: the newest.
    pub version: u32,
    /// Records carry the time of an event; otherwise year, month and day are nowhere but in path and payload.
    pub event_time: bool,
    /// The key is device and start, not id.
    pub keyed_by_start: bool,
    /// Of the records of one key the latest is the row; otherwise other content under a key is refused.
    pub latest_wins: bool,
    /// A record with this member deletes its key.
    pub deleted_by: Option<&'static str>,
    pub fields: &'static [F],
    /// A valid change to a property outside the key, with a value that no good record has.
    pub conflict: (&'static str, &'static str),
    pub defects: &'static [D],
}

pub static ENTITIES: [&Entity; 7] = [
    &fault_data::FAULT_DATA,
    &log_record::LOG_RECORD,
    &status_data::STATUS_DATA,
    &trip::TRIP,
    &device::DEVICE,
    &diagnostic::DIAGNOSTIC,
    &user::USER,
];

pub const DEVICE_REF: Make = Either(5, &Device, &Object(&[F("id", 1000, Device)]));
pub const DIAGNOSTIC_REF: Make = Object(&[F(
    "id",
    1000,
    Either(700, &Guid, &Word(&["DiagnosticOdometerId", "DiagnosticEngineSpeedId", "DiagnosticDeviceUnpluggedId"])),
)]);
pub const NO_SUCH_DAY: &str = "\"2023-02-30T08:15:00.000Z\"";
pub const NO_SUCH_HOUR: &str = "\"2024-01-01T25:00:00.000Z\"";
pub const NO_SUCH_MONTH: &str = "\"2024-13-01T00:00:00.000Z\"";
/// Sound by RFC 3339, yet no moment from year 1 to 9999.
pub const YEAR_ZERO: &str = "\"0000-01-01T00:00:00Z\"";
pub const LEAP_SECOND: &str = "\"2016-12-31T23:59:60Z\"";
pub const YEAR_10000: &str = "\"9999-12-31T23:30:00-01:00\"";
/// From 2019 to 2023, in the three ways in which such times are written.
pub const SINCE: Make = Either(60, &Either(500, &Spaced(17_900, 19_600), &Bare(17_900, 19_600)), &Moment(17_900, 19_600));
pub const UNTIL: Make = Either(50, &Moment(20_000, 21_000), &Raw(&["\"2050-01-01T00:00:00.000Z\""]));
pub const GROUP: Make =
    Object(&[F("id", 1000, Either(500, &IdIn(0x2700, 300), &Word(&["GroupCompanyId", "GroupVehicleId", "GroupDieselId"])))]);
pub const ZONES: Make = Word(&["Europe/Berlin", "Europe/Paris", "Europe/Rome", "Europe/Madrid", "Europe/London"]);
