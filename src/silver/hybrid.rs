//! How Parquet packs codes and levels.

/// Bit-packed groups whose number takes one byte.
const GROUPS: usize = 63;

/// Parquet's hybrid of runs and bit-packed groups of eight.
pub(super) fn hybrid(values: &[u32], width: u8, out: &mut Vec<u8>) {
    const GROUP: usize = 8;
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

/// Levels of zero and one, a byte each, in the same way.
pub(super) fn bits(levels: &[u8], out: &mut Vec<u8>) {
    /// Eight levels that are one.
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let (groups, rest) = levels.as_chunks::<8>();
    let groups = || groups.iter().map(|group| u64::from_le_bytes(*group));
    let mut left = groups().peekable();
    while let Some(group) = left.next() {
        if group == 0 || group == ONES {
            let more = std::iter::from_fn(|| left.next_if_eq(&group)).count();
            run((1 + more) * 8, u32::from(group == ONES), 1, out);
            continue;
        }
        let head = out.len();
        out.extend([0, packed(group)]);
        while out.len() - head <= GROUPS
            && let Some(group) = left.next_if(|group| *group != 0 && *group != ONES)
        {
            out.push(packed(group));
        }
        out[head] = ((out.len() - head - 1) << 1 | 1) as u8;
    }
    if !rest.is_empty() {
        let mut group = [0; 8];
        group[..rest.len()].copy_from_slice(rest);
        out.extend([1 << 1 | 1, packed(u64::from_le_bytes(group))]);
    }
}

/// One bit for each byte, the first the lowest.
fn packed(group: u64) -> u8 {
    (group.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Value by value, as the format is described.
    fn unpacked(mut bytes: &[u8], width: usize, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        let next = |bytes: &mut &[u8]| {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            usize::from(*first)
        };
        while values.len() < count {
            let (mut head, mut shift) = (0, 0);
            loop {
                let byte = next(&mut bytes);
                head |= (byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            if head & 1 == 0 {
                let value = (0..width.div_ceil(8)).map(|at| next(&mut bytes) << (8 * at)).sum::<usize>();
                values.extend(std::iter::repeat_n(value as u32, head >> 1));
                continue;
            }
            let packed: Vec<usize> = (0..(head >> 1) * width).map(|_| next(&mut bytes)).collect();
            let bit = |at: usize| (packed[at / 8] >> (at % 8) & 1) as u32;
            values.extend((0..(head >> 1) * 8).map(|value| (0..width).map(|at| bit(value * width + at) << at).sum::<u32>()));
        }
        assert!(bytes.is_empty());
        values.truncate(count);
        values
    }

    #[test]
    fn what_was_packed_comes_out_of_it() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for round in 0..400 {
            let (width, count, often) = (next(18), next(3000) as usize, next(60));
            let mut last = 0;
            let mut value = |most: u64| {
                if next(often + 1) < 2 {
                    last = next(most) as u32;
                }
                last
            };
            let values: Vec<u32> = (0..count).map(|_| value(1 << width)).collect();
            let mut out = Vec::new();
            hybrid(&values, width as u8, &mut out);
            assert_eq!(unpacked(&out, width as usize, count), values, "round {round}");
            let levels: Vec<u8> = (0..count).map(|_| (value(2) % 2) as u8).collect();
            out.clear();
            bits(&levels, &mut out);
            assert_eq!(unpacked(&out, 1, count), levels.iter().map(|level| u32::from(*level)).collect::<Vec<_>>(), "round {round}");
        }
    }
}
