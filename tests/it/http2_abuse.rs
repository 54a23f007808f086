//! b70: HTTP/2 as nobody should speak it. Every attack ends its own connection, its own streams, or nothing; whoever is honest
//! notices none, and memory stays.

use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::process::Server;
use crate::support::sse::SseClient;
use crate::support::tls;
use crate::support::tokens;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const STREAM: &str = "/v1/events?channels=jobs.a";
const OPEN: &str = "realtime_active_connections{transport=\"sse\"}";

// Types of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

// Error codes (RFC 9113 §7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET /` as indexed header fields.
const ROOT: [u8; 6] = [0x82, 0x84, 0x86, 0x41, 0x01, b't'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field that no table keeps, its name and value as they are (RFC 7541 §6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        match text.len() {
            short @ 0..127 => out.push(short as u8),
            long => {
                // RFC 7541 §5.1
                out.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    out.push(0x80 | (rest & 0x7F) as u8);
                    rest >>= 7;
                }
                out.push(rest as u8);
            }
        }
        out.extend(text.as_bytes());
    }
    out
}

/// A request for a stream of events.
fn asks_for_events() -> Vec<u8> {
    let mut head = vec![0x82, 0x86, 0x41, 0x01, b't'];
    head.extend(literal(":path", STREAM));
    head.extend(literal("authorization", &format!("Bearer {}", tokens::for_user("ada"))));
    head
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// Answers, by stream.
    answered: usize,
    /// Codes of reset streams.
    resets: Vec<u32>,
    /// The code with which the connection was said to end.
    goaway: Option<u32>,
    closed: bool,
}

/// Anything that can be read and written.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

async fn connect(world: &World, app: &TestApp) -> Box<dyn Duplex> {
    if world.config.tls_cert_file.is_empty() {
        Box::new(TcpStream::connect(app.app.address).await.unwrap())
    } else {
        Box::new(tls::connect(app.app.address, &world.tls().0, &["h2"]).await.unwrap())
    }
}

/// Sends the preface, our settings and these bytes, and reads what comes until the connection closes or is quiet for a while.
async fn send(socket: Box<dyn Duplex>, settings: &[u8], bytes: &[u8]) -> Outcome {
    let mut all = PREFACE.to_vec();
    all.extend(frame(SETTINGS, 0, 0, settings));
    all.extend(bytes);
    let (mut from, mut to) = tokio::io::split(socket);
    let sending = async {
        // Closed in the middle, or not read any further, is what a flood may get.
        drop(tokio::time::timeout(Duration::from_secs(8), to.write_all(&all)).await);
    };
    let (outcome, ()) = tokio::join!(heard(&mut from), sending);
    outcome
}

async fn heard(from: &mut (impl AsyncRead + Unpin)) -> Outcome {
    let (mut outcome, mut pending) = (Outcome::default(), Vec::new());
    loop {
        while let Some(length) =
            pending.get(..3).map(|b: &[u8]| usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2]))
            && pending.len() >= 9 + length
        {
            let whole: Vec<u8> = pending.drain(..9 + length).collect();
            let code = |at: usize| u32::from_be_bytes(whole[9 + at..13 + at].try_into().unwrap());
            match whole[3] {
                HEADERS => outcome.answered += 1,
                RST_STREAM => outcome.resets.push(code(0)),
                GOAWAY => outcome.goaway = Some(code(4)),
                _ => {}
            }
        }
        match tokio::time::timeout(Duration::from_secs(2), from.read_buf(&mut pending)).await {
            Err(_) => return outcome,
            Ok(Ok(1..)) => {}
            Ok(_) => {
                outcome.closed = true;
                return outcome;
            }
        }
    }
}

