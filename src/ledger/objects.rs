//! Objects that a source has committed: a year of Firehose's is some hundred thousand of them, and nearly all are only ever asked whether
//! they are there.
//!
//! Those of a snapshot lie in one run of bytes, as they lie in the file: sorted by key, each as the number of bytes that its key shares
//! with the one before, the rest of it, its version and its batch. Every [`BLOCK`]th key is whole, and where it begins is known, so that
//! a key is found by halving. What came since stands beside it in a map, and goes in when the next snapshot is written.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Entries that are read at most to find one; more make it slower and smaller.
const BLOCK: usize = 16;

/// A committed object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub version: String,
    /// Which of the source's batches committed it.
    pub batch: u32,
}

#[derive(Debug, Clone, Default)]
pub struct Objects {
    packed: Packed,
    /// What came since, and what went.
    since: BTreeMap<String, Option<Known>>,
    count: usize,
}

impl Objects {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn get(&self, key: &str) -> Option<Known> {
        match self.since.get(key) {
            Some(known) => known.clone(),
            None => self.packed.get(key).map(Entry::known),
        }
    }

    /// Whether an object is known, and under this version.
    pub fn is_known(&self, key: &str, version: &str) -> Option<bool> {
        match self.since.get(key) {
            Some(known) => known.as_ref().map(|known| known.version == version),
            None => self.packed.get(key).map(|entry| entry.version == version.as_bytes()),
        }
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.is_known(key, "").is_some()
    }

    pub fn insert(&mut self, key: String, known: Known) {
        self.count += usize::from(!self.contains_key(&key));
        self.since.insert(key, Some(known));
    }

    pub fn remove(&mut self, key: &str) -> Option<Known> {
        let known = self.get(key)?;
        self.count -= 1;
        self.since.insert(key.to_owned(), None);
        Some(known)
    }

    /// In the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (String, Known)> + '_ {
        let mut packed = self.packed.iter().peekable();
        let mut since = self.since.iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let order = match (packed.peek(), since.peek()) {
                    (Some((key, _)), Some((later, _))) => key.as_str().cmp(later),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => return None,
                };
                if order == Ordering::Less {
                    return packed.next();
                }
                if order == Ordering::Equal {
                    packed.next();
                }
                if let Some((key, Some(known))) = since.next() {
                    return Some((key.clone(), known.clone()));
                }
            }
        })
    }

    /// Takes in what came since; the bytes are what a file is to have.
    pub fn pack(&mut self) -> &[u8] {
        if !self.since.is_empty() {
            let mut packed = Packed::default();
            for (key, known) in self.iter() {
                packed.push(key.as_bytes(), &known);
            }
            self.packed = packed;
            self.since.clear();
        }
        &self.packed.bytes
    }

    /// What a file has; `None` where it is damaged.
    pub fn unpack(bytes: Vec<u8>) -> Option<Self> {
        let packed = Packed::read(bytes)?;
        Some(Self { count: packed.count, packed, since: BTreeMap::new() })
    }
}

impl FromIterator<(String, Known)> for Objects {
    fn from_iter<I: IntoIterator<Item = (String, Known)>>(all: I) -> Self {
        let mut objects = Self::default();
        for (key, known) in all {
            objects.insert(key, known);
        }
        objects
    }
}

#[derive(Debug, Clone, Default)]
struct Packed {
    bytes: Vec<u8>,
    /// Where each block begins.
    blocks: Vec<usize>,
    count: usize,
    last: Vec<u8>,
}

/// An entry as it lies there: its key is the first `shared` bytes of the one before, and `rest`.
#[derive(Debug, Clone, Copy)]
struct Entry<'b> {
    shared: usize,
    rest: &'b [u8],
    version: &'b [u8],
    batch: u32,
}

impl Entry<'_> {
    fn known(self) -> Known {
        Known { version: String::from_utf8_lossy(self.version).into_owned(), batch: self.batch }
    }
}

impl Packed {
    /// Keys come in order.
    fn push(&mut self, key: &[u8], known: &Known) {
        let begins = self.count.is_multiple_of(BLOCK);
        if begins {
            self.blocks.push(self.bytes.len());
        }
        let same = self.last.iter().zip(key).take_while(|(a, b)| a == b).count();
        let shared = if begins { 0 } else { same };
        for number in [shared, key.len() - shared] {
            push_number(number as u64, &mut self.bytes);
        }
        self.bytes.extend_from_slice(&key[shared..]);
        push_number(known.version.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(known.version.as_bytes());
        push_number(known.batch.into(), &mut self.bytes);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.count += 1;
    }

    /// The entry at a place, and where the next one begins.
    fn entry(&self, at: usize) -> Option<(Entry<'_>, usize)> {
        let mut rest = self.bytes.get(at..)?;
        let shared = number(&mut rest)? as usize;
        let key = slice(&mut rest)?;
        let version = slice(&mut rest)?;
        let batch = u32::try_from(number(&mut rest)?).ok()?;
        Some((Entry { shared, rest: key, version, batch }, self.bytes.len() - rest.len()))
    }

    fn get(&self, wanted: &str) -> Option<Entry<'_>> {
        let wanted = wanted.as_bytes();
        let first = |at: &usize| self.entry(*at).map_or(&[] as &[u8], |(entry, _)| entry.rest);
        let block = self.blocks.partition_point(|at| first(at) <= wanted).checked_sub(1)?;
        let (mut at, mut key) = (*self.blocks.get(block)?, Vec::new());
        for _ in 0..BLOCK {
            let (entry, next) = self.entry(at)?;
            key.truncate(entry.shared);
            key.extend_from_slice(entry.rest);
            match key.as_slice().cmp(wanted) {
                Ordering::Less => at = next,
                Ordering::Equal => return Some(entry),
                Ordering::Greater => return None,
            }
        }
        None
    }

