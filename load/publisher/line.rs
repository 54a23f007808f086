//! What publishers share: bytes on their way out, kept HTTP/1.1 connections, and updates that wait for one.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;

use crate::Failure;
use crate::publisher::Left;
use crate::publisher::Update;

/// Bytes that the socket takes when it likes.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Writes without waiting.
    pub(super) fn write_to(&mut self, socket: &mut TcpStream) -> Result<(), Failure> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(written) => self.sent += written,
                Err(full) if full.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(failure) => return Err(failure.into()),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }

    /// Nothing of what is there has gone yet.
    pub(super) fn is_whole(&self) -> bool {
        self.sent == 0
    }
}

/// Connections with what waits for each.
#[derive(Debug)]
pub(super) struct Lines(Vec<(Connection, VecDeque<Update>)>);

impl Lines {
    pub(super) fn connect(addr: SocketAddr, count: usize) -> Result<Self, Failure> {
        let connect = |_| Ok((Connection::connect(addr)?, VecDeque::new()));
        (0..count).map(connect).collect::<Result<_, Failure>>().map(Self)
    }

    /// A job always takes the same line: its updates can't overtake each other.
    pub(super) fn push(&mut self, update: Update) -> Result<(), Failure> {
        let line = usize::try_from(update.job)? % self.0.len();
        if let Some((_, waiting)) = self.0.get_mut(line) {
            waiting.push_back(update);
        }
        Ok(())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Connection, VecDeque<Update>)> {
        self.0.iter_mut()
    }
}

/// A kept HTTP/1.1 connection with one request under way at most.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    out: Outgoing,
    answer: Vec<u8>,
    is_idle: bool,
}

#[derive(Debug)]
pub(super) struct Answer {
    /// 2xx
    pub(super) is_good: bool,
    pub(super) body: Vec<u8>,
}

impl Connection {
    fn connect(addr: SocketAddr) -> Result<Self, Failure> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, out: Outgoing::default(), answer: Vec::new(), is_idle: true })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    pub(super) fn left(&self, waiting: &VecDeque<Update>) -> Left {
        match (waiting.front(), self.is_idle) {
            (Some(update), _) => Left::Updates(update.due_us),
            (None, false) => Left::Answers,
            (None, true) => Left::Nothing,
        }
    }

    /// `head` ends with `Content-Length: `.
    pub(super) fn send(&mut self, head: &str, body: &str) -> Result<(), Failure> {
        self.is_idle = false;
        write!(self.out.bytes, "{head}{}\r\n\r\n{body}", body.len())?;
        self.out.write_to(&mut self.socket)
    }

    /// Goes on writing, and reads the answer if it has come.
    pub(super) fn answer(&mut self) -> Result<Option<Answer>, Failure> {
        if self.is_idle {
            return Ok(None);
        }
        self.out.write_to(&mut self.socket)?;
        let mut some = [0; 64 * 1024];
        loop {
            match self.socket.read(&mut some) {
                Ok(0) => return Err("the server has closed the connection of the publisher".into()),
                Ok(read) => self.answer.extend_from_slice(&some[..read]),
                Err(none) if none.kind() == ErrorKind::WouldBlock => break,
                Err(failure) => return Err(failure.into()),
            }
        }
        let Some((is_good, body_at, end)) = whole(&self.answer) else { return Ok(None) };
        let body = self.answer[body_at..end].to_vec();
        self.answer.drain(..end);
        self.is_idle = true;
        Ok(Some(Answer { is_good, body }))
    }
}

/// Whether the answer is good, where its body begins and ends; nothing while it is not all there.
fn whole(answer: &[u8]) -> Option<(bool, usize, usize)> {
    let body = memchr::memmem::find(answer, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(answer.get(..body)?).to_ascii_lowercase();
    let is_good = head.get(9..10) == Some("2");
    let length = head.split_once("content-length:").map(|(_, rest)| rest.lines().next().unwrap_or_default().trim());
    let end = match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body + length,
        // Chunked: nobody splits an answer this short.
        None => body + memchr::memmem::find(answer.get(body..)?, b"0\r\n\r\n")? + 5,
    };
    (answer.len() >= end).then_some((is_good, body, end))
}
