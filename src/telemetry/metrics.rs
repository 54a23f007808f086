//! Every metric that Tidings has. Labels come from closed sets of our own words, never from input.

use std::ops::Deref;
use std::sync::Arc;

use prometheus::Encoder as _;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;

use crate::telemetry::Latencies;
use crate::telemetry::zeros;

/// The metrics of one app. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<MetricSet>);

impl Deref for Metrics {
    type Target = MetricSet;

    fn deref(&self) -> &MetricSet {
        &self.0
    }
}

/// Every metric by its field. `docs/operations.md` says what each answers.
#[derive(Debug)]
#[expect(missing_docs, reason = "the help text of each metric is its documentation")]
pub struct MetricSet {
    registry: Registry,
    pub connections: IntCounterVec,
    pub active_connections: IntGaugeVec,
    pub sockets: IntGaugeVec,
    pub draining: IntGauge,
    pub ended: IntCounterVec,
    pub subscriptions: IntGauge,
    pub job_updates: IntCounterVec,
    pub messages_sent: IntCounterVec,
    pub message_latency: Latencies,
    pub rejected: IntCounterVec,
    pub conflated: IntCounterVec,
    pub resumes: IntCounterVec,
    pub broker_up: IntGauge,
    pub broker_restarts: IntCounterVec,
    pub ingest_lag: Histogram,
    pub revocation: Histogram,
    pub presence_updates: IntCounter,
    pub cursor_updates: IntCounter,
    pub presence_rooms: IntGauge,
    pub raw_held: IntGauge,
    pub appends: IntCounterVec,
    pub window_entries: IntGauge,
    pub window_bytes: IntGauge,
    pub writeback: IntCounterVec,
    pub store_queries: IntCounterVec,
    pub grants_cached: IntCounterVec,
    pub http_requests: IntCounterVec,
    pub not_ready: IntGaugeVec,
    pub connections_max: IntGauge,
    pub tls_handshakes: IntCounterVec,
    pub tls_reloads: IntCounterVec,
    pub tls_certificate_ends: IntGauge,
    pub spans: IntCounterVec,
    pub inspector_lives: IntGauge,
    pub inspector_forgotten: IntCounterVec,
}

/// Values of the label `channel`, in the order of `event::Kind`.
pub const CHANNEL_KINDS: [&str; 4] = ["jobs", "docs", "presence", "user"];
const LATENCY_BUCKETS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Registers what was made just now; a name that is taken twice is a mistake in this file.
struct Maker(Registry);

impl Maker {
    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("metric options are constants of this file");
        self.0.register(Box::new(collector.clone())).expect("metric names of this file are unique");
        collector
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec())))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set in a registry of its own: two apps of one process don't share any.
    #[must_use]
    pub fn new() -> Self {
        let make = Maker(Registry::new());
        let process = prometheus::process_collector::ProcessCollector::for_self();
        make.0.register(Box::new(process)).expect("a fresh registry has no process metrics");
        Self(Arc::new(zeros::with(MetricSet {
            connections: make.counters(
                "realtime_connections_total",
                "Connections by outcome",
                &["transport", "status"],
            ),
            active_connections: make.gauges("realtime_active_connections", "Open connections", "transport"),
            sockets: make.gauges("realtime_sockets", "Accepted connections", "state"),
            draining: make.gauge("realtime_draining", "Whether this instance was asked to leave"),
            ended: make.counters("realtime_ended_total", "Streams that ended, by reason", &["reason"]),
            subscriptions: make.gauge("realtime_subscriptions", "Subscriptions of open streams"),
            job_updates: make.counters("realtime_job_updates_total", "Applied job updates", &["status"]),
            messages_sent: make.counters(
                "realtime_messages_sent_total",
                "Events handed to streams",
                &["channel", "event"],
            ),
            message_latency: make.add(Latencies::new(
                ("realtime_message_latency_seconds", "From acceptance to write"),
                "channel",
                &CHANNEL_KINDS,
                &LATENCY_BUCKETS,
            )),
            rejected: make.counters(
                "realtime_rejected_total",
                "Input that was dropped, by reason",
                &["source", "reason"],
            ),
            conflated: make.counters("realtime_conflated_total", "Events replaced by a newer one", &["channel"]),
            resumes: make.counters("realtime_resumes_total", "Verdicts on cursors", &["verdict"]),
            broker_up: make.gauge("realtime_broker_up", "Whether the last probe came back"),
            broker_restarts: make.counters("realtime_broker_restarts_total", "Connections made anew", &["part"]),
            ingest_lag: make.histogram("realtime_ingest_lag_seconds", "From hearing an update to having it in the log"),
            revocation: make.histogram(
                "realtime_revocation_seconds",
                "From hearing that rights have changed to taking away what of open streams they allowed",
            ),
            presence_updates: make.counter("realtime_presence_updates_total", "What people said of themselves"),
            cursor_updates: make.counter("realtime_cursor_updates_total", "The same, with a cursor"),
            presence_rooms: make.gauge("realtime_presence_rooms", "Documents at which somebody of this node is"),
            raw_held: make.gauge("realtime_raw_held", "Raw updates heard and not yet seen judged"),
            appends: make.counters("realtime_appends_total", "Appends by outcome", &["source", "outcome"]),
            window_entries: make.gauge("realtime_window_entries", "Log entries in memory"),
            window_bytes: make.gauge("realtime_window_bytes", "Bytes of the log in memory"),
            writeback: make.counters("realtime_writeback_total", "Job states written back, by outcome", &["outcome"]),
            store_queries: make.counters("realtime_store_queries_total", "Database queries", &["query", "outcome"]),
            grants_cached: make.counters("realtime_grants_total", "Permission answers by where from", &["from"]),
            http_requests: make.counters(
                "realtime_http_requests_total",
                "Requests by route and status class",
                &["route", "status"],
            ),
            not_ready: make.gauges("realtime_not_ready", "Why /health/ready would refuse", "reason"),
            connections_max: make.gauge("realtime_max_connections", "Streams that this instance may carry"),
            tls_handshakes: make.counters("realtime_tls_handshakes_total", "TLS handshakes by outcome", &["outcome"]),
            tls_reloads: make.counters("realtime_tls_reloads_total", "Changed certificates by outcome", &["outcome"]),
            tls_certificate_ends: make
                .gauge("realtime_tls_certificate_expiry_timestamp_seconds", "When the certificate in use ends"),
            spans: make.counters("realtime_spans_total", "Spans by what became of them", &["outcome"]),
            inspector_lives: make.gauge("realtime_inspector_lives", "Streams that the inspector remembers"),
            inspector_forgotten: make.counters(
                "realtime_inspector_forgotten_total",
                "Streams that the inspector does not remember, or not any more",
                &["state"],
            ),
            registry: make.0,
        })))
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics can't be encoded");
        }
        text
    }

    /// Counts one dropped input. `source` and `reason` are words of ours.
    pub fn reject(&self, source: &str, reason: &str) {
        self.rejected.with_label_values(&[source, reason]).inc();
    }
}
