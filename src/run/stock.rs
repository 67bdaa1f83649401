//! The listing against the ledger: which objects are read, which wait, and why.

use std::collections::BTreeSet;
use std::time::Duration;

use super::report::{Outcome, Stopped};
use super::{RunError, SourceRun};
use crate::bronze::{self, Listing};
use crate::domain::time::MICROS_PER_DAY;
use crate::domain::{BronzeObject, Records};
use crate::job::{Mode, OnChangedObject};
use crate::ledger::{Claimed, Standing};
use crate::plan::{order, path_date, put_in_order};
use crate::store::ARCHIVED;

impl SourceRun<'_> {
    /// Of objects in an archive class only those matter that are not known: the restored ones are read, the others left alone.
    pub(super) async fn settle_archived(&mut self, mut listing: Listing) -> Result<Listing, RunError> {
        let bronze = &self.settings.engine.bronze;
        let held = self.ledger.held();
        let (wanted, known): (Vec<_>, Vec<_>) = std::mem::take(&mut listing.archived)
            .into_iter()
            .partition(|object| matches!(self.ledger.standing(object, &held), Standing::New | Standing::Changed));
        listing.objects.extend(known);
        if wanted.is_empty() {
            return Ok(listing);
        }
        let settled = bronze::settle_archived(bronze, wanted).await?;
        listing.objects.extend(settled.restored);
        if let Some(first) = settled.left.first() {
            let restore = bronze.restore_command(&first.key);
            self.report.warnings.push(format!("objects in an archive class were left alone; restore them, the first with: {restore}"));
            listing.skipped.insert(ARCHIVED, settled.left.len() as u64);
        }
        listing.archived = settled.left;
        Ok(listing)
    }

    /// Compares the listing with the ledger: the objects to read, in order; `None` where the job says to stop.
    pub(super) fn take_stock(&mut self, listing: Listing) -> Option<Vec<BronzeObject>> {
        let held = self.ledger.held();
        let is_snapshot = self.plan.job.is_snapshot();
        let files = &mut self.report.files;
        files.skipped = listing.skipped();
        files.listed = listing.objects.len() as u64 + listing.known + files.skipped;
        files.known = listing.known;
        let (mut new, mut known) = (Vec::new(), Vec::new());
        let mut changed = None;
        let (mut held_elsewhere, mut held_days) = (0, BTreeSet::new());
        for object in listing.objects {
            match self.ledger.standing(&object, &held) {
                Standing::New => new.push(object),
                Standing::Known => {
                    files.known += 1;
                    if is_snapshot {
                        known.push(object);
                    }
                }
                Standing::Held { .. } => {
                    held_elsewhere += 1;
                    held_days.insert(order::extent(&object));
                }
                Standing::Changed => match self.plan.job.on_changed_object {
                    OnChangedObject::Reread => new.push(object),
                    OnChangedObject::Ignore => {
                        files.known += 1;
                        if is_snapshot {
                            known.push(object);
                        }
                    }
                    OnChangedObject::Stop => changed = changed.or(Some(object.key.clone())),
                },
            }
        }
        files.new = files.listed - files.known - files.skipped;
        self.report.held = held_elsewhere;
        self.report.skipped = listing.skipped;
        if let Some(key) = changed {
            let reason = format!("{key} has other content than when it was read (on_changed_object: stop)");
            self.report.outcome = Outcome::Stopped;
            self.report.exit = 3;
            self.report.stopped = Some(Stopped { reason, batch: None, records: Records::default(), rejects: Vec::new() });
            return None;
        }
        if let Mode::Snapshot { settle_after } = self.plan.job.mode {
            // A day of which another run has an object is that run's, or is read again when it has ended.
            let all = new.len();
            new.retain(|object| !held_days.contains(&order::extent(object)));
            self.report.held += (all - new.len()) as u64;
            // One that has an archived object waits until that is restored.
            let all = new.len() as u64;
            let archived: BTreeSet<String> = listing.archived.iter().map(order::extent).collect();
            new.retain(|object| !archived.contains(&order::extent(object)));
            let waiting = all - new.len() as u64;
            if waiting > 0 {
                self.report.skipped.insert("day_with_archived_objects", waiting);
                self.report.files.skipped += waiting;
                self.report.files.new -= waiting;
            }
            new = self.whole_days(new, known, settle_after);
        }
        put_in_order(&mut new);
        Some(new)
    }

    /// Snapshots are read by whole path days, and only when a day is over: objects of a day that is not are left for later, and a
    /// day that got another object is read again with all of its objects, unless a later day is the table's content.
    fn whole_days(&mut self, new: Vec<BronzeObject>, known: Vec<BronzeObject>, settle_after: Duration) -> Vec<BronzeObject> {
        let files = &mut self.report.files;
        let settled_at = |object: &BronzeObject| path_date(&object.path).map(|day| (i64::from(day) + 1) * MICROS_PER_DAY);
        let bound = chrono::Utc::now().timestamp_micros() - settle_after.as_micros() as i64;
        let (mut settled, unsettled): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|object| settled_at(object).is_none_or(|at| at <= bound));
        let waiting = unsettled.len() as u64;
        if waiting > 0 {
            self.report.skipped.insert("day_not_settled", waiting);
            files.skipped += waiting;
            files.new -= waiting;
        }
        let current = self.ledger.newest_extent();
        let days: BTreeSet<String> = settled.iter().map(order::extent).filter(|day| current.is_none_or(|current| day >= current)).collect();
        let again: Vec<BronzeObject> = known.into_iter().filter(|object| days.contains(&order::extent(object))).collect();
        files.known -= again.len() as u64;
        files.new += again.len() as u64;
        settled.extend(again);
        settled
    }

    /// Whether `objects` are all that the ledger knows of their path day; another run may have committed more of it since they were
    /// listed. A day before the newest one changes no row and need not be whole.
    pub fn is_whole_day(&self, objects: &[BronzeObject]) -> bool {
        let Some(day) = objects.first().filter(|_| self.plan.job.is_snapshot()).map(order::extent) else { return true };
        if self.ledger.newest_extent().is_some_and(|newest| day < *newest) {
            return true;
        }
        let ours: BTreeSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        let mut others = self.ledger.objects().filter(|known| !ours.contains(known.key.as_str()));
        !others.any(|known| bronze::extent_of(&known.key) == day)
    }

    /// Objects that were new when listed and that other runs took since.
    pub(super) fn note_others(&mut self, claimed: &Claimed) {
        self.report.held += claimed.held;
        self.report.files.known += claimed.known;
        self.report.files.new -= claimed.known;
    }

    /// What is left because another run holds it is not done: exit 4.
    pub(super) fn note_held(&mut self) {
        if self.report.held == 0 {
            return;
        }
        let holders: Vec<String> =
            self.ledger.open_claims().map(|claim| format!("{} since {}", claim.run, claim.at.format("%F %TZ"))).collect();
        let reason = format!("{} new objects are held by another run ({})", self.report.held, holders.join(", "));
        self.report.exit = 4;
        if self.report.outcome == Outcome::NothingToDo {
            self.report.outcome = Outcome::Stopped;
        }
        self.report.stopped = Some(Stopped { reason, batch: None, records: Records::default(), rejects: Vec::new() });
    }
}
