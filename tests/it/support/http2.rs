//! HTTP/2: many streams of events on one connection, each read only when a test asks.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::Builder;
use h2::client::SendRequest;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::eventually::SOON;
use crate::support::sse::EventStream;
use crate::support::sse::SseEvent;
use crate::support::tls;
use crate::support::tls::Pair;
use crate::support::tokens;

const UNTIL_MAX: Duration = SOON;

/// How much a client takes before it has read.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Default for Windows {
    /// Streams that are not read leave room for all others.
    fn default() -> Self {
        Self { stream: 64 * 1024, connection: 64 << 20 }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Http2 {
    requests: SendRequest<Bytes>,
    connection: JoinSet<()>,
}

impl Http2 {
    /// Whether the other end has closed it.
    pub fn is_closed(&mut self) -> bool {
        self.connection.try_join_next().is_some()
    }

    /// Without TLS, or to whoever shows this certificate.
    pub async fn connect(addr: SocketAddr, pair: Option<&Pair>, windows: Windows) -> Self {
        match pair {
            None => Self::over(TcpStream::connect(addr).await.unwrap(), windows).await,
            Some(pair) => {
                let socket = tls::connect(addr, pair, &["h2"]).await.unwrap();
                assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                Self::over(socket, windows).await
            }
        }
    }

    async fn over(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, windows: Windows) -> Self {
        let mut builder = Builder::new();
        builder.initial_window_size(windows.stream).initial_connection_window_size(windows.connection);
        let (requests, connection) = builder.handshake(socket).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Self { requests, connection: tasks }
    }

    /// Opens a stream of events as a user.
    pub async fn events(&self, user: &str, query: &str) -> Http2Events {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let request = Request::builder()
            .uri(format!("http://localhost/v1/events?{query}"))
            .header("authorization", format!("Bearer {}", tokens::for_user(user)));
        let (answer, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        Http2Events { body: answer.into_body(), parser: EventStream::default(), ready: Vec::new(), ended: None }
    }

    /// The status of an ordinary request.
    pub async fn status(&self, path: &str) -> Result<u16, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let request = Request::builder().uri(format!("http://localhost{path}")).body(()).unwrap();
        let (answer, _) = requests.send_request(request, true)?;
        Ok(answer.await?.status().as_u16())
    }
}

/// A stream of events on a connection of many.
#[derive(Debug)]
pub struct Http2Events {
    body: RecvStream,
    parser: EventStream,
    ready: Vec<SseEvent>,
    ended: Option<Result<(), h2::Error>>,
}

impl Http2Events {
    /// Every event up to and with the first that fits.
    ///
    /// # Panics
    /// When it doesn't come.
    pub async fn until_that(&mut self, what: &str, mut fits: impl FnMut(&SseEvent) -> bool) -> Vec<SseEvent> {
        let until = Instant::now() + UNTIL_MAX;
        let mut seen = Vec::new();
        loop {
            while !self.ready.is_empty() {
                let event = self.ready.remove(0);
                let found = fits(&event);
                seen.push(event);
                if found {
                    return seen;
                }
            }
            let more = tokio::time::timeout_at(until, self.read()).await;
            assert!(more == Ok(true), "{what} doesn't come; ended: {:?}; seen: {seen:#?}", self.ended);
        }
    }

    /// Every event up to and with the next one of that name.
    pub async fn until(&mut self, name: &str) -> Vec<SseEvent> {
        self.until_that(name, |event| event.event == name).await
    }

    /// Reads to the end: what came, and how it ended.
    ///
    /// # Panics
    /// When it goes on.
    pub async fn until_end(&mut self, deadline: Duration) -> (Vec<SseEvent>, Result<(), Option<h2::Reason>>) {
        let until = Instant::now() + deadline;
        while tokio::time::timeout_at(until, self.read()).await.expect("it ends") {}
        let ended = self.ended.take().expect("it has ended");
        (std::mem::take(&mut self.ready), ended.map_err(|error| error.reason()))
    }

    /// Takes one piece in; whether there may be more.
    async fn read(&mut self) -> bool {
        match self.body.data().await {
            Some(Ok(piece)) => {
                self.body.flow_control().release_capacity(piece.len()).ok();
                self.ready.extend(self.parser.push(&piece));
                true
            }
            Some(Err(error)) => {
                self.ended = Some(Err(error));
                false
            }
            None => {
                self.ended = Some(Ok(()));
                false
            }
        }
    }
}
