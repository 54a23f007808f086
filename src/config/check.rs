//! What settings have to be, beyond their types. Each mistake is a line that says what to do.

use std::time::Duration;

use crate::config::Config;
use crate::config::Networks;
use crate::config::Origin;
use crate::config::Secret;

/// Shortest accepted HS256 secret: RFC 7518 §3.2 asks for at least the hash's own size.
const SECRET_BYTES_MIN: usize = 32;
/// Highest rate of a limit: a token every microsecond.
const RATE_MAX: u32 = 1_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes down what is wrong.
struct Mistakes<'a>(&'a mut Vec<String>);

impl Mistakes<'_> {
    fn wrong(&mut self, bad: bool, text: &str) {
        if bad {
            self.0.push(text.to_owned());
        }
    }

    fn between(&mut self, value: Duration, (from, to): (Duration, Duration), text: &str) {
        self.wrong(!(from..=to).contains(&value), text);
    }
}

impl Config {
    pub(super) fn check(&self, mistakes: &mut Vec<String>) {
        let mut mistakes = Mistakes(mistakes);
        self.check_servers(&mut mistakes);
        self.check_identity(&mut mistakes);
        self.check_log(&mut mistakes);
        self.check_streams(&mut mistakes);
        self.check_limits(&mut mistakes);
        self.check_endpoint(&mut mistakes);
    }

    fn check_servers(&self, mistakes: &mut Mistakes<'_>) {
        let redis = self.redis_url.expose();
        let redis_good = redis.is_empty() || ["redis://", "rediss://"].iter().any(|p| redis.starts_with(p));
        mistakes.wrong(!redis_good, "REDIS_URL: must look like redis://host:6379 or rediss://host:6379");
        let database = self.database_url.expose();
        let database_good =
            database.is_empty() || database.starts_with("postgres://") || database.starts_with("postgresql://");
        mistakes.wrong(!database_good, "DATABASE_URL: must look like postgres://user:password@host:5432/name");
        mistakes.wrong(!is_word(&self.database_schema), "DATABASE_SCHEMA: letters, digits and _ only");
        let prefix = self.redis_prefix.replace([':', '-'], "_");
        mistakes.wrong(!is_word(&prefix), "REDIS_PREFIX: letters, digits, _ - and : only");
        mistakes.wrong(self.job_updates_channel.is_empty(), "JOB_UPDATES_CHANNEL: must not be empty");
        let events = &self.channel_events_channel;
        mistakes.wrong(events.is_empty(), "CHANNEL_EVENTS_CHANNEL: must not be empty");
        let same = *events == self.job_updates_channel;
        mistakes.wrong(same, "CHANNEL_EVENTS_CHANNEL: another name than JOB_UPDATES_CHANNEL");
        let statuses = self.terminal_statuses.iter();
        mistakes.wrong(statuses.clone().any(|s| !is_status(s)), "TERMINAL_STATUSES: each [a-z][a-z0-9_-]{0,31}");
    }

    fn check_identity(&self, mistakes: &mut Mistakes<'_>) {
        let secret = self.jwt_secret.expose().len();
        let weak = "JWT_SECRET: shorter than 32 bytes; make one with `openssl rand -base64 48`";
        mistakes.wrong(secret > 0 && secret < SECRET_BYTES_MIN, weak);
        mistakes.wrong(self.jwks_url.contains(char::is_whitespace), "JWKS_URL: not a URL");
        let jwks_good =
            self.jwks_url.is_empty() || self.jwks_url.starts_with("https://") || self.jwks_url.starts_with("http://");
        mistakes.wrong(!jwks_good, "JWKS_URL: must start with https:// (or http:// inside a cluster)");
        let weak_key = |key: &Secret| key.expose().len() < 16 || !key.expose().bytes().all(|b| b.is_ascii_graphic());
        mistakes.wrong(self.api_keys.iter().any(weak_key), "API_KEYS: each at least 16 characters, without spaces");
        let one = self.tls_cert_file.is_empty() != self.tls_key_file.is_empty();
        mistakes.wrong(one, "TLS_CERT_FILE, TLS_KEY_FILE: both or neither");
        for origin in &self.cors_origins {
            let text = "CORS_ORIGINS: each an exact origin such as https://app.example.com; * is refused, because answers carry credentials";
            mistakes.wrong(Origin::parse(origin).is_none(), text);
        }
        let stale = self.grant_stale_max;
        mistakes.wrong(stale < self.grant_max_age, "GRANT_STALE_MAX_MS: not below GRANT_MAX_AGE_MS");
        mistakes.wrong(stale > MINUTE * 60, "GRANT_STALE_MAX_MS: at most 1 h");
    }

