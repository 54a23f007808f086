//! TLS on the public port: who is served, what a certificate that changes does, and what a handshake may cost.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::settings;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http2::Http2;
use crate::support::http2::Windows;
use crate::support::process::Server;
use crate::support::tls;
use crate::support::tls::Pair;
use crate::support::tls::PairFiles;
use crate::support::tls::Tunnel;
use crate::support::tokens;

async fn app() -> (World, TestApp) {
    let mut world = World::embedded().await.secured();
    world.config.first_byte_timeout = Duration::from_millis(700);
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    (world, app)
}

/// The protocol that the server chooses of these.
async fn chosen(addr: SocketAddr, pair: &Pair, offered: &[&str]) -> std::io::Result<Option<String>> {
    let stream = tls::connect(addr, pair, offered).await?;
    let chosen = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    Ok(chosen)
}

#[tokio::test]
async fn the_better_protocol_is_chosen() {
    let (world, app) = app().await;
    let (pair, addr) = (&world.tls().0, app.app.address);
    assert_eq!(chosen(addr, pair, &["http/1.1", "h2"]).await.unwrap().as_deref(), Some("h2"));
    assert_eq!(chosen(addr, pair, &["http/1.1"]).await.unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(chosen(addr, pair, &[]).await.unwrap(), None);
    assert!(chosen(addr, pair, &["spdy/3"]).await.is_err(), "nothing that we speak");
    app.app.stop().await;
}

/// Streams that are open live on through a new certificate, who comes then is shown it, and what is no pair changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_changed_without_a_restart() {
    let (world, mut app) = app().await;
    let (old, files) = world.tls();
    let addr = app.app.address;
    let metrics = app.app.shared.metrics.clone();
    let reloads = |outcome: &str| metrics.tls_reloads.with_label_values(&[outcome]).get() as f64;
    let ends = || metrics.tls_certificate_ends.get() as f64;
    assert_eq!(ends(), 4_102_444_800.0, "2100-01-01");
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    let new = Pair::until(rcgen::date_time_ymd(2049, 12, 31));
    // Half of a change, and things that are none.
    for (nth, (cert, key)) in
        [(&new.cert, &old.key), (&String::new(), &old.key), (&new.cert, &new.cert)].into_iter().enumerate()
    {
        files.write(cert, key);
        // Read between two writes, they are refused once more.
        eventually("it is refused", SOON, async || (reloads("failed") > nth as f64).then_some(())).await;
        assert!(tls::connect(addr, old, &[]).await.is_ok(), "the one before stays");
    }
    std::fs::remove_file(files.key()).unwrap();
    eventually("a missing file is noticed", SOON, async || (reloads("failed") > 3.0).then_some(())).await;
    files.write(&new.cert, &new.key);
    eventually("the new one is shown", SOON, async || tls::connect(addr, &new, &[]).await.ok()).await;
    assert_eq!((reloads("loaded"), ends()), (1.0, 2_524_521_600.0));
    assert!(tls::connect(addr, old, &[]).await.is_err());
    let tunnel = Tunnel::to(addr, &new).await;
    app.addr = tunnel.addr;
    app.progress("a", 1).await;
    stream.find("the stream goes on", |event| event.event == "job:update").await;
    app.app.stop().await;
}

/// A Kubernetes secret changes by a link that points to another folder.
#[tokio::test]
async fn a_link_that_points_elsewhere_is_a_change() {
    let (first, second) = (Pair::make(), Pair::make());
    let (one, two) = (PairFiles::new(&first), PairFiles::new(&second));
    let place = PairFiles::new(&first);
    let folder = |files: &PairFiles| files.cert().parent().unwrap().to_owned();
    let link = folder(&place).join("current");
    std::os::unix::fs::symlink(folder(&one), &link).unwrap();
    let mut config = settings();
    config.tls_cert_file = link.join("tls.crt").display().to_string();
    config.tls_key_file = link.join("tls.key").display().to_string();
    let world = World::over(config).await;
    let listeners = tidings::app::Listeners::bind(&world.config).unwrap();
    let app = tidings::app::App::start(world.config.clone(), listeners, axum::Router::new()).await.unwrap();
    tls::connect(app.address, &first, &[]).await.unwrap();
    let new = folder(&place).join("new");
    std::os::unix::fs::symlink(folder(&two), &new).unwrap();
    std::fs::rename(new, link).unwrap();
    eventually("the second is shown", SOON, async || tls::connect(app.address, &second, &[]).await.ok()).await;
    app.stop().await;
}

