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
    cursor: [u8; CURSOR_MAX],
    cursor_length: u8,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            socket: None,
            parser: Parser::default(),
            state: State::Closed,
            since_us: 0,
            cursor: [0; CURSOR_MAX],
            cursor_length: 0,
        }
    }
}

impl Stream {
    pub(crate) fn connect(&mut self, url: SocketAddr, number: usize, registry: &Registry) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(url)?;
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
        tell: &mut impl FnMut(Said<'_>, u64),
    ) -> Result<bool, String> {
        let Self { socket: Some(socket), parser, cursor, cursor_length, .. } = self else { return Ok(true) };
        loop {
            match socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    let now = now_us();
                    let bytes = buffer.get(..read).unwrap_or_default();
                    let mut hear = |said: Said<'_>| match said {
                        Said::Cursor(id) => *cursor_length = keep(cursor, id),
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

    /// Closing takes it out of the poll as well.
    pub(crate) fn close(&mut self) {
        (self.socket, self.state) = (None, State::Closed);
    }

    pub(crate) fn forget_cursor(&mut self) {
        self.cursor_length = 0;
    }

    pub(crate) fn cursor(&self) -> Option<&str> {
        let cursor = self.cursor.get(..usize::from(self.cursor_length))?;
        std::str::from_utf8(cursor).ok().filter(|cursor| !cursor.is_empty())
    }
}

fn keep(cursor: &mut [u8; CURSOR_MAX], id: &[u8]) -> u8 {
    let Some(place) = cursor.get_mut(..id.len()) else { return 0 };
    place.copy_from_slice(id);
    u8::try_from(id.len()).unwrap_or(0)
}

/// What a stream asks for: `{channels}` of the path are the channel patterns filled in, each with the jobs of that stream.
pub(crate) fn request(role: &ReaderRole, number: usize, cursor: Option<&str>) -> String {
    let path = path(role, number);
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n", role.url);
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
    let jobs = role.jobs_per_stream;
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let mut channels = Vec::new();
    for pattern in &role.channel {
        let pattern = pattern.replace("{run}", &role.run).replace("{i}", &number.to_string());
        if pattern.contains("{job}") {
            channels.extend((number * jobs..(number + 1) * jobs).map(|job| pattern.replace("{job}", &job.to_string())));
        } else {
            channels.push(pattern);
        }
    }
    let [run, number] = [role.run.clone(), number.to_string()];
    let path = role.path.replace("{channels}", &channels.join(",")).replace("{run}", &run).replace("{i}", &number);
    path.replace("{channel}", channels.first().map_or("", String::as_str))
}

pub(crate) fn token(role: &ReaderRole, number: usize, secret: &str) -> String {
    let number = if role.shared { 0 } else { number };
    let claims =
        serde_json::json!({"sub": format!("load-{}-{number}", role.run), "exp": now_us() / 1_000_000 + 86_400});
    tokens::hs256(tokens::HEADER, &claims.to_string(), secret.as_bytes())
}
