//! What a lane counts. Everything is found once and told per batch: at a hundred thousand deliveries a second, a look-up by
//! label for each would be a tenth of the work.

use std::time::Duration;

use prometheus::IntCounter;

use crate::clock;
use crate::event::Channel;
use crate::event::Kind;
use crate::hub::Frame;
use crate::hub::outbox::Pushes;
use crate::telemetry::Metrics;

type Labels = (&'static str, &'static str);

/// The metrics of one lane.
#[derive(Debug)]
pub(super) struct Counts {
    metrics: Metrics,
    /// Few: kinds times the names of the protocol.
    sent: Vec<(Labels, IntCounter)>,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { metrics: metrics.clone(), sent: Vec::new() }
    }

    /// Frames that were written or queued just now, and for how many.
    pub(super) fn sent<'a>(&mut self, frames: impl Iterator<Item = (&'a Frame, usize)>) {
        let now = clock::now_us();
        for (frame, count) in frames {
            let count = count as u64;
            self.counter(frame.labels()).inc_by(count);
            if frame.accepted_us() > 0 {
                let kind = frame.channel().map_or(Kind::Jobs, Channel::kind);
                let latency = Duration::from_micros(now.saturating_sub(frame.accepted_us()));
                self.metrics.message_latency.observe(kind as usize, latency, count);
            }
        }
    }

    fn counter(&mut self, labels: Labels) -> &IntCounter {
        let known = self.sent.iter().position(|(of, _)| *of == labels);
        let at = known.unwrap_or_else(|| {
            let counter = self.metrics.messages_sent.with_label_values(&[labels.0, labels.1]);
            self.sent.push((labels, counter));
            self.sent.len() - 1
        });
        &self.sent.get(at).expect("it was found or added just now").1
    }

    pub(super) fn pushes(&self, pushes: &Pushes) {
        for (kind, count) in Kind::ALL.iter().zip(pushes.conflated).filter(|(_, count)| *count > 0) {
            self.metrics.conflated.with_label_values(&[kind.as_str()]).inc_by(count as u64);
        }
        for _ in 0..pushes.dropped {
            self.metrics.reject("outbox", "ephemeral");
        }
    }

    /// States that were given again to streams that had lagged.
    pub(super) fn restated(&self, states: usize) {
        self.metrics.conflated.with_label_values(&[Kind::Presence.as_str()]).inc_by(states as u64);
    }

    pub(super) fn subscribed(&self, channels: usize) {
        self.metrics.subscriptions.add(i64::try_from(channels).unwrap_or(0));
    }

    pub(super) fn unsubscribed(&self, channels: usize) {
        self.metrics.subscriptions.sub(i64::try_from(channels).unwrap_or(0));
    }
}
