//! `PUBLISH`, pipelined over one connection.

use std::io::ErrorKind;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;

use crate::Failure;
use crate::now_us;
use crate::options::PublisherRole;
use crate::publisher::Left;
use crate::publisher::Sink;
use crate::publisher::Update;
use crate::publisher::line::Outgoing;

const CHANNEL: &str = "job-updates";

#[derive(Debug)]
pub(super) struct Pipeline {
    socket: TcpStream,
    run: String,
    /// `redis:{channel}` servers: each channel is one of Redis, and the payload goes there as it is.
    channel: Option<String>,
    out: Outgoing,
    /// When the first update in `out` was due.
    oldest_us: u64,
    unanswered: u64,
    unheard: u64,
    last_byte: u8,
}

impl Pipeline {
    pub(super) fn connect(addr: SocketAddr, role: &PublisherRole) -> Result<Self, Failure> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let channel = role.redis_channel.clone();
        let (run, out) = (role.run.clone(), Outgoing::default());
        let (oldest_us, unanswered, unheard, last_byte) = (0, 0, 0, b'\n');
        Ok(Self { socket, run, channel, out, oldest_us, unanswered, unheard, last_byte })
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.out.write_to(&mut self.socket)?;
        if self.out.bytes.is_empty() {
            self.oldest_us = 0;
        }
        Ok(())
    }

    /// Each answer is `:` and how many heard it.
    fn read(&mut self) -> Result<(), Failure> {
        let mut some = [0; 16 * 1024];
        loop {
            let read = match self.socket.read(&mut some) {
                Ok(0) => return Err("Redis has closed the connection".into()),
                Ok(read) => read,
                Err(none) if none.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(failure) => return Err(failure.into()),
            };
            for byte in &some[..read] {
                match (self.last_byte, byte) {
                    (b'\n', b'-') => return Err("Redis refuses to publish".into()),
                    (b':', b'0') => self.unheard += 1,
                    (_, b'\n') => self.unanswered = self.unanswered.saturating_sub(1),
                    _ => {}
                }
                self.last_byte = *byte;
            }
        }
    }
}

impl Sink for Pipeline {
    fn push(&mut self, update: Update) -> Result<(), Failure> {
        let members = update.members(now_us());
        let (run, job) = (&self.run, update.job);
        let payload = format!("{{\"jobId\":\"load-{run}-{job}\",\"status\":\"running\",{members}}}");
        let own;
        let channel = match &self.channel {
            None => CHANNEL,
            Some(pattern) => {
                own = pattern.replace("{channel}", &format!("load-{run}-{job}"));
                &own
            }
        };
        write!(
            self.out.bytes,
            "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{payload}\r\n",
            channel.len(),
            payload.len()
        )?;
        self.unanswered += 1;
        if self.out.is_whole() && self.oldest_us == 0 {
            self.oldest_us = update.due_us;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Left, Failure> {
        self.write()?;
        self.read()?;
        Ok(match (self.out.bytes.is_empty(), self.unanswered) {
            (false, _) => Left::Updates(self.oldest_us),
            (true, 0) => Left::Nothing,
            (true, _) => Left::Answers,
        })
    }

    fn refused(&self) -> u64 {
        self.unheard
    }
}
