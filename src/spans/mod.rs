//! Spans of events that somebody records: from being accepted to being written, sent to an OpenTelemetry collector.
//!
//! An event whose publisher does not sample its trace costs a look at a pointer. Of one that does, each instance makes a few spans,
//! however many streams there are. What can't be sent is dropped and counted; nobody ever waits for a collector.

mod export;
mod otlp;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config::Config;
use crate::event::Channel;
use crate::event::Trace;
use crate::telemetry::Metrics;

/// Spans that wait to be sent at most; what comes beyond that is dropped.
const WAITING_MAX: usize = 4096;

/// Where spans go, if they go anywhere. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    waiting: mpsc::Sender<Span>,
    metrics: Metrics,
}

/// A part of a trace that is over.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace, and the span that caused this one.
    pub trace: Trace,
    /// Its own id.
    pub id: u64,
    /// What was done; a word of ours.
    pub name: &'static str,
    /// Microseconds since the Unix epoch.
    pub begun_us: u64,
    /// Microseconds since the Unix epoch.
    pub ended_us: u64,
    /// More about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// It went wrong.
    pub failed: bool,
}

/// What is known of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
}

/// Something that is being taken in, of a trace that is recorded.
#[derive(Debug)]
pub struct Ingesting {
    spans: Spans,
    /// As the publisher said it.
    trace: Trace,
    own: u64,
    append: u64,
    source: &'static str,
    channel: Channel,
    accepted_us: u64,
    append_begun_us: u64,
}

/// A new id; never zero.
#[must_use]
pub fn new_id() -> u64 {
    fastrand::u64(1..)
}

impl Spans {
    /// Sends to the endpoint of the settings until `stop`, and what waits then within a bound; without one, nothing happens.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn start(
        config: &Config,
        node: String,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        if config.otlp_endpoint.is_empty() {
            return Ok(Self::default());
        }
        let (waiting, spans) = mpsc::channel(WAITING_MAX);
        let exporter = export::Exporter::new(config, node, metrics)?;
        tasks.spawn(exporter.run(spans, stop.clone()));
        Ok(Self(Some(Arc::new(Line { waiting, metrics: metrics.clone() }))))
    }

    /// Whether spans go anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span is over.
    pub fn send(&self, span: Span) {
        let Some(line) = &self.0 else { return };
        if line.waiting.try_send(span).is_err() {
            line.metrics.spans.with_label_values(&["dropped"]).inc();
        }
    }

    /// Something of a trace is being taken in, if it is of one and spans go anywhere.
    #[must_use]
    pub fn ingest(
        &self,
        trace: Option<&Trace>,
        source: &'static str,
        channel: impl FnOnce() -> Channel,
        accepted_us: u64,
    ) -> Option<Ingesting> {
        let trace = *trace.filter(|_| self.is_on())?;
        Some(Ingesting {
            spans: self.clone(),
            trace,
            own: new_id(),
            append: new_id(),
            source,
            channel: channel(),
            accepted_us,
            append_begun_us: clock::now_us(),
        })
    }
}

impl Ingesting {
    /// What the entry in the log carries: whoever delivers it goes on from the append.
    #[must_use]
    pub fn carried(&self) -> Trace {
        self.trace.below(self.append)
    }

    /// What became of it: a word of ours; and whether that is a failure.
    pub fn end(self, outcome: &'static str, failed: bool) {
        let now = clock::now_us();
        let Self { spans, trace, own, append, source, channel, accepted_us, append_begun_us } = self;
        tracing::debug!(trace.id = %trace.name(), %channel, source, outcome, "taken in");
        let attributes = || {
            let channel = ("tidings.channel", Value::Text(channel.to_string()));
            vec![channel, ("tidings.outcome", Value::Text(outcome.to_owned()))]
        };
        let mut all = attributes();
        all.push(("tidings.source", Value::Text(source.to_owned())));
        let ingest =
            Span { trace, id: own, name: "ingest", begun_us: accepted_us, ended_us: now, attributes: all, failed };
        let below = trace.below(own);
        let append = Span {
            trace: below,
            id: append,
            name: "append",
            begun_us: append_begun_us,
            ended_us: now,
            attributes: attributes(),
            failed,
        };
        spans.send(append);
        spans.send(ingest);
    }
}
