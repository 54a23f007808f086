//! One connection: what it asks for, and reading what comes.

use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;

use mio::Interest;
use mio::Registry;
use mio::Token;
use mio::net::TcpStream;

use crate::now_us;
use crate::options::ReaderRole;
use crate::reader::sse::Parser;
use crate::reader::sse::Said;
use crate::source::Source;
use crate::support::tokens;

/// Longest `id:` that is kept.
const CURSOR_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    /// The request has not gone out.
    Connecting,
    /// Until `ready`, or where a server says no such thing, until the head.
    Opening,
    Open,
}

/// One stream, which may be closed and opened again.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Option<TcpStream>,
    parser: Parser,
    pub(crate) state: State,
    pub(crate) since_us: u64,
    /// That of the last event, and that of the one which is being read.
    cursors: [Cursor; 2],
    /// Which of the two is that of the last event.
    last: usize,
    pending: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cursor {
    bytes: [u8; CURSOR_MAX],
    length: u8,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            socket: None,
            parser: Parser::default(),
            state: State::Closed,
            since_us: 0,
            cursors: [Cursor { bytes: [0; CURSOR_MAX], length: 0 }; 2],
            last: 0,
            pending: false,
        }
    }
}

impl Stream {
    pub(crate) fn connect(
        &mut self,
        (source, url): (Source, SocketAddr),
        number: usize,
        registry: &Registry,
    ) -> std::io::Result<()> {
        let mut socket = source.connect(url, None)?;
        registry.register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        (self.socket, self.parser, self.state) = (Some(socket), Parser::default(), State::Connecting);
        self.since_us = now_us();
        Ok(())
    }

    /// Sends the request once the connection stands. It fits into an empty send buffer.
    pub(crate) fn request(&mut self, request: &[u8]) -> std::io::Result<()> {
        let Some(socket) = self.socket.as_mut().filter(|_| self.state == State::Connecting) else { return Ok(()) };
        if let Some(refused) = socket.take_error()? {
            return Err(refused);
        }
        match socket.write(request) {
            Ok(sent) if sent == request.len() => {}
            Ok(_) => return Err(std::io::Error::other("the request doesn't fit into the send buffer")),
            Err(early) if early.kind() == ErrorKind::WouldBlock || early.kind() == ErrorKind::NotConnected => {
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
        self.state = State::Opening;
        Ok(())
    }

    /// Reads what is there. `Ok(false)`: the other end has closed.
    ///
    /// A read that doesn't fill the buffer has emptied the socket (epoll(7)): asking again would cost as much as the read.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        closing: bool,
        count: &mut u64,
        tell: &mut impl FnMut(Said<'_>, u64),
    ) -> Result<bool, String> {
        let Self { socket: Some(socket), parser, cursors, last, pending, .. } = self else { return Ok(true) };
        loop {
            match socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    let now = now_us();
                    *count += read as u64;
                    let bytes = buffer.get(..read).unwrap_or_default();
                    let mut hear = |said: Said<'_>| match said {
                        Said::Cursor(id) => *pending = cursors[1 - *last].keep(id),
                        Said::Dispatched => {
                            *last ^= usize::from(*pending);
                            *pending = false;
                        }
                        said => tell(said, now),
                    };
                    parser.push(bytes, &mut hear).map_err(|refused| refused.0)?;
                    if read < buffer.len() && !closing {
                        return Ok(true);
                    }
                }
                Err(none) if none.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(none) if none.kind() == ErrorKind::Interrupted => {}
                Err(failure) => return Err(failure.to_string()),
            }
        }
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.parser.is_answered()
    }

    /// Reads what is there and only counts it: where hundreds of streams say the same, a few that are looked at will do.
    /// `Ok(None)`: the other end has closed.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], closing: bool) -> Result<Option<u64>, String> {
        let Some(socket) = &mut self.socket else { return Ok(Some(0)) };
        let mut count = 0;
        loop {
            match socket.read(buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    count += read as u64;
                    if read < buffer.len() && !closing {
                        return Ok(Some(count));
                    }
                }
                Err(none) if none.kind() == ErrorKind::WouldBlock => return Ok(Some(count)),
                Err(none) if none.kind() == ErrorKind::Interrupted => {}
                Err(failure) => return Err(failure.to_string()),
            }
        }
    }

    /// Closing takes it out of the poll as well.
    pub(crate) fn close(&mut self) {
        (self.socket, self.state, self.pending) = (None, State::Closed, false);
    }

    pub(crate) fn forget_cursor(&mut self) {
        self.cursors[self.last].length = 0;
    }

    pub(crate) fn cursor(&self) -> Option<&str> {
        let cursor = &self.cursors[self.last];
        let bytes = cursor.bytes.get(..usize::from(cursor.length))?;
        std::str::from_utf8(bytes).ok().filter(|cursor| !cursor.is_empty())
    }
}

impl Cursor {
    /// `false`: it is longer than any that we know.
    fn keep(&mut self, id: &[u8]) -> bool {
        let Some(place) = self.bytes.get_mut(..id.len()) else { return false };
        place.copy_from_slice(id);
        self.length = u8::try_from(id.len()).unwrap_or(0);
        true
    }
}

/// What a stream asks for: `{channels}` of the path are the channel patterns filled in, each with the jobs of that stream.
pub(crate) fn request(role: &ReaderRole, number: usize, cursor: Option<&str>) -> String {
    let path = path(role, number);
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n", role.url);
    if path.starts_with("/v1/ws") {
        text.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        text.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    }
    if let Some(secret) = &role.jwt_secret {
        text.push_str(&format!("Authorization: Bearer {}\r\n", token(role, number, secret)));
    }
    if let Some(cursor) = cursor {
        text.push_str(&format!("Last-Event-ID: {cursor}\r\n"));
    }
    text.push_str("\r\n");
    text
}

pub(crate) fn path(role: &ReaderRole, number: usize) -> String {
    let (jobs, number) = (role.jobs_per_stream, whose(role, number));
    let mut channels = Vec::new();
    for pattern in &role.channel {
        let pattern = pattern.replace("{run}", &role.run).replace("{i}", &number.to_string());
        if pattern.contains("{job}") {
            // Updates go to the jobs in turn, so to the streams in turn.
            let own = (0..jobs).map(|round| (round * role.streams + number) * role.spread);
            channels.extend(own.map(|job| pattern.replace("{job}", &job.to_string())));
        } else {
            channels.push(pattern);
        }
    }
    let [run, number] = [role.run.clone(), number.to_string()];
    let path = role.path.replace("{channels}", &channels.join(",")).replace("{run}", &run).replace("{i}", &number);
    path.replace("{channel}", channels.first().map_or("", String::as_str))
}

pub(crate) fn token(role: &ReaderRole, number: usize, secret: &str) -> String {
    let number = if role.shared { 0 } else { whose(role, number) };
    let claims =
        serde_json::json!({"sub": format!("load-{}-{number}", role.run), "exp": now_us() / 1_000_000 + 86_400});
    tokens::hs256(tokens::HEADER, &claims.to_string(), secret.as_bytes())
}

/// The number of its user, who has a job of that number. Where streams share jobs, several are of one user.
fn whose(role: &ReaderRole, number: usize) -> u64 {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    role.jobs.map_or(number, |jobs| number % jobs.max(1))
}
