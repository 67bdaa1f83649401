//! Number literals as exact decimals, for integers and DECIMAL columns.

/// Clamped: beyond it no literal that fits in memory has a value that fits a column.
fn exponent(text: &str) -> i64 {
    const MOST: i64 = 1 << 40;
    let clamped = if text.starts_with('-') { -MOST } else { MOST };
    text.trim_start_matches('+').parse().map_or(clamped, |exponent: i64| exponent.clamp(-MOST, MOST))
}

/// A number literal as exact decimal: sign, digits without leading zeros, and the power of ten of the last digit.
#[derive(Debug, PartialEq, Eq)]
pub struct Exact {
    pub negative: bool,
    pub digits: Vec<u8>,
    pub exponent: i64,
}

impl Exact {
    /// Of a literal that the parser accepted.
    pub fn of(literal: &str) -> Exact {
        let (negative, rest) = match literal.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, literal),
        };
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], exponent(&rest[at + 1..])),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').skip_while(|d| *d == 0).collect();
        let mut exponent = exponent - fraction.len() as i64;
        while digits.last() == Some(&0) {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            exponent = 0;
        }
        Exact { negative, digits, exponent }
    }

    /// The value × 10^scale as an integer of at most `precision` digits, if it is one.
    pub fn scaled(&self, precision: u32, scale: i32) -> Option<i128> {
        let shift = self.exponent.checked_add(i64::from(scale))?;
        if self.digits.is_empty() {
            return Some(0);
        }
        if shift < 0 || self.digits.len() as i64 + shift > i64::from(precision) {
            return None;
        }
        let magnitude = self.digits.iter().fold(0_i128, |sum, digit| sum * 10 + i128::from(*digit)) * 10_i128.pow(shift as u32);
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// As a 64-bit integer, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        self.scaled(19, 0).and_then(|value| i64::try_from(value).ok())
    }
}
