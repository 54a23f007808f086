//! One validated value that holds every setting. Only this module reads the environment.

mod check;
mod networks;
mod origin;
mod overlay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use networks::Networks;
pub use origin::Origin;

/// The commented defaults, compiled in so that they can't drift from the documentation.
const DEFAULTS: &str = include_str!("config.default.toml");
/// The variable that names the optional file.
const FILE_VARIABLE: &str = "TIDINGS_CONFIG";

/// A text that must never be printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"…\"" })
    }
}

/// Every setting. `config.default.toml` explains each; durations are milliseconds there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is explained in config.default.toml")]
pub struct Config {
    pub bind: std::net::IpAddr,
    pub realtime_port: u16,
    pub metrics_port: u16,
    pub tls_cert_file: String,
    pub tls_key_file: String,
    pub redis_url: Secret,
    pub database_url: Secret,
    pub database_schema: String,
    pub data_dir: PathBuf,
    pub redis_prefix: String,
    pub job_updates_channel: String,
    pub channel_events_channel: String,
    pub jwt_secret: Secret,
    pub jwt_key_file: String,
    pub jwks_url: String,
    pub jwt_audience: String,
    pub jwt_issuer: String,
    pub allow_query_token: bool,
    pub auth_cookie: String,
    pub api_keys: Vec<Secret>,
    pub cors_origins: Vec<String>,
    pub frontend_origin: String,
    #[serde(rename = "grant_max_age_ms", deserialize_with = "millis")]
    pub grant_max_age: Duration,
    #[serde(rename = "grant_stale_max_ms", deserialize_with = "millis")]
    pub grant_stale_max: Duration,
    #[serde(rename = "presence_grace_ms", deserialize_with = "millis")]
    pub presence_grace: Duration,
    #[serde(rename = "presence_timeout_ms", deserialize_with = "millis")]
    pub presence_timeout: Duration,
    #[serde(rename = "presence_idle_ms", deserialize_with = "millis")]
    pub presence_idle: Duration,
    pub terminal_statuses: BTreeSet<String>,
    pub job_writeback: bool,
    #[serde(rename = "log_retention_ms", deserialize_with = "millis")]
    pub log_retention: Duration,
    pub log_entries_max: usize,
    pub window_entries_max: usize,
    pub window_bytes_max: usize,
    #[serde(rename = "heartbeat_interval_ms", deserialize_with = "millis")]
    pub heartbeat_interval: Duration,
    pub max_connections: usize,
    pub trusted_proxies: Vec<String>,
    pub rate_limit_connections_per_ip: u32,
    pub rate_limit_connections_per_user: u32,
    pub rate_limit_failures_per_ip: u32,
    pub admission_per_second: u32,
    #[serde(rename = "stream_age_max_ms", deserialize_with = "millis")]
    pub stream_age_max: Duration,
    pub rate_limit_messages_per_second: u32,
    pub rate_limit_api_key_per_second: u32,
    pub lanes: usize,
    pub sse_takeover: bool,
    pub outbox_events_max: usize,
    pub outbox_bytes_max: usize,
    pub channels_max: usize,
    #[serde(rename = "first_byte_timeout_ms", deserialize_with = "millis")]
    pub first_byte_timeout: Duration,
    #[serde(rename = "body_timeout_ms", deserialize_with = "millis")]
    pub body_timeout: Duration,
    pub head_bytes_max: usize,
    pub body_bytes_max: usize,
    #[serde(rename = "drain_notice_ms", deserialize_with = "millis")]
    pub drain_notice: Duration,
    #[serde(rename = "drain_ms", deserialize_with = "millis")]
    pub drain: Duration,
    pub inspector: bool,
    pub otlp_endpoint: String,
    pub otlp_service_name: String,
    pub log_level: String,
    pub log_format: LogFormat,
    /// Every setting as it is in force, secrets hidden, one `key = value` a line.
    #[serde(skip)]
    pub shown: String,
    /// No settings.
    #[serde(skip)]
    pub hooks: Hooks,
}

/// What only tests change: no file and no variable reaches it.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// How often a peer that can answer is asked whether it is there.
    pub ping: Duration,
    /// Open streams are asked about without an announcement as well. Without it a test sees what that is good for.
    pub sweeps: bool,
    /// How long a connection of HTTP/2 may be there for nothing.
    pub http2_idle: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { ping: Duration::from_secs(25), sweeps: true, http2_idle: Duration::from_secs(60) }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Everything that is wrong with the settings, all at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidConfig(pub Vec<String>);

fn millis<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
    u64::deserialize(source).map(Duration::from_millis)
}

impl Config {
    /// Reads environment, file and defaults of this process.
    ///
    /// # Errors
    /// Every mistake with its source and what to do.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_env() -> Result<Self, InvalidConfig> {
        let variables: BTreeMap<String, String> = std::env::vars().collect();
        let file = match variables.get(FILE_VARIABLE).filter(|path| !path.is_empty()) {
            None => None,
            Some(path) => {
                let say = |e| InvalidConfig(vec![format!("{FILE_VARIABLE}: can't read {path}: {e}")]);
                Some((path.clone(), std::fs::read_to_string(path).map_err(say)?))
            }
        };
        Self::from_parts(&variables, file.as_ref().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    /// Builds the settings from given variables and an optional file of that name and text.
    ///
    /// # Errors
    /// Every mistake with its source and what to do.
    pub fn from_parts(variables: &BTreeMap<String, String>, file: Option<(&str, &str)>) -> Result<Self, InvalidConfig> {
        let mut mistakes = Vec::new();
        let mut table: toml::Table = DEFAULTS.parse().map_err(|e| InvalidConfig(vec![format!("defaults: {e}")]))?;
        let defaults = table.clone();
        if let Some((name, text)) = file {
            overlay::file(&mut table, &defaults, name, text, &mut mistakes);
        }
        overlay::variables(&mut table, &defaults, variables, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(InvalidConfig(mistakes));
        }
        let shown = show(&table);
        let mut config: Self = table.try_into().map_err(|e| InvalidConfig(vec![format!("{e}")]))?;
        config.shown = shown;
        if !config.frontend_origin.is_empty() {
            config.cors_origins.push(config.frontend_origin.clone());
        }
        config.check(&mut mistakes);
        if mistakes.is_empty() { Ok(config) } else { Err(InvalidConfig(mistakes)) }
    }

    /// The defaults, for tests and for `demo`; no secret is set.
    #[must_use]
    pub fn defaults() -> Self {
        Self::from_parts(&BTreeMap::new(), None).expect("the defaults are valid: a test parses them")
    }

    /// Whether tokens can be verified at all.
    #[must_use]
    pub fn has_key(&self) -> bool {
        !self.jwt_secret.expose().is_empty() || !self.jwt_key_file.is_empty() || !self.jwks_url.is_empty()
    }
}

fn show(table: &toml::Table) -> String {
    const HIDDEN: [&str; 4] = ["redis_url", "database_url", "jwt_secret", "api_keys"];
    let empty = |value: &toml::Value| value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty);
    let line = |(key, value): (&String, &toml::Value)| {
        let hidden = HIDDEN.contains(&key.as_str()) && !empty(value);
        if hidden { format!("{key} = \"…\"\n") } else { format!("{key} = {value}\n") }
    };
    table.iter().map(line).collect()
}
