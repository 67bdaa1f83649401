//! The ledger: what was intended, per source. The Delta log alone says what is committed.
//!
//! One source has one log of create-only, numbered entries. An entry is written at head + 1 by whoever has read up to the head;
//! a writer that finds the number taken reads on and decides again. So claims, intents and releases happen one after the other,
//! for every process that looks, with nothing but put-if-absent:
//! * a **claim** takes object versions that no one has; its lease is an object of its own that the owner renews;
//! * a **release** gives them back: the batch was stopped, abandoned by its owner, or its lease ran out;
//! * an **intent** k says what the claim's batch commits. A claim that was released cannot become an intent any more, so a run that
//!   lost its lease cannot commit behind its successor's back, and the numbers of intents have no gaps.
//!
//! An intent is written only when the one before it is committed; so at most one intent of a source is open, and whoever comes
//! next finishes it. Entries are folded into a sorted snapshot now and then; finding what is new is a merge of that with the listing.

pub mod cluster;
pub mod maintenance;
mod objects;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::domain::{BronzeObject, Records, Source};
use crate::store::{Store, StoreError};

use objects::Known;
use snapshot::State;

/// Entries after which the log is folded.
const FOLD_EVERY: u64 = 64;
const FORMAT: u32 = 3;
/// Of entries that programs must not read which know no fences.
const FENCES: u32 = 2;
/// Of entries that programs must not read which know nothing of statements that a cluster carries out.
const STATEMENTS: u32 = 3;
/// Of entries that every program reads which knows a ledger at all.
const FIRST_FORMAT: u32 = 1;
const ENTRIES_AT_ONCE: usize = 32;
/// Whoever has not looked at the ledger for so long reads it anew: entries may have been cleaned up since.
const STALE: TimeDelta = TimeDelta::hours(6);
/// Entries that a snapshot covers are kept at least so long.
pub const SHORTEST_RETENTION: TimeDelta = TimeDelta::days(1);
const SHORTEST_RENEWAL: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("ledger entry {path} is not readable: {source}")]
    Parse { path: String, source: serde_json::Error },
    #[error("ledger entry {path} has format {found}, this program knows up to {FORMAT}; update the program")]
    Format { path: String, found: u32 },
    #[error(
        "the ledger {place} goes on with entry {found}, and entry {missing} is neither there nor in a snapshot: files were removed by hand. \
         Bring them back (snapshots first); nothing was read, or what is known would be read again"
    )]
    Gap { place: String, missing: u64, found: u64 },
    #[error("ledger snapshot {path} is not readable: {source}")]
    Snapshot { path: String, source: std::io::Error },
    #[error(
        "contract version {required} is being brought in and this program knows {known}; nothing was committed: update the program or \
         its schemas, and see that `etl schema migrate` comes to its end"
    )]
    Fenced { required: u32, known: u32 },
    #[error("the claim {claim} was taken over by another run after its lease ran out; nothing of it was committed")]
    Lost { claim: String },
}

/// What an intent does to one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableIntent {
    pub table: String,
    /// The application whose `txn` becomes `k`.
    pub app_id: String,
    pub k: i64,
    /// Delta `add` actions, as they will stand in the log.
    pub adds: Vec<serde_json::Value>,
    /// Rows that leave the table in the same commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Replaced>,
    /// Partitions that leave the table in the same commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Expiry>,
    /// What a cluster does to the table before the rest is committed; nothing more when it is repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    pub run: String,
    pub batch: String,
}

impl TableIntent {
    /// Whether there is anything to commit.
    pub fn changes(&self) -> bool {
        !self.adds.is_empty() || self.replaces.is_some() || !self.statements.is_empty()
    }
}

/// Rows of a table by key and place, in a staged list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replaced {
    /// The list's path among the staged ones.
    pub list: String,
    /// All of the rows are this one's.
    pub database: Option<String>,
}

/// Files whose partition value is less than a bound are of no more use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expiry {
    pub column: String,
    pub before: String,
}

/// What a batch will commit, in commit order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Intent {
    pub k: i64,
    pub claim: String,
    pub run: String,
    pub tables: Vec<TableIntent>,
    /// In snapshot mode: the path day that it makes the table's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extent: Option<String>,
    pub records: Records,
    pub job: String,
    pub contract: String,
    /// The newest contract version that the writer knows.
    #[serde(default)]
    pub contract_version: u32,
}