    fn iter(&self) -> impl Iterator<Item = (String, Known)> + '_ {
        let (mut at, mut key) = (0, Vec::new());
        std::iter::from_fn(move || {
            let (entry, next) = self.entry(at)?;
            at = next;
            key.truncate(entry.shared);
            key.extend_from_slice(entry.rest);
            Some((String::from_utf8_lossy(&key).into_owned(), entry.known()))
        })
    }

    /// Every entry is whole, in order and text.
    fn read(bytes: Vec<u8>) -> Option<Self> {
        let mut packed = Self { bytes, ..Self::default() };
        let (mut at, mut key, mut before) = (0, Vec::new(), Vec::new());
        while at < packed.bytes.len() {
            let begins = packed.count.is_multiple_of(BLOCK);
            let (entry, next) = packed.entry(at)?;
            if entry.shared > key.len() || (begins && entry.shared > 0) {
                return None;
            }
            key.truncate(entry.shared);
            key.extend_from_slice(entry.rest);
            let is_sound = std::str::from_utf8(&key).is_ok() && std::str::from_utf8(entry.version).is_ok();
            if !is_sound || (packed.count > 0 && key <= before) {
                return None;
            }
            if begins {
                packed.blocks.push(at);
            }
            before.clear();
            before.extend_from_slice(&key);
            packed.count += 1;
            at = next;
        }
        packed.last = key;
        Some(packed)
    }
}

/// Seven bits a byte, the lowest first.
fn push_number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn slice<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (taken, more) = rest.split_at_checked(length)?;
    *rest = more;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64, bound: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % bound
    }

    #[test]
    fn they_are_a_map() {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into();
        let mut state: u64 = seed;
        let (mut objects, mut map) = (Objects::default(), BTreeMap::new());
        for step in 0..6000_u32 {
            // Few keys, many alike, some that are the beginning of others.
            let key = format!("a/{}/{}", random(&mut state, 3), "é".repeat(random(&mut state, 30) as usize))
                + &"x".repeat(random(&mut state, 9) as usize);
            match random(&mut state, 10) {
                0..=5 => {
                    let known = Known { version: "v".repeat(random(&mut state, 200) as usize), batch: step };
                    objects.insert(key.clone(), known.clone());
                    map.insert(key, known);
                }
                6 | 7 => assert_eq!(objects.remove(&key), map.remove(&key), "seed {seed}"),
                8 if step % 50 == 0 => objects = Objects::unpack(objects.pack().to_vec()).unwrap(),
                _ => {
                    assert_eq!(objects.get(&key), map.get(&key).cloned(), "seed {seed}");
                    assert_eq!(objects.is_known(&key, "v"), map.get(&key).map(|known| known.version == "v"));
                }
            }
            assert_eq!(objects.len(), map.len(), "seed {seed}");
        }
        assert!(objects.iter().eq(map.clone()), "seed {seed}");
        objects.pack();
        assert!(objects.iter().eq(map.clone()), "seed {seed}");
        assert!(map.iter().all(|(key, known)| objects.get(key).as_ref() == Some(known)));
    }

    #[test]
    fn what_is_damaged_is_not_taken() {
        let many = |n: u32| (0..n).map(|at| (format!("key/{at:05}"), Known { version: "1".to_owned(), batch: at }));
        let mut objects: Objects = many(40).collect();
        let bytes = objects.pack().to_vec();
        assert_eq!(Objects::unpack(bytes.clone()).unwrap().len(), 40);
        for cut in 1..bytes.len() {
            // A cut between two entries leaves whole ones: the number of all is told beside them.
            assert!(Objects::unpack(bytes[..cut].to_vec()).is_none_or(|objects| objects.len() < 40));
        }
        let twice = [bytes.as_slice(), bytes.as_slice()].concat();
        assert!(Objects::unpack(twice).is_none());
        assert!(Objects::unpack(vec![0, 2, 0xff, 0xff, 0, 0]).is_none());
    }
}
