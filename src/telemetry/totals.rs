//! The sums of what is counted, for whoever asks a node how it does at this moment.

use prometheus::Histogram;
use prometheus::IntCounterVec;
use prometheus::core::Collector as _;
use serde::Deserialize;
use serde::Serialize;

use crate::telemetry::Metrics;

/// What only grows while a process lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Events handed to streams.
    pub sent: u64,
    /// Updates and events that were appended to the log by this node.
    pub appended: u64,
    /// Input that was dropped.
    pub rejected: u64,
    /// Streams that were opened.
    pub opened: u64,
    /// Requests for streams that were refused.
    pub refused: u64,
    /// Streams that ended.
    pub ended: u64,
    /// Those of them that were too slow.
    pub slow: u64,
    /// Progress that lagging clients were spared.
    pub conflated: u64,
    /// Events that were written just after they were accepted, and how long that took together, in seconds.
    pub delivered: u64,
    /// See `delivered`.
    pub delivery_seconds: f64,
    /// `PUBLISH`es that came into the log, and how long that took together, in seconds.
    pub ingested: u64,
    /// See `ingested`.
    pub ingest_seconds: f64,
}

/// The sum of the counters of which this label has this value; of all, without a label.
fn sum(counters: &IntCounterVec, label: Option<(&str, &str)>) -> u64 {
    let metrics = counters.collect().into_iter().flat_map(|mut family| family.take_metric());
    let fits = |metric: &prometheus::proto::Metric| {
        label.is_none_or(|(name, value)| metric.get_label().iter().any(|l| l.name() == name && l.value() == value))
    };
    metrics.filter(fits).map(|metric| whole(metric.get_counter().get_value())).sum()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is a whole number that is not negative"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

fn timed(histogram: &Histogram) -> (u64, f64) {
    (histogram.get_sample_count(), histogram.get_sample_sum())
}

impl Metrics {
    /// The sums as of now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let opened = sum(&self.connections, Some(("status", "accepted")));
        let (delivered, delivery_seconds) = self.message_latency.total();
        let (ingested, ingest_seconds) = timed(&self.ingest_lag);
        Totals {
            sent: sum(&self.messages_sent, None),
            appended: sum(&self.appends, Some(("outcome", "applied"))),
            rejected: sum(&self.rejected, None),
            opened,
            refused: sum(&self.connections, None).saturating_sub(opened),
            ended: sum(&self.ended, None),
            slow: sum(&self.ended, Some(("reason", "slow"))),
            conflated: sum(&self.conflated, None),
            delivered,
            delivery_seconds,
            ingested,
            ingest_seconds,
        }
    }
}

#[test]
fn totals_are_sums_over_the_labels_that_count() {
    let metrics = Metrics::new();
    metrics.connections.with_label_values(&["sse", "accepted"]).inc_by(3);
    metrics.connections.with_label_values(&["ws", "accepted"]).inc();
    metrics.connections.with_label_values(&["ws", "limited"]).inc_by(2);
    metrics.ended.with_label_values(&["slow"]).inc();
    metrics.ended.with_label_values(&["done"]).inc();
    metrics.message_latency.observe(0, std::time::Duration::from_millis(2), 500);
    metrics.message_latency.observe(3, std::time::Duration::from_millis(4), 250);
    let totals = metrics.totals();
    assert_eq!((totals.opened, totals.refused, totals.ended, totals.slow), (4, 2, 2, 1));
    assert_eq!((totals.delivered, totals.delivery_seconds), (750, 2.0));
}
