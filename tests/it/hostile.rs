//! Hostile requests, row by row of the catalogue. What is refused is refused with a clear answer; nothing else is lost.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::http;
use crate::support::sse::SseClient;
use crate::support::tokens;

const STREAM: &str = "/v1/events?channels=jobs.a";

async fn app() -> (World, TestApp) {
    let mut world = World::embedded().await;
    world.config.first_byte_timeout = Duration::from_millis(700);
    world.config.body_timeout = Duration::from_millis(700);
    world.config.cors_origins = vec!["https://app.example.com".to_owned()];
    world.config.auth_cookie = "session".to_owned();
    world.people(&[("ada", &["a"]), ("eve", &["e"])]).await;
    let app = world.start().await;
    (world, app)
}

fn bearer(user: &str) -> String {
    format!("Bearer {}", tokens::for_user(user))
}

/// Sends bytes as they are; answers the status, or 0 when the connection was closed without an answer.
async fn status_of(addr: SocketAddr, bytes: &[u8]) -> u16 {
    http::try_raw(addr, bytes).await.map_or(0, |answer| answer.status)
}

/// The honest way still works.
async fn is_well(app: &TestApp) {
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
}

#[tokio::test]
async fn b62_other_methods_are_refused_with_what_is_allowed() {
    let (_world, app) = app().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO"] {
        let answer = http::request(app.addr, method, STREAM, &[("Authorization", &bearer("ada"))], b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "INVALID_MESSAGE"), "{method}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{method}");
    }
    let answer = http::request(app.addr, "GET", "/v1/publish", &[], b"").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    app.app.stop().await;
}

#[tokio::test]
async fn b63_head_ends_at_once_and_options_is_for_cors() {
    let (_world, app) = app().await;
    let head = http::request(app.addr, "HEAD", STREAM, &[("Authorization", &bearer("ada"))], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let preflight = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "authorization,last-event-id"),
    ];
    let answer = http::request(app.addr, "OPTIONS", STREAM, &preflight, b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    app.until_empty().await;
    app.app.stop().await;
}

/// A connection that says nothing, half a head, or half of an HTTP/2 preface is closed in time; the honest stream goes on.
#[tokio::test]
async fn b64_silent_and_slow_connections_are_closed() {
    let (_world, app) = app().await;
    let mut honest = app.stream("ada", "jobs.a").await;
    honest.until("ready").await;
    for said in [&b""[..], b"P", b"PRI * ", b"GET /v1/events HTTP/1.1\r\nHost: t\r\nX-Half", b"GET"] {
        let mut socket = TcpStream::connect(app.addr).await.unwrap();
        socket.write_all(said).await.unwrap();
        let begun = Instant::now();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await.expect("closed in time").ok();
        assert!(begun.elapsed() < Duration::from_secs(4), "{said:?} took {:?}", begun.elapsed());
        let text = String::from_utf8_lossy(&rest).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4") || !text.contains("200"), "{text}");
    }
    app.progress("a", 1).await;
    honest.find("the update", |event| event.event == "job:update").await;
    app.app.stop().await;
}

#[tokio::test]
async fn b65_bodies_are_bounded_in_size_and_time() {
    let (_world, app) = app().await;
    let head = |extra: &str| {
        format!(
            "POST /v1/jobs/a/updates HTTP/1.1\r\nHost: t\r\nAuthorization: ApiKey {API_KEY}\r\nContent-Type: application/json\r\n{extra}\r\n"
        )
    };
    assert_eq!(status_of(app.addr, head("Content-Length: 10737418240\r\n").as_bytes()).await, 413);
    assert_eq!(status_of(app.addr, format!("{}{{\"status\"", head("Content-Length: 100\r\n")).as_bytes()).await, 408);
    let chunk = format!("{:x}\r\n{}\r\n", 16_384, "a".repeat(16_384));
    let bomb = format!("{}{}", head("Transfer-Encoding: chunked\r\n"), chunk.repeat(10));
    assert!(matches!(status_of(app.addr, bomb.as_bytes()).await, 413 | 0));
    let extension = format!("{}1;{}\r\na\r\n0\r\n\r\n", head("Transfer-Encoding: chunked\r\n"), "x".repeat(1 << 20));
    assert!(matches!(status_of(app.addr, extension.as_bytes()).await, 400 | 413 | 0));
    let key = format!("ApiKey {API_KEY}");
    let form = http::request(
        app.addr,
        "POST",
        "/v1/jobs/a/updates",
        &[("Authorization", &key), ("Content-Type", "application/x-www-form-urlencoded")],
        b"a=b",
    )
    .await;
    assert_eq!(form.status, 415);
    let large = json!({"status": "running", "message": "x".repeat(70_000)}).to_string();
    let answer = http::request(
        app.addr,
        "POST",
        "/v1/jobs/a/updates",
        &[("Authorization", &key), ("Content-Type", "application/json")],
        large.as_bytes(),
    )
    .await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "INVALID_MESSAGE"));
    is_well(&app).await;
    app.app.stop().await;
}

