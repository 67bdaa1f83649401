//! The names of objects, relative to the bronze root.

use crate::layout::{Job, Layout, Object, Packing, Purpose};
use crate::rng::Rng;
use crate::text;

/// `misnamed`: with another extension than its packing; `odd_name`: with spaces and letters beyond ASCII.
pub fn key(job: &Job, object: &Object, nth: u64, misnamed: bool, odd_name: bool, rng: &mut Rng) -> String {
    let (purpose, layout, index) = (object.purpose, object.layout, object.index);
    let (year, month, day) = text::civil(object.first_day);
    let name = job.entity.name;
    let prefix = format!("database={}/entity={name}", job.database);
    let folder = match layout {
        Layout::YearRoot => format!("{prefix}/year={year:04}"),
        Layout::Firehose => format!("{prefix}/year={year:04}/month={month:02}/day={day:02}"),
    };
    if purpose == Purpose::Foreign && nth == 0 {
        return format!("{folder}/_SUCCESS");
    }
    let extension = match (object.packing, misnamed) {
        (Packing::Plain, false) | (Packing::Gzip, true) => "",
        (Packing::Gzip, false) | (Packing::Plain, true) => ".gz",
        (Packing::Zstd, _) => ".zst",
        (Packing::Bzip2, _) => ".bz2",
    };
    let name = name.to_lowercase();
    if layout == Layout::YearRoot && purpose != Purpose::Foreign {
        return if odd_name {
            format!("{folder}/St\u{f6}rungen L\u{e4}nder \u{2116} {index} ({name}).json{extension}")
        } else {
            format!("{folder}/{name}-backfill-{year:04}-{index:06}.json{extension}")
        };
    }
    let (clock, high, low) = (rng.below(86_400), rng.word(), rng.word());
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let uuid = format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFF,
        (low >> 48) & 0xFFF,
        low & 0xFFFF_FFFF_FFFF
    );
    let stream = format!("fleet-{name}-1-{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{uuid}");
    if purpose == Purpose::Foreign {
        return format!("{prefix}/processing-failed/{year:04}/{month:02}/{day:02}/{hour:02}/{stream}");
    }
    let copy = if odd_name { " (1)" } else { "" };
    format!("{folder}/{stream}{copy}{extension}")
}
