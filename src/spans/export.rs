//! From the queue to the collector: gathered for a moment, sent as OTLP over HTTP, and forgotten.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::spans::Span;
use crate::spans::otlp;
use crate::telemetry::Metrics;

/// Spans of one request at most.
const BATCH_MAX: usize = 512;
/// For how long spans are gathered.
const GATHERED: Duration = Duration::from_millis(500);
/// How long the collector may take, and how long at the end.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// How often a collector that is away is said in the log; the metrics count each span.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Sends spans to one endpoint.
#[derive(Debug)]
pub(super) struct Exporter {
    http: reqwest::Client,
    url: String,
    about: Vec<(&'static str, String)>,
    metrics: Metrics,
    said: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(config: &Config, node: String, metrics: &Metrics) -> Result<Self, reqwest::Error> {
        let http =
            reqwest::Client::builder().timeout(ANSWER_MAX).redirect(reqwest::redirect::Policy::none()).build()?;
        let about = vec![
            ("service.name", config.otlp_service_name.clone()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", node),
        ];
        // As the OTLP specification has it for a base URL.
        let url = format!("{}/v1/traces", config.otlp_endpoint.trim_end_matches('/'));
        Ok(Self { http, url, about, metrics: metrics.clone(), said: None })
    }

    /// Until `stop`; what waits then is sent within a bound.
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Span>, stop: CancellationToken) {
        while let Some(Some(first)) = stop.run_until_cancelled(waiting.recv()).await {
            let mut spans = vec![first];
            let until = Instant::now() + GATHERED;
            let gathering = async {
                while spans.len() < BATCH_MAX
                    && let Ok(Some(span)) = tokio::time::timeout_at(until, waiting.recv()).await
                {
                    spans.push(span);
                }
            };
            stop.run_until_cancelled(gathering).await;
            if stop.is_cancelled() {
                return self.flush(spans, waiting).await;
            }
            self.send(spans).await;
        }
        self.flush(Vec::new(), waiting).await;
    }

    async fn flush(&mut self, mut spans: Vec<Span>, mut waiting: mpsc::Receiver<Span>) {
        let until = Instant::now() + FLUSH_MAX;
        waiting.close();
        while let Ok(span) = waiting.try_recv() {
            spans.push(span);
        }
        let mut rest = spans.into_iter().peekable();
        while rest.peek().is_some() {
            let batch: Vec<Span> = rest.by_ref().take(BATCH_MAX).collect();
            let count = batch.len() as u64;
            if tokio::time::timeout_at(until, self.send(batch)).await.is_err() {
                self.count("failed", count);
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let body = otlp::request(&self.about, spans);
        let request = self.http.post(&self.url).header("content-type", "application/x-protobuf").body(body);
        match request.send().await.and_then(reqwest::Response::error_for_status) {
            Ok(_) => self.count("exported", count),
            Err(error) => {
                self.count("failed", count);
                self.say(&error.without_url());
            }
        }
    }

    fn count(&self, outcome: &str, spans: u64) {
        self.metrics.spans.with_label_values(&[outcome]).inc_by(spans);
    }

    fn say(&mut self, error: &reqwest::Error) {
        let now = Instant::now();
        if self.said.is_none_or(|said| now > said + SAID_EVERY) {
            self.said = Some(now);
            tracing::warn!(%error, "OTLP_ENDPOINT does not take spans; they are dropped and counted");
        }
    }
}
