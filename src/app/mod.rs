//! The composition root: builds the parts, starts their tasks, and ends them in order.

mod line;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::auth::Authorizer;
use crate::auth::Directory;
use crate::auth::TokenVerifier;
use crate::broker;
use crate::broker::Broker;
use crate::broker::BrokerSetupError;
use crate::broker::RedisBroker;
use crate::config::Config;
use crate::http;
use crate::http::AppState;
use crate::http::ListenerLimits;
use crate::http::Loaded;
use crate::http::Phase;
use crate::http::Signals;
use crate::http::Tls;
use crate::hub::Hub;
use crate::hub::LaneSettings;
use crate::hub::OutboxLimits;
use crate::hub::Window;
use crate::ingest;
use crate::ingest::Ingest;
use crate::ingest::Members;
use crate::inspect::Inspector;
use crate::jobs::TerminalStatuses;
use crate::limits::Admission;
use crate::limits::Connections;
use crate::limits::RateLimits;
use crate::presence::Presence;
use crate::presence::PresenceSettings;
use crate::session::LEEWAY_S;
use crate::session::RoomStates;
use crate::session::Sessions;
use crate::spans::Spans;
use crate::store::Store;
use crate::store::StoreError;
use crate::telemetry::Metrics;
use crate::transport::Workers;
use threads::Threads;

/// Announcements of the database that may wait.
const NOTICES_MAX: usize = 1024;
/// What rooms have to tell that may wait for the lanes.
const TOLD_MAX: usize = 1024;
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

