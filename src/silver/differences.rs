//! Texts that hardly come again, as Parquet's DELTA_BYTE_ARRAY: how many bytes each has in common with the one before, and the rest of it.
//!
//! Ids rise and orders begin alike, so what they have in common is most of them; it is looked for eight bytes at a time.

use super::hybrid::{pack, varint};

/// Numbers of a block, and of each of the parts that have a width of their own.
const BLOCK: usize = 128;
const PART: usize = 32;

/// The texts of a page.
#[derive(Debug, Default)]
pub(super) struct Differences {
    in_common: Vec<u32>,
    lengths: Vec<u32>,
    rests: Vec<u8>,
    last: Vec<u8>,
}

impl Differences {
    pub fn push(&mut self, text: &[u8]) {
        let in_common = in_common(&self.last, text);
        let rest = &text[in_common..];
        self.in_common.push(in_common as u32);
        self.lengths.push(rest.len() as u32);
        self.rests.extend_from_slice(rest);
        self.last.truncate(in_common);
        self.last.extend_from_slice(rest);
    }

    /// Encoded bytes, as they are reckoned.
    pub fn size(&self) -> usize {
        self.rests.len() + self.lengths.len()
    }

    /// Ends the page: the next one begins with a whole text.
    pub fn take(&mut self, out: &mut Vec<u8>) {
        packed(&self.in_common, out);
        packed(&self.lengths, out);
        out.append(&mut self.rests);
        self.in_common.clear();
        self.lengths.clear();
        self.last.clear();
    }
}

fn in_common(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let words = words_a.iter().zip(words_b).take_while(|(a, b)| a == b).count() * 8;
    if let (Some(a), Some(b)) = (a[words..].first_chunk::<8>(), b[words..].first_chunk::<8>()) {
        return words + (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b)).trailing_zeros() as usize / 8;
    }
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

/// Numbers as differences to the one before, above the least of their block, in as few bits as their part needs: DELTA_BINARY_PACKED.
fn packed(numbers: &[u32], out: &mut Vec<u8>) {
    for head in [BLOCK, BLOCK / PART, numbers.len()] {
        varint(head as u64, out);
    }
    zigzag(numbers.first().map_or(0, |first| i64::from(*first)), out);
    let differences: Vec<i64> = numbers.windows(2).map(|pair| i64::from(pair[1]) - i64::from(pair[0])).collect();
    for block in differences.chunks(BLOCK) {
        let least = block.iter().copied().min().unwrap_or(0);
        zigzag(least, out);
        let above: Vec<u32> = block.iter().map(|difference| (difference - least) as u32).collect();
        let parts = || above.chunks(PART).chain(std::iter::repeat(&[][..])).take(BLOCK / PART);
        let width = |part: &[u32]| (u32::BITS - part.iter().fold(0, |all, number| all | number).leading_zeros()) as u8;
        out.extend(parts().map(width));
        for part in parts().filter(|part| !part.is_empty()) {
            pack(part, PART, width(part), out);
        }
    }
}

fn zigzag(number: i64, out: &mut Vec<u8>) {
    varint(((number << 1) ^ (number >> 63)).cast_unsigned(), out);
}

#[cfg(test)]
mod tests {
    use super::in_common;

    #[test]
    fn what_two_texts_have_in_common_is_what_comparing_their_bytes_says() {
        for length in 0..40 {
            let text = vec![b'a'; length];
            for other in 0..40 {
                for differs in 0..=other {
                    let mut other = vec![b'a'; other];
                    if let Some(byte) = other.get_mut(differs) {
                        *byte = b'b';
                    }
                    let expected = text.iter().zip(&other).take_while(|(a, b)| a == b).count();
                    assert_eq!(in_common(&text, &other), expected);
                }
            }
        }
    }
}
