//! HTTP/1.1 from the client's side, as little of it as the tests need, over a plain socket.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

use crate::support::eventually::SOON;

/// Most bytes of an answer that are read.
pub const BODY_MAX: usize = 8 * 1024 * 1024;
/// Most bytes of a head.
const HEAD_MAX: usize = 64 * 1024;
/// How long an answer may take.
pub const ANSWER_MAX: Duration = SOON;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The connection can't be made.
    #[error("not connected: {0:?}")]
    Refused(std::io::ErrorKind),
    /// It was closed before a whole answer came.
    #[error("closed")]
    Closed,
    /// It was reset before a whole answer came.
    #[error("reset")]
    Reset,
    /// Nothing came in time.
    #[error("timeout")]
    Timeout,
    /// What came is not HTTP/1.1, or too large.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// Status line and headers.
#[derive(Debug, Clone)]
pub struct Head {
    /// `200`
    pub status: u16,
    /// Names in lower case, in their order, repeated ones too.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Some(Self { status, headers: lines.map(header).collect::<Option<_>>()? })
    }

    /// How the body is delimited, by RFC 9112 §6.3.
    pub fn framing(&self, method: &str) -> Framing {
        let chunked = self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        if method == "HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            Framing::Length(0)
        } else if chunked {
            Framing::Chunked(Chunk::Size)
        } else {
            let length = self.header("content-length").and_then(|value| value.parse().ok());
            length.map_or(Framing::UntilClose, Framing::Length)
        }
    }
}

/// How a body is delimited, and where in it we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are left.
    Length(usize),
    /// RFC 9112 §7.1.
    Chunked(Chunk),
    /// Until the connection closes.
    UntilClose,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// The line with the size.
    Size,
    /// So many bytes, and then a line break.
    Data(usize),
    /// Lines until an empty one.
    Trailer,
    /// Nothing.
    End,
}

/// A connection and what was read from it but not yet used.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

tokio::task_local! {
    static NARROW: ();
}

/// Connections that are made in here take little before they are read: whoever is not read is noticed soon.
pub async fn narrow<T>(connecting: impl Future<Output = T>) -> T {
    NARROW.scope((), connecting).await
}

impl Wire {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Result<Self, NoAnswer> {
        let socket = TcpSocket::new_v4().expect("there are descriptors");
        if NARROW.try_with(|()| ()).is_ok() {
            socket.set_recv_buffer_size(4096).expect("a size that every system allows");
        }
        let connecting = tokio::time::timeout(ANSWER_MAX, socket.connect(addr));
        let stream = connecting.await.map_err(|_| NoAnswer::Timeout)?.map_err(|e| NoAnswer::Refused(e.kind()))?;
        stream.set_nodelay(true).ok();
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// The socket, to close or to misuse it.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends, while what the other end says meanwhile is kept: it may answer early and stop reading.
    pub async fn send_listening(&mut self, bytes: &[u8]) {
        let (mut from, mut to) = self.stream.split();
        let sending = to.write_all(bytes);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                _ = &mut sending => return, // a failure to send shows when the answer is read
                read = from.read_buf(&mut self.buffer) => if !matches!(read, Ok(1..)) { return },
            }
        }
    }

    /// Reads the head of the final answer.
    pub async fn head(&mut self) -> Result<Head, NoAnswer> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                let head = Head::parse(&text).ok_or(NoAnswer::Malformed(text))?;
                // 100 and 103 come before the answer, 101 is one.
                if head.status >= 200 || head.status == 101 {
                    return Ok(head);
                }
            } else if self.buffer.len() > HEAD_MAX {
                return Err(NoAnswer::Malformed("head too large".into()));
            } else {
                self.read().await?;
            }
        }
    }

    /// The next piece of a body; `None` is its proper end. May be dropped while it waits.
    pub async fn piece(&mut self, framing: &mut Framing) -> Result<Option<Vec<u8>>, NoAnswer> {
        loop {
            if let Framing::Chunked(chunk) = framing
                && self.chunk_line(chunk)?
            {
                continue;
            }
            match framing {
                Framing::Length(0) | Framing::Chunked(Chunk::End) => return Ok(None),
                Framing::Length(left) | Framing::Chunked(Chunk::Data(left)) if *left > 0 && !self.buffer.is_empty() => {
                    let taken = self.buffer.len().min(*left);
                    *left -= taken;
                    return Ok(Some(self.buffer.drain(..taken).collect()));
                }
                Framing::UntilClose if !self.buffer.is_empty() => return Ok(Some(std::mem::take(&mut self.buffer))),
                Framing::Length(_) | Framing::Chunked(_) | Framing::UntilClose => {}
            }
            match self.read().await {
                Err(NoAnswer::Closed) if *framing == Framing::UntilClose => return Ok(None),
                other => other?,
            }
        }
    }

    /// Takes one line of a chunked body's frame; `false`: it is not here yet.
    fn chunk_line(&mut self, chunk: &mut Chunk) -> Result<bool, NoAnswer> {
        if matches!(chunk, Chunk::Data(1..) | Chunk::End) {
            return Ok(false);
        }
        let Some(end) = find(&self.buffer, b"\r\n") else { return Ok(false) };
        let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        *chunk = match chunk {
            Chunk::Data(_) if line.is_empty() => Chunk::Size,
            Chunk::Trailer if line.is_empty() => Chunk::End,
            Chunk::Trailer => Chunk::Trailer,
            Chunk::Size => match usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16) {
                Ok(0) => Chunk::Trailer,
                Ok(size) => Chunk::Data(size),
                Err(_) => return Err(NoAnswer::Malformed(format!("chunk size {line:?}"))),
            },
            Chunk::Data(_) | Chunk::End => return Err(NoAnswer::Malformed(format!("after a chunk: {line:?}"))),
        };
        Ok(true)
    }

    async fn read(&mut self) -> Result<(), NoAnswer> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(NoAnswer::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(NoAnswer::Reset),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
