//! The attackers' part: thousands of connections on one thread that say nothing, too little or too slowly, that don't read, or
//! that come and go.
//!
//! It stands for other machines, so it has to be cheap: one epoll, one heap of what is due, and no memory per event.

mod attack;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use mio::Events;
use mio::Interest;
use mio::Poll;
use mio::Token;
use mio::event::Event;
use mio::unix::SourceFd;
use serde_json::Value;

use crate::Failure;
use crate::attackers::attack::Attacker;
use crate::attackers::attack::Next;
use crate::now_us;
use crate::options::AttackersRole;
use crate::source::Source;

const ORDERS: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
const BUFFER: usize = 64 * 1024;
/// How often it looks at what is due.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// All come within that time: a flood that fills the listener's queue at once would be another attack.
const RAMP_US: u64 = 2_000_000;
/// When one that was refused, reset or closed tries again.
const AGAIN_US: u64 = 50_000;

/// What they did so far.
#[derive(Debug, Default)]
struct Counts {
    tried: u64,
    stood: u64,
    /// By the other end, or refused.
    cut: u64,
    /// No connection could be made from here.
    unable: u64,
    bytes_read: u64,
}

#[derive(Debug)]
struct Attackers {
    role: AttackersRole,
    poll: Poll,
    all: Vec<Attacker>,
    /// When who goes on. An attacker has one entry that counts at most; others are of connections that have gone.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    source: Source,
    counts: Counts,
    is_on: bool,
}

/// Obeys `start`, `count` and `stop` on standard input until that ends, and answers each with what was done so far.
pub(crate) fn run(role: &AttackersRole) -> Result<(), Failure> {
    let kinds = role.attacks.iter().copied().cycle().take(usize::try_from(role.attackers)?);
    let mut attackers = Attackers {
        role: role.clone(),
        poll: Poll::new()?,
        all: kinds.map(Attacker::new).collect(),
        due: BinaryHeap::new(),
        source: Source::of_attackers(role.addresses),
        counts: Counts::default(),
        is_on: false,
    };
    attackers.serve()
}

impl Attackers {
    fn serve(&mut self) -> Result<(), Failure> {
        let (mut events, mut buffer) = (Events::with_capacity(EVENTS), vec![0; BUFFER]);
        self.poll.registry().register(&mut SourceFd(&std::io::stdin().as_raw_fd()), ORDERS, Interest::READABLE)?;
        loop {
            match self.poll.poll(&mut events, Some(LOOK_EVERY)) {
                Err(failure) if failure.kind() != std::io::ErrorKind::Interrupted => return Err(failure.into()),
                _ => {}
            }
            for event in &events {
                if event.token() == ORDERS {
                    // One order is under way at most, and it is shorter than a pipe.
                    match std::io::stdin().read(&mut buffer)? {
                        0 => return Ok(()), // whoever started us is gone
                        read => self.obey(buffer.get(..read).unwrap_or_default())?,
                    }
                } else {
                    self.happened(event, &mut buffer);
                }
            }
            self.look();
        }
    }

    fn obey(&mut self, order: &[u8]) -> Result<(), Failure> {
        match order.trim_ascii() {
            b"start" => self.start(),
            b"stop" => self.stop(),
            b"count" => {}
            unknown => return Err(format!("unknown order {:?}", String::from_utf8_lossy(unknown)).into()),
        }
        println!("{}", self.to_json());
        Ok(())
    }

    fn start(&mut self) {
        self.is_on = true;
        let (now, count) = (now_us(), self.all.len().max(1) as u64);
        for number in 0..self.all.len() {
            self.plan(number, now + RAMP_US * number as u64 / count);
        }
    }

    fn stop(&mut self) {
        self.is_on = false;
        self.due.clear();
        self.all.iter_mut().for_each(Attacker::close);
    }

    fn plan(&mut self, number: usize, due_us: u64) {
        let Some(attacker) = self.all.get_mut(number).filter(|_| self.is_on) else { return };
        attacker.due_us = due_us;
        self.due.push(Reverse((due_us, number)));
    }

    /// Whoever's time has come, as of now: those who are due again meanwhile wait for the next look.
    fn look(&mut self) {
        let now = now_us();
        while let Some(Reverse((due_us, number))) = self.due.peek().copied().filter(|Reverse((due, _))| *due <= now) {
            self.due.pop();
            let Some(attacker) = self.all.get_mut(number).filter(|attacker| attacker.due_us == due_us) else {
                continue;
            };
            if attacker.is_closed() {
                self.connect(number);
            } else {
                let next = attacker.go_on();
                self.follow(number, next);
            }
        }
    }

    fn connect(&mut self, number: usize) {
        let way = (self.source.next(), self.role.url);
        let Some(attacker) = self.all.get_mut(number) else { return };
        self.counts.tried += 1;
        if attacker.connect(way, number, self.poll.registry()).is_err() {
            attacker.close();
            self.counts.unable += 1;
            self.plan(number, now_us() + AGAIN_US);
        }
    }

    fn happened(&mut self, event: &Event, buffer: &mut [u8]) {
        let number = event.token().0;
        let Some(attacker) = self.all.get_mut(number).filter(|attacker| !attacker.is_closed()) else { return };
        let stood = attacker.stands();
        let mut next = if event.is_writable() { attacker.writable() } else { Next::Nothing };
        self.counts.stood += u64::from(!stood && attacker.stands());
        if next != Next::Cut && event.is_readable() {
            let read = attacker.read(buffer, &mut self.counts.bytes_read);
            next = if read == Next::Cut { read } else { next };
        }
        if event.is_error() || event.is_write_closed() {
            next = Next::Cut;
        }
        self.follow(number, next);
    }

    fn follow(&mut self, number: usize, next: Next) {
        match next {
            Next::Nothing => {}
            Next::In(us) => self.plan(number, now_us() + us),
            Next::Again => {
                self.all.get_mut(number).into_iter().for_each(Attacker::close);
                self.connect(number);
            }
            Next::Cut => {
                self.counts.cut += 1;
                self.all.get_mut(number).into_iter().for_each(Attacker::close);
                self.plan(number, now_us() + AGAIN_US);
            }
        }
    }

    fn to_json(&self) -> Value {
        let Counts { tried, stood, cut, unable, bytes_read } = self.counts;
        let standing = self.all.iter().filter(|attacker| attacker.stands()).count();
        serde_json::json!({
            "tried": tried, "stood": stood, "cut": cut, "unable": unable, "bytesRead": bytes_read, "standing": standing,
        })
    }
}
