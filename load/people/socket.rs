//! As much of RFC 6455 as a person needs.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;

use crate::Failure;

const READ_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Reading {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Where the first frame that was not taken begins.
    start: usize,
}

#[derive(Debug)]
pub(super) struct Writing(OwnedWriteHalf);

/// Opens a WebSocket as the holder of this token.
pub(super) async fn open(url: SocketAddr, path: &str, token: &str) -> Result<(Reading, Writing), Failure> {
    let mut socket = TcpStream::connect(url).await?;
    socket.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: load\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut buffer = Vec::new();
    let end = loop {
        if let Some(at) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut buffer).await? == 0 {
            return Err("the server closed before it answered".into());
        }
    };
    if !buffer.starts_with(b"HTTP/1.1 101") {
        return Err(format!("no WebSocket: {}", String::from_utf8_lossy(&buffer)).into());
    }
    let (read, write) = socket.into_split();
    Ok((Reading { half: read, buffer, start: end }, Writing(write)))
}

impl Reading {
    /// Waits for more bytes.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve(READ_BYTES);
        match self.half.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    /// Takes every whole frame that is there. Answers the payloads of pings.
    pub(super) fn next(&mut self, mut text: impl FnMut(&[u8])) -> io::Result<Vec<Vec<u8>>> {
        let mut pings = Vec::new();
        while let Some((opcode, from, to)) = self.frame() {
            match opcode {
                1 => text(&self.buffer[from..to]),
                8 => return Err(io::ErrorKind::ConnectionAborted.into()),
                9 => pings.push(self.buffer[from..to].to_vec()),
                _ => {}
            }
            self.start = to;
        }
        Ok(pings)
    }

    /// The first whole frame: its opcode and where its payload is.
    fn frame(&self) -> Option<(u8, usize, usize)> {
        let head = self.buffer.get(self.start..)?;
        let (opcode, short) = (head.first()? & 0x0f, head.get(1)? & 0x7f);
        let (length, skip) = match short {
            126 => (usize::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(head.get(2..10)?.try_into().ok()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let from = self.start + skip;
        (self.buffer.len() >= from + length).then_some((opcode, from, from + length))
    }
}

impl Writing {
    pub(super) async fn text(&mut self, text: &str) -> io::Result<()> {
        self.frame(0x81, text.as_bytes()).await
    }

    pub(super) async fn pong(&mut self, payload: &[u8]) -> io::Result<()> {
        self.frame(0x8a, payload).await
    }

    /// With a mask of zeros, which leaves the payload as it is.
    async fn frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write_all(&frame).await
    }
}
