//! `GET /health/detailed` on the metrics port: everything that an operator would have to look for in the metrics, at once.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use crate::clock;
use crate::http::AppState;
use crate::http::answer;
use crate::http::health::Check;
use crate::inspect::LaneView;
use crate::inspect::LogView;
use crate::session::Remembered;
use crate::session::Transport;

/// How long a dependency may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detailed {
    status: &'static str,
    node: String,
    version: &'static str,
    timestamp: String,
    uptime_seconds: u64,
    draining: bool,
    checks: Vec<Check>,
    /// Instances that hear each other.
    nodes: usize,
    /// What this instance publishes comes back to it.
    hears_itself: bool,
    log: LogView,
    streams: Streams,
    streams_max: usize,
    lanes: Vec<LaneView>,
    /// `PUBLISH`es that wait to be judged.
    raw_held: i64,
    /// Changes in the database are announced to this instance.
    announced: bool,
    presence_rooms: i64,
    remembered: Remembered,
    inspector: bool,
}

#[derive(Debug, Serialize)]
struct Streams {
    sse: i64,
    ws: i64,
    poll: i64,
}

/// A question to a dependency, and how long it took.
async fn timed<T, E>(name: &'static str, question: impl Future<Output = Result<T, E>>) -> Check {
    let begun = Instant::now();
    let outcome = tokio::time::timeout(PATIENCE, question).await;
    let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let error = match outcome {
        Ok(Ok(_)) => None,
        Ok(Err(_)) => Some("unreachable"),
        Err(_) => Some("timeout"),
    };
    Check { name, status: if error.is_none() { "healthy" } else { "unhealthy" }, latency_ms, error }
}

/// 200 while the process serves.
pub(super) async fn detailed(State(shared): State<AppState>) -> Response<Body> {
    let sessions = &shared.sessions;
    let head = sessions.hub.window().head();
    let (broker, database, (lanes, _)) = tokio::join!(
        timed(sessions.broker.kind(), sessions.broker.locate(&head)),
        timed(sessions.store.kind(), sessions.store.ping()),
        sessions.hub.survey(&[]),
    );
    let active =
        |transport: Transport| shared.metrics.active_connections.with_label_values(&[transport.as_str()]).get();
    let hears_itself = sessions.broker.is_ready() && sessions.hub.window().generation() > 0;
    let checks = vec![broker, database];
    let healthy = checks.iter().all(|check| check.error.is_none()) && lanes.iter().all(|lane| lane.answers);
    let detailed = Detailed {
        status: if healthy && hears_itself && !shared.is_leaving() { "healthy" } else { "degraded" },
        node: sessions.node(),
        version: env!("CARGO_PKG_VERSION"),
        timestamp: clock::rfc3339(clock::now_us()),
        uptime_seconds: shared.started.elapsed().as_secs(),
        draining: shared.is_leaving(),
        checks,
        nodes: shared.members.count(),
        hears_itself,
        log: sessions.log_view(),
        streams: Streams { sse: active(Transport::Sse), ws: active(Transport::Ws), poll: active(Transport::Poll) },
        streams_max: shared.config.max_connections,
        lanes,
        raw_held: shared.metrics.raw_held.get(),
        announced: sessions.authorizer.changes().are_announced(),
        presence_rooms: shared.metrics.presence_rooms.get(),
        remembered: sessions.memory(),
        inspector: sessions.inspector().is_on(),
    };
    answer::json(StatusCode::OK, serde_json::to_string(&detailed).unwrap_or_default())
}
