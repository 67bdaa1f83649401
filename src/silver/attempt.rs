//! Commits of maintenance: put create-only, and whatever the put said, the log decides.
//!
//! A put that failed may still be under way and land later. So as long as its version is free the very same bytes are put again, and
//! nothing else: only when the version is taken is it known whose it is, and what may be removed.

use delta_kernel::snapshot::SnapshotRef;
use serde_json::Value;

use super::commit::TRIES;
use super::{GUARDED, SilverError, Table};
use crate::ledger::LedgerError;
use crate::ledger::maintenance::{APP_ID, TableLease};

pub(super) struct Attempt {
    version: u64,
    id: String,
    actions: Vec<Value>,
    unanswered: bool,
    failures: u32,
}

impl Attempt {
    /// `actions` are given the attempt's id, which tells it from all others.
    pub(super) fn after(now: &SnapshotRef, actions: impl FnOnce(&str) -> Vec<Value>) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        Self { version: now.version() + 1, actions: actions(&id), id, unanswered: false, failures: 0 }
    }
}

impl Table {
    /// The version that an attempt became; `attempt` is taken where another commit has its version.
    pub(super) async fn settled(&self, attempt: &mut Option<Attempt>, now: &SnapshotRef) -> Result<Option<u64>, SilverError> {
        let Some(tried) = attempt.as_ref().filter(|tried| tried.version <= now.version()) else { return Ok(None) };
        let ours = tried.unanswered && self.is_attempt(tried.version, &tried.id).await?;
        let version = tried.version;
        *attempt = None;
        Ok(ours.then_some(version))
    }

    /// `Some` where it became the table's next version.
    pub(super) async fn put_attempt(&self, attempt: &mut Attempt) -> Result<Option<u64>, SilverError> {
        match self.put_version(attempt.version, &attempt.actions).await {
            Ok(true) => Ok(Some(attempt.version)),
            // The store was asked what is there: another commit.
            Ok(false) => {
                attempt.unanswered = false;
                Ok(None)
            }
            Err(error) if attempt.failures == TRIES || matches!(&error, SilverError::Store(error) if error.is_users()) => Err(error),
            Err(_) => {
                attempt.failures += 1;
                attempt.unanswered = true;
                Ok(None)
            }
        }
    }

    /// Whether a version is the commit of this very attempt.
    async fn is_attempt(&self, version: u64, id: &str) -> Result<bool, SilverError> {
        let bytes = self.store.get(&format!("_delta_log/{version:020}.json")).await?;
        Ok(bytes.is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(id)))
    }

    /// Nobody has taken the table over: neither in the log nor by a later token.
    pub(super) async fn still_ours(&self, now: &SnapshotRef, lease: &TableLease) -> Result<bool, SilverError> {
        if !GUARDED {
            return Ok(true);
        }
        if self.intent_at(now, APP_ID).await? > lease.token as i64 {
            return Ok(false);
        }
        match lease.stands().await {
            Ok(stands) => Ok(stands),
            Err(LedgerError::Store(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn fenced(&self, lease: &TableLease) -> SilverError {
        SilverError::Fenced { table: self.name.clone(), token: lease.token }
    }
}