/// Object versions that a batch has taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub id: String,
    pub run: String,
    /// (key, version) in the batch's order.
    pub objects: Vec<(String, String)>,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Claim(Claim),
    Release {
        claim: String,
        run: String,
        why: String,
    },
    /// Known objects are to be read once more.
    Forget {
        objects: Vec<String>,
        run: String,
    },
    Intent(Box<Intent>),
    /// From here on only writers that know this contract version may commit: the tables are being migrated to it.
    Fence {
        contract: u32,
        run: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    format: u32,
    /// Tells our own entry from another's where the store's answer was lost.
    nonce: String,
    at: DateTime<Utc>,
    what: What,
}

#[derive(Debug, Deserialize)]
struct Format {
    format: u32,
}

/// A renewable promise that a claim's owner is alive.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseFile {
    expires: DateTime<Utc>,
}

/// What the ledger says of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectRecord {
    pub key: String,
    pub version: String,
    /// What `_batch` says of its rows.
    pub batch: String,
    /// It is read once more by the next run.
    pub forgotten: bool,
}

impl State {
    fn apply(&mut self, seq: u64, entry: Entry) {
        self.head = seq;
        match entry.what {
            What::Claim(claim) => {
                self.claims.insert(claim.id.clone(), claim);
            }
            What::Release { claim, .. } => {
                self.claims.remove(&claim);
            }
            What::Forget { objects, .. } => {
                for key in objects {
                    if let Some(known) = self.known.remove(&key) {
                        self.again.insert(key, known);
                    }
                }
            }
            What::Fence { contract, .. } => self.fence = self.fence.max(contract),
            What::Intent(intent) => {
                if let Some(claim) = self.claims.remove(&intent.claim) {
                    let batch = self.batches.len() as u32;
                    self.batches.push(claim.id);
                    for (key, version) in claim.objects {
                        self.again.remove(&key);
                        self.known.insert(key, Known { version, batch });
                    }
                }
                self.extent = self.extent.take().max(intent.extent.clone());
                if let Some(before) = self.intent.replace(*intent) {
                    self.settled.extend(before.tables.into_iter().map(|part| (part.table, before.k)));
                }
            }
        }
    }
}

/// How an object stands to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    New,
    /// Known under another version.
    Changed,
    Known,
    /// Another run's claim holds it.
    Held {
        run: String,
    },
}

/// One source's ledger.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    lease: Duration,
    state: State,
    /// When it was last read to its end.
    read: DateTime<Utc>,
}

impl Ledger {
    pub fn folder(silver: &Store, source: &Source) -> Store {
        silver.folder(&format!("_etl/ledger/{}/{}", source.entity, source.database))
    }

    /// Every source of an entity that has a ledger.
    pub async fn sources(silver: &Store, entity: &str) -> Result<Vec<Source>, LedgerError> {
        let databases = silver.folder(&format!("_etl/ledger/{entity}")).folders().await?;
        Ok(databases.into_iter().map(|database| Source { entity: entity.to_owned(), database }).collect())
    }

    /// Reads the newest snapshot and what follows it: three round trips, however many entries there are.
    pub async fn open(silver: &Store, source: &Source, lease: Duration) -> Result<Self, LedgerError> {
        let mut ledger = Self { store: Self::folder(silver, source), lease, state: State::default(), read: Utc::now() };
        ledger.read_all().await?;
        Ok(ledger)
    }

