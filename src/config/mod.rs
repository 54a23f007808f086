//! One validated value that holds every setting. Only this module reads the environment.

mod origin;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use origin::Origin;

/// The commented defaults, compiled in so that they can't drift from the documentation.
const DEFAULTS: &str = include_str!("config.default.toml");
/// The variable that names the optional file.
const FILE_VARIABLE: &str = "TIDINGS_CONFIG";
/// Shortest accepted HS256 secret: RFC 7518 §3.2 asks for at least the hash's own size.
const SECRET_BYTES_MIN: usize = 32;
/// Highest rate of a limit: a token every microsecond.
const RATE_MAX: u32 = 1_000_000;

/// Variables of the OpenTelemetry specification that mean the same as ours; ours come first.
const STANDARD: [(&str, &str); 2] =
    [("OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"), ("OTLP_SERVICE_NAME", "OTEL_SERVICE_NAME")];

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
}

impl Default for Hooks {
    fn default() -> Self {
        Self { ping: Duration::from_secs(25), sweeps: true }
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
            overlay_file(&mut table, &defaults, name, text, &mut mistakes);
        }
        overlay_variables(&mut table, &defaults, variables, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(InvalidConfig(mistakes));
        }
        let shown = show(&table);
        let mut config: Self = table.try_into().map_err(|e| InvalidConfig(vec![format!("{e}")]))?;
        config.shown = shown;
        config.check(&mut mistakes);
        config.check_endpoint(&mut mistakes);
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

