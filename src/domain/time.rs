//! Instants, dates and durations as their wire texts spell them, in whole microseconds.
//!
//! The grammars are those of RFC 3339 and of .NET's TimeSpan; the calendar is the proleptic Gregorian one,
//! from 0001-01-01 to 9999-12-31, which is what Spark, Delta and Python can all hold.

pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// 0001-01-01T00:00:00Z, in µs since 1970.
pub const MIN_TIMESTAMP: i64 = -62_135_596_800 * MICROS_PER_SECOND;
/// 9999-12-31T23:59:59.999999Z, in µs since 1970.
pub const MAX_TIMESTAMP: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

/// What a text says as an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instant {
    /// µs since 1970 UTC.
    At(i64),
    /// Well-formed, but no instant that a table can hold: year 0000, beyond 9999 in UTC, a leap second.
    NotStorable,
    /// Not of the form at all.
    Malformed,
}

/// Which spellings beyond RFC 3339 a property declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variants {
    /// A space for the T.
    pub space: bool,
    /// A bare date, meaning midnight UTC.
    pub date: bool,
}

/// Days since 1970-01-01 of a civil date.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// (year, month, day) of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as i32, month as u32, day as u32)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Whether year, month and day name a day of the calendar (year 0 is left to the caller).
pub fn is_civil(year: i64, month: i64, day: i64) -> bool {
    (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month)
}

/// `yyyy-MM-dd` → (year, days since 1970).
fn civil_date(text: &[u8]) -> Option<(i64, i64)> {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(&text[..4])?, digits(&text[5..7])?, digits(&text[8..])?);
    is_civil(year, month, day).then(|| (year, days_from_civil(year, month, day)))
}

/// RFC 3339 `full-date` → days since 1970; year 0000 is well-formed and not storable (`Some(None)`).
pub fn parse_date(text: &str) -> Option<Option<i32>> {
    let (year, days) = civil_date(text.as_bytes())?;
    Some((year >= 1).then_some(days as i32))
}

/// RFC 3339 `date-time`, plus what `variants` declare. Digits beyond microseconds are cut.
pub fn parse_timestamp(text: &str, variants: Variants) -> Instant {
    parse_timestamp_bytes(text.as_bytes(), variants)
}

/// The same of a text's bytes.
pub fn parse_timestamp_bytes(bytes: &[u8], variants: Variants) -> Instant {
    if let Some(micros) = usual(bytes) {
        return Instant::At(micros);
    }
    if bytes.len() == 10 && variants.date {
        return match civil_date(bytes) {
            Some((year, days)) => storable(year, Some(days * MICROS_PER_DAY)),
            None => Instant::Malformed,
        };
    }
    match clock(bytes, variants) {
        Some((year, micros)) => storable(year, micros),
        None => Instant::Malformed,
    }
}

/// `yyyy-MM-ddTHH:mm:ss[.fff]Z` of the years 1 to 9999, which is nearly all there is; `None` says nothing about other texts.
fn usual(bytes: &[u8]) -> Option<i64> {
    const ZERO: &[u8; 24] = b"0000-00-00T00:00:00.000Z";
    let (head, millis) = match bytes.len() {
        24 => (bytes.first_chunk::<19>()?, bytes.get(19..)?),
        20 => (bytes.first_chunk::<19>()?, b".000Z".as_slice()),
        _ => return None,
    };
    let whole = head.iter().chain(if bytes.len() == 20 { &bytes[19..] } else { &[] });
    let zero = ZERO[..19].iter().chain(&ZERO[23..]);
    let fits = |byte: &u8, form: &u8| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    if !whole.zip(zero).all(|(byte, form)| fits(byte, form)) || !millis.iter().zip(&ZERO[19..]).all(|(byte, form)| fits(byte, form)) {
        return None;
    }
    let digit = |byte: u8| i64::from(byte & 0xf);
    let two = |at: usize| digit(head[at]) * 10 + digit(head[at + 1]);
    let (year, month, day) = (two(0) * 100 + two(2), two(5), two(8));
    let (hour, minute, second) = (two(11), two(14), two(17));
    if year < 1 || !is_civil(year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + (hour * 60 + minute) * 60 + second;
    let thousandths = digit(millis[1]) * 100 + digit(millis[2]) * 10 + digit(millis[3]);
    Some(seconds * MICROS_PER_SECOND + thousandths * 1000)
}

fn storable(year: i64, micros: Option<i64>) -> Instant {
    match micros {
        Some(micros) if year >= 1 && (MIN_TIMESTAMP..=MAX_TIMESTAMP).contains(&micros) => Instant::At(micros),
        _ => Instant::NotStorable,
    }
}

/// The written year and the instant; `None` inside where it is a leap second, which is well-formed only at 23:59:60 UTC.
fn clock(bytes: &[u8], variants: Variants) -> Option<(i64, Option<i64>)> {
    if bytes.len() < 20 || !(matches!(bytes[10], b'T' | b't') || (variants.space && bytes[10] == b' ')) {
        return None;
    }
    let (year, days) = civil_date(&bytes[..10])?;
    let time = &bytes[11..];
    if time[2] != b':' || time[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits(&time[..2])?, digits(&time[3..5])?, digits(&time[6..8])?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = fraction(&time[8..])?;
    let offset_minutes = zone_minutes(zone)?;
    let minute_of_day_utc = (hour * 60 + minute - offset_minutes).rem_euclid(1440);
    if second == 60 {
        return (minute_of_day_utc == 1439).then_some((year, None));
    }
    let seconds = days * 86_400 + (hour * 60 + minute - offset_minutes) * 60 + second;
    Some((year, Some(seconds * MICROS_PER_SECOND + fraction)))
}

/// `[.f+]` → µs and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(b'.') = text.first() else { return Some((0, text)) };
    let count = text[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let kept = count.min(6);
    Some((digits(&text[1..=kept])? * 10_i64.pow(6 - kept as u32), &text[1 + count..]))
}

fn zone_minutes(zone: &[u8]) -> Option<i64> {
    match zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', m1, m2] if hours.len() == 2 => {
            let (hours, minutes) = (digits(hours)?, digits(&[*m1, *m2])?);
            let total = hours * 60 + minutes;
            (hours <= 23 && minutes <= 59).then_some(if *sign == b'+' { total } else { -total })
        }
        _ => None,
    }
}