    async fn read_all(&mut self) -> Result<(), LedgerError> {
        let now = Utc::now();
        let store = self.store.clone();
        let names: Vec<String> = store.list("snapshots").map_ok(|(key, _)| key).try_collect().await?;
        let newest = names.into_iter().max();
        // The name says where the log goes on, so both are asked for at once.
        let after = newest.as_ref().map_or_else(|| "log/".to_owned(), |name| entry_path(seq_of(name)));
        let (state, entries) =
            tokio::try_join!(snapshot::read(&store, newest.as_deref()), async { Ok(store.list_after("log", &after).await?) })?;
        self.state = state;
        let head = self.state.head;
        let mut entries: Vec<u64> = entries.iter().map(|key| seq_of(key)).filter(|seq| *seq > head).collect();
        entries.sort_unstable();
        let last = entries.last().copied();
        let mut read = futures::stream::iter(entries).map(|seq| read_entry(&store, seq)).buffered(ENTRIES_AT_ONCE);
        while let Some((seq, entry)) = read.try_next().await? {
            match entry {
                Some(entry) if seq == self.state.head + 1 => self.state.apply(seq, entry),
                _ => break,
            }
        }
        drop(read);
        if let Some(found) = last.filter(|found| *found > self.state.head) {
            // A listing during a write may show an entry and not the one before; reading one is always right.
            self.read_on().await?;
            if found > self.state.head {
                return Err(LedgerError::Gap { place: store.address(), missing: self.state.head + 1, found });
            }
        }
        self.read = now;
        Ok(())
    }

    /// Reads entries that others wrote meanwhile.
    pub async fn refresh(&mut self) -> Result<(), LedgerError> {
        let now = Utc::now();
        if now - self.read > STALE {
            return self.read_all().await;
        }
        self.read_on().await?;
        self.read = now;
        Ok(())
    }

    async fn read_on(&mut self) -> Result<(), LedgerError> {
        loop {
            let seq = self.state.head + 1;
            let (_, Some(entry)) = read_entry(&self.store, seq).await? else { return Ok(()) };
            self.state.apply(seq, entry);
        }
    }

    /// Entries and snapshots that a later snapshot covers and that were written before `older_than`. The numbers of entries that
    /// are gone are free again, so they must be old enough that nobody still builds on what came before them.
    pub async fn covered(&self, older_than: DateTime<Utc>) -> Result<Vec<(String, object_store::ObjectMeta)>, LedgerError> {
        let older_than = older_than.min(Utc::now() - SHORTEST_RETENTION);
        let snapshots: Vec<(String, object_store::ObjectMeta)> = self.store.list("snapshots").try_collect().await?;
        // The newest one but one still has its log: should the newest not be readable, all is there.
        let mut numbers: Vec<u64> = snapshots.iter().map(|(path, _)| seq_of(path)).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let Some(base) = numbers.get(1).copied() else { return Ok(Vec::new()) };
        let log: Vec<(String, object_store::ObjectMeta)> = self.store.list("log").try_collect().await?;
        let entries = log.into_iter().filter(|(path, _)| seq_of(path) <= base);
        let snapshots = snapshots.into_iter().filter(|(path, _)| seq_of(path) < base);
        Ok(entries.chain(snapshots).filter(|(_, meta)| meta.last_modified < older_than).collect())
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest intent, committed or not.
    pub fn last_intent(&self) -> Option<&Intent> {
        self.state.intent.as_ref()
    }

    /// The newest intent that a table must have, as a later one was written since; 0 where nothing is known.
    pub fn settled(&self, table: &str) -> i64 {
        self.state.settled.get(table).copied().unwrap_or(0)
    }

    pub fn next_intent(&self) -> i64 {
        self.state.intent.as_ref().map_or(1, |intent| intent.k + 1)
    }

    pub fn newest_extent(&self) -> Option<&String> {
        self.state.extent.as_ref()
    }

    pub fn known_objects(&self) -> usize {
        self.state.known.len()
    }

    /// Objects that were committed, in the order of their keys.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRecord> + '_ {
        let record = |forgotten: bool| {
            move |(key, known): (String, Known)| ObjectRecord {
                batch: self.state.batches.get(known.batch as usize).cloned().unwrap_or_default(),
                key,
                version: known.version,
                forgotten,
            }
        };
        let again = self.state.again.iter().map(|(key, known)| (key.clone(), known.clone()));
        self.state.known.iter().map(record(false)).chain(again.map(record(true)))
    }

    /// The batch that committed just this version of an object before.
    pub fn committed_by(&self, key: &str, version: &str) -> Option<&String> {
        let known = self.state.known.get(key).or_else(|| self.state.again.get(key).cloned()).filter(|known| known.version == version)?;
        self.state.batches.get(known.batch as usize)
    }

