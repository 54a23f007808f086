//! The connection that reads the log: one question at a time, answers of up to a thousand entries.
//!
//! Over plain TCP it is ours, for the sake of speed (`resp.rs`); where there is more to it (TLS, a Unix socket), the crate's.

use std::io;
use std::time::Duration;

use redis::Cmd;
use redis::ConnectionAddr;
use redis::RedisError;
use redis::Value;
use redis::aio::MultiplexedConnection;
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::broker::redis::link::BLOCK;
use crate::broker::redis::link::Link;
use crate::broker::redis::resp;
use crate::broker::redis::resp::Scan;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for an answer: reads block.
const RESPONSE_TIMEOUT: Duration = BLOCK.saturating_mul(3);
/// What the buffer keeps of its size after a large answer.
const BUFFER_KEPT: usize = 1024 * 1024;
/// Room for what comes next.
const READ_BYTES: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) enum Reading {
    Own(Own),
    Crate(MultiplexedConnection),
}

#[derive(Debug)]
pub(super) struct Own {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Reading {
    pub(super) async fn open(link: &Link) -> Result<Self, RedisError> {
        let info = link.client().get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Ok(Self::Crate(link.open(RESPONSE_TIMEOUT).await?));
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), *port))).await;
        let socket = connected.map_err(|_| timed_out())??;
        socket.set_nodelay(true)?;
        let settings = info.tcp_settings();
        let tuned = SockRef::from(&socket);
        if let Some(keepalive) = settings.keepalive() {
            tuned.set_tcp_keepalive(keepalive)?;
        }
        tuned.set_tcp_user_timeout(settings.user_timeout())?;
        let mut own = Own { socket, buffer: Vec::new() };
        own.introduce(info.redis_settings()).await?;
        Ok(Self::Own(own))
    }

    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Own(own) => {
                let asked = tokio::time::timeout(RESPONSE_TIMEOUT, own.ask(command)).await;
                asked.map_err(|_| timed_out())?
            }
            Self::Crate(connection) => command.query_async(connection).await,
        }
    }
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl Own {
    /// Says who we are, and which of Redis' databases is meant.
    async fn introduce(&mut self, settings: &redis::RedisConnectionInfo) -> Result<(), RedisError> {
        if let Some(password) = settings.password() {
            let mut auth = redis::cmd("AUTH");
            auth.arg(settings.username()).arg(password);
            self.ask_soon(&auth).await?;
        }
        if settings.db() != 0 {
            self.ask_soon(redis::cmd("SELECT").arg(settings.db())).await?;
        }
        Ok(())
    }

    async fn ask_soon(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.ask(command)).await.map_err(|_| timed_out())?
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        self.socket.write_all(&command.get_packed_command()).await?;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        let mut scan = Scan::default();
        loop {
            self.buffer.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            match scan.end(&self.buffer).map_err(garbled)? {
                // Only one question is under way.
                Some(end) if end < self.buffer.len() => return Err(garbled(resp::Garbled)),
                Some(_) => break,
                None => {}
            }
        }
        match resp::error(&self.buffer) {
            Some(text) => {
                let (code, detail) = text.split_once(' ').unwrap_or((&text, ""));
                Err(redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
            }
            None => resp::parse(&self.buffer).map_err(garbled),
        }
    }
}

fn garbled(_: resp::Garbled) -> RedisError {
    io::Error::new(io::ErrorKind::InvalidData, "not an answer of Redis").into()
}
