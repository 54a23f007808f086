//! Which broker the settings ask for.

use crate::broker::Broker;
use crate::broker::BrokerError;
use crate::broker::MemoryBroker;
use crate::broker::RedisBroker;
use crate::broker::RedisSettings;
use crate::config::Config;
use crate::event::WindowLimits;
use crate::jobs::TerminalStatuses;
use crate::telemetry::Metrics;

/// Why there is no broker: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BrokerSetupError {
    /// `REDIS_URL` can't be read.
    #[error("REDIS_URL: not a URL of Redis; use redis://host:6379")]
    Url,
    /// This Redis can't be used; the cause on one line.
    #[error("REDIS_URL: can't use this Redis: {0}; check host, port and password, and that it runs")]
    Unreachable(String),
}

/// How much of the log an instance keeps in memory.
#[must_use]
pub fn window_limits(config: &Config) -> WindowLimits {
    WindowLimits { entries_max: config.window_entries_max, bytes_max: config.window_bytes_max }
}

impl Broker {
    /// The one of the settings; a Redis has answered once.
    ///
    /// # Errors
    /// The URL is wrong, or Redis is away.
    pub async fn connect(
        config: &Config,
        terminal: &TerminalStatuses,
        metrics: &Metrics,
    ) -> Result<Self, BrokerSetupError> {
        if config.redis_url.expose().is_empty() {
            metrics.broker_up.set(1);
            return Ok(Self::Memory(MemoryBroker::new(terminal.clone())));
        }
        let broker = RedisBroker::new(settings(config), terminal.clone(), metrics.clone());
        let broker = broker.map_err(|_| BrokerSetupError::Url)?;
        let risks = broker.check().await.map_err(|error| unreachable(&error))?;
        for risk in risks {
            tracing::warn!(code = risk, "this Redis may forget; see docs/operations.md");
        }
        Ok(Self::Redis(broker))
    }
}

fn settings(config: &Config) -> RedisSettings {
    RedisSettings {
        url: config.redis_url.clone(),
        prefix: config.redis_prefix.clone(),
        job_updates_channel: config.job_updates_channel.clone(),
        channel_events_channel: config.channel_events_channel.clone(),
        retention: config.log_retention,
        entries_max: config.log_entries_max,
        window: window_limits(config),
    }
}

fn unreachable(error: &BrokerError) -> BrokerSetupError {
    let cause = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
    BrokerSetupError::Unreachable(cause.replace(['\n', '\r'], " "))
}