impl From<BrokerSetupError> for StartError {
    fn from(error: BrokerSetupError) -> Self {
        match error {
            BrokerSetupError::Url => Self::Settings(error.to_string()),
            BrokerSetupError::Unreachable(_) => Self::Unavailable(error.to_string()),
        }
    }
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
    /// Of the public port's connections. They end with the app, after everything else was closed.
    _threads: Threads,
    /// Connections end with the answer that is under way.
    leave: CancellationToken,
    halt: CancellationToken,
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
        metrics.connections_max.set(i64::try_from(config.max_connections).unwrap_or(i64::MAX));
        let tls = Tls::load(&config, &metrics).await.map_err(|error| StartError::Settings(error.to_string()))?;
        let verifier = TokenVerifier::new(&config).map_err(|error| StartError::Settings(error.to_string()))?;
        let store = Store::open(&config, &metrics).await.map_err(|error| unreachable_store(&error))?;
        let terminal = TerminalStatuses::new(config.terminal_statuses.clone());
        let broker = Broker::connect(&config, &terminal, &metrics).await?;
        let (tasks, stop, halt) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let window = Window::new(broker::window_limits(&config), config.log_retention);
        let outbox = OutboxLimits {
            events_max: config.outbox_events_max,
            bytes_max: config.outbox_bytes_max,
            told: config.inspector,
        };
        let (told, moves) = mpsc::channel(TOLD_MAX);
        let lasts = PresenceSettings { grace: config.presence_grace, timeout: config.presence_timeout };
        let presence = Presence::new(broker.rosters(config.presence_idle), lasts, told, &metrics, &tasks, &stop);
        let states = Arc::new(RoomStates(presence.clone()));
        let lane = LaneSettings::new(config.heartbeat_interval, Duration::from_secs(LEEWAY_S), outbox, states);
        let inspector = Inspector::new(config.inspector, &metrics);
        let node = broker.redis().map_or(1, RedisBroker::node);
        let spans = Spans::start(&config, format!("{node:016x}"), &metrics, &tasks, &stop)
            .map_err(|error| StartError::Unavailable(format!("OTLP_ENDPOINT: {error}")))?;
        let lane = LaneSettings {
            ping: config.hooks.ping,
            age_max: config.stream_age_max,
            inspector: inspector.clone(),
            spans: spans.clone(),
            ..lane
        };
        let hub = Hub::start(lanes(&config), &lane, window, &metrics, &tasks, &stop)
            .map_err(|error| StartError::Unavailable(format!("can't start: {error}; raise the limit of open files")))?;
        let seeds = ingest::Seeds::default();
        let ingest = Ingest {
            seeds,
            spans,
            inspector,
            broker: broker.clone(),
            store: store.clone(),
            metrics: metrics.clone(),
            terminal: terminal.clone(),
        };
        let members = Members::new(node);
        line::start(&config, &hub, &ingest, &members, &tasks, &stop);
        tasks.spawn(line::tell(moves, hub.clone(), stop.clone()));
        let users = Arc::new(Directory::new(store.clone(), &config));
        let authorizer = Arc::new(Authorizer::new(store.clone(), Arc::clone(&users), &config, &metrics));
        let authenticator = Authenticator::new(verifier, users, broker.tickets(), &config, &metrics);
        let sessions = Arc::new(Sessions::new((hub, broker, store), authorizer, presence, terminal, &config, &metrics));
        let limits = RateLimits::new(&config);
        let (connections, admission) = (Connections::new(&config), Admission::new(config.admission_per_second));
        let shared = Arc::new(http::Shared {
            sessions,
            ingest,
            authenticator,
            limits,
            connections,
            admission,
            members,
            metrics,
            config,
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            document: http::openapi(),
        });
        maintain(&shared, &tasks, &stop);
        let tls = tls.map(|(tls, loaded)| keep_fresh(tls, loaded, &tasks, &stop));
        Self::listen(shared, (listeners, tls), extra, tasks, halt, stop)
    }

    fn listen(
        shared: AppState,
        (listeners, tls): (Listeners, Option<Tls>),
        extra: Router<AppState>,
        tasks: TaskTracker,
        halt: CancellationToken,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let threads = Threads::start()
            .map_err(|error| StartError::Unavailable(format!("can't start: {error}; allow more threads")))?;
        let limits = ListenerLimits {
            connections: shared.connections.clone(),
            head_bytes_max: shared.config.head_bytes_max,
            metrics: shared.metrics.clone(),
            head_timeout: shared.config.first_byte_timeout,
            takeover: shared.config.sse_takeover,
            ping: shared.config.hooks.ping,
            idle: shared.config.hooks.http2_idle,
            tls,
        };
        let local = |listener: &TcpListener| listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let address = local(&listeners.public);
        let metrics_address = listeners.metrics.as_ref().map(local);
        let public = http::router(&shared, extra);
        let leave = CancellationToken::new();
        let signals = Signals { leave: leave.clone(), stop: halt.clone() };
        let workers = Workers::new(tasks.clone(), threads.handle());
        workers.spawn(http::serve(listeners.public, public, (limits.clone(), workers.clone()), signals));
        if let Some(listener) = listeners.metrics {
            let router = http::metrics_router(&shared);
            // Metrics stay readable until the very end.
            let signals = Signals { leave: stop.clone(), stop: stop.clone() };
            // And however many connections the public port has: on other threads, too.
            let limits = ListenerLimits { tls: None, connections: Connections::new(&shared.config), ..limits };
            let workers = Workers::new(tasks.clone(), Handle::current());
            workers.spawn(http::serve(listener, router, (limits, workers.clone()), signals));
        }
        Ok(Self { shared, address, metrics_address, tasks, _threads: threads, leave, halt, stop })
    }

    /// Leaves in order: not ready; after the notice streams end in their slots; listeners close, the rest stops.
    pub async fn drain(&self) {
        let (shared, config) = (&self.shared, &self.shared.config);
        shared.enter(Phase::Leaving);
        tokio::time::sleep(config.drain_notice).await;
        shared.enter(Phase::Draining);
        self.leave.cancel();
        let deadline = Instant::now() + config.drain;
        shared.sessions.hub.drain(self.slots()).await;
        while shared.sessions.lives.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = shared.sessions.lives.count();
        tracing::info!(streams = left, "streams were asked to come back elsewhere; what is left is told to at once");
        self.stop().await;
    }

    /// How long the streams' slots are spread over: so that they come back no faster than they can be taken in.
    fn slots(&self) -> Duration {
        let (streams, rate) = (self.shared.sessions.lives.count(), self.shared.sessions.pace.sustained());
        let wanted = Duration::from_secs_f64(streams as f64 / f64::from(rate));
        let within = wanted.min(self.shared.config.drain * 4 / 5);
        if within < wanted {
            let wanted_ms = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                streams,
                wanted_ms,
                "DRAIN_MS is too short for so many streams: they come back faster than they are known to be taken in"
            );
        }
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(streams, within_ms, "streams are asked to come back elsewhere");
        within
    }

    /// Stops at once; open streams are told `shutdown`.
    pub async fn stop(&self) {
        self.leave.cancel();
        self.halt.cancel();
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not end in time");
        }
        self.shared.sessions.store.close().await;
    }

    /// Ends as if the process was killed: no stream is told anything, nothing is flushed. For tests.
    pub fn abandon(self) {
        self.shared.sessions.presence.silence();
        self.stop.cancel();
        self.leave.cancel();
        self.halt.cancel();
    }
}

/// Keeps keys fresh, caches small, and rights and rows true.
fn maintain(shared: &AppState, tasks: &TaskTracker, stop: &CancellationToken) {
    let (shared, stop) = (Arc::clone(shared), stop.clone());
    let all = async move {
        let (notices, heard) = mpsc::channel(NOTICES_MAX);
        let (jobs, rows) = mpsc::channel(NOTICES_MAX);
        let (nodes, calls) = mpsc::channel(NOTICES_MAX);
        let (sessions, ingest) = (&shared.sessions, &shared.ingest);
        tokio::join!(
            shared.authenticator.maintain(),
            sessions.authorizer.maintain(),
            sessions.maintain(),
            sessions.store.watch(notices),
            sessions.keep_rights(heard, jobs),
            ingest::run_outside(ingest, rows),
            sessions.broker.hear_nodes(nodes),
            sessions.answer_nodes(calls),
            sessions.presence.run(),
        )
    };
    tasks.spawn(async move { Box::pin(stop.run_until_cancelled(all)).await });
}

/// Has a certificate follow its files.
fn keep_fresh(tls: Tls, loaded: Loaded, tasks: &TaskTracker, stop: &CancellationToken) -> Tls {
    let (fresh, stop) = (tls.clone(), stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled(fresh.keep_fresh(loaded)).await });
    tls
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
