//! `tidings demo`: the whole service in one process, with sample people, jobs, workers and a page. Nothing is special about
//! it: the workers post like any back end, the page is a page with an `EventSource`.

mod files;
mod routes;
mod sample;
mod worker;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::app::Listeners;
use crate::cli::Failure;
use crate::cli::serve;
use crate::config::Config;
use crate::config::LogFormat;
use crate::config::Secret;
use crate::event::Id;
use crate::http;
use crate::telemetry;

/// Ports that are tried after the wished one.
const PORTS_TRIED: u16 = 50;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The port of the page; the next free one is taken when it is busy
    #[arg(long, default_value_t = 3001)]
    port: u16,
    /// Where the database is kept
    #[arg(long, default_value = ".tidings")]
    data_dir: PathBuf,
    /// Leave the jobs alone: only what you publish happens
    #[arg(long)]
    quiet: bool,
}

pub(super) async fn run(options: Options) -> Result<(), Failure> {
    let key = format!("demo-{:032x}", u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)));
    let config = config(&options, &key)?;
    telemetry::init_logs(&config).map_err(Failure::settings)?;
    let (public, port) = free_port(options.port)?;
    if port != options.port {
        println!("Port {} is busy, so this is port {port}.", options.port);
    }
    let base = format!("http://127.0.0.1:{port}");
    let demo = Arc::new(routes::Demo::new(&config, &base, &key));
    let app = App::start(config, Listeners { public, metrics: None }, routes::routes(&demo)).await?;
    sample::fill(&app.shared.sessions.store).await.map_err(|error| Failure::unavailable(error.advice()))?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    if !options.quiet {
        let sessions = &app.shared.sessions;
        let attempts = sample::attempts(&sessions.store, &sessions.terminal).await;
        let attempts = attempts.map_err(|error| Failure::unavailable(error.advice()))?;
        for (at, job) in sample::JOBS.iter().enumerate() {
            let attempt = Id::parse(job.id).ok().and_then(|id| attempts.get(&id).copied()).unwrap_or(0);
            tasks.spawn(worker::run(base.clone(), key.clone(), (job.id, attempt), at, stop.clone()));
        }
    }
    tasks.close();
    welcome(&base, &demo);
    let done = serve::until_signal(app).await;
    stop.cancel();
    tasks.wait().await;
    done
}

fn config(options: &Options, key: &str) -> Result<Config, Failure> {
    let mut config = Config::defaults();
    config.bind = IpAddr::V4(Ipv4Addr::LOCALHOST);
    config.realtime_port = options.port;
    config.metrics_port = 0;
    config.data_dir.clone_from(&options.data_dir);
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(|error| Failure::unavailable(format!("no random numbers: {error}")))?;
    config.jwt_secret = Secret::new(secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    config.auth_cookie = routes::COOKIE.to_owned();
    config.api_keys = vec![Secret::new(key)];
    config.drain = std::time::Duration::from_millis(500);
    config.drain_notice = std::time::Duration::ZERO;
    config.log_level = "warn".to_owned();
    config.log_format = LogFormat::Text;
    Ok(config)
}

fn free_port(wished: u16) -> Result<(TcpListener, u16), Failure> {
    let mut last = None;
    for port in wished..=wished.saturating_add(PORTS_TRIED) {
        match http::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Ok(listener) => {
                let port = listener.local_addr().map_or(port, |address| address.port());
                return Ok((listener, port));
            }
            Err(error) => last = Some(error),
        }
    }
    let cause = last.map(|error| error.to_string()).unwrap_or_default();
    Err(Failure::unavailable(format!("no free port from {wished} on: {cause}; choose one with --port")))
}

fn welcome(base: &str, demo: &routes::Demo) {
    println!("\n  Tidings is running. Open  {base}/\n");
    println!("  Say something from a shell, and see it on the page:\n");
    println!("    {}\n", demo.example_publish());
    println!("    {}\n", demo.example_curl());
    println!("  Stop with Ctrl-C.\n");
}
