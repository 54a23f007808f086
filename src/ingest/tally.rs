//! Outcomes of appends, counted together: asking a metric for its labels costs more than counting.

use crate::broker::JobOutcome;
use crate::telemetry::Metrics;

/// What a batch came to. Counted when it is dropped.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    metrics: &'a Metrics,
    source: &'static str,
    outcomes: Counts,
    statuses: Counts,
}

/// A few words with their counts; there are never more than a dozen.
#[derive(Debug, Default)]
struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    fn add(&mut self, word: &'static str) {
        match self.0.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => self.0.push((word, 1)),
        }
    }
}

impl<'a> Tally<'a> {
    pub(super) fn new(metrics: &'a Metrics, source: &'static str) -> Self {
        Self { metrics, source, outcomes: Counts::default(), statuses: Counts::default() }
    }

    /// Counts one; `None`: the append failed.
    pub(super) fn count(&mut self, outcome: Option<&JobOutcome>, status: &str) {
        self.outcomes.add(match outcome {
            Some(JobOutcome::Applied(_)) => {
                self.statuses.add(known_status(status));
                "applied"
            }
            Some(JobOutcome::Rejected(reject)) => {
                self.metrics.reject(self.source, reject.as_str());
                "rejected"
            }
            Some(JobOutcome::Unknown) => "unknown",
            Some(JobOutcome::Behind(_)) => "behind",
            Some(JobOutcome::Done) => "done",
            None => "failed",
        });
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        for (word, count) in &self.outcomes.0 {
            self.metrics.appends.with_label_values(&[self.source, word]).inc_by(*count);
        }
        for (status, count) in &self.statuses.0 {
            self.metrics.job_updates.with_label_values(&[status]).inc_by(*count);
        }
    }
}

/// A metric label: workers invent statuses, labels must stay few.
fn known_status(status: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "queued",
        "pending",
        "running",
        "processing",
        "retrying",
        "completed",
        "succeeded",
        "failed",
        "cancelled",
        "canceled",
        "timed_out",
        "paused",
    ];
    KNOWN.into_iter().find(|known| *known == status).unwrap_or("other")
}
