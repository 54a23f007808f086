//! A small client of our own HTTP interface, for the commands.

use std::time::Duration;

use crate::cli::Failure;
use crate::config::Config;

/// How long an instance may take to ask the others and answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

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

/// Where the metrics of a service are by default.
pub(super) fn inspector_url(config: &Config, given: Option<&str>) -> String {
    let default = || format!("http://127.0.0.1:{}", config.metrics_port);
    given.map_or_else(default, |url| url.trim_end_matches('/').to_owned())
}

/// What the inspector answers, as text.
pub(super) async fn inspect(base: &str, path: &str, query: &[(&str, &str)]) -> Result<String, Failure> {
    let url = reqwest::Url::parse_with_params(&format!("{base}/inspect/{path}"), query);
    let url = url.map_err(|error| Failure::settings(format!("--url: {error}")))?;
    let request = http()?.get(url).timeout(ANSWER_MAX);
    let away = |error: reqwest::Error| Failure::unavailable(format!("{base} does not answer: {error}"));
    let answer = request.send().await.map_err(away)?;
    let status = answer.status();
    let text = answer.text().await.map_err(away)?;
    match status.as_u16() {
        200 => Ok(text),
        404 => {
            Err(refused(format!("{base} has no inspector: it is the metrics port of an instance with INSPECTOR=true")))
        }
        _ => Err(refused(text)),
    }
}

fn refused(line: String) -> Failure {
    Failure { line, code: 1 }
}

/// Reads an answer.
pub(super) fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| refused(format!("the answer can't be read: {error}; another version?")))
}
