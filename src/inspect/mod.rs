//! What happened to streams: a bounded memory of this node that answers why somebody did not get an event.
//!
//! It knows nothing of single deliveries, of which there may be a hundred thousand a second. Written down are only turning points and
//! exceptions: opened, joined at a position, denied, left at a position, superseded, ended. Everything else follows from positions: an
//! event of a channel that a stream carried, at or before the last position written, was written. Turned off it is one empty pointer.

mod fate;
mod ledger;
mod life;
mod recent;
mod report;
mod summary;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use fate::Standing;
pub use ledger::Ledger;
pub use life::Conflated;
pub use life::Opened;
pub use life::Way;
pub use recent::Note;
pub use recent::Recent;
pub use report::Account;
pub use report::BusyChannel;
pub use report::Explanation;
pub use report::Fate;
pub use report::Finding;
pub use report::Instances;
pub use report::LaneView;
pub use report::LifeView;
pub use report::LogTail;
pub use report::LogView;
pub use report::Logged;
pub use report::Outcome;
pub use report::Overview;
pub use report::Waiting;

use crate::telemetry::Metrics;

/// The ledger, where `INSPECTOR` is on; else nothing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inspector(Option<Arc<Ledger>>);

impl Inspector {
    /// One that remembers, or one that does not.
    #[must_use]
    pub fn new(is_on: bool, metrics: &Metrics) -> Self {
        Self(is_on.then(|| Arc::new(Ledger::new(metrics.clone()))))
    }

    /// Whether anything is remembered.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The memory, if there is one.
    #[must_use]
    pub fn ledger(&self) -> Option<&Ledger> {
        self.0.as_deref()
    }

    /// Writes something down. What it is, is only worked out where somebody wants to know.
    pub fn note(&self, write: impl FnOnce(&Ledger)) {
        if let Some(ledger) = self.0.as_deref() {
            write(ledger);
        }
    }
}
