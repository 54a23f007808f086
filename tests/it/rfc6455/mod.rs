//! RFC 6455, case by case: against `/v1/ws` itself, and against an echo that is a process of its own on the same stack and limits.

mod cases;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use futures_util::future::join_all;
use serde_json::Value;

use crate::rfc6455::cases::Case;
use crate::rfc6455::cases::Heard;
use crate::rfc6455::cases::closing;
use crate::rfc6455::cases::message;
use crate::support::SOON;
use crate::support::app::World;
use crate::support::child::Guarded;
use crate::support::child::TempDir;
use crate::support::tokens;
use crate::support::ws::WsClient;
use crate::support::ws::frame;

/// Who is asked.
#[derive(Debug, Clone, Copy)]
struct Peer {
    addr: SocketAddr,
    path: &'static str,
    user: &'static str,
    /// Says what it hears.
    echoes: bool,
}

impl Peer {
    async fn connect(&self) -> WsClient {
        let authorization = format!("Bearer {}", tokens::for_user(self.user));
        let opened = WsClient::connect(self.addr, self.path, &[("Authorization", &authorization)]).await;
        let mut client = opened.unwrap_or_else(|answer| panic!("{}", answer.text()));
        client.until("ready").await;
        client
    }

    /// What a text of the peer says about what it understood; nothing where the stream speaks for itself.
    fn answer(&self, payload: Vec<u8>) -> Option<Value> {
        let text: Value = serde_json::from_slice(&payload).unwrap_or_default();
        if self.echoes {
            (text["type"] != "event").then(|| String::from_utf8(payload).unwrap().into())
        } else {
            (text["type"] == "error").then(|| text["id"].clone())
        }
    }

    /// Sends the bytes in pieces of this size, and hears until everything expected is there; then leaves properly.
    async fn run(&self, case: &Case, piece: usize) {
        let mut client = self.connect().await;
        for part in case.bytes.chunks(piece) {
            client.send_raw(part).await;
        }
        let (mut heard, mut leaving) = (Heard::default(), false);
        loop {
            let complete = heard == Heard { close: None, ..case.heard.clone() };
            if case.heard.close.is_none() && complete && !std::mem::replace(&mut leaving, true) {
                client.send_raw(&closing(4242, b"")).await;
            }
            let Some(frame) = client.next_frame(SOON).await else { break };
            match frame.opcode {
                1 => heard.answers.extend(self.answer(frame.payload)),
                8 => {
                    assert_eq!(heard.close, None, "{}: closed once", case.name);
                    heard.close = Some(frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
                }
                9 => {}
                10 => heard.pongs.push(frame.payload),
                other => panic!("{}: opcode {other}", case.name),
            }
        }
        assert!(client.has_ended(), "{} in pieces of {piece}: still open after {heard:?}", case.name);
        if case.heard.close.is_some() {
            // What came before the end may have been answered, or not any more.
            assert_eq!(heard.close, case.heard.close, "{} in pieces of {piece}", case.name);
        } else {
            let expected = Heard { close: Some(4242), ..case.heard.clone() };
            assert_eq!(heard, expected, "{} in pieces of {piece}", case.name);
        }
    }
}

async fn run_all(peers: &[Peer], cases: &[Case]) {
    let mut runs = 0;
    for group in cases.chunks(16) {
        // Whole, octet by octet where that is not too many, and cut into odd pieces.
        let all = group.iter().flat_map(|case| {
            let short = case.bytes.len() < 500;
            let pieces = [usize::MAX, if short { 1 } else { 997 }, if short { 3 } else { 4096 }];
            peers.iter().flat_map(move |peer| pieces.map(|piece| peer.run(case, piece.min(case.bytes.len()))))
        });
        runs += join_all(all).await.len();
    }
    println!("RFC 6455 at {}: {} cases, {runs} runs, 0 failures", peers[0].path, cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_of_autobahn_hold() {
    let mut world = World::embedded().await.mixed();
    world.config.rate_limit_messages_per_second = 0;
    world.people(&[("ada", &[])]).await;
    let apps = [world.start().await, world.start().await];
    let peers = apps.each_ref().map(|app| Peer { addr: app.addr, path: "/v1/ws", user: "ada", echoes: false });
    run_all(&peers, &cases::all()).await;
    for app in apps {
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// `echo.rs` beside this, built by `cargo test` with the tests themselves.
fn echo_program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_tidings")).with_file_name("examples").join("echo");
    assert!(program.is_file(), "{} is missing: cargo build --example echo", program.display());
    program
}

/// A running echo, and where it listens.
fn echo(way: &str) -> (Guarded, TempDir, Peer) {
    let directory = TempDir::new("echo");
    let mut command = Command::new(echo_program());
    command.arg(directory.path()).args([tokens::SECRET, way]);
    let (process, stderr) = Guarded::spawn_heard(&command, &directory);
    let mut said = Vec::new();
    for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Some(addr) = line.strip_prefix("listening ") {
            let peer = Peer { addr: addr.parse().unwrap(), path: "/echo", user: "echo", echoes: true };
            return (process, directory, peer);
        }
        said.push(line);
    }
    panic!("the echo does not start: {said:?}");
}

/// Whatever is said comes back as it was said, a thousand messages of all sizes in their order.
async fn converse(peer: &Peer) {
    let mut client = peer.connect().await;
    let lengths = [0_usize, 16, 64, 125, 126, 1024, 4096, 65_535, 65_536];
    for turn in 0..20_u64 {
        let said: Vec<Vec<u8>> = (0..50).map(|n| message(turn * 50 + n, lengths[(turn + n) as usize % 9])).collect();
        let frames: Vec<u8> = said.iter().flat_map(|text| frame(0x81, text)).collect();
        let mut heard = Vec::new();
        client.wire().send_listening(&frames).await;
        while heard.len() < said.len() {
            let next = client.next_frame(SOON).await.unwrap_or_else(|| panic!("{} of {turn}", heard.len()));
            heard.extend(Some(next).filter(|next| next.opcode == 1).and_then(|next| peer.answer(next.payload)));
        }
        assert!(heard.iter().zip(&said).all(|(heard, said)| heard.as_str().unwrap().as_bytes() == said), "turn {turn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_of_autobahn_hold_for_an_echo() {
    let running = ["lane", "task"].map(echo);
    let peers = running.each_ref().map(|(_, _, peer)| *peer);
    let cases: Vec<Case> = cases::all().into_iter().map(Case::echoed).collect();
    run_all(&peers, &cases).await;
    join_all(peers.iter().map(converse)).await;
}
