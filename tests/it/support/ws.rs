//! A WebSocket client that can also break the rules, and a client of long-poll; both tell what they hear like a stream of events.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::support::eventually::SOON;
use crate::support::http;
use crate::support::http::Response;
use crate::support::sse::SseEvent;
use crate::support::wire::ANSWER_MAX;
use crate::support::wire::Framing;
use crate::support::wire::Head;
use crate::support::wire::NoAnswer;
use crate::support::wire::Wire;

const UNTIL_MAX: Duration = SOON;

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFrame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// An open WebSocket.
#[derive(Debug)]
pub struct WsClient {
    wire: Wire,
    head: Head,
    buffer: Vec<u8>,
    /// Answers pings by itself.
    pub polite: bool,
    /// Pings that came.
    pub pings: usize,
    /// The close frame, once it came.
    pub closed: Option<(u16, String)>,
    ended: bool,
    last_cursor: Option<String>,
}

/// A client's frame, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        middle @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = fastrand::u32(..).to_be_bytes();
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// The headers of a proper handshake.
pub fn handshake<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    headers.extend_from_slice(more);
    headers
}

impl WsClient {
    /// Switches protocols, or tells the answer that came instead.
    pub async fn connect(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Response> {
        let mut wire = Wire::connect(addr).await.expect("the instance listens");
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n");
        for (name, value) in handshake(headers) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        wire.send(request.as_bytes()).await.unwrap();
        let head = tokio::time::timeout(ANSWER_MAX, wire.head()).await.expect("an answer in time").unwrap();
        if head.status != 101 {
            return Err(http::body(&mut wire, head, "GET").await.unwrap());
        }
        assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let (buffer, polite, pings) = (Vec::new(), true, 0);
        Ok(Self { wire, head, buffer, polite, pings, closed: None, ended: false, last_cursor: None })
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        drop(self.wire.send(bytes).await);
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_raw(&frame(0x81, message.to_string().as_bytes())).await;
    }

    fn take_frame(&mut self) -> Option<ServerFrame> {
        let (first, second) = (*self.buffer.first()?, *self.buffer.get(1)?);
        assert_eq!(first & 0xF0, 0x80, "whole frames without reserved bits");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (from, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(self.buffer.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(self.buffer.get(2..10)?.try_into().unwrap()) as usize),
            short => (2, usize::from(short)),
        };
        let payload = self.buffer.get(from..from + length)?.to_vec();
        self.buffer.drain(..from + length);
        Some(ServerFrame { opcode: first & 0x0F, payload })
    }

    /// The next frame; `None` after `timeout`, or when the connection has ended.
    pub async fn next_frame(&mut self, timeout: Duration) -> Option<ServerFrame> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            match tokio::time::timeout_at(until, self.wire.piece(&mut Framing::UntilClose)).await.ok()? {
                Ok(Some(bytes)) => self.buffer.extend(bytes),
                Ok(None) | Err(NoAnswer::Closed) | Err(_) => self.ended = true,
            }
        }
    }

    /// The next message; pings are answered and the close frame is kept on the way.
    pub async fn next_message(&mut self, timeout: Duration) -> Option<Value> {
        let until = Instant::now() + timeout;
        loop {
            let frame = self.next_frame(until.saturating_duration_since(Instant::now())).await?;
            match frame.opcode {
                1 => return Some(serde_json::from_slice(&frame.payload).expect("text frames are JSON objects")),
                8 => {
                    let code = frame.payload.get(..2).map_or(1005, |code| u16::from_be_bytes(code.try_into().unwrap()));
                    let text = String::from_utf8(frame.payload.get(2..).unwrap_or_default().to_vec()).unwrap();
                    self.closed = Some((code, text));
                }
                9 => {
                    self.pings += 1;
                    if self.polite {
                        self.send_raw(&self::frame(0x8A, &frame.payload)).await;
                    }
                }
                10 => {}
                other => panic!("opcode {other}"),
            }
        }
    }

    /// The next event; what is none (`ack`, `error`, `pong`) is told as an event of that name.
    pub async fn next(&mut self, timeout: Duration) -> Option<SseEvent> {
        let message = self.next_message(timeout).await?;
        let id = message["cursor"].as_str().map(str::to_owned);
        let is_event = message["type"] == "event";
        if is_event && id.is_some() {
            self.last_cursor.clone_from(&id);
        }
        let name = message[if is_event { "event" } else { "type" }].as_str().unwrap_or_default().to_owned();
        let data = if is_event { message["data"].clone() } else { message.clone() };
        Some(SseEvent { has_id: is_event && id.is_some(), id, event: name, raw: data.to_string(), data })
    }

    /// Every event up to and with the first that fits.
    pub async fn until_that(&mut self, what: &str, mut fits: impl FnMut(&SseEvent) -> bool) -> Vec<SseEvent> {
        let until = Instant::now() + UNTIL_MAX;
        let mut seen = Vec::new();
        while let Some(event) = self.next(until.saturating_duration_since(Instant::now())).await {
            let found = fits(&event);
            seen.push(event);
            if found {
                return seen;
            }
        }
        panic!("{what} doesn't come; closed: {:?}; ended: {}; seen: {seen:#?}", self.closed, self.ended);
    }

    pub async fn until(&mut self, name: &str) -> Vec<SseEvent> {
        self.until_that(name, |event| event.event == name).await
    }

    /// The connection ends; the close frame, if there was one.
    pub async fn until_closed(&mut self, deadline: Duration) -> Option<(u16, String)> {
        let until = Instant::now() + deadline;
        while self.next_message(until.saturating_duration_since(Instant::now())).await.is_some() {}
        assert!(self.ended || self.closed.is_some(), "still open after {deadline:?}: {:02x?}", self.buffer);
        self.closed.clone()
    }

    pub fn last_cursor(&self) -> Option<&str> {
        self.last_cursor.as_deref()
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

/// A client of long-poll that asks again and again.
#[derive(Debug)]
pub struct PollClient {
    addr: SocketAddr,
    query: String,
    token: String,
    cursor: Option<String>,
    ready: VecDeque<SseEvent>,
    /// The last answer.
    pub last: Value,
}

impl PollClient {
    pub fn new(addr: SocketAddr, query: &str, token: &str, cursor: Option<&str>) -> Self {
        let cursor = cursor.map(str::to_owned);
        Self {
            addr,
            query: query.to_owned(),
            token: token.to_owned(),
            cursor,
            ready: VecDeque::new(),
            last: json!(null),
        }
    }

    /// One poll.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn poll(&mut self, wait_s: u64) -> Response {
        self.try_poll(wait_s).await.unwrap_or_else(|why| panic!("a poll: {why}"))
    }

    /// One poll of an instance that may be gone.
    pub async fn try_poll(&mut self, wait_s: u64) -> Result<Response, NoAnswer> {
        let cursor = self.cursor.as_ref().map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let path = format!("/v1/poll?{}{cursor}&wait={wait_s}", self.query);
        let authorization = format!("Bearer {}", self.token);
        let request = http::bytes_of(self.addr, "GET", &path, &[("Authorization", &authorization)], b"");
        let answer = http::try_raw(self.addr, &request).await?;
        if answer.status == 200 {
            self.last = answer.json();
            self.cursor = self.last["cursor"].as_str().map(str::to_owned).or(self.cursor.take());
            let events = self.last["events"].as_array().cloned().unwrap_or_default();
            self.ready.extend(events.into_iter().map(|event| {
                let id = event["cursor"].as_str().map(str::to_owned);
                let (name, data) = (event["event"].as_str().unwrap().to_owned(), event["data"].clone());
                SseEvent { has_id: id.is_some(), id, event: name, raw: data.to_string(), data }
            }));
        }
        Ok(answer)
    }

    /// The next event; asks as long as there is time.
    pub async fn next(&mut self, timeout: Duration) -> Option<SseEvent> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let left = until.checked_duration_since(Instant::now())?;
            let answer = self.poll(left.as_secs().min(20)).await;
            assert!(matches!(answer.status, 200 | 503), "{} {}", answer.status, answer.text());
        }
    }

    /// The next event of the answers so far.
    pub fn take(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}
