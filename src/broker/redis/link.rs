//! Our own supervisor of the connection that carries commands.
//!
//! The crate's automatic reconnect goes silent in several cases (a frozen peer is never left, retries run out), so a
//! connection that fails or times out is thrown away and made anew here.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::AsyncConnectionConfig;
use redis::Client;
use redis::FromRedisValue;
use redis::IntoConnectionInfo as _;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::telemetry::Metrics;

/// Longest wait for one answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection of its own for blocking reads has to outwait them.
pub(super) const BLOCK: Duration = Duration::from_millis(1000);

#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    current: ArcSwapOption<Shared>,
    broken: Notify,
    metrics: Metrics,
}

#[derive(Debug)]
struct Shared(MultiplexedConnection);

impl Link {
    pub(super) fn new(url: &str, metrics: Metrics) -> Result<Self, RedisError> {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(10))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(10));
        let info = url.into_connection_info()?.set_tcp_settings(tcp);
        let client = Client::open(info)?;
        Ok(Self { client, current: ArcSwapOption::empty(), broken: Notify::new(), metrics })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// One attempt, for a clear error at the start. Answers codes of what is risky about this Redis.
    pub(super) async fn check(&self) -> Result<Vec<&'static str>, BrokerError> {
        let mut connection = self.open(RESPONSE_TIMEOUT).await.map_err(classify)?;
        let mut ask = async |name: &str| {
            let answer: Result<Vec<String>, RedisError> =
                redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut connection).await;
            answer.ok().and_then(|pair| pair.get(1).cloned())
        };
        let mut risks = Vec::new();
        if ask("appendonly").await.is_some_and(|value| value == "no") {
            risks.push("redis_without_aof");
        }
        if ask("maxmemory-policy")
            .await
            .is_some_and(|value| value.starts_with("allkeys") || value.starts_with("volatile"))
        {
            risks.push("redis_evicts_keys");
        }
        Ok(risks)
    }

    pub(super) async fn open(&self, response: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Keeps a connection until `stop`: connect, publish it, wait until somebody finds it broken, start over.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                opened = self.open(RESPONSE_TIMEOUT) => opened,
            };
            match opened {
                Ok(connection) => {
                    backoff.reset();
                    self.current.store(Some(Shared(connection).into()));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.broken.notified() => {}
                    }
                    self.current.store(None);
                }
                Err(error) => tracing::warn!(%error, "redis: can't connect"),
            }
            self.metrics.broker_restarts.with_label_values(&["commands"]).inc();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, BrokerError> {
        let used = self.connection()?;
        let answer = command.query_async(&mut used.0.clone()).await;
        answer.map_err(|error| self.noticed(error, &used))
    }

    pub(super) async fn pipe<T: FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T, BrokerError> {
        let used = self.connection()?;
        let answer = pipe.query_async(&mut used.0.clone()).await;
        answer.map_err(|error| self.noticed(error, &used))
    }

    pub(super) async fn invoke<T: FromRedisValue>(&self, call: redis::ScriptInvocation<'_>) -> Result<T, BrokerError> {
        let used = self.connection()?;
        let answer = call.invoke_async(&mut used.0.clone()).await;
        answer.map_err(|error| self.noticed(error, &used))
    }

    /// A prepared `EVALSHA` of this script; a Redis that does not know the script is told it first.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &redis::Script,
        call: &redis::Cmd,
    ) -> Result<T, BrokerError> {
        let used = self.connection()?;
        let mut connection = used.0.clone();
        let mut answer = call.query_async(&mut connection).await;
        let unknown = redis::ErrorKind::Server(redis::ServerErrorKind::NoScript);
        if matches!(&answer, Err(error) if error.kind() == unknown) {
            answer = match script.load_async(&mut connection).await {
                Ok(_) => call.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        answer.map_err(|error| self.noticed(error, &used))
    }

    fn connection(&self) -> Result<Arc<Shared>, BrokerError> {
        self.current.load_full().ok_or(BrokerError::Unavailable(None))
    }

    /// Throws the connection away that failed, and only that one: a late failure of an old one says nothing about its successor.
    fn noticed(&self, error: RedisError, used: &Arc<Shared>) -> BrokerError {
        let error = classify(error);
        if matches!(error, BrokerError::Unavailable(_)) {
            let before = self.current.compare_and_swap(used, None);
            if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, used)) {
                self.broken.notify_one();
            }
        }
        error
    }
}

/// Whether the connection, and not the command, failed.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

fn classify(error: RedisError) -> BrokerError {
    let away = is_broken(&error);
    let starting =
        error.code().is_some_and(|code| matches!(code, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY"));
    match error.kind() {
        _ if away || starting => BrokerError::Unavailable(Some(error)),
        redis::ErrorKind::UnexpectedReturnType | redis::ErrorKind::Parse => BrokerError::Garbled,
        _ => BrokerError::Refused(error),
    }
}

/// Jittered, doubling waits between attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let base = 50_u64 << self.0.min(5);
        self.0 += 1;
        Duration::from_millis(fastrand::u64(base / 2..=base))
    }

    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}