    /// Lets known objects be read once more; returns how many there were.
    pub async fn forget(&mut self, run: &str, objects: &BTreeSet<String>) -> Result<usize, LedgerError> {
        loop {
            let known: Vec<String> = objects.iter().filter(|key| self.state.known.contains_key(key)).cloned().collect();
            let count = known.len();
            if count == 0 || self.append(What::Forget { objects: known, run: run.to_owned() }).await? {
                return Ok(count);
            }
        }
    }

    pub fn open_claims(&self) -> impl Iterator<Item = &Claim> {
        self.state.claims.values()
    }

    /// How many open claims are older than this one.
    pub fn claims_before(&self, id: &str) -> usize {
        let Some(own) = self.state.claims.get(id) else { return 0 };
        self.state.claims.values().filter(|claim| (claim.at, &claim.id) < (own.at, &own.id)).count()
    }

    /// Whether just this version of an object is known, and nobody has it in hand.
    pub fn knows(&self, key: &str, version: &str, held: &BTreeMap<&str, &Claim>) -> bool {
        !held.contains_key(key) && self.state.known.is_known(key, version) == Some(true)
    }

    pub fn standing(&self, object: &BronzeObject, held: &BTreeMap<&str, &Claim>) -> Standing {
        if let Some(claim) = held.get(object.key.as_str()) {
            return Standing::Held { run: claim.run.clone() };
        }
        match self.state.known.is_known(&object.key, &object.version) {
            None => Standing::New,
            Some(true) => Standing::Known,
            Some(false) => Standing::Changed,
        }
    }

    /// Keys that open claims hold.
    pub fn held(&self) -> BTreeMap<&str, &Claim> {
        self.state.claims.values().flat_map(|claim| claim.objects.iter().map(move |(key, _)| (key.as_str(), claim))).collect()
    }

    /// Writes `what` at head + 1; `false` where another entry came first, which is then read.
    async fn append(&mut self, what: What) -> Result<bool, LedgerError> {
        if Utc::now() - self.read > STALE {
            self.read_all().await?;
            return Ok(false);
        }
        // A program that does not know of fences must not pass one by.
        let format = match &what {
            What::Fence { .. } => FENCES,
            What::Intent(intent) if intent.tables.iter().any(|part| !part.statements.is_empty()) => STATEMENTS,
            _ => FIRST_FORMAT,
        };
        let entry = Entry { format, nonce: uuid::Uuid::new_v4().to_string(), at: Utc::now(), what };
        let seq = self.state.head + 1;
        let path = entry_path(seq);
        let bytes = serde_json::to_vec(&entry).map_err(|source| LedgerError::Parse { path: path.clone(), source })?;
        let created = self.store.create(&path, bytes.into()).await;
        // A lost answer is settled by reading: the nonce tells whose entry it is.
        let ours = match created {
            Ok(true) => true,
            Ok(false) | Err(_) => match self.store.get(&path).await? {
                Some(found) => serde_json::from_slice::<Entry>(&found).is_ok_and(|found| found.nonce == entry.nonce),
                None => {
                    created?;
                    false
                }
            },
        };
        if ours {
            self.state.apply(seq, entry);
            self.fold_if_due().await;
            return Ok(true);
        }
        self.refresh().await?;
        Ok(false)
    }

    /// By whoever wrote the entry with a round number. Best effort: a snapshot saves reading, it decides nothing.
    async fn fold_if_due(&mut self) {
        if !self.state.head.is_multiple_of(FOLD_EVERY) {
            return;
        }
        let Some(bytes) = snapshot::fold(&mut self.state) else { return };
        if let Err(error) = self.store.create(&snapshot::path(self.state.head), bytes.into()).await {
            tracing::warn!(%error, "the ledger was not folded; it is tried again {FOLD_EVERY} entries later");
        }
    }