/// .NET TimeSpan `[-][d.]hh:mm:ss[.f{1,7}]` → µs; the seventh digit (100 ns) is cut. `None` where malformed or beyond 64 bits.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let first_colon = rest.find(':')?;
    let (days, clock) = match rest[..first_colon].find('.') {
        Some(dot) => (&rest[..dot], &rest[dot + 1..]),
        None => ("0", rest),
    };
    let bytes = clock.as_bytes();
    if days.is_empty() || days.len() > 8 || bytes.len() < 8 || bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits(&bytes[..2])?, digits(&bytes[3..5])?, digits(&bytes[6..8])?);
    if hour > 23 || minute > 59 || second > 59 || bytes.len() > 16 {
        return None;
    }
    let (micros, []) = fraction(&bytes[8..])? else { return None };
    let total = digits(days.as_bytes())?
        .checked_mul(MICROS_PER_DAY)?
        .checked_add(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros)?;
    Some(if negative { -total } else { total })
}

/// `2024-01-31T12:00:00.000000Z`.
pub fn format_timestamp(micros: i64) -> String {
    let (year, month, day) = civil_from_days(micros.div_euclid(MICROS_PER_DAY));
    let rest = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (rest / MICROS_PER_SECOND, rest % MICROS_PER_SECOND);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RFC: Variants = Variants { space: false, date: false };

    #[test]
    fn instants_at_the_edges_of_the_calendar() {
        assert_eq!(parse_timestamp("0001-01-01T00:00:00Z", RFC), Instant::At(MIN_TIMESTAMP));
        assert_eq!(parse_timestamp("9999-12-31T23:59:59.9999999Z", RFC), Instant::At(MAX_TIMESTAMP));
        assert_eq!(parse_timestamp("0000-01-01T00:00:00Z", RFC), Instant::NotStorable);
        assert_eq!(parse_timestamp("9999-12-31T23:59:59-14:00", RFC), Instant::NotStorable);
        assert_eq!(parse_timestamp("2016-12-31T23:59:60Z", RFC), Instant::NotStorable);
        assert_eq!(parse_timestamp("2016-12-31T22:59:60Z", RFC), Instant::Malformed);
        assert_eq!(parse_timestamp("2023-02-30T00:00:00Z", RFC), Instant::Malformed);
        assert_eq!(parse_timestamp("2023-02-03", RFC), Instant::Malformed);
    }

    #[test]
    fn declared_variants_only_where_declared() {
        let both = Variants { space: true, date: true };
        assert_eq!(parse_timestamp("1970-01-02", both), Instant::At(MICROS_PER_DAY));
        assert_eq!(parse_timestamp("1970-01-01 00:00:01Z", both), Instant::At(MICROS_PER_SECOND));
        assert_eq!(parse_timestamp("1970-01-01 00:00:01Z", RFC), Instant::Malformed);
    }

    #[test]
    fn durations_with_and_without_days() {
        assert_eq!(parse_duration("00:04:43.8600000"), Some(283_860_000));
        assert_eq!(parse_duration("1.00:00:00"), Some(MICROS_PER_DAY));
        assert_eq!(parse_duration("-00:00:01"), Some(-MICROS_PER_SECOND));
        for bad in ["", "24:00:00", "1:00:00", "00:00", "00:00:60", "00:00:00.", "00:00:00.12345678", ".00:00:00"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn civil_days_go_there_and_back() {
        for days in (-719_162..2_932_896).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year.into(), month.into(), day.into()), days);
        }
    }
}
