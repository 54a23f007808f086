//! What probes and operators ask.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::header;
use serde::Serialize;
use tokio::time::Instant;

use crate::clock;
use crate::http::AppState;
use crate::http::answer;
use crate::session::Transport;

/// Why an instance that is not leaving may be not ready.
const REASONS: [&str; 2] = ["starting", "broker"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: &'static str,
    pub(super) latency_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: &'static str,
    checks: Vec<Check>,
    timestamp: String,
    uptime_seconds: u64,
    version: &'static str,
    connections: usize,
}

async fn checks(shared: &AppState) -> Vec<Check> {
    let broker = shared.sessions.broker.is_ready() && shared.sessions.hub.window().generation() > 0;
    let begun = Instant::now();
    let database = shared.sessions.store.ping().await.is_ok();
    let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let check = |name, good, latency_ms| Check {
        name,
        status: if good { "healthy" } else { "unhealthy" },
        latency_ms,
        error: (!good).then_some("unreachable"),
    };
    vec![check(shared.sessions.broker.kind(), broker, 0), check(shared.sessions.store.kind(), database, latency_ms)]
}

/// 200 while the process serves; `degraded` when a dependency is away.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "healthy or degraded, with a check for each dependency")))]
pub(super) async fn health(State(shared): State<AppState>) -> Response<Body> {
    let checks = checks(&shared).await;
    let healthy = checks.iter().all(|check| check.status == "healthy") && !shared.is_leaving();
    let health = Health {
        status: if healthy { "healthy" } else { "degraded" },
        checks,
        timestamp: clock::rfc3339(clock::now_us()),
        uptime_seconds: shared.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION"),
        connections: shared.sessions.lives.count(),
    };
    answer::json(StatusCode::OK, serde_json::to_string(&health).unwrap_or_default())
}

/// The process itself; a dependency that is away must not restart it.
#[utoipa::path(get, path = "/health/live", responses((status = 200, description = "The process lives")))]
pub(super) async fn live() -> Response<Body> {
    answer::json(StatusCode::OK, "{\"status\":\"live\"}".to_owned())
}

/// Why this instance is not ready: `draining`, or one of `REASONS`.
fn not_ready(shared: &AppState) -> Option<&'static str> {
    if shared.is_leaving() {
        Some("draining")
    } else if shared.sessions.hub.window().generation() == 0 {
        Some("starting")
    } else if !shared.sessions.broker.is_ready() {
        Some("broker")
    } else {
        None
    }
}

/// Whether this instance can accept, read and append right now.
#[utoipa::path(get, path = "/health/ready", responses((status = 200, description = "Ready"), (status = 503, description = "Not ready, and why")))]
pub(super) async fn ready(State(shared): State<AppState>) -> Response<Body> {
    match not_ready(&shared) {
        None => answer::json(StatusCode::OK, "{\"status\":\"ready\"}".to_owned()),
        Some(reason) => {
            let body = format!("{{\"status\":\"not_ready\",\"reason\":\"{reason}\"}}");
            answer::json(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: &'static str,
    version: &'static str,
    protocol: u32,
    transports: [&'static str; 3],
    broker: &'static str,
    database: &'static str,
    writes_back: bool,
    nodes: usize,
    uptime_seconds: u64,
}

/// What this instance is made of.
#[utoipa::path(get, path = "/info", responses((status = 200, description = "Name, version, parts")))]
pub(super) async fn info(State(shared): State<AppState>) -> Response<Body> {
    let info = Info {
        name: "tidings",
        version: env!("CARGO_PKG_VERSION"),
        protocol: 1,
        transports: Transport::ALL.map(Transport::as_str),
        broker: shared.sessions.broker.kind(),
        database: shared.sessions.store.kind(),
        writes_back: shared.config.job_writeback && shared.sessions.store.can_write_back(),
        nodes: shared.members.count(),
        uptime_seconds: shared.started.elapsed().as_secs(),
    };
    answer::json(StatusCode::OK, serde_json::to_string(&info).unwrap_or_default())
}

/// The Prometheus text format.
pub(super) async fn metrics(State(shared): State<AppState>) -> Response<Body> {
    let why = not_ready(&shared);
    for reason in REASONS {
        shared.metrics.not_ready.with_label_values(&[reason]).set(i64::from(why == Some(reason)));
    }
    let sockets = shared.connections.sockets();
    for (state, count) in [("silent", sockets.silent), ("idle", sockets.idle), ("busy", sockets.busy)] {
        shared.metrics.sockets.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    shared.metrics.draining.set(i64::from(shared.is_leaving()));
    let mut response = Response::new(Body::from(shared.metrics.render()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
