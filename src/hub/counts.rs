//! What a lane counts. Everything is found once and told per batch: at a hundred thousand deliveries a second, a look-up by
//! label for each would be a tenth of the work.

use prometheus::IntCounter;
use prometheus::local::LocalHistogram;

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
    latency: [LocalHistogram; Kind::ALL.len()],
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let latency = Kind::ALL.map(|kind| metrics.message_latency.with_label_values(&[kind.as_str()]).local());
        Self { metrics: metrics.clone(), sent: Vec::new(), latency }
    }

    /// Frames that were written or queued just now, and for how many.
    pub(super) fn sent<'a>(&mut self, frames: impl Iterator<Item = (&'a Frame, usize)>) {
        let now = clock::now_us();
        let mut late = false;
        for (frame, count) in frames {
            self.counter(frame.labels()).inc_by(count as u64);
            if frame.accepted_us() == 0 {
                continue;
            }
            let seconds = std::time::Duration::from_micros(now.saturating_sub(frame.accepted_us())).as_secs_f64();
            let kind = frame.channel().map_or(Kind::Jobs, Channel::kind);
            if let Some(latency) = self.latency.get(kind as usize) {
                (0..count).for_each(|_| latency.observe(seconds));
                late = true;
            }
        }
        if late {
            self.latency.iter().for_each(LocalHistogram::flush);
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

    pub(super) fn subscribed(&self, channels: usize) {
        self.metrics.subscriptions.add(i64::try_from(channels).unwrap_or(0));
    }

    pub(super) fn unsubscribed(&self, channels: usize) {
        self.metrics.subscriptions.sub(i64::try_from(channels).unwrap_or(0));
    }
}
