//! Says on a WebSocket what it hears there, on the product's own stack: its listener, its handshake, its streams with their lanes and tasks,
//! its framing and its limits. Only what is done with a whole message is another. For the tests beside it.
//!
//! `echo DIRECTORY SECRET lane|task` serves `GET /echo` on a free port and tells it on stderr, until it is killed. `echo` is its only user.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use tidings::app::App;
use tidings::app::Listeners;
use tidings::config::Config;
use tidings::config::Secret;
use tidings::event::Id;
use tidings::http::AppState;
use tidings::http::open_websocket;
use tidings::session::Live;
use tidings::store::Store;
use tidings::telemetry::Metrics;
use tidings::transport::ws;

type Failure = Box<dyn std::error::Error>;

/// Answers every text with itself.
#[derive(Debug)]
struct Echo(AppState);

impl ws::Commands for Echo {
    fn run<'a>(&'a self, live: &'a Arc<Live>, text: String) -> ws::Done<'a> {
        Box::pin(self.0.sessions.tell(live, ws::message(&text)))
    }
}

async fn open(State(shared): State<AppState>, request: Request<Body>) -> Response<Body> {
    let echo = Arc::new(Echo(Arc::clone(&shared)));
    open_websocket(shared, request, echo).await
}

fn settings() -> Result<Config, Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: echo DIRECTORY SECRET lane|task");
    let mut config = Config::defaults();
    config.bind = Ipv4Addr::LOCALHOST.into();
    (config.realtime_port, config.metrics_port) = (0, 0);
    config.data_dir = next()?.into();
    config.jwt_secret = Secret::new(next()?);
    config.sse_takeover = next()? == "lane";
    Ok(config)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tidings::auth::install_crypto();
    let config = settings()?;
    let user = Id::parse("echo").map_err(|_| "no id")?;
    Store::open(&config, &Metrics::new()).await?.put_user(&user, "Echo").await?;
    let listeners = Listeners::bind(&config)?;
    let app = App::start(config, listeners, Router::new().route("/echo", get(open))).await?;
    writeln!(std::io::stderr(), "listening {}", app.address)?;
    std::future::pending::<()>().await;
    drop(app);
    Ok(())
}
