//! The tools themselves: a checker that can't fail proves nothing.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::SOON;
use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::eventually;
use crate::support::follower::Follower;
use crate::support::follower::FollowerOptions;
use crate::support::follower::Journal;
use crate::support::follower::Stopped;
use crate::support::http;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::End;
use crate::support::proxy::Mode;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::sse::EventStream;
use crate::support::sse::SseClient;
use crate::support::sse::SseEvent;
use crate::support::tokens;
use crate::support::wire::NoAnswer;

/// Answers every connection with the same bytes and closes, after having read a request.
async fn answering(tasks: &mut JoinSet<()>, answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tasks.spawn(async move {
        for number in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = socket.read(&mut request).await.unwrap_or(0);
            let id = String::from_utf8_lossy(&request[..read])
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("last-event-id: ").map(str::to_owned));
            let answer = &answers[number.min(answers.len() - 1)];
            let answer = answer.replace("{id}", &id.unwrap_or_default());
            socket.write_all(answer.as_bytes()).await.ok();
            socket.shutdown().await.ok();
        }
    });
    addr
}

async fn echoing(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut echoes = JoinSet::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            echoes.spawn(async move {
                let (mut from, mut to) = socket.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    addr
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// A Guarded child dies when the process that holds the other end of its pipe is killed, and its directory goes.
#[tokio::test]
async fn children_die_with_a_killed_parent() {
    // Stand-in for a killed test process: its end of the pipe closes without a word.
    let directory = TempDir::new("orphan");
    let mut command = Command::new("sleep");
    command.arg("1000");
    let mut guarded = Guarded::spawn_in(&command, &directory);
    let pid = guarded.pid();
    assert!(alive(pid));
    guarded.cut_lifeline();
    eventually("the orphan is killed", SOON, async || (!alive(pid)).then_some(())).await;
    eventually("its directory is deleted", SOON, async || (!directory.path().exists()).then_some(())).await;
}

#[tokio::test]
async fn children_die_with_their_value() {
    let mut command = Command::new("sleep");
    command.arg("1000");
    let guarded = Guarded::spawn(&command);
    let pid = guarded.pid();
    drop(guarded);
    assert!(!alive(pid));
}

#[tokio::test]
#[should_panic(expected = "not within 30ms: the impossible")]
async fn eventually_gives_up() {
    eventually("the impossible", Duration::from_millis(30), async || None::<()>).await;
}

#[tokio::test]
#[should_panic(expected = "not within 30ms: an answer")]
async fn eventually_gives_up_on_a_question_without_an_answer() {
    eventually("an answer", Duration::from_millis(30), std::future::pending::<Option<()>>).await;
}

#[tokio::test]
async fn redis_survives_what_it_is_told_to() {
    let mut redis = RedisServer::start(RedisOptions { aof: true, port: None }).await;
    assert_eq!(redis.publish("nobody", "x").await, 0);
    redis.xadd("s", "{}").await;
    redis.terminate().await;
    redis.start_again().await;
    assert_eq!(redis.cli(&["XLEN", "s"]).await.unwrap(), redis::Value::Int(1));
    redis.freeze();
    let frozen = tokio::time::timeout(Duration::from_millis(100), redis.cli(&["PING"])).await;
    assert!(frozen.is_err());
    redis.thaw();
    redis.cli(&["PING"]).await.unwrap();
    redis.kill();
    assert!(TcpStream::connect(redis.addr()).await.is_err());
    redis.start_again().await;
    redis.cli(&["PING"]).await.unwrap();
    let shared = RedisServer::shared().await;
    assert_eq!(shared.port(), RedisServer::shared().await.port());
    shared.cli(&["DEBUG", "JMAP"]).await.unwrap_err();
}

#[tokio::test]
async fn proxy_passes_stalls_swallows_delays_and_refuses() {
    let mut tasks = JoinSet::new();
    let proxy = ChaosProxy::start(echoing(&mut tasks).await).await;
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut byte = [0; 1];
    let short = Duration::from_millis(60);
    socket.write_all(b"a").await.unwrap();
    socket.read_exact(&mut byte).await.unwrap();

    proxy.set_mode(Mode::Stall);
    socket.write_all(b"b").await.unwrap();
    assert!(tokio::time::timeout(short, socket.read_exact(&mut byte)).await.is_err());
    proxy.set_mode(Mode::Pass);
    socket.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");

    proxy.set_mode(Mode::Swallow);
    socket.write_all(b"c").await.unwrap();
    assert!(tokio::time::timeout(short, socket.read_exact(&mut byte)).await.is_err());
    proxy.set_mode(Mode::Delay(short));
    let sent = tokio::time::Instant::now();
    socket.write_all(b"d").await.unwrap();
    socket.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"d");
    assert!(sent.elapsed() >= short * 2, "both ways are delayed");

    proxy.set_mode(Mode::Refuse);
    let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(refused.read_exact(&mut byte).await.is_err());
    proxy.set_mode(Mode::Pass);
    assert_eq!((proxy.accepted(), proxy.open()), (2, 1));
    proxy.reset_all();
    let error = socket.read_exact(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    socket.write_all(b"e").await.unwrap();
    socket.read_exact(&mut byte).await.unwrap();
    proxy.fin_all();
    assert_eq!(socket.read(&mut byte).await.unwrap(), 0);
    eventually("all are closed", SOON, async || (proxy.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn proxy_cuts_at_an_exact_byte() {
    let mut tasks = JoinSet::new();
    let proxy = ChaosProxy::start(echoing(&mut tasks).await).await;
    for end in [End::Reset, End::Fin] {
        proxy.cut_next_after(7, end);
        let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
        socket.write_all(b"0123456789").await.unwrap();
        let mut got = Vec::new();
        let result = socket.read_to_end(&mut got).await;
        assert_eq!((got.as_slice(), result.is_ok()), (&b"0123456"[..], end == End::Fin));
    }
}

fn parse(text: &str) -> Vec<SseEvent> {
    let whole = EventStream::default().push(text.as_bytes());
    // The same, byte by byte: where the network cuts must not matter.
    let mut stream = EventStream::default();
    let single: Vec<SseEvent> = text.bytes().flat_map(|byte| stream.push(&[byte])).collect();
    assert_eq!(whole, single);
    whole
}

#[test]
fn sse_is_parsed_by_the_specification() {
    let brief = |text: &str| -> Vec<(String, String, Option<String>)> {
        parse(text).into_iter().map(|event| (event.event, event.raw, event.id)).collect()
    };
    let of = |name: &str, data: &str, id: Option<&str>| vec![(name.to_owned(), data.to_owned(), id.map(str::to_owned))];
    assert_eq!(brief("\u{feff}data: x\n\n"), of("message", "x", None));
    assert_eq!(brief("event: e\r\ndata: a\r\ndata:b\r\nid: 7\r\n\r\n"), of("e", "a\nb", Some("7")));
    assert_eq!(brief("data: x\r\r"), of("message", "x", None));
    assert_eq!(brief("id: 1\n\ndata: x\n\n"), of("message", "x", Some("1")));
    assert_eq!(brief("id: 1\0\ndata: x\n\n"), of("message", "x", None));
    assert_eq!(brief("id: 1\ndata: x\n\nid\ndata: y\n\n")[1], of("message", "y", None)[0]);
    assert_eq!(brief("data\n\n"), of("message", "", None));
    assert_eq!(brief(": comment\n\nevent: lost\n\ndata: x"), vec![]);
    assert_eq!(brief("event: a\n\ndata: x\n\n"), of("message", "x", None));
}

#[test]
fn sse_retry_is_digits_only() {
    let mut stream = EventStream::default();
    stream.push(b"retry: 12\nretry: 1x\nretry:\n");
    assert_eq!(stream.retry_ms(), Some(12));
}

#[tokio::test]
async fn an_id_counts_only_once_its_event_is_whole() {
    let mut tasks = JoinSet::new();
    let body = "id: 1\ndata: {\"a\":1}\n\nid: 2\ndata: {}\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (one, two) = body.split_at(9);
    let chunks = format!("{head}{:x}\r\n{one}\r\n{:x};ext\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
    let addr = answering(&mut tasks, vec![chunks]).await;
    let mut client = SseClient::connect(addr, "/v1/events", &[]).await.unwrap();
    let event = client.next(SOON).await.unwrap();
    assert_eq!((event.data["a"].as_u64(), event.has_id), (Some(1), true));
    let (rest, ended) = client.until_end(SOON).await;
    assert_eq!((rest.len(), ended, client.last_event_id()), (0, Ok(()), Some("1")));
    assert_eq!(client.opening(), body);
}

#[tokio::test]
async fn a_refusal_can_be_read() {
    let mut tasks = JoinSet::new();
    let body = r#"{"code":"PERMISSION_DENIED"}"#;
    let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let addr = answering(&mut tasks, vec![answer]).await;
    let refused = SseClient::connect(addr, "/v1/events", &[]).await.unwrap_err().answer();
    assert_eq!((refused.status, refused.code().as_str()), (403, "PERMISSION_DENIED"));
    let answer = http::request(addr, "GET", "/", &[], b"").await;
    assert_eq!((answer.status, answer.header("content-length")), (403, Some("28")));
}

#[tokio::test]
async fn no_answer_is_an_answer_too() {
    let mut tasks = JoinSet::new();
    let addr = answering(&mut tasks, vec![String::new()]).await;
    assert_eq!(http::try_raw(addr, b"GARBAGE\r\n\r\n").await.unwrap_err(), NoAnswer::Closed);
}

fn connected(verdict: &str) -> String {
    format!("event: connected\ndata: {{\"channels\":[{{\"channel\":\"jobs.j\",\"verdict\":\"{verdict}\"}}]}}\n\n")
}

fn update(n: u64, snapshot: bool) -> String {
    let id = if snapshot { String::new() } else { format!("id: {n}\n") };
    format!("{id}event: job:update\ndata: {{\"jobId\":\"j\",\"data\":{{\"n\":{n}}},\"snapshot\":{snapshot}}}\n\n")
}

fn stream(parts: &[String]) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1\n\n{}", parts.concat())
}

async fn followed(answers: Vec<String>) -> Journal {
    let mut tasks = JoinSet::new();
    let addr = answering(&mut tasks, answers).await;
    let follower = Follower::start(&[addr, addr], "/v1/events?channels=jobs.j", FollowerOptions::default());
    follower.until("it stops", SOON, |journal| journal.stopped.is_some()).await;
    follower.journal()
}

#[tokio::test]
async fn a_follower_resumes_and_stops_as_a_browser_does() {
    let end = "event: end\ndata: {\"reconnect\":false,\"reason\":\"done\",\"sent\":\"{id}\"}\n\n".to_owned();
    let cut = format!("{}id: 3\nevent: job:up", update(2, false));
    let first = stream(&[connected("live"), update(1, true), cut]);
    let second = stream(&[connected("resumed"), update(3, false), end]);
    let journal = followed(vec![first, second]).await;
    assert_eq!(journal.stopped, Some(Stopped::End("done".into())));
    assert_eq!(journal.connections[1].sent_id.as_deref(), Some("2"));
    assert_eq!(journal.named("end").next().unwrap().text("sent"), "2");
    assert_eq!(journal.connections[1].address, 1);
    assert_eq!(journal.newest("j", "/data/n"), Some(3));
    journal.check_sequence(&[("j", 3)]).assert_clean();
    let gone = followed(vec![stream(&[]), "HTTP/1.1 204 No Content\r\n\r\n".into()]).await;
    assert_eq!((gone.stopped, gone.connections.len()), (Some(Stopped::Status(204)), 2));
}

/// The negative controls: each kind of mistake is found and counted as what it is.
#[tokio::test]
async fn the_checker_finds_every_kind_of_mistake() {
    let no = "HTTP/1.1 204 No Content\r\n\r\n".to_owned();
    let judge = async |second: Vec<String>| {
        let first = stream(&[connected("live"), update(1, false), update(2, false)]);
        let checked = followed(vec![first, stream(&second), no.clone()]).await.check_sequence(&[("j", 4)]);
        (checked.lost, checked.repeated, checked.out_of_order, checked.resets)
    };
    let (live, resumed) = (connected("live"), connected("resumed"));
    let event = |n| update(n, false);
    assert_eq!(judge(vec![resumed.clone(), event(3), event(4)]).await, (0, 0, 0, 0));
    assert_eq!(judge(vec![resumed.clone(), event(4)]).await, (1, 0, 0, 0));
    assert_eq!(judge(vec![resumed.clone(), event(3)]).await, (1, 0, 0, 0));
    assert_eq!(judge(vec![resumed.clone(), event(2), event(3), event(4)]).await, (0, 1, 0, 0));
    assert_eq!(judge(vec![resumed.clone(), event(3), event(4), event(2)]).await, (0, 0, 1, 0));
    assert_eq!(judge(vec![resumed.clone(), update(4, true)]).await, (2, 0, 0, 0));
    assert_eq!(judge(vec![resumed.clone(), update(2, true), event(3), event(4)]).await, (0, 0, 0, 0));
    assert_eq!(judge(vec![live, update(4, true)]).await, (0, 0, 0, 0));
    let reset = "event: reset\ndata: {}\n\n".to_owned();
    assert_eq!(judge(vec![connected("reset"), reset, update(4, true)]).await, (0, 0, 0, 1));
}

/// The vector of RFC 7515 §A.1, so that our tokens are wrong only on purpose.
#[test]
fn tokens_are_signed_by_the_book() {
    let header = "{\"typ\":\"JWT\",\r\n \"alg\":\"HS256\"}";
    let claims = "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
    let key = [
        3, 35, 53, 75, 43, 15, 165, 188, 131, 126, 6, 101, 119, 123, 166, 143, 90, 179, 40, 230, 240, 84, 201, 40, 169,
        15, 132, 178, 210, 80, 46, 191, 211, 251, 90, 146, 210, 6, 71, 239, 150, 138, 180, 195, 119, 98, 61, 34, 61,
        46, 33, 114, 5, 46, 79, 8, 192, 205, 154, 245, 103, 208, 128, 163,
    ];
    let token = tokens::hs256(header, claims, &key);
    assert!(token.ends_with(".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), "{token}");
    assert!(tokens::unsigned(tokens::HEADER, "{}").ends_with("e30."));
}
