//! `tidings serve`: run until a signal, then leave in order.

use axum::Router;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::app::App;
use crate::app::Listeners;
use crate::cli::Failure;
use crate::cli::descriptors;
use crate::config::Config;
use crate::telemetry;

pub(super) const NO_KEY: &str = "JWT_SECRET: not set; set it to a secret of at least 32 bytes (openssl rand -base64 48), or set JWT_KEY_FILE or JWKS_URL";

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    if !config.has_key() {
        return Err(Failure::settings(NO_KEY));
    }
    telemetry::init_logs(&config).map_err(Failure::settings)?;
    descriptors::raise(&config);
    let listeners = Listeners::bind(&config)?;
    let app = App::start(config, listeners, Router::new()).await?;
    announce(&app);
    until_signal(app).await
}

/// One line with the addresses, also for whoever asked for port 0.
pub(super) fn announce(app: &App) {
    let metrics = app.metrics_address.map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(
        realtime.addr = %app.address,
        metrics.addr = %metrics,
        broker = app.shared.sessions.broker.kind(),
        database = app.shared.sessions.store.kind(),
        "listening"
    );
}

/// SIGTERM and SIGINT drain; a second one stops at once.
pub(super) async fn until_signal(app: App) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::unavailable(format!("can't listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = app.shared.sessions.hub.failed() => true,
    };
    if failed {
        tracing::error!("a lane has panicked and its streams are gone: ending, to be started anew");
        app.stop().await;
        return Err(Failure::unavailable("a lane has panicked; this is a fault of tidings, and the log says where"));
    }
    tracing::info!("leaving");
    tokio::select! {
        () = app.drain() => {}
        _ = terminate.recv() => tracing::warn!("second signal: stopping at once"),
        _ = interrupt.recv() => tracing::warn!("second signal: stopping at once"),
    }
    app.stop().await;
    Ok(())
}