    /// Whoever takes spans is named without a credential, which would stand in the log of every start.
    fn check_endpoint(&self, mistakes: &mut Mistakes<'_>) {
        let endpoint = &self.otlp_endpoint;
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let plain = |rest: &str| !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c == '@');
        let good = endpoint.is_empty() || rest.is_some_and(plain);
        mistakes.wrong(!good, "OTLP_ENDPOINT: must look like http://collector:4318");
    }

    fn check_log(&self, mistakes: &mut Mistakes<'_>) {
        mistakes.between(self.log_retention, (Duration::from_secs(1), DAY * 7), "LOG_RETENTION_MS: 1 s to 7 days");
        mistakes.wrong(self.log_entries_max < 1000, "LOG_ENTRIES_MAX: at least 1000");
        mistakes.wrong(self.window_entries_max < 1000, "WINDOW_ENTRIES_MAX: at least 1000");
        mistakes.wrong(self.window_bytes_max < 1 << 20, "WINDOW_BYTES_MAX: at least 1048576");
    }

    fn check_streams(&self, mistakes: &mut Mistakes<'_>) {
        let heartbeat = self.heartbeat_interval;
        mistakes.wrong(heartbeat < Duration::from_millis(50), "HEARTBEAT_INTERVAL: at least 50 ms");
        let text = "HEARTBEAT_INTERVAL: at most 15 s, or proxies cut quiet streams";
        mistakes.wrong(heartbeat > Duration::from_secs(15), text);
        mistakes.wrong(self.outbox_events_max < 8, "OUTBOX_EVENTS_MAX: at least 8");
        let text = "OUTBOX_BYTES_MAX: at least 131072, so that the largest event fits";
        mistakes.wrong(self.outbox_bytes_max < 128 * 1024, text);
        mistakes.wrong(!(1..=1000).contains(&self.channels_max), "CHANNELS_MAX: 1 to 1000");
        mistakes.wrong(self.lanes > 64, "LANES: at most 64; 0 is one for each core");
        let age = if self.stream_age_max.is_zero() { MINUTE } else { self.stream_age_max };
        mistakes.between(age, (MINUTE, DAY * 30), "STREAM_AGE_MAX_MS: 1 min to 30 days; 0 is no bound");
        mistakes.wrong(self.drain_notice > MINUTE * 10, "DRAIN_NOTICE_MS: at most 10 min");
        mistakes.wrong(self.drain > MINUTE * 60, "DRAIN_MS: at most 1 h");
    }

    fn check_limits(&self, mistakes: &mut Mistakes<'_>) {
        mistakes.wrong(self.max_connections == 0, "MAX_CONNECTIONS: at least 1");
        let rates = [
            ("RATE_LIMIT_MESSAGES_PER_SECOND", self.rate_limit_messages_per_second),
            ("RATE_LIMIT_API_KEY_PER_SECOND", self.rate_limit_api_key_per_second),
            ("RATE_LIMIT_FAILURES_PER_IP", self.rate_limit_failures_per_ip),
            ("ADMISSION_PER_SECOND", self.admission_per_second),
        ];
        for (name, rate) in rates {
            mistakes.wrong(rate > RATE_MAX, &format!("{name}: at most {RATE_MAX}; 0 is no limit"));
        }
        let text = "TRUSTED_PROXIES: each an address or a network such as 10.0.0.0/8, or `loopback` or `private`";
        mistakes.wrong(self.trusted_proxies.iter().any(|proxy| Networks::parse(proxy).is_none()), text);
        mistakes.wrong(!(8 * 1024..=1 << 20).contains(&self.head_bytes_max), "HEAD_BYTES_MAX: 8192 to 1048576");
        mistakes.wrong(self.body_bytes_max < 64 * 1024, "BODY_BYTES_MAX: at least 65536");
        let soon = Duration::from_millis(100);
        mistakes.between(self.first_byte_timeout, (soon, MINUTE), "FIRST_BYTE_TIMEOUT_MS: 100 ms to 60 s");
        mistakes.between(self.body_timeout, (soon, MINUTE * 10), "BODY_TIMEOUT_MS: 100 ms to 10 min");
    }
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
