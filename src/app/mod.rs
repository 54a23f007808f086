//! The composition root: builds the parts, starts their tasks, and ends them in order.

mod line;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::auth::Authorizer;
use crate::auth::Directory;
use crate::auth::TokenVerifier;
use crate::broker::Broker;
use crate::broker::BrokerError;
use crate::broker::MemoryBroker;
use crate::broker::RedisBroker;
use crate::broker::RedisSettings;
use crate::cache::Cache;
use crate::config::Config;
use crate::event::WindowLimits;
use crate::http;
use crate::http::AppState;
use crate::http::ListenerLimits;
use crate::http::Signals;
use crate::hub::Hub;
use crate::hub::LaneSettings;
use crate::hub::OutboxLimits;
use crate::hub::Window;
use crate::ingest;
use crate::ingest::Ingest;
use crate::ingest::Members;
use crate::jobs::TerminalStatuses;
use crate::session::ROW_AGE_MAX;
use crate::session::Sessions;
use crate::store::Store;
use crate::store::StoreError;
use crate::telemetry::Metrics;

/// Connections beyond the streams: requests, probes, and room to answer that there is no room.
const SPARE_CONNECTIONS: usize = 1000;
/// Streams that ask the log or the database about the past at once.
const CATCHUPS_MAX: usize = 64;
/// States of quiet jobs that are remembered: about 700 bytes each.
const KNOWN_STATES_MAX: usize = 65_536;
/// How long tasks may take to end after they were told to.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Why the app did not start: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are wrong.
    #[error("{0}")]
    Settings(String),
    /// Something that is needed is away.
    #[error("{0}")]
    Unavailable(String),
}

/// A running instance.
#[derive(Debug)]
pub struct App {
    /// What its handlers share.
    pub shared: AppState,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its metrics are, if they are anywhere.
    pub metrics_address: Option<SocketAddr>,
    tasks: TaskTracker,
    /// Connections end with the answer that is under way.
    leave: CancellationToken,
    stop_listening: CancellationToken,
    stop: CancellationToken,
}

/// Sockets that the app takes over.
#[derive(Debug)]
pub struct Listeners {
    /// The public one.
    pub public: TcpListener,
    /// The metrics', if any.
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds the ports of the settings.
    ///
    /// # Errors
    /// A port is taken: which, and what to do.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let listen = |port: u16, name: &str| {
            let address = SocketAddr::new(config.bind, port);
            let say = |error| {
                StartError::Unavailable(format!(
                    "{name}: can't listen on {address}: {error}; choose another port or stop what uses it"
                ))
            };
            http::bind(address).map_err(say)
        };
        let metrics = (config.metrics_port > 0).then(|| listen(config.metrics_port, "METRICS_PORT")).transpose()?;
        Ok(Self { public: listen(config.realtime_port, "REALTIME_PORT")?, metrics })
    }
}

