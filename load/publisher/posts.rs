//! One `POST` per update, for servers that know no batches.

use std::net::ToSocketAddrs as _;

use crate::Failure;
use crate::now_us;
use crate::options::PublisherRole;
use crate::publisher::Left;
use crate::publisher::Sink;
use crate::publisher::Update;
use crate::publisher::line::Lines;

const CONNECTIONS: usize = 16;

/// Updates one by one.
#[derive(Debug)]
pub(super) struct Posts {
    lines: Lines,
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
        let lines = Lines::connect(addr, CONNECTIONS)?;
        Ok(Self { lines, host: host.to_owned(), path: format!("/{path}"), run: role.run.clone(), refused: 0 })
    }
}

impl Sink for Posts {
    fn push(&mut self, update: Update) -> Result<(), Failure> {
        self.lines.push(update)
    }

    fn flush(&mut self) -> Result<Left, Failure> {
        let mut left = Left::Nothing;
        for (connection, waiting) in self.lines.iter_mut() {
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
