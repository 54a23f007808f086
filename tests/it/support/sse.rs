//! An `EventSource` written from the WHATWG specification, §9.2, over a plain socket, with everything open to inspection.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::eventually::SOON;
use crate::support::http;
use crate::support::http::Response;
use crate::support::wire::ANSWER_MAX;
use crate::support::wire::Framing;
use crate::support::wire::Head;
use crate::support::wire::NoAnswer;
use crate::support::wire::Wire;

/// Bytes of the beginning of a stream that are kept as they came.
const OPENING_MAX: usize = 64 * 1024;
/// How long `until` waits.
const UNTIL_MAX: Duration = SOON;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq)]
pub struct SseEvent {
    /// The last event id after this event, whether it came with it or earlier.
    pub id: Option<String>,
    /// Whether an `id:` came with it.
    pub has_id: bool,
    /// `message` when it had no name.
    pub event: String,
    /// `raw` as JSON; null when it is none.
    pub data: Value,
    /// The data as it came.
    pub raw: String,
}

impl SseEvent {
    /// Shorthand for `data[name]` as text; empty when it is none.
    pub fn text(&self, name: &str) -> &str {
        self.data[name].as_str().unwrap_or_default()
    }

    /// Whether it tells the state of the beginning instead of a change.
    pub fn is_snapshot(&self) -> bool {
        self.data["snapshot"] == true
    }
}

/// The parser: bytes in, events out, at any cut.
#[derive(Debug, Default)]
pub struct EventStream {
    pending: Vec<u8>,
    begun: bool,
    after_cr: bool,
    data: String,
    name: String,
    id_buffer: String,
    has_id: bool,
    last_event_id: String,
    retry_ms: Option<u64>,
    comments: usize,
}

impl EventStream {
    /// Takes bytes in, and answers the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<SseEvent> {
        let mut events = Vec::new();
        for byte in bytes {
            let crlf = self.after_cr && *byte == b'\n';
            self.after_cr = *byte == b'\r';
            match byte {
                b'\n' if crlf => {}
                b'\n' | b'\r' => events.extend(self.line()),
                other => self.pending.push(*other),
            }
        }
        events
    }

    fn line(&mut self) -> Option<SseEvent> {
        let bytes = std::mem::take(&mut self.pending);
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let line = if self.begun { &line } else { line.strip_prefix('\u{feff}').unwrap_or(&line) };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => {
                value.clone_into(&mut self.id_buffer);
                self.has_id = true;
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        self.last_event_id.clone_from(&self.id_buffer);
        let mut raw = std::mem::take(&mut self.data);
        let name = std::mem::take(&mut self.name);
        let has_id = std::mem::take(&mut self.has_id);
        if raw.is_empty() {
            return None;
        }
        raw.pop(); // the line break after the last line
        Some(SseEvent {
            id: (!self.last_event_id.is_empty()).then(|| self.last_event_id.clone()),
            has_id,
            event: if name.is_empty() { "message".to_owned() } else { name },
            data: serde_json::from_str(&raw).unwrap_or(Value::Null),
            raw,
        })
    }

    /// The last `retry:`.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// A stream that goes on where another one was: with its last event id.
    pub fn resumed(last_event_id: Option<&str>) -> Self {
        let id = last_event_id.unwrap_or_default().to_owned();
        Self { id_buffer: id.clone(), last_event_id: id, ..Self::default() }
    }
}

/// Why no stream was opened.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// No HTTP answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// An answer that is not `200 text/event-stream`.
    #[error("{} {}", .0.status, .0.text())]
    Answer(Response),
}

impl NotOpened {
    /// The HTTP answer.
    ///
    /// # Panics
    /// When there was none.
    pub fn answer(self) -> Response {
        match self {
            Self::Answer(response) => response,
            Self::NoAnswer(why) => panic!("no answer: {why}"),
        }
    }
}

/// An open stream.
#[derive(Debug)]
pub struct SseClient {
    wire: Wire,
    head: Head,
    framing: Framing,
    stream: EventStream,
    ready: std::collections::VecDeque<SseEvent>,
    opening: Vec<u8>,
    ended: Option<Result<(), NoAnswer>>,
}

impl SseClient {
    /// Opens a stream. A `Last-Event-ID` among the headers is remembered as a browser would.
    pub async fn connect(addr: SocketAddr, path_and_query: &str, headers: &[(&str, &str)]) -> Result<Self, NotOpened> {
        let opening = Self::open(addr, path_and_query, headers);
        tokio::time::timeout(ANSWER_MAX, opening).await.unwrap_or(Err(NotOpened::NoAnswer(NoAnswer::Timeout)))
    }

