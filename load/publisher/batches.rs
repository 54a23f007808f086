//! `POST /v1/publish/batch` over a few kept connections, one batch under way on each.
//!
//! A job always takes the same connection: two batches under way could otherwise overtake each other.

use crate::Failure;
use crate::now_us;
use crate::options::PublisherRole;
use crate::publisher::Left;
use crate::publisher::Sink;
use crate::publisher::Update;
use crate::publisher::line::Lines;

/// What the protocol takes.
const BATCH_MAX: usize = 1_000;
const CONNECTIONS: usize = 4;

#[derive(Debug)]
pub(super) struct Batches {
    lines: Lines,
    head: String,
    /// `docs.load-{run}-{job}`
    channel: String,
    refused: u64,
}

impl Batches {
    pub(super) fn connect(role: &PublisherRole) -> Result<Self, Failure> {
        let addr = role.batch.ok_or("the publisher has no target")?;
        let lines = Lines::connect(addr, CONNECTIONS)?;
        let head = format!(
            "POST /v1/publish/batch HTTP/1.1\r\nHost: {addr}\r\nAuthorization: ApiKey {}\r\n\
             Content-Type: application/json\r\nContent-Length: ",
            role.api_key
        );
        let channel = role.channel.replace("{run}", &role.run);
        Ok(Self { lines, head, channel, refused: 0 })
    }
}

impl Sink for Batches {
    fn push(&mut self, update: Update) -> Result<(), Failure> {
        self.lines.push(update)
    }

    fn flush(&mut self) -> Result<Left, Failure> {
        let mut left = Left::Nothing;
        for (connection, waiting) in self.lines.iter_mut() {
            if let Some(answer) = connection.answer()? {
                // A receipt for each, or an error in its place.
                self.refused +=
                    u64::from(!answer.is_good) + memchr::memmem::find_iter(&answer.body, b"\"error\"").count() as u64;
            }
            if connection.is_idle() && !waiting.is_empty() {
                let batch = waiting.drain(..waiting.len().min(BATCH_MAX));
                connection.send(&self.head, &body(&self.channel, batch))?;
            }
            left = left.and(connection.left(waiting));
        }
        Ok(left)
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}

fn body(channel: &str, batch: impl Iterator<Item = Update>) -> String {
    let now = now_us();
    let mut body = String::from("[");
    for update in batch {
        let channel = channel.replace("{job}", &update.job.to_string());
        let comma = if body.len() > 1 { "," } else { "" };
        body.push_str(&format!("{comma}{{\"channel\":\"{channel}\",\"data\":{{{}}}}}", update.members(now)));
    }
    body.push(']');
    body
}
