//! The browsers' part: many thousands of streams on one thread, each checked number by number.
//!
//! It shares a core with the publisher and Redis, so it does as little as possible: one `read` per readable socket, one look
//! for line breaks, one stamp per event.

mod http2;
mod orders;
mod sse;
mod stream;
mod tally;

use std::collections::VecDeque;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::Events;
use mio::Interest;
use mio::Poll;
use mio::Token;
use mio::event::Event;
use mio::unix::SourceFd;

use crate::Failure;
use crate::now_us;
use crate::options::ReaderRole;
use crate::reader::orders::Orders;
use crate::reader::orders::Streams;
use crate::reader::sse::Said;
use crate::reader::stream::State;
use crate::reader::stream::Stream;
use crate::reader::tally::Shape;
use crate::reader::tally::Tally;
use crate::report::us_histogram;
use crate::source::Source;

const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 1024;
/// How often it looks whether what it waits for has happened.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a stream stays away that goes in the middle of a soak: long enough to miss something.
const AWAY_US: u64 = 700_000;
const ORDERS: Token = Token(usize::MAX - 1);

/// All streams, and what is to be done with them.
#[derive(Debug)]
pub(crate) struct Reader {
    role: ReaderRole,
    poll: Poll,
    streams: Vec<Stream>,
    /// To be opened, in that order.
    waiting: VecDeque<usize>,
    source: Source,
    opening: usize,
    open: usize,
    /// How long each opening took, from `connect` to `ready`.
    opened_us: Histogram<u64>,
    tally: Tally,
    /// Streams that are closed and opened again, per second.
    churn_rate: f64,
    churned_us: u64,
    /// Streams that went, and when they come back.
    away: VecDeque<(u64, usize)>,
}

/// Does what it is told on standard input until that ends.
pub(crate) fn run(role: &ReaderRole) -> Result<(), Failure> {
    if let Some(per_connection) = role.http2 {
        return http2::run(role, per_connection);
    }
    let count = usize::try_from(role.streams)?;
    let shape = match role.jobs {
        _ if role.shared => Shape::Shared,
        Some(jobs) => Shape::Groups(jobs),
        None => Shape::Own(role.jobs_per_stream),
    };
    let mut reader = Reader {
        role: role.clone(),
        poll: Poll::new()?,
        streams: std::iter::repeat_with(Stream::default).take(count).collect(),
        waiting: VecDeque::new(),
        source: Source::of_streams(role.per_address),
        opening: 0,
        open: 0,
        opened_us: us_histogram(),
        tally: Tally::new(shape, count, role)?,
        churn_rate: 0.0,
        churned_us: 0,
        away: VecDeque::new(),
    };
    reader.serve()
}

impl Reader {
    fn serve(&mut self) -> Result<(), Failure> {
        let (mut events, mut buffer) = (Events::with_capacity(EVENTS), vec![0; BUFFER]);
        let mut orders = Orders::default();
        self.poll.registry().register(&mut SourceFd(&std::io::stdin().as_raw_fd()), ORDERS, Interest::READABLE)?;
        loop {
            match self.poll.poll(&mut events, Some(LOOK_EVERY)) {
                Err(failure) if failure.kind() != std::io::ErrorKind::Interrupted => return Err(failure.into()),
                _ => {}
            }
            for event in &events {
                if event.token() == ORDERS {
                    // A line is shorter than a pipe, and written at once.
                    let mut some = [0; 4096];
                    match std::io::stdin().read(&mut some)? {
                        0 => return Ok(()), // whoever started us is gone
                        read => orders.give(some.get(..read).unwrap_or_default()),
                    }
                } else {
                    self.happened(event, &mut buffer);
                }
            }
            orders.look(self)?;
            self.churn_some();
            self.open_some();
        }
    }

