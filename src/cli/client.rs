//! A small client of our own HTTP interface, for the commands.

use std::time::Duration;

use crate::cli::Failure;
use crate::config::Config;

/// Where a service listens by default.
pub(super) fn base_url(config: &Config, given: Option<&str>) -> String {
    let default = || format!("{}://127.0.0.1:{}", scheme(config), config.realtime_port);
    given.map_or_else(default, |url| url.trim_end_matches('/').to_owned())
}

/// What the public port of these settings speaks.
pub(super) fn scheme(config: &Config) -> &'static str {
    if config.tls_cert_file.is_empty() { "http" } else { "https" }
}

/// The cause at the bottom, which says what happened where the others only say where.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

pub(super) fn http() -> Result<reqwest::Client, Failure> {
    let built = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build();
    built.map_err(|error| Failure::unavailable(format!("can't make an HTTP client: {error}")))
}
