//! Numbers, times and ids as bytes, without the formatting machinery: this is the inner loop.

pub const DAY_MS: i64 = 86_400_000;

pub fn uint(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub fn int(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    uint(out, value.unsigned_abs());
}

/// The last `width` (at most 20) digits, with leading zeros.
pub fn padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let first = digits.len() - width;
    let mut rest = value;
    for digit in digits[first..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[first..]);
}

pub fn hex_upper(out: &mut Vec<u8>, value: u64) {
    let width = (16 - value.leading_zeros() / 4).max(1);
    for at in (0..width).rev() {
        out.push(b"0123456789ABCDEF"[(value >> (4 * at)) as usize & 15]);
    }
}

/// All 16 digits, lower case: the provider's record versions.
pub fn hex16(out: &mut Vec<u8>, value: u64) {
    for at in (0..16).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * at)) as usize & 15]);
    }
}

/// `a` and 22 characters of base64url: the provider's GUID-backed ids.
pub fn guid(out: &mut Vec<u8>, bits: u128) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    out.push(b'a');
    for at in 0..22 {
        out.push(ALPHABET[(bits >> (6 * at)) as usize & 63]);
    }
}

/// `scaled` / 10^`decimals` without trailing zeros: 5.25, but 5 and not 5.00, as on the wire.
pub fn decimal(out: &mut Vec<u8>, scaled: i64, decimals: u32) {
    let unit = 10u64.pow(decimals);
    if scaled < 0 {
        out.push(b'-');
    }
    uint(out, scaled.unsigned_abs() / unit);
    let (mut part, mut width) = (scaled.unsigned_abs() % unit, decimals as usize);
    if part == 0 {
        return;
    }
    while part.is_multiple_of(10) {
        part /= 10;
        width -= 1;
    }
    out.push(b'.');
    padded(out, part, width);
}

/// Year, month and day of a number of days since 1970-01-01.
pub fn civil(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u64, day as u64)
}

pub fn date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    padded(out, year as u64, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
}

/// `2024-01-31T05:42:43.140Z`, with `between` for the T.
pub fn timestamp(out: &mut Vec<u8>, millis: i64, between: u8) {
    date(out, millis.div_euclid(DAY_MS));
    let rest = millis.rem_euclid(DAY_MS) as u64;
    out.push(between);
    clock(out, rest / 1000);
    out.push(b'.');
    padded(out, rest % 1000, 3);
    out.push(b'Z');
}

/// `[d.]hh:mm:ss[.fffffff]` of a number of 100 ns ticks.
pub fn duration(out: &mut Vec<u8>, ticks: u64) {
    let (seconds, fraction) = (ticks / 10_000_000, ticks % 10_000_000);
    if seconds >= 86_400 {
        uint(out, seconds / 86_400);
        out.push(b'.');
    }
    clock(out, seconds % 86_400);
    if fraction != 0 {
        out.push(b'.');
        padded(out, fraction, 7);
    }
}

fn clock(out: &mut Vec<u8>, seconds: u64) {
    padded(out, seconds / 3600, 2);
    out.push(b':');
    padded(out, seconds / 60 % 60, 2);
    out.push(b':');
    padded(out, seconds % 60, 2);
}

pub fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (at, byte)| word | (u32::from(*byte) << (16 - 8 * at)));
        for at in 0..4 {
            out.push(if at <= chunk.len() { ALPHABET[(word >> (18 - 6 * at)) as usize & 63] } else { b'=' });
        }
    }
}