    async fn open(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, NotOpened> {
        let mut wire = Wire::connect(addr).await?;
        let accepts = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept"));
        let mut all = headers.to_vec();
        if !accepts {
            all.push(("Accept", "text/event-stream"));
        }
        all.push(("Connection", "keep-alive"));
        wire.send_listening(&http::bytes_of(addr, "GET", path, &all, b"")).await;
        let head = wire.head().await?;
        let streams = head.header("content-type").is_some_and(|value| value.starts_with("text/event-stream"));
        if head.status != 200 || !streams {
            return Err(NotOpened::Answer(http::body(&mut wire, head, "GET").await?));
        }
        let last = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("last-event-id"));
        let stream = EventStream::resumed(last.map(|(_, value)| *value));
        let framing = head.framing("GET");
        let ready = std::collections::VecDeque::new();
        Ok(Self { wire, head, framing, stream, ready, opening: Vec::new(), ended: None })
    }

    /// The next event; `None` after `timeout`, or when the stream has ended (see `ended`). May be dropped while it waits.
    pub async fn next(&mut self, timeout: Duration) -> Option<SseEvent> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended.is_some() {
                return None;
            }
            match tokio::time::timeout_at(until, self.wire.piece(&mut self.framing)).await.ok()? {
                Ok(Some(bytes)) => {
                    let room = OPENING_MAX.saturating_sub(self.opening.len()).min(bytes.len());
                    self.opening.extend_from_slice(&bytes[..room]);
                    self.ready.extend(self.stream.push(&bytes));
                }
                Ok(None) => self.ended = Some(Ok(())),
                Err(why) => self.ended = Some(Err(why)),
            }
        }
    }

    /// Every event up to and with the next one of that name, which is the last of the answer.
    ///
    /// # Panics
    /// When it doesn't come, with what came instead.
    pub async fn until(&mut self, name: &str) -> Vec<SseEvent> {
        self.until_that(name, |event| event.event == name).await
    }

    /// Every event up to and with the first that fits, which is the last of the answer.
    ///
    /// # Panics
    /// When it doesn't come, with what came instead.
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
        panic!("{what} doesn't come; ended: {:?}; seen: {seen:#?}", self.ended);
    }

    /// The first event that fits.
    ///
    /// # Panics
    /// When it doesn't come.
    pub async fn find(&mut self, what: &str, fits: impl FnMut(&SseEvent) -> bool) -> SseEvent {
        self.until_that(what, fits).await.pop().expect("it ends with the event that fits")
    }

    /// Nothing but heartbeats comes for this long.
    ///
    /// # Panics
    /// When something does.
    pub async fn quiet(&mut self, during: Duration) {
        let until = Instant::now() + during;
        while let Some(event) = self.next(until.saturating_duration_since(Instant::now())).await {
            assert_eq!(event.event, "heartbeat", "expected silence: {event:?}");
        }
        assert!(self.ended.is_none(), "expected silence, not the end");
    }

    /// The stream ends; answers what came before. `Err`: it was cut, not closed.
    ///
    /// # Panics
    /// When it goes on.
    pub async fn until_end(&mut self, deadline: Duration) -> (Vec<SseEvent>, Result<(), NoAnswer>) {
        let until = Instant::now() + deadline;
        let mut seen = Vec::new();
        while let Some(event) = self.next(until.saturating_duration_since(Instant::now())).await {
            seen.push(event);
        }
        let Some(ended) = self.ended.clone() else { panic!("still open after {deadline:?}; seen: {seen:#?}") };
        (seen, ended)
    }

    /// Whether it has ended, and whether properly.
    pub fn ended(&self) -> Option<&Result<(), NoAnswer>> {
        self.ended.as_ref()
    }

    /// Status and headers.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The beginning of the body as it came, up to a bound.
    pub fn opening(&self) -> String {
        String::from_utf8_lossy(&self.opening).into_owned()
    }

    /// What a reconnect would send.
    pub fn last_event_id(&self) -> Option<&str> {
        Some(self.stream.last_event_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The last `retry:`.
    pub fn retry(&self) -> Option<Duration> {
        self.stream.retry_ms.map(Duration::from_millis)
    }

    /// How many comment lines came.
    pub fn comments(&self) -> usize {
        self.stream.comments
    }

    /// Closes with RST instead of FIN, as a machine that lost its power.
    pub fn reset(mut self) {
        self.wire.stream().set_zero_linger().ok();
    }
}
