//! One client for three transports: whatever carries them, the same events come out of it.
//!
//! A poll has no beginning and no end of its own, so its first answer is told as `connected`, its events and `ready`; a later one as its
//! events, with a `heartbeat` behind them that carries the answer's cursor. A channel that an answer newly denies has left.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::support::eventually::SOON;
use crate::support::http::Response;
use crate::support::sse::NotOpened;
use crate::support::sse::SseClient;
use crate::support::sse::SseEvent;
use crate::support::ws::PollClient;
use crate::support::ws::WsClient;

const UNTIL_MAX: Duration = SOON;
/// Longest wait of one poll, in seconds. Short, because what a poll is denied from its beginning it is told only at its end.
const WAIT_MAX_S: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Sse,
    Ws,
    Poll,
}

impl Transport {
    pub const ALL: [Self; 3] = [Self::Sse, Self::Ws, Self::Poll];
    /// Those that hold a stream open.
    pub const STREAMS: [Self; 2] = [Self::Sse, Self::Ws];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Ws => "ws",
            Self::Poll => "poll",
        }
    }
}

#[derive(Debug)]
enum Carrier {
    Sse(Box<SseClient>),
    Ws(Box<WsClient>),
    Poll(Box<Polls>),
}

/// An open stream, or polls that follow each other like one.
#[derive(Debug)]
pub struct Client {
    pub transport: Transport,
    carrier: Carrier,
    cursor: Option<String>,
}

impl Client {
    /// `query` as for every transport: `channels=…&…`.
    pub async fn open(
        transport: Transport,
        addr: SocketAddr,
        token: &str,
        query: &str,
        cursor: Option<&str>,
    ) -> Result<Self, Response> {
        let authorization = format!("Bearer {token}");
        let mut headers = vec![("Authorization", authorization.as_str())];
        let carrier = match transport {
            Transport::Sse => {
                headers.extend(cursor.map(|cursor| ("Last-Event-ID", cursor)));
                let opened = SseClient::connect(addr, &format!("/v1/events?{query}"), &headers).await;
                Carrier::Sse(Box::new(opened.map_err(NotOpened::answer)?))
            }
            Transport::Ws => {
                let cursor = cursor.map_or(String::new(), |cursor| format!("&last_event_id={cursor}"));
                Carrier::Ws(Box::new(WsClient::connect(addr, &format!("/v1/ws?{query}{cursor}"), &headers).await?))
            }
            Transport::Poll => Carrier::Poll(Box::new(Polls::open(addr, token, query, cursor).await?)),
        };
        Ok(Self { transport, carrier, cursor: cursor.map(str::to_owned) })
    }

    /// The next event; `None` after `timeout`, or when it has ended.
    pub async fn next(&mut self, timeout: Duration) -> Option<SseEvent> {
        let event = match &mut self.carrier {
            Carrier::Sse(client) => client.next(timeout).await,
            Carrier::Ws(client) => client.next(timeout).await,
            Carrier::Poll(polls) => polls.next(timeout).await,
        }?;
        if event.has_id {
            self.cursor.clone_from(&event.id);
        }
        Some(event)
    }

    /// Every event up to and with the first that fits.
    ///
    /// # Panics
    /// When it doesn't come.
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
        panic!("{what} doesn't come on {}; seen: {seen:#?}", self.transport.as_str());
    }

    pub async fn until(&mut self, name: &str) -> Vec<SseEvent> {
        self.until_that(name, |event| event.event == name).await
    }

    pub async fn find(&mut self, what: &str, fits: impl FnMut(&SseEvent) -> bool) -> SseEvent {
        self.until_that(what, fits).await.pop().unwrap()
    }

    /// What comes until it ends.
    ///
    /// # Panics
    /// When it goes on.
    pub async fn until_end(&mut self, deadline: Duration) -> Vec<SseEvent> {
        let until = Instant::now() + deadline;
        let mut seen = Vec::new();
        while let Some(event) = self.next(until.saturating_duration_since(Instant::now())).await {
            seen.push(event);
        }
        assert!(self.has_ended(), "{} is still open after {deadline:?}: {seen:#?}", self.transport.as_str());
        seen
    }

    pub fn has_ended(&self) -> bool {
        match &self.carrier {
            Carrier::Sse(client) => client.ended().is_some(),
            Carrier::Ws(client) => client.has_ended(),
            Carrier::Poll(polls) => polls.stopped.is_some(),
        }
    }

    /// The status with which polling ended, or the close code of a WebSocket.
    pub fn end_code(&self) -> Option<u16> {
        match &self.carrier {
            Carrier::Sse(_) => None,
            Carrier::Ws(client) => client.closed.as_ref().map(|(code, _)| *code),
            Carrier::Poll(polls) => polls.stopped,
        }
    }

    /// Where it is: of the last event that had a position.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

#[derive(Debug)]
struct Polls {
    client: PollClient,
    waiting: VecDeque<SseEvent>,
    denied: Vec<Value>,
    opened: bool,
    stopped: Option<u16>,
}

fn synthetic(name: &str, id: Option<&str>, data: Value) -> SseEvent {
    let id = id.map(str::to_owned);
    SseEvent { has_id: id.is_some(), id, event: name.to_owned(), raw: data.to_string(), data }
}

/// What a client makes of an instance that has stopped listening.
fn not_there() -> Response {
    Response { status: 503, headers: Vec::new(), body: Vec::new() }
}

impl Polls {
    async fn open(addr: SocketAddr, token: &str, query: &str, cursor: Option<&str>) -> Result<Self, Response> {
        let client = PollClient::new(addr, query, token, cursor);
        let (waiting, denied) = (VecDeque::new(), Vec::new());
        let mut polls = Self { client, waiting, denied, opened: false, stopped: None };
        // At once, whatever there is: this answer is the beginning.
        let answer = polls.ask(0).await;
        if answer.status == 200 { Ok(polls) } else { Err(answer) }
    }

    async fn ask(&mut self, wait_s: u64) -> Response {
        let answer = self.client.try_poll(wait_s).await.unwrap_or_else(|_| not_there());
        if answer.status != 200 {
            self.stopped = Some(answer.status);
            return answer;
        }
        let last = &self.client.last;
        let denied = last["denied"].as_array().cloned().unwrap_or_default();
        if self.opened {
            for newly in denied.iter().filter(|denied| !self.denied.contains(denied)) {
                self.waiting.push_back(synthetic("unsubscribed", None, newly.clone()));
            }
        } else {
            let data = json!({ "channels": last["verdicts"], "denied": denied });
            self.waiting.push_back(synthetic("connected", None, data));
        }
        self.denied = denied;
        let cursor = self.client.cursor().map(str::to_owned);
        self.waiting.extend(std::iter::from_fn(|| self.client.take()));
        let behind = if std::mem::replace(&mut self.opened, true) { "heartbeat" } else { "ready" };
        self.waiting.push_back(synthetic(behind, cursor.as_deref(), json!({})));
        answer
    }

    async fn next(&mut self, timeout: Duration) -> Option<SseEvent> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let left = until.checked_duration_since(Instant::now()).filter(|_| self.stopped.is_none())?;
            self.ask(left.as_secs().min(WAIT_MAX_S)).await;
        }
    }
}
