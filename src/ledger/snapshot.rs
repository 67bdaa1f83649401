//! Snapshots of a ledger: its state as of one entry, so that nobody need read what came before.
//!
//! A snapshot is one zstd stream: a line of JSON, and behind it the known objects, packed ([`super::objects`]).

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::objects::{Known, Objects};
use super::{Claim, Intent, LedgerError};
use crate::store::Store;

/// The source as of one entry.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    pub head: u64,
    /// Objects that some intent has committed; in a snapshot they follow the rest, packed.
    #[serde(skip)]
    pub known: Objects,
    /// How many they are.
    #[serde(default)]
    known_count: u64,
    /// Such objects that are to be read once more.
    #[serde(default)]
    pub again: BTreeMap<String, Known>,
    /// Ids of the batches that committed them.
    #[serde(default)]
    pub batches: Vec<String>,
    pub claims: BTreeMap<String, Claim>,
    pub intent: Option<Intent>,
    /// For each table the newest intent before that one which changed it.
    #[serde(default)]
    pub settled: BTreeMap<String, i64>,
    /// The latest path day that was committed as a snapshot.
    #[serde(default)]
    pub extent: Option<String>,
    /// The contract version that a writer must know.
    #[serde(default)]
    pub fence: u32,
}

/// Where the snapshot lies that covers the entries up to `head`.
pub fn path(head: u64) -> String {
    format!("snapshots/{head:020}.zst")
}

/// The state that a snapshot holds; that of the beginning where there is none.
pub async fn read(store: &Store, name: Option<&str>) -> Result<State, LedgerError> {
    let Some(name) = name else { return Ok(State::default()) };
    let failed = |source| LedgerError::Snapshot { path: name.to_owned(), source };
    // Piece by piece: there may be very much of it.
    let mut unfolding = zstd::stream::write::Decoder::new(Vec::new()).map_err(failed)?;
    let mut damage = None;
    let take = |piece: &[u8]| {
        if damage.is_none() {
            damage = unfolding.write_all(piece).err();
        }
    };
    if !store.read(name, take).await? {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::NotFound, "it was listed a moment ago and is gone")));
    }
    let flushed = unfolding.flush();
    damage.map_or(flushed, Err).map_err(failed)?;
    let mut unfolded = unfolding.into_inner();
    let unparsed = |source| LedgerError::Parse { path: name.to_owned(), source };
    let Some(end) = memchr::memchr(b'\n', &unfolded) else {
        let Before { known } = serde_json::from_slice(&unfolded).map_err(unparsed)?;
        return Ok(State { known: known.into_iter().collect(), ..serde_json::from_slice(&unfolded).map_err(unparsed)? });
    };
    let mut state: State = serde_json::from_slice(&unfolded[..end]).map_err(unparsed)?;
    unfolded.drain(..=end);
    let known = Objects::unpack(unfolded).filter(|known| known.len() as u64 == state.known_count);
    state.known = known.ok_or_else(|| failed(std::io::Error::other("its objects are damaged")))?;
    Ok(state)
}

/// Snapshots of earlier programs had the objects among the rest.
#[derive(Deserialize)]
struct Before {
    known: BTreeMap<String, Known>,
}

/// A line of JSON, and behind it the known objects.
pub fn fold(state: &mut State) -> Option<Vec<u8>> {
    state.known_count = state.known.len() as u64;
    let line = serde_json::to_vec(state).ok()?;
    let mut folded = zstd::Encoder::new(Vec::new(), 3).ok()?;
    for part in [line.as_slice(), b"\n", state.known.pack()] {
        folded.write_all(part).ok()?;
    }
    folded.finish().ok()
}