/// b64 for TLS: a handshake that does not begin, stops half way, or is none, and whoever says nothing after it, is closed in time.
#[tokio::test(flavor = "multi_thread")]
async fn b64_handshakes_have_a_deadline() {
    let (world, app) = app().await;
    let (pair, addr) = (&world.tls().0, app.app.address);
    let handshakes = |outcome: &str| app.metric(&format!("realtime_tls_handshakes_total{{outcome=\"{outcome}\"}}"));
    let mut honest =
        Client::open(Transport::Ws, app.addr, &tokens::for_user("ada"), "channels=jobs.a", None).await.unwrap();
    honest.until("ready").await;
    let begun = Instant::now();
    // The beginning of a ClientHello of 512 bytes.
    for said in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(said).await.unwrap();
        until_closed(socket).await;
    }
    assert_eq!(handshakes("timeout"), 2.0);
    // Plain HTTP, of both versions.
    for said in [&b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(said).await.unwrap();
        until_closed(socket).await;
    }
    assert_eq!(handshakes("failed"), 2.0);
    for (protocol, said) in [("h2", &b""[..]), ("h2", b"PRI * HT"), ("http/1.1", b""), ("http/1.1", b"GET / HT")] {
        let mut socket = tls::connect(addr, pair, &[protocol]).await.unwrap();
        socket.write_all(said).await.unwrap();
        until_closed(socket).await;
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    app.progress("a", 1).await;
    honest.until("job:update").await;
    app.app.stop().await;
}

async fn until_closed(mut socket: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await.expect("closed in time").ok();
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.contains("HTTP/1.1 2"), "{text}");
}

/// An operator's mistakes are one line each, and exit code 78, before anything is served.
#[tokio::test]
async fn files_that_are_no_pair_are_refused_at_the_start() {
    let (pair, other) = (Pair::make(), Pair::make());
    let files = PairFiles::new(&pair);
    let (cert, key) = (files.cert().display().to_string(), files.key().display().to_string());
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let fits = (pair.cert.as_str(), pair.key.as_str());
    let cases: [(&str, &str, (&str, &str), &str); 8] = [
        (&cert, "", fits, "both or neither"),
        ("", &key, fits, "both or neither"),
        ("/nowhere.pem", &key, fits, "TLS_CERT_FILE: can't read /nowhere.pem"),
        (&cert, "/nowhere.pem", fits, "TLS_KEY_FILE: can't read /nowhere.pem"),
        (&cert, &key, (&pair.key, &pair.key), "TLS_CERT_FILE: no certificate in"),
        (&cert, &key, (garbage, &pair.key), "TLS_CERT_FILE: a certificate in"),
        (&cert, &key, (&pair.cert, &pair.cert), "TLS_KEY_FILE: no private key in"),
        (&cert, &key, (&pair.cert, &other.key), "does not fit the first certificate in"),
    ];
    for (cert, key, (cert_text, key_text), part) in cases {
        files.write(cert_text, key_text);
        let mut server = Server::launch(&["serve"], &[("TLS_CERT_FILE", cert), ("TLS_KEY_FILE", key)]);
        assert_eq!(server.wait_exit(SOON).await.code(), Some(78), "{part}");
        let said =
            eventually("the line", SOON, async || server.logs().into_iter().find(|line| line.starts_with("tidings: ")))
                .await;
        assert!(said.contains(part), "{part}: {said}");
        assert!(!said.contains("PRIVATE"), "{said}");
    }
}

/// The port of the metrics stays as it is, and both versions of HTTP are served to clients that check the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_both_versions() {
    let pair = Pair::make();
    let files = PairFiles::new(&pair);
    let mut config = settings();
    config.metrics_port = crate::support::child::free_port();
    config.tls_cert_file = files.cert().display().to_string();
    config.tls_key_file = files.key().display().to_string();
    let world = World::over(config).await;
    let listeners = tidings::app::Listeners::bind(&world.config).unwrap();
    let app = tidings::app::App::start(world.config.clone(), listeners, axum::Router::new()).await.unwrap();
    let url = format!("https://localhost:{}/health/live", app.address.port());
    let resolve = format!("localhost:{}:127.0.0.1", app.address.port());
    let authority = files.cert().display().to_string();
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let args = ["-sS", flag, "--cacert", &authority, "--resolve", &resolve, "-o", "/dev/null"];
        let mut curl = tokio::process::Command::new("curl");
        curl.args(args).args(["-w", "%{http_code} %{http_version}", &url]);
        let Ok(answer) = curl.output().await else { return println!("skipped: no curl") };
        assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("200 {version}"), "{answer:?}");
    }
    let metrics = crate::support::http::get(app.metrics_address.unwrap(), "/metrics", "").await;
    assert!(metrics.text().contains("realtime_tls_handshakes_total{outcome=\"done\"} 2"));
    app.stop().await;
}

/// A connection that carries nothing is let go of after a while; one that carries a stream stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let mut world = World::embedded().await.secured();
    world.config.hooks.http2_idle = Duration::from_secs(2);
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    let mut idle = Http2::connect(app.app.address, Some(&world.tls().0), Windows::default()).await;
    let mut busy = Http2::connect(app.app.address, Some(&world.tls().0), Windows::default()).await;
    let mut stream = busy.events("ada", "channels=jobs.a").await;
    assert_eq!(idle.status("/health/live").await.unwrap(), 200);
    eventually("it is closed", SOON, async || idle.is_closed().then_some(())).await;
    for _ in 0..4 {
        stream.until("heartbeat").await;
    }
    assert!(!busy.is_closed());
    app.app.stop().await;
}