    fn happened(&mut self, event: &Event, buffer: &mut [u8]) {
        let number = event.token().0;
        let Some(stream) = self.streams.get_mut(number) else { return };
        if stream.state == State::Connecting && event.is_writable() {
            let request = stream::request(&self.role, number, stream.cursor());
            if let Err(failure) = stream.request(request.as_bytes()) {
                return self.lose(number, &failure.to_string());
            }
        }
        if !event.is_readable() && !event.is_read_closed() && !event.is_error() {
            return;
        }
        let closing = event.is_read_closed();
        if stream.state == State::Open && !number.is_multiple_of(self.role.sample) {
            return match stream.drain(buffer, closing) {
                Ok(Some(count)) => self.tally.bytes_drained += count,
                Ok(None) => self.lose(number, "closed by the server"),
                Err(why) => self.lose(number, &why),
            };
        }
        let (mut ready, mut ended, mut count) = (false, false, 0);
        let tally = &mut self.tally;
        let read = stream.read(buffer, closing, &mut count, &mut |said, now| match said {
            Said::Stamp(stamp) => tally.hear(number, stamp, now),
            Said::Ready => ready = true,
            Said::Reset => tally.resets += 1,
            Said::End => ended = true,
            Said::Cursor(_) | Said::Dispatched => {}
        });
        self.tally.bytes_read += if number.is_multiple_of(self.role.sample) { count } else { 0 };
        self.tally.ends += u64::from(ended);
        // A server that knows no `ready` is ready when it has answered.
        if (ready || self.role.plain && stream.is_answered()) && stream.state == State::Opening {
            stream.state = State::Open;
            self.opened_us.saturating_record(now_us().saturating_sub(stream.since_us).max(1));
            self.opening -= 1;
            self.open += 1;
        }
        match read {
            Ok(true) => {}
            Ok(false) => self.lose(number, "closed by the server"),
            Err(why) => self.lose(number, &why),
        }
    }

    /// The server's doing.
    fn lose(&mut self, number: usize, why: &str) {
        self.tally.complain(&format!("stream {number}: {why}"));
        self.close(number);
        if self.role.reconnect {
            self.waiting.push_back(number);
        }
    }

    fn close(&mut self, number: usize) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        match stream.state {
            State::Closed => {}
            State::Connecting | State::Opening => self.opening -= 1,
            State::Open => self.open -= 1,
        }
        stream.close();
    }

    fn open_some(&mut self) {
        while self.opening < self.role.in_flight
            && let Some(number) = self.waiting.pop_front()
        {
            let Some(stream) = self.streams.get_mut(number).filter(|stream| stream.state == State::Closed) else {
                continue;
            };
            let way = (self.source.next(), self.role.url);
            match stream.connect(way, number, self.poll.registry()) {
                Ok(()) => self.opening += 1,
                Err(failure) => self.tally.complain(&format!("stream {number}: {failure}")),
            }
        }
    }

    /// Closes streams at random, so many a second, and opens them again after a while.
    fn churn_some(&mut self) {
        let now = now_us();
        while let Some((_, number)) = self.away.pop_front_if(|(back_us, _)| *back_us <= now) {
            self.waiting.push_back(number);
        }
        if self.churn_rate <= 0.0 || self.streams.is_empty() {
            self.churned_us = now;
            return;
        }
        let pause = 1_000_000.0 / self.churn_rate;
        while (now.saturating_sub(self.churned_us)) as f64 >= pause {
            self.churned_us += crate::number::to_u64(pause).max(1);
            let number = fastrand::usize(..self.streams.len());
            self.close(number);
            self.away.push_back((now + AWAY_US, number));
        }
    }
}

impl Streams for Reader {
    fn count(&self) -> usize {
        self.streams.len()
    }

    fn open(&self) -> usize {
        self.open
    }

    fn is_opening(&self) -> bool {
        !self.waiting.is_empty() || self.opening > 0
    }

    fn opened_us(&self) -> &Histogram<u64> {
        &self.opened_us
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn open_all(&mut self) {
        let closed = |(number, stream): (usize, &Stream)| (stream.state == State::Closed).then_some(number);
        self.waiting = self.streams.iter().enumerate().filter_map(closed).collect();
        self.opened_us.reset();
    }

    fn close_all(&mut self) {
        self.waiting.clear();
        (0..self.streams.len()).for_each(|number| self.close(number));
    }

    fn forget_cursors(&mut self) {
        self.streams.iter_mut().for_each(Stream::forget_cursor);
    }

    fn churn(&mut self, rate: f64) {
        self.churn_rate = rate;
    }
}
