//! One `POST` per update, for servers that know no batches; and the kept connection that batches use too.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::ToSocketAddrs as _;

use crate::Failure;
use crate::now_us;
use crate::options::PublisherRole;
use crate::publisher::Left;
use crate::publisher::Sink;
use crate::publisher::Update;

const CONNECTIONS: usize = 16;

/// A kept HTTP/1.1 connection with one request under way at most.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    sent: usize,
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
    pub(super) fn connect(addr: SocketAddr) -> Result<Self, Failure> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, out: Vec::new(), sent: 0, answer: Vec::new(), is_idle: true })
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
        self.out.clear();
        self.sent = 0;
        self.is_idle = false;
        write!(self.out, "{head}{}\r\n\r\n{body}", body.len())?;
        self.write()
    }

    fn write(&mut self) -> Result<(), Failure> {
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(full) if full.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    /// Goes on writing, and reads the answer if it has come.
    pub(super) fn answer(&mut self) -> Result<Option<Answer>, Failure> {
        if self.is_idle {
            return Ok(None);
        }
        self.write()?;
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

/// Updates one by one.
#[derive(Debug)]
pub(super) struct Posts {
    lines: Vec<(Connection, VecDeque<Update>)>,
    host: String,
    path: String,
    run: String,
    refused: u64,
}

impl Posts {
    /// `url` is `http://host:port/path/{channel}`.
    pub(super) fn connect(url: &str, role: &PublisherRole) -> Result<Self, Failure> {
        let rest = url.strip_prefix("http://").ok_or("only http:// is spoken here")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let addr = host.to_socket_addrs()?.next().ok_or("the host has no address")?;
        let connect = |_| Ok((Connection::connect(addr)?, VecDeque::new()));
        let lines = (0..CONNECTIONS).map(connect).collect::<Result<_, Failure>>()?;
        Ok(Self { lines, host: host.to_owned(), path: format!("/{path}"), run: role.run.clone(), refused: 0 })
    }
}

impl Sink for Posts {
    fn push(&mut self, update: Update) -> Result<(), Failure> {
        let line = usize::try_from(update.job)? % self.lines.len();
        if let Some((_, waiting)) = self.lines.get_mut(line) {
            waiting.push_back(update);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Left, Failure> {
        let mut left = Left::Nothing;
        for (connection, waiting) in &mut self.lines {
            if let Some(answer) = connection.answer()? {
                self.refused += u64::from(!answer.is_good);
            }
            if connection.is_idle()
                && let Some(update) = waiting.pop_front()
            {
                let channel = format!("load-{}-{}", self.run, update.job);
                let path = self.path.replace("{channel}", &channel);
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: ",
                    self.host
                );
                connection.send(&head, &format!("{{{}}}", update.members(now_us())))?;
            }
            left = left.and(connection.left(waiting));
        }
        Ok(left)
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}