    /// Takes `objects`, in order.
    pub async fn claim(&mut self, id: &str, run: &str, objects: &[BronzeObject], taking: Taking) -> Result<Claimed, LedgerError> {
        loop {
            let mut claimed = Claimed::default();
            let mut free = Vec::new();
            let held = self.held();
            for object in objects {
                match self.standing(object, &held) {
                    Standing::New | Standing::Changed => free.push((object.key.clone(), object.version.clone())),
                    Standing::Known => claimed.known += 1,
                    Standing::Held { .. } => claimed.held += 1,
                }
            }
            match taking {
                Taking::Whole if claimed.held > 0 => {
                    claimed.held = objects.len() as u64 - claimed.known;
                    return Ok(claimed);
                }
                Taking::Whole if !free.is_empty() => {
                    free = objects.iter().map(|object| (object.key.clone(), object.version.clone())).collect();
                    claimed.known = 0;
                }
                _ => {}
            }
            if free.is_empty() {
                return Ok(claimed);
            }
            let claim = Claim { id: id.to_owned(), run: run.to_owned(), objects: free, at: Utc::now() };
            // The lease is there before the claim can be seen, so that nobody takes a fresh claim for a dead one.
            self.renewal(id).renew().await?;
            if self.append(What::Claim(claim.clone())).await? {
                claimed.claim = Some(claim);
                return Ok(claimed);
            }
        }
    }

    /// What renews a claim's lease from another task.
    pub fn renewal(&self, claim: &str) -> Renewal {
        Renewal { store: self.store.clone(), path: lease_path(claim), lease: self.lease }
    }

    pub async fn release(&mut self, claim: &str, run: &str, why: &str) -> Result<(), LedgerError> {
        while self.state.claims.contains_key(claim) {
            let release = What::Release { claim: claim.to_owned(), run: run.to_owned(), why: why.to_owned() };
            if self.append(release).await? {
                break;
            }
        }
        self.store.delete(&lease_path(claim)).await?;
        Ok(())
    }

    /// Gives back what runs that died have claimed; returns the claims that were given back.
    pub async fn release_expired(&mut self, run: &str) -> Result<Vec<Claim>, LedgerError> {
        let open: Vec<Claim> = self.state.claims.values().cloned().collect();
        let mut expired = Vec::new();
        for claim in open {
            if self.is_expired(&claim).await? {
                self.release(&claim.id, run, "its lease ran out").await?;
                expired.push(claim);
            }
        }
        Ok(expired)
    }

    /// Whether an owner has not renewed its claim in time.
    pub async fn has_expired(&self) -> Result<bool, LedgerError> {
        for claim in self.state.claims.values() {
            if self.is_expired(claim).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_expired(&self, claim: &Claim) -> Result<bool, LedgerError> {
        Ok(self.expires(claim).await? < Utc::now())
    }

    /// When a claim may be taken over unless its owner renews it.
    pub async fn expires(&self, claim: &Claim) -> Result<DateTime<Utc>, LedgerError> {
        Ok(read_lease(&self.store, &claim.id).await?.map_or(claim.at + self.lease, |lease| lease.expires))
    }

    /// Whether the run that wrote an intent still renews its lease, so that it is about to commit it.
    pub async fn owner_lives(&self, intent: &Intent) -> Result<bool, LedgerError> {
        Ok(read_lease(&self.store, &intent.claim).await?.is_some_and(|lease| lease.expires >= Utc::now()))
    }

    /// Writes the intent, if its claim still stands and no other intent came first.
    pub async fn intend(&mut self, intent: Intent) -> Result<Intended, LedgerError> {
        loop {
            if !self.state.claims.contains_key(&intent.claim) {
                return Err(LedgerError::Lost { claim: intent.claim });
            }
            if self.state.fence > intent.contract_version {
                return Err(LedgerError::Fenced { required: self.state.fence, known: intent.contract_version });
            }
            if self.next_intent() != intent.k {
                return Ok(Intended::Overtaken);
            }
            if self.append(What::Intent(Box::new(intent.clone()))).await? {
                return Ok(Intended::Written);
            }
        }
    }

    /// Keeps writers that do not know a contract version from committing anything more.
    pub async fn fence(&mut self, run: &str, contract: u32) -> Result<(), LedgerError> {
        while self.state.fence < contract && !self.append(What::Fence { contract, run: run.to_owned() }).await? {}
        Ok(())
    }

    /// The lease of a claim that became an intent is of no more use.
    pub async fn drop_lease(&self, claim: &str) -> Result<(), LedgerError> {
        Ok(self.store.delete(&lease_path(claim)).await?)
    }
}

/// Which objects a claim takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Those that no intent has committed and no claim holds.
    Free,
    /// All of them, known ones too, if at least one is free and none is held: they only make sense together.
    Whole,
}

/// What a claim got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// `None` where nothing was free.
    pub claim: Option<Claim>,
    /// Objects that others hold.
    pub held: u64,
    /// Objects that others have finished meanwhile.
    pub known: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intended {
    Written,
    /// Another intent of this source came first: finish it, look at the table again, then try anew.
    Overtaken,
}

/// Renews one claim's lease.
#[derive(Debug, Clone)]
pub struct Renewal {
    store: Store,
    path: String,
    lease: Duration,
}

impl Renewal {
    pub async fn renew(&self) -> Result<(), LedgerError> {
        let lease = LeaseFile { expires: Utc::now() + self.lease };
        let bytes = serde_json::to_vec(&lease).map_err(|source| LedgerError::Parse { path: self.path.clone(), source })?;
        Ok(self.store.put(&self.path, bytes.into()).await?)
    }