impl App {
    /// Builds and starts everything. `extra` are more public routes.
    ///
    /// # Errors
    /// A setting is wrong or a dependency is away.
    pub async fn start(config: Config, listeners: Listeners, extra: Router<AppState>) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let verifier = TokenVerifier::new(&config).map_err(|error| StartError::Settings(error.to_string()))?;
        let store = Store::open(&config, &metrics).await.map_err(|error| unreachable_store(&error))?;
        let terminal = TerminalStatuses::new(config.terminal_statuses.clone());
        let broker = build_broker(&config, &terminal, &metrics).await?;
        let (tasks, stop, stop_listening) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let window = Window::new(window_limits(&config), config.log_retention);
        let outbox = OutboxLimits { events_max: config.outbox_events_max, bytes_max: config.outbox_bytes_max };
        let lane = LaneSettings { heartbeat: config.heartbeat_interval, outbox };
        let hub = Hub::start(lanes(&config), &lane, window, &metrics, &tasks, &stop)
            .map_err(|error| StartError::Unavailable(format!("can't start: {error}; raise the limit of open files")))?;
        let seeds = ingest::Seeds::default();
        let ingest = Ingest {
            seeds,
            broker: broker.clone(),
            store: store.clone(),
            metrics: metrics.clone(),
            terminal: terminal.clone(),
        };
        let members = Members::new(broker.redis().map_or(1, RedisBroker::node));
        line::start(&config, &hub, &ingest, &members, &tasks, &stop);
        let users = Arc::new(Directory::new(store.clone(), &config));
        let sessions = Arc::new(Sessions {
            hub,
            broker,
            store: store.clone(),
            authorizer: Arc::new(Authorizer::new(store, Arc::clone(&users), &config, &metrics)),
            metrics: metrics.clone(),
            terminal,
            outbox,
            catchups: Semaphore::new(CATCHUPS_MAX),
            known: Cache::new(KNOWN_STATES_MAX, config.log_retention),
            known_rows: Cache::new(KNOWN_STATES_MAX, ROW_AGE_MAX),
            heartbeat_ms: u64::try_from(config.heartbeat_interval.as_millis()).unwrap_or(u64::MAX),
        });
        let authenticator = Authenticator::new(verifier, users, &config, &metrics);
        let shared = Arc::new(http::Shared {
            sessions,
            ingest,
            authenticator,
            members,
            metrics,
            config,
            started: Instant::now(),
            draining: AtomicBool::new(false),
        });
        maintain(&shared, &tasks, &stop);
        Ok(Self::listen(shared, listeners, extra, tasks, stop_listening, stop))
    }

    fn listen(
        shared: AppState,
        listeners: Listeners,
        extra: Router<AppState>,
        tasks: TaskTracker,
        stop_listening: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let limits = ListenerLimits {
            connections_max: shared.config.max_connections + SPARE_CONNECTIONS,
            head_timeout: shared.config.first_byte_timeout,
            takeover: shared.config.sse_takeover,
        };
        let local = |listener: &TcpListener| listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let address = local(&listeners.public);
        let metrics_address = listeners.metrics.as_ref().map(local);
        let public = http::router(&shared, extra);
        let leave = CancellationToken::new();
        let signals = Signals { leave: leave.clone(), stop: stop_listening.clone() };
        let owned = (limits.clone(), shared.metrics.clone(), tasks.clone());
        tasks.spawn(http::serve(listeners.public, public, owned, signals));
        if let Some(listener) = listeners.metrics {
            let router = http::metrics_router(&shared);
            // Metrics stay readable until the very end.
            let signals = Signals { leave: stop.clone(), stop: stop.clone() };
            let owned = (limits, shared.metrics.clone(), tasks.clone());
            tasks.spawn(http::serve(listener, router, owned, signals));
        }
        Self { shared, address, metrics_address, tasks, leave, stop_listening, stop }
    }

    /// Leaves in order: not ready, streams end in their slots, listeners close, the rest stops.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.leave.cancel();
        let within = self.shared.config.drain;
        self.shared.sessions.hub.drain(within * 4 / 5).await;
        let active = self.shared.metrics.active_connections.with_label_values(&["sse"]);
        let deadline = Instant::now() + within;
        while active.get() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop().await;
    }

    /// Stops at once; open streams are told `shutdown`.
    pub async fn stop(&self) {
        self.stop_listening.cancel();
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not end in time");
        }
        self.shared.sessions.store.close().await;
    }

    /// Ends as if the process was killed: no stream is told anything, nothing is flushed. For tests.
    pub fn abandon(self) {
        self.stop_listening.cancel();
        self.stop.cancel();
    }
}

/// Keeps keys fresh and caches small.
fn maintain(shared: &AppState, tasks: &TaskTracker, stop: &CancellationToken) {
    let (keys, sessions) = (Arc::clone(shared), Arc::clone(&shared.sessions));
    let states = async move {
        loop {
            tokio::time::sleep(ROW_AGE_MAX).await;
            sessions.known.prune();
            sessions.known_rows.prune();
        }
    };
    let answers = Arc::clone(&shared.sessions.authorizer);
    let all = async move { tokio::join!(keys.authenticator.maintain(), answers.maintain(), states) };
    let stop = stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(all).await });
}

/// One line for the operator: a setting that is wrong, or something that is away.
pub(crate) fn unreachable_store(error: &StoreError) -> StartError {
    match error {
        StoreError::Settings => StartError::Settings(error.advice()),
        _ => StartError::Unavailable(error.advice()),
    }
}

/// As many as there are cores, where the setting does not say.
fn lanes(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if config.lanes > 0 { config.lanes } else { cores() }
}

fn window_limits(config: &Config) -> WindowLimits {
    WindowLimits { entries_max: config.window_entries_max, bytes_max: config.window_bytes_max }
}

async fn build_broker(config: &Config, terminal: &TerminalStatuses, metrics: &Metrics) -> Result<Broker, StartError> {
    if config.redis_url.expose().is_empty() {
        metrics.broker_up.set(1);
        return Ok(Broker::Memory(MemoryBroker::new(terminal.clone())));
    }
    let settings = RedisSettings {
        url: config.redis_url.clone(),
        prefix: config.redis_prefix.clone(),
        job_updates_channel: config.job_updates_channel.clone(),
        retention: config.log_retention,
        entries_max: config.log_entries_max,
        window: window_limits(config),
    };
    let wrong = |_| StartError::Settings("REDIS_URL: not a URL of Redis; use redis://host:6379".to_owned());
    let broker = RedisBroker::new(settings, terminal.clone(), metrics.clone()).map_err(wrong)?;
    let risks = broker.check().await.map_err(|error| unreachable_redis(&error))?;
    for risk in risks {
        tracing::warn!(code = risk, "this Redis may forget; see docs/operations.md");
    }
    Ok(Broker::Redis(broker))
}

fn unreachable_redis(error: &BrokerError) -> StartError {
    let cause = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
    let line = cause.replace(['\n', '\r'], " ");
    StartError::Unavailable(format!(
        "REDIS_URL: can't use this Redis: {line}; check host, port and password, and that it runs"
    ))
}
