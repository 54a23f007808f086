//! One attacker: a connection that is not what it should be, again and again.

use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;

use mio::Interest;
use mio::Registry;
use mio::Token;
use mio::net::TcpStream;

use crate::options::Attack;
use crate::source::Source;

/// A head without an end, which is sent byte by byte.
const SLOW_HEAD: &[u8] = b"GET /v1/events?channels=user.me HTTP/1.1\r\nHost: x\r\nX-Slow: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                           xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const SLOW_HEAD_US: u64 = 100_000;
const SMALL: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
/// What has a long answer, often enough for one go.
const LARGE: &[[u8; 39]; 20] = &[*b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"; 20];
const LARGE_EVERY_US: u64 = 20_000;
/// As little of an answer as possible is taken.
const DEAF_BUFFER: usize = 4096;
/// How long a connection of the flood is there.
const FLOOD_US: std::ops::Range<u64> = 20_000..200_000;

/// What an attacker does after it has done something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Waits for the other end.
    Nothing,
    /// Goes on in so many microseconds.
    In(u64),
    /// It is through: the connection is closed, and another one made.
    Again,
    /// The other end has closed.
    Cut,
}

#[derive(Debug)]
pub(super) struct Attacker {
    pub(super) kind: Attack,
    socket: Option<TcpStream>,
    stands: bool,
    /// The socket takes no bytes for now.
    is_full: bool,
    /// Bytes of its requests that have gone out on this connection.
    sent: usize,
    /// When it goes on; nothing that was planned for another time is meant.
    pub(super) due_us: u64,
}

impl Attacker {
    pub(super) fn new(kind: Attack) -> Self {
        Self { kind, socket: None, stands: false, is_full: false, sent: 0, due_us: 0 }
    }

    /// Whether its connection has been accepted, by the kernel at least.
    pub(super) fn stands(&self) -> bool {
        self.stands
    }

    pub(super) fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    pub(super) fn connect(
        &mut self,
        (source, url): (Source, SocketAddr),
        number: usize,
        registry: &Registry,
    ) -> std::io::Result<()> {
        self.close();
        let mut socket = source.connect(url, (self.kind == Attack::Deaf).then_some(DEAF_BUFFER))?;
        registry.register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        self.socket = Some(socket);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        (self.socket, self.stands, self.is_full, self.sent) = (None, false, false, 0);
    }

    /// The socket takes bytes.
    pub(super) fn writable(&mut self) -> Next {
        match (self.stands, self.is_full) {
            (false, _) => self.begin(),
            (true, true) => self.go_on(),
            (true, false) => Next::Nothing,
        }
    }

    /// What it does first, once the connection stands.
    fn begin(&mut self) -> Next {
        let Some(socket) = &self.socket else { return Next::Nothing };
        if socket.take_error().is_ok_and(|refused| refused.is_some()) {
            return Next::Cut;
        }
        if socket.peer_addr().is_err() {
            return Next::Nothing;
        }
        self.stands = true;
        match self.kind {
            Attack::Flood => Next::In(fastrand::u64(FLOOD_US)),
            _ => self.go_on(),
        }
    }

    /// When its time has come, or the socket takes bytes again.
    pub(super) fn go_on(&mut self) -> Next {
        self.is_full = false;
        match self.kind {
            Attack::Silent => Next::Nothing,
            Attack::SlowHead => match SLOW_HEAD.get(self.sent..=self.sent) {
                Some(byte) => self.send(byte, Next::In(SLOW_HEAD_US)),
                None => Next::Again,
            },
            Attack::Idle if self.sent >= SMALL.len() => Next::Nothing,
            Attack::Idle => self.send(SMALL, Next::Nothing),
            Attack::Deaf => {
                let requests = LARGE.as_flattened();
                let rest = requests.get(self.sent % requests.len()..).unwrap_or_default();
                self.send(rest, Next::In(LARGE_EVERY_US))
            }
            Attack::Flood => Next::Again,
        }
    }

    /// Where the socket takes nothing, the other end is waited for.
    fn send(&mut self, bytes: &[u8], then: Next) -> Next {
        let Some(socket) = &mut self.socket else { return Next::Nothing };
        match socket.write(bytes) {
            Ok(sent) => {
                self.sent += sent;
                then
            }
            Err(full) if full.kind() == ErrorKind::WouldBlock => {
                self.is_full = true;
                Next::Nothing
            }
            Err(_) => Next::Cut,
        }
    }

    /// Takes what is there, unless it doesn't read. Counts the bytes.
    pub(super) fn read(&mut self, buffer: &mut [u8], count: &mut u64) -> Next {
        if self.kind == Attack::Deaf {
            return Next::Nothing;
        }
        let Some(socket) = &mut self.socket else { return Next::Nothing };
        loop {
            match socket.read(buffer) {
                Ok(0) => return Next::Cut,
                Ok(read) => *count += read as u64,
                Err(none) if none.kind() == ErrorKind::WouldBlock => return Next::Nothing,
                Err(none) if none.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Next::Cut,
            }
        }
    }
}
