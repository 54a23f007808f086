//! A small client of our own HTTP interface, for the commands.

use std::time::Duration;

use crate::cli::Failure;
use crate::config::Config;

/// Where a service listens by default.
pub(super) fn base_url(config: &Config, given: Option<&str>) -> String {
    let scheme = if config.tls_cert_file.is_empty() { "http" } else { "https" };
    let default = || format!("{scheme}://127.0.0.1:{}", config.realtime_port);
    given.map_or_else(default, |url| url.trim_end_matches('/').to_owned())
}

pub(super) fn http() -> Result<reqwest::Client, Failure> {
    let built = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build();
    built.map_err(|error| Failure::unavailable(format!("can't make an HTTP client: {error}")))
}
