//! How Parquet packs codes and levels.

/// Parquet's hybrid of runs and bit-packed groups of eight.
pub(super) fn hybrid(values: &[u32], width: u8, out: &mut Vec<u8>) {
    const GROUP: usize = 8;
    /// Groups whose number takes one byte.
    const GROUPS: usize = 63;
    let equal = |at: usize| values[at..].iter().take_while(|value| **value == values[at]).count();
    let repeats = |at: usize| values[at..].len() >= GROUP && values[at..at + GROUP].iter().all(|value| *value == values[at]);
    let mut at = 0;
    while at < values.len() {
        if width == 0 || repeats(at) {
            let count = equal(at);
            run(count, values[at], width, out);
            at += count;
            continue;
        }
        let start = at;
        while at < values.len() && at - start < GROUPS * GROUP && !repeats(at) {
            at = (at + GROUP).min(values.len());
        }
        let groups = (at - start).div_ceil(GROUP);
        out.push((groups << 1 | 1) as u8);
        pack(&values[start..at], groups * GROUP, width, out);
    }
}

/// So many times the same.
pub(super) fn run(count: usize, value: u32, width: u8, out: &mut Vec<u8>) {
    varint((count as u64) << 1, out);
    out.extend_from_slice(&value.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

/// Seven bits a byte, the lowest first.
pub(super) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The values in `width` bits each, the lowest first, filled up with zeros to `count` of them, which are whole bytes.
pub(super) fn pack(values: &[u32], count: usize, width: u8, out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0_u64, 0_u32);
    for value in values.iter().copied().chain(std::iter::repeat_n(0, count - values.len())) {
        bits |= u64::from(value) << filled;
        filled += u32::from(width);
        while filled >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            filled -= 8;
        }
    }
}