#[tokio::test]
async fn b66_heads_are_bounded() {
    let (_world, app) = app().await;
    let many: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let cases = [
        format!("GET {STREAM} HTTP/1.1\r\nHost: t\r\n{many}\r\n"),
        format!("GET {STREAM} HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)),
        format!("GET {STREAM} HTTP/1.1\r\nHost: t\r\nCookie: {}\r\n\r\n", "a".repeat(64 << 10)),
        format!("GET /v1/events?channels={} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(64 << 10)),
    ];
    for request in cases {
        let begun = Instant::now();
        let status = status_of(app.addr, request.as_bytes()).await;
        assert!(matches!(status, 400 | 414 | 431 | 0), "{status}");
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    is_well(&app).await;
    app.app.stop().await;
}

/// Whatever frames a message in two ways gets no second request on its connection.
#[tokio::test]
async fn b67_ambiguous_framing_is_refused_or_closes() {
    let (_world, app) = app().await;
    let post = |headers: &str, body: &str| {
        format!("POST /v1/publish HTTP/1.1\r\nHost: t\r\nAuthorization: ApiKey {API_KEY}\r\n{headers}\r\n{body}")
    };
    let smuggled = "GET /v1/smuggled HTTP/1.1\r\nHost: t\r\n\r\n";
    let both = format!("0\r\n\r\n{smuggled}");
    let cases = [
        post(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", both.len()), &both),
        post(&format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", both.len()), &both),
        post("Transfer-Encoding: xchunked\r\n", smuggled),
        post("Content-Length: 0\r\nContent-Length: 5\r\n", smuggled),
        post("Content-Length: -1\r\n", smuggled),
        post("Content-Length : 3\r\n", smuggled),
        post("X: a\r\n folded\r\nTransfer-Encoding: chunked, identity\r\n", smuggled),
        format!("GET {STREAM} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        format!("GET {STREAM} HTTP/1.1\r\n\r\n"),
        "GET /v1/events\r\nHTTP/1.1\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(),
    ];
    for request in cases {
        let mut socket = TcpStream::connect(app.addr).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await.expect("closed").ok();
        let text = String::from_utf8_lossy(&answer);
        let answers = text.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "one answer at most to {request:?}: {text}");
        assert!(!text.contains("HTTP/1.1 2"), "{request:?}: {text}");
    }
    is_well(&app).await;
    app.app.stop().await;
}

#[tokio::test]
async fn b75_only_exact_origins_may_read() {
    let (_world, app) = app().await;
    let token = bearer("ada");
    let allowed = async |origin: &str, path: &str| {
        let answer = http::request(
            app.addr,
            "GET",
            path,
            &[("Authorization", &token), ("Origin", origin), ("Accept", "application/json")],
            b"",
        )
        .await;
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    // Every answer carries it, errors and 404 included, or a page could not read why.
    for path in [STREAM, "/v1/events?channels=jobs.zz", "/v1/nowhere", "/v1/jobs/zz", "/v1/publish"] {
        assert_eq!(
            allowed("https://app.example.com", path).await.as_deref(),
            Some("https://app.example.com"),
            "{path}"
        );
    }
    let foreign = [
        "null",
        "https://evil.com",
        "https://app.example.com.evil.com",
        "https://xapp.example.com",
        "https://app.example.com:8443",
        "http://app.example.com",
        "https://APP.example.com",
        "https://app.example.com/",
    ];
    for origin in foreign {
        assert_eq!(allowed(origin, STREAM).await, None, "{origin}");
    }
    app.app.stop().await;
}

/// A cookie is a credential that browsers send for others: it counts only from an allowed origin or the same site.
#[tokio::test]
async fn b76_b77_cookies_count_only_from_home_and_once() {
    let (world, app) = app().await;
    world.document("d1", "ada", &[("ada", tidings::store::Role::Owner)]).await;
    let (good, other) = (tokens::for_user("ada"), tokens::for_user("eve"));
    let cookie = format!("session={good}");
    let ask = async |headers: &[(&str, &str)]| {
        let mut all = vec![("Accept", "application/json")];
        all.extend_from_slice(headers);
        http::request(app.addr, "GET", STREAM, &all, b"").await.status
    };
    assert_eq!(ask(&[("Cookie", &cookie)]).await, 200);
    assert_eq!(ask(&[("Cookie", &cookie), ("Origin", "https://app.example.com")]).await, 200);
    assert_eq!(ask(&[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin")]).await, 200);
    assert_eq!(ask(&[("Cookie", &cookie), ("Origin", "https://evil.com")]).await, 401);
    assert_eq!(ask(&[("Cookie", &cookie), ("Sec-Fetch-Site", "cross-site")]).await, 401);
    assert_eq!(ask(&[("Cookie", &format!("{cookie}; session={other}"))]).await, 400);
    assert_eq!(ask(&[("Cookie", &format!("a=b; {cookie}; c=d"))]).await, 200);
    assert_eq!(ask(&[("Cookie", "session=")]).await, 401);
    // What a form or a beacon of a foreign page can send without asking first.
    for (origin, status) in [("https://app.example.com", 204), ("https://evil.com", 401), ("null", 401)] {
        let headers = [("Cookie", cookie.as_str()), ("Origin", origin), ("Content-Type", "text/plain")];
        let answer = http::request(app.addr, "POST", "/v1/presence/d1", &headers, b"{\"typing\":true}").await;
        assert_eq!(answer.status, status, "{origin}");
        let form = [headers[0], headers[1], ("Content-Type", "application/x-www-form-urlencoded")];
        let answer = http::request(app.addr, "POST", "/v1/presence/d1", &form, b"typing=true").await;
        assert!([401, 415].contains(&answer.status), "{origin}: {}", answer.status);
    }
    app.app.stop().await;
}

/// b16, b17, b19: one credential, in one of the forms, and in the query only where that is allowed.
#[tokio::test]
async fn b16_to_b19_credentials_are_unambiguous() {
    let (mut world, closed) = app().await;
    let (good, other) = (tokens::for_user("ada"), tokens::for_user("eve"));
    let ask = async |addr: SocketAddr, query: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("Accept", "application/json")];
        all.extend_from_slice(headers);
        http::request(addr, "GET", &format!("{STREAM}{query}"), &all, b"").await.status
    };
    let query = format!("&token={good}");
    assert_eq!(ask(closed.addr, &query, &[]).await, 401);
    world.config.allow_query_token = true;
    let open = world.start().await;
    assert_eq!(ask(open.addr, &query, &[]).await, 200);
    let (mine, theirs) = (format!("Bearer {good}"), format!("Bearer {other}"));
    assert_eq!(ask(open.addr, &query, &[("Authorization", &theirs)]).await, 400);
    assert_eq!(ask(open.addr, &query, &[("Authorization", &mine)]).await, 200);
    assert_eq!(ask(open.addr, "", &[("Authorization", &mine), ("Authorization", &theirs)]).await, 400);
    assert_eq!(ask(open.addr, &format!("{query}&token={other}"), &[]).await, 400);
    for (header, status) in [
        (format!("bearer {good}"), 200),
        (format!("BEARER {good}"), 200),
        (format!("Bearer  {good}"), 401),
        (format!("Basic {good}"), 401),
        (format!("Bearer {good},{good}"), 401),
        (good.clone(), 401),
        ("Bearer".to_owned(), 401),
    ] {
        assert_eq!(
            ask(open.addr, "", &[("Authorization", &header)]).await,
            status,
            "{}",
            &header[..12.min(header.len())]
        );
    }
    open.app.stop().await;
    closed.app.stop().await;
}

#[tokio::test]
async fn b78_b103_odd_paths_find_nothing() {
    let (_world, app) = app().await;
    for path in [
        "/metrics",
        "/admin",
        "/debug/pprof",
        "/healthz",
        "/v1/../metrics",
        "//v1/events",
        "/v1//events",
        "/v1/events;x",
        "/v1/events%2f",
        "/V1/events",
        "/v1/events.",
        "/v1/jobs/",
        "/v1/jobs/a%2fb",
        "/v1/jobs/a%00",
        "/v1/jobs/%2e%2e",
        "/v1",
        "/.env",
    ] {
        let answer = http::request(app.addr, "GET", path, &[("Authorization", &bearer("ada"))], b"").await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
    app.app.stop().await;
}

#[tokio::test]
async fn b79_caches_and_ranges_are_ignored() {
    let (_world, app) = app().await;
    let headers = [
        ("Authorization", bearer("ada")),
        ("Range", "bytes=0-".to_owned()),
        ("If-None-Match", "*".to_owned()),
        ("Accept-Encoding", "gzip, br".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut stream = SseClient::connect(app.addr, &format!("{STREAM}&x=1"), &headers).await.unwrap();
    stream.until("ready").await;
    assert_eq!(stream.head().header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(stream.head().header("content-encoding"), None);
    app.app.stop().await;
}

/// b54, b44: many resumes from the oldest position, and a flood of updates, leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn b44_b54_floods_are_bounded() {
    let (_world, app) = app().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    let cursor = stream.until("ready").await.pop().unwrap().id.unwrap();
    for n in 0..200 {
        app.progress("a", n).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (addr, cursor) = (app.addr, cursor.clone());
        tasks.spawn(async move {
            let headers = [("Authorization", bearer("ada")), ("Last-Event-ID", cursor)];
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut stream = SseClient::connect(addr, STREAM, &headers).await.unwrap();
            stream.until("ready").await.iter().filter(|event| event.event == "job:update").count()
        });
    }
    while let Some(count) = tasks.join_next().await {
        assert_eq!(count.unwrap(), 200);
    }
    drop(stream);
    app.until_empty().await;
    app.app.stop().await;
}

/// Nothing that a client says becomes a label: the number of series stays the same.
#[tokio::test]
async fn b100_labels_are_few_whatever_is_asked() {
    let (_world, app) = app().await;
    let series = |app: &TestApp| {
        let text = String::from_utf8(app.app.shared.metrics.render()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let round = async |n: usize| {
        let token = bearer("ada");
        let headers =
            [("Authorization", token.as_str()), ("Accept", "application/json"), ("User-Agent", &format!("agent{n}"))];
        http::request(app.addr, "GET", &format!("/v1/events?channels=jobs.x{n}"), &headers, b"").await;
        http::request(app.addr, "GET", &format!("/path{n}"), &headers, b"").await;
        http::request(app.addr, &format!("M{n}"), "/v1/events", &headers, b"").await;
        app.update(&format!("job{n}"), json!({"status": format!("status{n}")})).await;
        app.publish(json!({"channel": "user.ada", "event": format!("event{n}"), "data": {}})).await;
    };
    // Some series appear with the first write-back, heartbeat and so on.
    for n in 0..10 {
        round(n).await;
    }
    crate::support::eventually("the first write-back", Duration::from_secs(5), async || {
        (app.metric("realtime_store_queries_total{outcome=\"ok\",query=\"write_back\"}") > 0.0).then_some(())
    })
    .await;
    let before = series(&app);
    for n in 10..50 {
        round(n).await;
    }
    assert_eq!(series(&app), before);
    app.app.stop().await;
}

/// b21, b51: what is not yours and what is not there are one answer, byte for byte but for the time.
#[tokio::test]
async fn b21_foreign_and_missing_look_the_same() {
    let (_world, app) = app().await;
    let token = bearer("ada");
    let ask = async |path: &str| {
        let answer =
            http::request(app.addr, "GET", path, &[("Authorization", &token), ("Accept", "application/json")], b"")
                .await;
        let mut body = answer.json();
        body["timestamp"] = json!(null);
        (answer.status, body)
    };
    assert_eq!(ask("/v1/events?channels=jobs.e").await, ask("/v1/events?channels=jobs.nowhere").await);
    assert_eq!(ask("/v1/events?channels=user.eve").await, ask("/v1/events?channels=user.nobody").await);
    assert_eq!(ask("/v1/jobs/e").await, ask("/v1/jobs/nowhere").await);
    app.app.stop().await;
}

/// b101: whatever a client says, the log is one JSON object a line, and nothing of it is a terminal's command.
#[tokio::test(flavor = "multi_thread")]
async fn b101_log_lines_can_not_be_forged() {
    let world = World::embedded().await;
    let owned = world.env();
    let mut env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.push(("LOG_LEVEL", "debug"));
    let server = crate::support::process::Server::spawn(&env).await;
    let addr = server.addr();
    let evil = "\x1b[31m${jndi:ldap://x}\"},{\"level\":\"ERROR\"";
    for request in [
        format!(
            "GET /v1/events?channels=jobs.{evil} HTTP/1.1\r\nHost: t\r\nUser-Agent: {evil}\r\nConnection: close\r\n\r\n"
        ),
        format!("GET /v1/{} HTTP/1.1\r\nHost: t\r\nX-Request-Id: {evil}\r\nConnection: close\r\n\r\n", "%0d%0a%1b[31m"),
        format!(
            "GET / HTTP/1.1\r\nHost: t\r\nLast-Event-ID: {evil}\r\nAuthorization: Bearer {evil}\r\nConnection: close\r\n\r\n"
        ),
    ] {
        status_of(addr, request.as_bytes()).await;
    }
    let body = json!({"status": "running", "message": evil}).to_string();
    let headers = [
        ("Authorization", format!("ApiKey {API_KEY}")),
        ("Content-Type", "application/json".to_owned()),
        ("X-Request-Id", "good-id_1".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = http::request(addr, "POST", "/v1/jobs/a/updates", &headers, body.as_bytes()).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (202, Some("good-id_1")));
    crate::support::eventually("the request's line", Duration::from_secs(5), async || {
        server.logs().iter().any(|line| line.contains("good-id_1")).then_some(())
    })
    .await;
    for line in server.logs() {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok() && !line.contains('\x1b'), "{line:?}");
    }
}

/// b108: out of descriptors the service goes on for those that it has, and takes new ones as soon as it can.
#[tokio::test(flavor = "multi_thread")]
async fn b108_running_out_of_descriptors_harms_nobody_who_is_there() {
    let world = World::embedded().await;
    world.people(&[("ada", &["a"])]).await;
    let owned = world.env();
    let env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = crate::support::process::Server::spawn(&env).await;
    let token = bearer("ada");
    let mut honest = SseClient::connect(server.addr(), STREAM, &[("Authorization", &token)]).await.unwrap();
    honest.until("ready").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let limit = format!("--nofile={}", open + 8);
    let limited = std::process::Command::new("prlimit").args(["--pid", &server.pid().to_string(), &limit]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit (util-linux) sets the limit");
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    honest.until("heartbeat").await;
    honest.until("heartbeat").await;
    drop(flood);
    crate::support::eventually("new connections are served again", Duration::from_secs(15), async || {
        let asked =
            http::try_raw(server.addr(), b"GET /health/live HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
        asked.ok().filter(|answer| answer.status == 200)
    })
    .await;
}

/// The document of the interface is made from the code, and names every route that there is.
#[tokio::test]
async fn the_openapi_document_names_every_route() {
    let (_world, app) = app().await;
    let document = http::get(app.addr, "/openapi.json", "").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in [
        "/v1/events",
        "/v1/ws",
        "/v1/poll",
        "/v1/streams/{id}",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/updates",
        "/v1/publish",
        "/v1/publish/batch",
        "/v1/presence/{documentId}",
        "/v1/tickets",
        "/health",
        "/health/live",
        "/health/ready",
        "/info",
        "/openapi.json",
    ] {
        assert!(paths.iter().any(|known| *known == path), "{path}");
    }
    assert_eq!(paths.len(), 15);
    app.app.stop().await;
}

/// b109: the port for machines answers whatever name it is called by, tells a foreign page nothing that the page could read,
/// and has nothing but metrics.
#[tokio::test]
async fn b109_the_metrics_port_is_of_no_use_to_a_page() {
    let world = World::embedded().await;
    let owned = world.env();
    let env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = crate::support::process::Server::spawn(&env).await;
    let foreign = [("Host", "evil.example.com"), ("Origin", "https://evil.example.com")];
    let answer = http::request(server.metrics_addr(), "GET", "/metrics", &foreign, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // One of our own words has it in it.
    assert!(!answer.text().replace("unreadable", "").contains("ada"), "no names of people, jobs or channels");
    for path in ["/v1/events", "/health", "/", "/v1/publish"] {
        assert_eq!(http::request(server.metrics_addr(), "GET", path, &[], b"").await.status, 404, "{path}");
    }
    assert_eq!(http::request(server.addr(), "GET", "/metrics", &foreign, b"").await.status, 404);
}
