//! The delivery of an event that is part of a trace: one span for all streams of this node.
//!
//! It follows its event to each lane. A lane that comes to it has written the event, so the last one to let go of it ends the span.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::clock;
use crate::event::Channel;
use crate::event::Entry;
use crate::event::LogId;
use crate::event::Trace;
use crate::hub::Hub;
use crate::hub::lane::Lane;
use crate::hub::message::LaneMessage;
use crate::hub::wire::Port;
use crate::spans::Span;
use crate::spans::Spans;
use crate::spans::Value;
use crate::spans::new_id;

/// Deliveries of one turn that get a span at most; a publisher that samples everything must not slow everybody down.
const TRACED_MAX: usize = 256;

/// An event that is being delivered.
#[derive(Debug)]
pub(super) struct Delivery {
    spans: Spans,
    trace: Trace,
    channel: Channel,
    at: LogId,
    accepted_us: u64,
    begun_us: u64,
    streams: AtomicUsize,
}

impl Delivery {
    fn of(entry: &Entry, spans: &Spans, begun_us: u64) -> Option<Arc<Self>> {
        let (trace, event) = (**entry.trace.as_ref()?, entry.event.as_ref()?);
        let (spans, channel, streams) = (spans.clone(), event.channel.clone(), AtomicUsize::new(0));
        let (at, accepted_us) = (entry.id, event.accepted_us);
        Some(Arc::new(Self { spans, trace, channel, at, accepted_us, begun_us, streams }))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let now = clock::now_us();
        let lag_us = now.saturating_sub(self.accepted_us);
        tracing::debug!(trace.id = %self.trace.name(), channel = %self.channel, lag_us, "delivered");
        self.spans.send(Span {
            trace: self.trace,
            id: new_id(),
            name: "deliver",
            begun_us: self.begun_us,
            ended_us: now,
            attributes: vec![
                ("tidings.channel", Value::Text(self.channel.to_string())),
                ("tidings.position", Value::Text(self.at.to_string())),
                ("tidings.streams", Value::Number(self.streams.load(Ordering::Relaxed) as u64)),
                ("tidings.lag_us", Value::Number(lag_us)),
            ],
            failed: false,
        });
    }
}

impl Hub {
    /// Sends those of these entries after them that are part of a trace, if anybody wants to know.
    pub(super) async fn trace(&self, entries: &[Arc<Entry>]) {
        if !self.spans.is_on() {
            return;
        }
        let now = clock::now_us();
        let traced = entries.iter().filter_map(|entry| Delivery::of(entry, &self.spans, now));
        let traced: Arc<[Arc<Delivery>]> = traced.take(TRACED_MAX).collect();
        if !traced.is_empty() {
            self.to_all(|| LaneMessage::Traced(Arc::clone(&traced))).await;
        }
    }
}

impl<P: Port> Lane<P> {
    /// These have been written.
    pub(super) fn traced(&self, deliveries: &[Arc<Delivery>]) {
        for delivery in deliveries {
            let streams = self.registry.subscribers(&delivery.channel).map_or(0, |(_, streams)| streams.len());
            delivery.streams.fetch_add(streams, Ordering::Relaxed);
        }
    }
}