    /// Whoever takes spans is named without a credential, which would stand in the log of every start.
    fn check_endpoint(&self, mistakes: &mut Vec<String>) {
        let endpoint = &self.otlp_endpoint;
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let plain = |rest: &str| !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c == '@');
        if !endpoint.is_empty() && !rest.is_some_and(plain) {
            mistakes.push("OTLP_ENDPOINT: must look like http://collector:4318".to_owned());
        }
    }

    fn check(&mut self, mistakes: &mut Vec<String>) {
        let mut wrong = |bad: bool, text: &str| {
            if bad {
                mistakes.push(text.to_owned());
            }
        };
        let secret = self.jwt_secret.expose().len();
        let weak = "JWT_SECRET: shorter than 32 bytes; make one with `openssl rand -base64 48`";
        wrong(secret > 0 && secret < SECRET_BYTES_MIN, weak);
        let redis = self.redis_url.expose();
        let redis_good =
            ["", "redis://", "rediss://"].iter().any(|p| redis.starts_with(p) && (!p.is_empty() || redis.is_empty()));
        wrong(!redis_good, "REDIS_URL: must look like redis://host:6379 or rediss://host:6379");
        let database = self.database_url.expose();
        let database_good =
            database.is_empty() || database.starts_with("postgres://") || database.starts_with("postgresql://");
        wrong(!database_good, "DATABASE_URL: must look like postgres://user:password@host:5432/name");
        wrong(!is_word(&self.database_schema), "DATABASE_SCHEMA: letters, digits and _ only");
        wrong(!is_word(&self.redis_prefix.replace([':', '-'], "_")), "REDIS_PREFIX: letters, digits, _ - and : only");
        wrong(self.jwks_url.contains(char::is_whitespace), "JWKS_URL: not a URL");
        let jwks_good =
            self.jwks_url.is_empty() || self.jwks_url.starts_with("https://") || self.jwks_url.starts_with("http://");
        wrong(!jwks_good, "JWKS_URL: must start with https:// (or http:// inside a cluster)");
        wrong(self.heartbeat_interval < Duration::from_millis(50), "HEARTBEAT_INTERVAL: at least 50 ms");
        wrong(
            self.heartbeat_interval > Duration::from_secs(15),
            "HEARTBEAT_INTERVAL: at most 15 s, or proxies cut quiet streams",
        );
        wrong(self.outbox_events_max < 8, "OUTBOX_EVENTS_MAX: at least 8");
        wrong(self.outbox_bytes_max < 128 * 1024, "OUTBOX_BYTES_MAX: at least 131072, so that the largest event fits");
        wrong(!(1..=1000).contains(&self.channels_max), "CHANNELS_MAX: 1 to 1000");
        wrong(self.grant_stale_max < self.grant_max_age, "GRANT_STALE_MAX_MS: not below GRANT_MAX_AGE_MS");
        let minute = Duration::from_secs(60);
        let between = |value: Duration, from: Duration, to: Duration| (from..=to).contains(&value);
        wrong(
            !between(self.log_retention, Duration::from_secs(1), minute * 60 * 24 * 7),
            "LOG_RETENTION_MS: 1 s to 7 days",
        );
        wrong(self.log_entries_max < 1000, "LOG_ENTRIES_MAX: at least 1000");
        wrong(self.window_entries_max < 1000, "WINDOW_ENTRIES_MAX: at least 1000");
        wrong(self.window_bytes_max < 1 << 20, "WINDOW_BYTES_MAX: at least 1048576");
        wrong(
            !between(self.first_byte_timeout, Duration::from_millis(100), minute),
            "FIRST_BYTE_TIMEOUT_MS: 100 ms to 60 s",
        );
        wrong(
            !between(self.body_timeout, Duration::from_millis(100), minute * 10),
            "BODY_TIMEOUT_MS: 100 ms to 10 min",
        );
        wrong(self.drain > minute * 60, "DRAIN_MS: at most 1 h");
        wrong(self.grant_stale_max > minute * 60, "GRANT_STALE_MAX_MS: at most 1 h");
        wrong(self.max_connections == 0, "MAX_CONNECTIONS: at least 1");
        wrong(self.lanes > 64, "LANES: at most 64; 0 is one for each core");
        wrong(self.job_updates_channel.is_empty(), "JOB_UPDATES_CHANNEL: must not be empty");
        let events = &self.channel_events_channel;
        wrong(events.is_empty(), "CHANNEL_EVENTS_CHANNEL: must not be empty");
        wrong(*events == self.job_updates_channel, "CHANNEL_EVENTS_CHANNEL: another name than JOB_UPDATES_CHANNEL");
        let rate_max = self.rate_limit_messages_per_second.max(self.rate_limit_api_key_per_second);
        wrong(rate_max > RATE_MAX, "RATE_LIMIT_…_PER_SECOND: at most 1000000; 0 is no limit");
        let weak_key = |key: &Secret| key.expose().len() < 16 || !key.expose().bytes().all(|b| b.is_ascii_graphic());
        wrong(self.api_keys.iter().any(weak_key), "API_KEYS: each at least 16 characters, without spaces");
        let statuses = self.terminal_statuses.iter();
        wrong(statuses.clone().any(|s| !is_status(s)), "TERMINAL_STATUSES: each [a-z][a-z0-9_-]{0,31}");
        if !self.frontend_origin.is_empty() {
            self.cors_origins.push(self.frontend_origin.clone());
        }
        for origin in &self.cors_origins {
            let text = "CORS_ORIGINS: each an exact origin such as https://app.example.com; * is refused, because answers carry credentials";
            wrong(Origin::parse(origin).is_none(), text);
        }
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

/// The grammar of a status, for the settings.
fn is_status(text: &str) -> bool {
    let tail = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-';
    text.len() <= 32 && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && text.as_bytes().iter().all(tail)
}

fn is_word(text: &str) -> bool {
    let first = text.as_bytes().first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    first && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn overlay_file(table: &mut toml::Table, defaults: &toml::Table, name: &str, text: &str, mistakes: &mut Vec<String>) {
    match text.parse::<toml::Table>() {
        Err(e) => mistakes.push(format!("{name}: {}", e.to_string().replace('\n', " "))),
        Ok(file) => {
            for (key, value) in file {
                match defaults.get(&key) {
                    None => mistakes.push(format!("{name}: `{key}`: no such setting")),
                    Some(default) if default.type_str() != value.type_str() => {
                        let (want, got) = (default.type_str(), value.type_str());
                        mistakes.push(format!("{name}: `{key}`: expected {want}, found {got}"));
                    }
                    Some(_) => drop(table.insert(key, value)),
                }
            }
        }
    }
}

fn overlay_variables(
    table: &mut toml::Table,
    defaults: &toml::Table,
    variables: &BTreeMap<String, String>,
    mistakes: &mut Vec<String>,
) {
    for (key, default) in defaults {
        let name = key.to_uppercase();
        // The owner's documents say HEARTBEAT_INTERVAL, in milliseconds; the unit is part of our name.
        let short = name.strip_suffix("_MS").map(str::to_owned);
        let standard = STANDARD.iter().find(|(ours, _)| *ours == name).and_then(|(_, theirs)| variables.get(*theirs));
        let given = variables.get(&name).or_else(|| short.and_then(|short| variables.get(&short))).or(standard);
        let Some(text) = given else { continue };
        match typed(text.trim(), default) {
            Ok(value) => drop(table.insert(key.clone(), value)),
            Err(want) => mistakes.push(format!("environment variable {name}: expected {want}")),
        }
    }
}

fn typed(text: &str, default: &toml::Value) -> Result<toml::Value, &'static str> {
    match default {
        toml::Value::Boolean(_) => match text {
            "true" | "1" | "yes" | "on" => Ok(true.into()),
            "false" | "0" | "no" | "off" | "" => Ok(false.into()),
            _ => Err("true or false"),
        },
        toml::Value::Integer(_) => number(text).map(Into::into).ok_or("a whole number, or a duration such as 15s"),
        toml::Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(toml::Value::Array(items.map(toml::Value::from).collect()))
        }
        _ => Ok(text.into()),
    }
}

/// A whole number; `15s`, `10min` and `250ms` are milliseconds.
fn number(text: &str) -> Option<i64> {
    let units = [("ms", 1), ("min", 60_000), ("s", 1000), ("h", 3_600_000)];
    let unit = units.iter().find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|rest| (rest.trim(), *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1));
    digits.parse::<i64>().ok().filter(|n| *n >= 0)?.checked_mul(factor)
}
