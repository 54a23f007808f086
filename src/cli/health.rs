//! `tidings health`: whether the instance of these settings is ready, for a container that has no other program to ask with.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::cli::Failure;
use crate::cli::client;
use crate::cli::duration;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Ask this service instead of the one on `REALTIME_PORT` of this machine
    #[arg(long)]
    url: Option<String>,
    /// How long the answer may take
    #[arg(long, default_value = "2s", value_parser = duration)]
    timeout: Duration,
}

pub(super) async fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let own = options.url.is_none();
    let base = options.url.as_deref().map_or_else(|| own_url(config), |url| url.trim_end_matches('/').to_owned());
    let client = reqwest::Client::builder()
        .timeout(options.timeout)
        .no_proxy()
        // Whether it lives is asked, and not whether its certificate is for this address.
        .tls_danger_accept_invalid_certs(own)
        .build()
        .map_err(|error| Failure::unavailable(format!("can't make an HTTP client: {error}")))?;
    let away =
        |error: reqwest::Error| Failure::unavailable(format!("can't reach {base}: {}", client::innermost(&error)));
    let answer = client.get(format!("{base}/health/ready")).send().await.map_err(away)?;
    let ready = answer.status().is_success();
    let text = answer.text().await.map_err(away)?;
    if ready {
        println!("{text}");
        return Ok(());
    }
    Err(Failure { line: text, code: 1 })
}

/// Where an instance with these settings listens.
fn own_url(config: &Config) -> String {
    let ip = match config.bind {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("{}://{}", client::scheme(config), SocketAddr::new(ip, config.realtime_port))
}
