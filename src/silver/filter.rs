//! Whether a key may be one of a batch's, told by a few bits.

/// Mostly enough to know that a key is none of many: small enough to stay in the cache, which the keys are not.
#[derive(Debug, Default)]
pub struct Filter {
    /// Two bits of one word for each key. Without words everything passes.
    words: Vec<u64>,
}

impl Filter {
    pub fn of<'h>(hashes: impl ExactSizeIterator<Item = &'h u128>) -> Self {
        // 8 to 16 bits a key.
        let mut filter = Self { words: vec![0; (hashes.len() / 8 + 1).next_power_of_two()] };
        for hash in hashes {
            let (word, bits) = filter.place(*hash);
            filter.words[word] |= bits;
        }
        filter
    }

    /// By the half of the hash that the map does not go by.
    fn place(&self, hash: u128) -> (usize, u64) {
        let half = (hash >> 64) as u64;
        ((half as usize) & (self.words.len() - 1), 1 << (half >> 58) | 1 << (half >> 52 & 63))
    }

    pub fn excludes(&self, hash: u128) -> bool {
        if self.words.is_empty() {
            return false;
        }
        let (word, bits) = self.place(hash);
        self.words[word] & bits != bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_of_the_batch_is_excluded_and_most_others_are() {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes());
        for keys in [0, 1, 7, 8, 5_000, 100_000] {
            let hashes: Vec<u128> = (0..keys).map(hash).collect();
            let filter = Filter::of(hashes.iter());
            assert!(hashes.iter().all(|hash| !filter.excludes(*hash)));
            let passed = (keys..keys + 10_000).filter(|n| !filter.excludes(hash(*n))).count();
            assert!(passed < 1_000, "{passed} of 10,000 pass beside {keys} keys");
        }
        assert!(!Filter::default().excludes(hash(1)), "without words everything passes");
    }
}
