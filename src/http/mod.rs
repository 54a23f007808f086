//! Routes, the order of the layers around them, and the listeners.

mod answer;
mod caller;
mod certificate;
mod commands;
mod detailed;
mod events;
mod guard;
mod health;
mod http2;
mod ingest;
mod inspect;
mod listener;
mod observe;
mod openapi;
mod poll;
mod presence;
mod service;
mod socket;
mod streams;
mod takeover;
mod tickets;
mod tls;
mod ws;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Method;
use axum::http::header;
use axum::middleware;
use axum::routing::get;
use axum::routing::patch;
use axum::routing::post;
use bytes::Bytes;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::AllowOrigin;
use tower_http::cors::CorsLayer;

pub use answer::file;
pub use answer::json;
pub use certificate::CertificateError;
pub use listener::ListenerLimits;
pub use listener::Signals;
pub use listener::bind;
pub use listener::serve;
pub use openapi::text as openapi;
pub use tls::Loaded;
pub use tls::Tls;
pub use ws::open_with as open_websocket;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::ingest::Ingest;
use crate::ingest::Members;
use crate::limits::Admission;
use crate::limits::Connections;
use crate::limits::RateLimits;
use crate::session::Sessions;
use crate::telemetry::Metrics;

/// What handlers share.
#[derive(Debug)]
pub struct Shared {
    /// Streams.
    pub sessions: Arc<Sessions>,
    /// The way into the log.
    pub ingest: Ingest,
    /// Who is asking.
    pub authenticator: Authenticator,
    /// How much somebody may ask for at a time.
    pub limits: RateLimits,
    /// How many connections there may be.
    pub connections: Connections,
    /// How fast new streams are let in.
    pub admission: Admission,
    /// Which nodes are alive.
    pub members: Members,
    /// Metrics.
    pub metrics: Metrics,
    /// Settings.
    pub config: Config,
    /// Since when the process serves.
    pub started: tokio::time::Instant,
    /// A `Phase`.
    pub phase: AtomicU8,
    /// What `/openapi.json` answers.
    pub document: Bytes,
}

/// Where an instance is in its life; each comes after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// It serves.
    Serving = 0,
    /// It was asked to leave and says so to whoever asks; until balancers have noticed it serves as ever.
    Leaving = 1,
    /// It takes no new streams, and sends away those it has.
    Draining = 2,
}

impl Shared {
    /// Goes on to another phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Whether it should get no new clients.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= Phase::Leaving as u8
    }

    /// Whether it takes no new streams.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= Phase::Draining as u8
    }
}

/// The handle that handlers get.
pub type AppState = Arc<Shared>;

/// The public routes. `extra` are those of `demo`.
pub fn router(shared: &AppState, extra: Router<AppState>) -> Router {
    let guarded = Router::new()
        .route("/v1/events", get(events::open))
        .route("/v1/poll", get(poll::poll))
        .route("/v1/ws", get(ws::open))
        .route("/v1/streams/{id}", patch(streams::patch))
        .route("/v1/presence/{id}", get(presence::list).post(presence::say).delete(presence::leave))
        .route("/v1/jobs/{id}", get(events::job))
        .route("/v1/jobs/{id}/updates", post(ingest::job_update))
        .route("/v1/publish", post(ingest::publish))
        .route("/v1/publish/batch", post(ingest::publish_batch))
        .route("/v1/tickets", post(tickets::issue))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), guard::guard));
    let routes = guarded
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/info", get(health::info))
        .route("/openapi.json", get(openapi::document))
        .merge(extra)
        .fallback(answer::no_route)
        .method_not_allowed_fallback(answer::no_method);
    // Outermost first: CORS is on every answer, also on that of a panic.
    routes
        .layer(CatchPanicLayer::custom(answer::panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), observe::observe))
        .layer(cors(&shared.config))
        .with_state(Arc::clone(shared))
}

/// The routes of the metrics port.
pub fn metrics_router(shared: &AppState) -> Router {
    let routes = if shared.config.inspector { inspect::routes() } else { Router::new() };
    routes
        .route("/metrics", get(health::metrics))
        .route("/health/detailed", get(detailed::detailed))
        .fallback(answer::no_route)
        .method_not_allowed_fallback(answer::no_method)
        .with_state(Arc::clone(shared))
}

/// Exact origins only, with credentials; never `*`, never a reflection.
fn cors(config: &Config) -> CorsLayer {
    let origins: Vec<HeaderValue> = config.cors_origins.iter().filter_map(|o| o.parse().ok()).collect();
    let named = |name: &'static str| HeaderName::from_static(name);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::CACHE_CONTROL,
            named("last-event-id"),
            named("x-tidings-client"),
            named("x-request-id"),
        ])
        .expose_headers([header::RETRY_AFTER, named("x-request-id")])
        .max_age(Duration::from_secs(600))
}
