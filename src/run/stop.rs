//! A run that is asked to end: first no further batch is begun, then the one in hand is given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// What giving up is given, of the time until the run must have ended.
pub const GIVING_UP_TAKES: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// The batch in hand is the last.
    LastBatch,
    /// Time is up.
    GivenUp,
}

/// Shared by whoever hears the signal and whoever does the work.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<Phase>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Running)))
    }
}

impl Stop {
    pub fn after_this_batch(&self) {
        self.raise(Phase::LastBatch);
    }

    pub fn at_once(&self) {
        self.raise(Phase::GivenUp);
    }

    fn raise(&self, to: Phase) {
        self.0.send_modify(|phase| *phase = (*phase).max(to));
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow() > Phase::Running
    }

    /// Returns when time is up, which may be never.
    pub async fn time_is_up(&self) {
        // The sender lives as long as this value, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|phase| *phase == Phase::GivenUp).await;
    }
}