    /// Renews three times a lease until it is dropped.
    pub async fn keep(self) {
        loop {
            tokio::time::sleep((self.lease / 3).max(SHORTEST_RENEWAL)).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the claim's lease could not be renewed; trying again");
            }
        }
    }
}

/// The entry of a number, if it is there.
async fn read_entry(store: &Store, seq: u64) -> Result<(u64, Option<Entry>), LedgerError> {
    let path = entry_path(seq);
    let Some(bytes) = store.get(&path).await? else { return Ok((seq, None)) };
    let parse = |source| LedgerError::Parse { path: path.clone(), source };
    // The format first: an entry of a later one need not be readable.
    let Format { format } = serde_json::from_slice(&bytes).map_err(parse)?;
    if format > FORMAT {
        return Err(LedgerError::Format { path, found: format });
    }
    Ok((seq, Some(serde_json::from_slice(&bytes).map_err(parse)?)))
}

async fn read_lease(store: &Store, of: &str) -> Result<Option<LeaseFile>, LedgerError> {
    let path = lease_path(of);
    let Some(bytes) = store.get(&path).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| LedgerError::Parse { path, source })
}

/// The number in the name of an entry or a snapshot.
fn seq_of(key: &str) -> u64 {
    let name = key.rsplit('/').next().unwrap_or(key);
    name.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn entry_path(seq: u64) -> String {
    format!("log/{seq:020}.json")
}

fn lease_path(claim: &str) -> String {
    format!("leases/{claim}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Layout, PathValues};

    fn silver() -> Store {
        Store::over(std::sync::Arc::new(object_store::memory::InMemory::new()), url::Url::parse("memory:///silver/").unwrap()).unwrap()
    }

    fn source() -> Source {
        Source { entity: "E".to_owned(), database: "d".to_owned() }
    }

    fn object(key: &str) -> BronzeObject {
        BronzeObject { key: key.to_owned(), version: "1".to_owned(), size: 1, layout: Layout::Firehose, path: PathValues::default() }
    }

    async fn open(silver: &Store, lease_ms: u64) -> Ledger {
        Ledger::open(silver, &source(), Duration::from_millis(lease_ms)).await.unwrap()
    }

    fn intent(claim: &str, k: i64) -> Intent {
        Intent {
            k,
            claim: claim.to_owned(),
            run: "r".to_owned(),
            tables: vec![],
            extent: None,
            records: Records::default(),
            job: String::new(),
            contract: String::new(),
            contract_version: 1,
        }
    }

    #[tokio::test]
    async fn two_runs_never_hold_the_same_object() {
        let silver = silver();
        let (mut a, mut b) = (open(&silver, 60_000).await, open(&silver, 60_000).await);
        let first = a.claim("a", "run-a", &[object("x"), object("y")], Taking::Free).await.unwrap().claim.unwrap();
        let second = b.claim("b", "run-b", &[object("y"), object("z")], Taking::Free).await.unwrap().claim.unwrap();
        assert_eq!(first.objects.len(), 2);
        assert_eq!(second.objects, [("z".to_owned(), "1".to_owned())]);
        assert_eq!(b.claim("c", "run-b", &[object("x")], Taking::Free).await.unwrap(), Claimed { claim: None, held: 1, known: 0 });
    }

    #[tokio::test]
    async fn a_claim_that_was_taken_over_cannot_become_an_intent() {
        let silver = silver();
        let (mut slow, mut next) = (open(&silver, 1).await, open(&silver, 60_000).await);
        slow.claim("a", "slow", &[object("x")], Taking::Free).await.unwrap().claim.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        next.refresh().await.unwrap();
        assert_eq!(next.release_expired("next").await.unwrap().len(), 1);
        assert!(matches!(slow.intend(intent("a", 1)).await, Err(LedgerError::Lost { .. })));
        next.claim("b", "next", &[object("x")], Taking::Free).await.unwrap().claim.unwrap();
        assert_eq!(next.intend(intent("b", 1)).await.unwrap(), Intended::Written);
        assert_eq!(next.standing(&object("x"), &next.held()), Standing::Known);
    }

    #[tokio::test]
    async fn intents_are_numbered_without_gaps_and_survive_folding() {
        let silver = silver();
        let mut ledger = open(&silver, 60_000).await;
        for k in 1..=100 {
            let id = format!("c{k}");
            ledger.claim(&id, "r", &[object(&format!("k{k}"))], Taking::Free).await.unwrap().claim.unwrap();
            assert_eq!(ledger.intend(intent(&id, k)).await.unwrap(), Intended::Written);
        }
        let again = open(&silver, 60_000).await;
        assert_eq!((again.next_intent(), again.known_objects(), again.open_claims().count()), (101, 100, 0));
        let snapshots: Vec<String> = again.store.list("snapshots").map_ok(|(key, _)| key).try_collect().await.unwrap();
        assert_eq!(snapshots.len(), 3);
    }

    #[tokio::test]
    async fn a_snapshot_of_an_earlier_program_is_read() {
        let silver = silver();
        let ledger = open(&silver, 60_000).await;
        let state = r#"{"head":64,"known":{"x":{"version":"1","batch":0}},"batches":["b"],"claims":{},"intent":null}"#;
        let folded = zstd::encode_all(state.as_bytes(), 3).unwrap();
        ledger.store.put("snapshots/00000000000000000064.json.zst", folded.into()).await.unwrap();
        let mut ledger = open(&silver, 60_000).await;
        assert_eq!(ledger.standing(&object("x"), &ledger.held()), Standing::Known);
        assert_eq!((ledger.known_objects(), ledger.state.head), (1, 64));
        ledger.claim("c", "r", &[object("y")], Taking::Free).await.unwrap().claim.unwrap();
        ledger.intend(intent("c", 1)).await.unwrap();
        ledger.state.head = 128;
        ledger.fold_if_due().await;
        let again = open(&silver, 60_000).await;
        assert_eq!((again.known_objects(), again.committed_by("x", "1").unwrap().as_str()), (2, "b"));
    }

    #[tokio::test]
    async fn a_ledger_that_lacks_entries_is_refused() {
        let silver = silver();
        let mut ledger = open(&silver, 60_000).await;
        for k in 1..=70 {
            let id = format!("c{k}");
            ledger.claim(&id, "r", &[object(&format!("k{k}"))], Taking::Free).await.unwrap().claim.unwrap();
            ledger.intend(intent(&id, k)).await.unwrap();
        }
        for seq in 1..=64 {
            ledger.store.delete(&entry_path(seq)).await.unwrap();
        }
        assert_eq!(open(&silver, 60_000).await.known_objects(), 70);
        for covered in [64, 128] {
            ledger.store.delete(&snapshot::path(covered)).await.unwrap();
        }
        let refused = Ledger::open(&silver, &source(), Duration::from_mins(1)).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Gap { missing: 1, found: 140, .. }), "{refused}");
    }

    #[tokio::test]
    async fn an_overtaken_intent_is_told_so() {
        let silver = silver();
        let (mut a, mut b) = (open(&silver, 60_000).await, open(&silver, 60_000).await);
        a.claim("a", "a", &[object("x")], Taking::Free).await.unwrap();
        b.claim("b", "b", &[object("y")], Taking::Free).await.unwrap();
        b.intend(intent("b", 1)).await.unwrap();
        assert_eq!(a.intend(intent("a", 1)).await.unwrap(), Intended::Overtaken);
        assert_eq!(a.intend(intent("a", 2)).await.unwrap(), Intended::Written);
    }
}