/// Both ways, each with somebody honest beside it who has to notice nothing.
async fn beside_an_honest_one(attack: impl AsyncFn(&World, &TestApp)) {
    for mut world in [World::embedded().await, World::embedded().await.secured()] {
        world.config.body_timeout = Duration::from_millis(700);
        world.people(&[("ada", &["a"])]).await;
        let app = world.start().await;
        let mut honest = app.stream("ada", "jobs.a").await;
        honest.until("ready").await;
        attack(&world, &app).await;
        app.progress("a", 1).await;
        honest.find("the honest stream goes on", |event| event.event == "job:update").await;
        eventually("nothing else is left", Duration::from_secs(10), async || (app.metric(OPEN) == 1.0).then_some(()))
            .await;
        drop(honest);
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// Requests that are taken back as soon as they are sent (CVE-2023-44487): the connection is ended, long before they are all served.
#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_their_connection() {
    beside_an_honest_one(async |world, app| {
        let head = asks_for_events();
        let pair = |n: u32| {
            let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &head);
            bytes.extend(frame(RST_STREAM, 0, n * 2 + 1, &8_u32.to_be_bytes()));
            bytes
        };
        let flood: Vec<u8> = (0..20_000).flat_map(pair).collect();
        let outcome = send(connect(world, app).await, &[], &flood).await;
        assert!(outcome.closed || outcome.goaway.is_some(), "{outcome:?}");
        assert!(outcome.goaway.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{outcome:?}");
        assert!(app.metric("realtime_connections_total{status=\"accepted\",transport=\"sse\"}") < 2_000.0);
    })
    .await;
}

/// Requests of which each is broken afterwards, so that the server resets it (CVE-2025-8671): the connection is ended.
#[tokio::test(flavor = "multi_thread")]
async fn made_resets_end_their_connection() {
    beside_an_honest_one(async |world, app| {
        let nothing = 0_u32.to_be_bytes();
        let breaks: [(&str, u8, Vec<u8>); 3] = [
            ("a window of nothing more", WINDOW_UPDATE, nothing.to_vec()),
            ("a window that overflows", WINDOW_UPDATE, 0x7FFF_FFFF_u32.to_be_bytes().to_vec()),
            ("data after the end", DATA, vec![7; 8]),
        ];
        for (name, kind, payload) in breaks {
            let pair = |n: u32| {
                let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &ROOT);
                bytes.extend(frame(kind, 0, n * 2 + 1, &payload));
                bytes
            };
            let flood: Vec<u8> = (0..20_000).flat_map(pair).collect();
            let outcome = send(connect(world, app).await, &[], &flood).await;
            assert!(outcome.closed || outcome.goaway.is_some(), "{name}: {outcome:?}");
            assert!(outcome.resets.len() + outcome.answered < 10_000, "{name}: {}", outcome.resets.len());
        }
    })
    .await;
}

/// Header fields that never end, are too large, or refer a thousand times to something large: nothing of it is served.
#[tokio::test(flavor = "multi_thread")]
async fn header_bombs_are_not_unpacked() {
    beside_an_honest_one(async |world, app| {
        let continued = frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(1000))).repeat(2_000);
        let endless = [frame(HEADERS, END_STREAM, 1, &ROOT), continued].concat();
        let outcome = send(connect(world, app).await, &[], &endless).await;
        assert!(outcome.closed || outcome.goaway == Some(ENHANCE_YOUR_CALM), "continuation: {outcome:?}");
        assert_eq!(outcome.answered, 0);

        let large: Vec<u8> = (0..3).flat_map(|_| literal("x", &"y".repeat(5_400))).collect();
        let large = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&ROOT[..], &large].concat());
        let outcome = send(connect(world, app).await, &[], &large).await;
        assert!(outcome.answered <= 1, "431, or a reset: {outcome:?}");
        assert!(outcome.answered == 1 || !outcome.resets.is_empty() || outcome.closed, "{outcome:?}");

        // An entry of 3,900 bytes that the table keeps (RFC 7541 §6.2.1), then 16,000 times the same by its index.
        let mut kept = literal("x", &"y".repeat(3_900));
        kept[0] = 0x40;
        let first = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&ROOT[..], &kept].concat());
        let bomb = [&ROOT[..], &[0xBE; 16_000]].concat();
        let bombs = (1..200).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &bomb));
        let begun = Instant::now();
        let outcome = send(connect(world, app).await, &[], &first.into_iter().chain(bombs).collect::<Vec<_>>()).await;
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        assert!(outcome.closed || outcome.goaway.is_some() || outcome.answered + outcome.resets.len() > 0);

        // A table that was never agreed on.
        let resized = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x3F, 0xFF, 0xFF, 0xFF, 0x7F]);
        let outcome = send(connect(world, app).await, &[], &resized).await;
        assert!(outcome.closed || outcome.goaway == Some(COMPRESSION_ERROR), "{outcome:?}");
    })
    .await;
}

/// Ten thousand requests at a time: 256 are served, the others refused.
#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_refused() {
    beside_an_honest_one(async |world, app| {
        let head = asks_for_events();
        let flood: Vec<u8> =
            (0..10_000).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &head)).collect();
        let outcome = send(connect(world, app).await, &[], &flood).await;
        assert!(outcome.answered <= 256, "{}", outcome.answered);
        assert!(outcome.resets.iter().all(|code| *code == REFUSED_STREAM), "{:?}", outcome.resets.first());
        assert!(outcome.closed || outcome.goaway.is_some() || outcome.resets.len() > 9_000, "{}", outcome.resets.len());
    })
    .await;
}

