//! The commands as an operator meets them: one line that says what to do, and an exit code.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use crate::support::SOON;
use crate::support::app::API_KEY;
use crate::support::app::World;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::process::Server;
use crate::support::redis::RedisServer;
use crate::support::tls::Pair;
use crate::support::tls::PairFiles;
use crate::support::tokens;

async fn fails(args: &[&str], env: &[(&str, &str)]) -> (i32, Vec<String>) {
    let mut server = Server::launch(args, env);
    let status = server.wait_exit(SOON).await;
    // The lines are read by a thread of their own; a failure always says at least one.
    let code = status.code().unwrap_or(-1);
    let lines = eventually("the last line", SOON, async || {
        let lines = server.logs();
        (code == 0 || lines.iter().any(|line| line.starts_with("tidings: "))).then_some(lines)
    })
    .await;
    (code, lines)
}

/// Each mistake of an operator gets a line that names the setting and says what to do; 78 for settings, 69 for what is away.
#[tokio::test]
async fn mistakes_are_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let closed = free_port();
    let (redis, postgres) = (format!("redis://127.0.0.1:{closed}"), format!("postgres://u:p@127.0.0.1:{closed}/d"));
    type Case<'a> = (&'a [(&'a str, &'a str)], i32, &'a str);
    let cases: [Case<'_>; 9] = [
        (&[("JWT_SECRET", "")], 78, "JWT_SECRET: not set"),
        (&[("JWT_SECRET", "short")], 78, "JWT_SECRET: shorter"),
        (&[("REALTIME_PORT", "http")], 78, "REALTIME_PORT: expected"),
        (&[("REALTIME_PORT", &port)], 69, "REALTIME_PORT: can't listen"),
        (&[("REDIS_URL", "127.0.0.1:6379")], 78, "REDIS_URL: must look like"),
        (&[("REDIS_URL", &redis)], 69, "REDIS_URL: can't use this Redis"),
        (&[("DATABASE_URL", "mysql://x")], 78, "DATABASE_URL: must look like"),
        (&[("DATABASE_URL", &postgres)], 69, "DATABASE_URL"),
        (&[("JWT_KEY_FILE", "/nowhere.pem")], 78, "JWT_KEY_FILE"),
    ];
    for (env, code, part) in cases {
        let (got, lines) = fails(&["serve"], env).await;
        let errors: Vec<&String> = lines.iter().filter(|line| line.starts_with("tidings: ")).collect();
        assert_eq!(got, code, "{env:?}: {lines:?}");
        assert!(errors.len() == 1 && errors[0].contains(part), "{env:?}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains("panicked") || line.contains("u:p@")), "{lines:?}");
    }
    // Several mistakes are reported at once.
    let (code, lines) = fails(&["config"], &[("REALTIME_PORT", "x"), ("HEARTBEAT_INTERVAL", "y")]).await;
    assert_eq!(code, 78);
    for name in ["REALTIME_PORT", "HEARTBEAT_INTERVAL"] {
        assert!(lines.iter().any(|line| line.contains(name)), "{lines:?}");
    }
}

/// `publish` reaches a running service over Redis, over its stream and over HTTP, and says when nobody heard it.
#[tokio::test(flavor = "multi_thread")]
async fn publish_reaches_the_page_by_every_way() {
    let server = RedisServer::shared().await;
    let world = World::redis().await;
    world.people(&[("ada", &["a"])]).await;
    let owned = world.env();
    let env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (code, lines) = fails(&["publish", "a", "--status", "queued"], &env).await;
    assert!(code == 1 && lines.iter().any(|line| line.contains("nobody heard it")), "{lines:?}");
    let app = world.start().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    let url = format!("http://{}", app.addr);
    let ways: [&[&str]; 3] = [
        &["publish", "a", "--status", "running", "--progress", "1"],
        &["publish", "a", "--status", "running", "--progress", "2", "--durable"],
        &[
            "publish",
            "a",
            "--status",
            "failed",
            "--error-code",
            "c",
            "--error-message",
            "m",
            "--url",
            &url,
            "--api-key",
            API_KEY,
        ],
    ];
    for (at, way) in ways.iter().enumerate() {
        let (code, lines) = fails(way, &env).await;
        assert_eq!(code, 0, "{lines:?}");
        let event = stream.find("the update", |event| event.event == "job:update").await;
        if at < 2 {
            assert_eq!(event.data["progress"], json!(at + 1));
        } else {
            assert_eq!(event.data["error"], json!({"code": "c", "message": "m"}));
        }
    }
    let (code, lines) = fails(&["publish", "a", "--status", "not ok"], &env).await;
    assert!(code == 78 && lines.iter().any(|line| line.contains("status")), "{lines:?}");
    drop(server);
    app.app.stop().await;
}

/// A real process on Redis and Postgres: migrate, serve, drain on SIGTERM within its time, nothing secret in its log.
#[tokio::test(flavor = "multi_thread")]
async fn b102_a_process_lives_and_leaves_in_order() {
    let world = World::full().await;
    world.people(&[("ada", &["a"])]).await;
    let owned = world.env();
    let mut env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (code, lines) = fails(&["migrate"], &env).await;
    assert_eq!(code, 0, "{lines:?}");
    env.extend([("DRAIN_MS", "500"), ("LOG_LEVEL", "debug")]);
    let mut server = Server::spawn(&env).await;
    let token = tokens::for_user("ada");
    let header = format!("Bearer {token}");
    let path = "/v1/events?channels=jobs.a";
    let mut stream =
        crate::support::sse::SseClient::connect(server.addr(), path, &[("Authorization", &header)]).await.unwrap();
    stream.until("ready").await;
    server.terminate();
    let (events, ended) = stream.until_end(SOON).await;
    assert!(ended.is_ok());
    assert_eq!(events.last().unwrap().text("reason"), "drain");
    let status = server.wait_exit(Duration::from_secs(8)).await;
    assert!(status.success(), "{status}");
    for line in server.logs() {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "one JSON object a line: {line}");
        for secret in [token.as_str(), tokens::SECRET, API_KEY] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

/// What a container asks of itself: 0 where it is ready, over TLS too; 1 where it is not; 69 where nobody is.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_an_exit_code() {
    let health = async |env: &[(&str, &str)]| {
        let mut asking = Server::launch(&["health"], env);
        asking.wait_exit(SOON).await.code()
    };
    let closed = free_port().to_string();
    assert_eq!(health(&[("REALTIME_PORT", &closed)]).await, Some(69));
    let pair = PairFiles::new(&Pair::make());
    let (cert, key) = (pair.cert().display().to_string(), pair.key().display().to_string());
    for tls in [&[][..], &[("TLS_CERT_FILE", cert.as_str()), ("TLS_KEY_FILE", key.as_str())][..]] {
        let port = free_port().to_string();
        let env = [&[("REALTIME_PORT", port.as_str()), ("DRAIN_MS", "5000")], tls].concat();
        let mut server = Server::launch(&["serve"], &env);
        eventually("it is ready", SOON, async || (health(&env).await == Some(0)).then_some(())).await;
        assert!(server.logs().iter().any(|line| line.contains("listening")));
        server.terminate();
        assert_eq!(server.wait_exit(SOON).await.code(), Some(0));
        assert_eq!(health(&env).await, Some(69));
    }
    let broken = axum::Router::new()
        .route("/health/ready", axum::routing::get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "starting") }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, broken).await });
    let (code, lines) = fails(&["health"], &[("REALTIME_PORT", &port)]).await;
    assert_eq!((code, lines), (1, vec!["tidings: starting".to_owned()]));
}