/// What breaks the rules of framing ends the connection, with the code that says why.
#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_end_their_connection() {
    beside_an_honest_one(async |world, app| {
        let window = |by: u32| frame(WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
        let cases: [(&str, Vec<u8>, &[u32]); 11] = [
            ("a window that overflows", window(0x7FFF_FFFF).repeat(2), &[FLOW_CONTROL_ERROR]),
            ("a window of nothing more", window(0), &[PROTOCOL_ERROR]),
            ("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385]), &[FRAME_SIZE_ERROR]),
            ("data of no stream", frame(DATA, 0, 0, b"x"), &[PROTOCOL_ERROR]),
            ("data of a stream that never was", frame(DATA, 0, 5, b"x"), &[PROTOCOL_ERROR]),
            ("an even stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, &ROOT), &[PROTOCOL_ERROR]),
            ("more padding than frame", frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0x82]), &[PROTOCOL_ERROR]),
            ("a promise of a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), &[PROTOCOL_ERROR]),
            ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &ROOT), &[PROTOCOL_ERROR]),
            ("a ping of three bytes", frame(PING, 0, 0, &[0; 3]), &[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
            (
                "no index of any table",
                frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xFF, 0x80, 0x01]),
                &[PROTOCOL_ERROR, COMPRESSION_ERROR],
            ),
        ];
        for (name, bytes, codes) in cases {
            let outcome = send(connect(world, app).await, &[], &bytes).await;
            assert!(outcome.goaway.is_some_and(|code| codes.contains(&code)), "{name}: {outcome:?}");
            assert!(outcome.closed, "{name}: {outcome:?}");
        }
        // A window that no peer may have, as a setting.
        let outcome = send(connect(world, app).await, &[0, 4, 0xFF, 0xFF, 0xFF, 0xFF], &[]).await;
        assert!(matches!(outcome.goaway, Some(PROTOCOL_ERROR | FLOW_CONTROL_ERROR)), "{outcome:?}");
    })
    .await;
}

/// A body that is begun and does not go on is given up in time; what else its connection carries goes on.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stop_are_given_up() {
    beside_an_honest_one(async |world, app| {
        let mut head = vec![0x83, 0x86, 0x41, 0x01, b't'];
        head.extend(literal(":path", "/v1/jobs/a/updates"));
        head.extend(literal("authorization", &format!("ApiKey {}", crate::support::app::API_KEY)));
        head.extend(literal("content-type", "application/json"));
        let begun = Instant::now();
        let bytes: Vec<u8> = (0..100)
            .flat_map(|n| [frame(HEADERS, END_HEADERS, n * 2 + 1, &head), frame(DATA, 0, n * 2 + 1, b"{")].concat())
            .collect();
        let outcome = send(connect(world, app).await, &[], &bytes).await;
        assert_eq!(outcome.answered, 100, "408 each: {outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    })
    .await;
}

/// `Upgrade: h2c` is not taken up: the answer is one of HTTP/1.1.
#[tokio::test]
async fn an_upgrade_without_tls_is_ignored() {
    let world = World::embedded().await;
    let app = world.start().await;
    let headers =
        [("Connection", "Upgrade, HTTP2-Settings, close"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
    let answer = http::request(app.addr, "GET", "/health/live", &headers, b"").await;
    assert_eq!((answer.status, answer.header("upgrade")), (200, None));
    app.app.stop().await;
}

/// Floods of frames that cost the sender little end their own connection or nothing at all. Nobody reads the answers.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_harm_nobody_else() {
    let world = World::embedded().await;
    world.people(&[("ada", &["a"])]).await;
    let owned = world.env();
    let env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::spawn(&env).await;
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let mut honest = SseClient::connect(server.addr(), STREAM, &[("Authorization", &token)]).await.unwrap();
    honest.until("ready").await;
    let before = server.metric("process_resident_memory_bytes").await.unwrap();
    let events: Vec<u8> =
        (0..256).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &asks_for_events())).collect();
    let window = |size: u16| frame(SETTINGS, 0, 0, &[&[0, 4, 0, 0], &size.to_be_bytes()[..]].concat());
    let floods: [(&str, Vec<u8>, Vec<u8>); 10] = [
        ("ping", vec![], frame(PING, 0, 0, &[7; 8])),
        ("answers to pings", vec![], frame(PING, ACK, 0, &[7; 8])),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[])),
        ("windows of all streams", events.clone(), [window(0), window(60_000)].concat()),
        ("priority", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("continuation", frame(HEADERS, END_STREAM, 1, &ROOT), frame(CONTINUATION, 0, 1, &literal("x", "y"))),
        ("empty data", frame(HEADERS, END_HEADERS, 1, &ROOT), frame(DATA, 0, 1, &[])),
        ("window updates", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("a window in drops", events, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("unknown frames", vec![], frame(0xee, 0, 0, &[0; 64])),
    ];
    for (name, opening, repeated) in floods {
        let mut socket = TcpStream::connect(server.addr()).await.unwrap();
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &opening, &repeated.repeat(50_000)].concat();
        // Closed in the middle, or not read any further, is what a flood may get.
        drop(tokio::time::timeout(Duration::from_secs(3), socket.write_all(&bytes)).await);
        honest.until("heartbeat").await;
        let asked =
            http::try_raw(server.addr(), b"GET /health/live HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
        assert_eq!(asked.map(|answer| answer.status).ok(), Some(200), "{name}");
    }
    let after = server.metric("process_resident_memory_bytes").await.unwrap();
    assert!(after < before + 64.0 * 1024.0 * 1024.0, "{before} bytes became {after}");
}
