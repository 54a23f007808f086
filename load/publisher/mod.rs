//! The workers' part: updates at a steady rate, whatever the answers do.
//!
//! The stamp in a payload is the moment of sending or, for an update that is late by more than a tick, the moment at which it
//! should have been sent: so what delays the publisher (as a full server does) shows as latency and can't hide there.

mod batches;
mod line;
mod posts;
mod redis;

use std::io::BufRead as _;
use std::ops::Range;
use std::time::Duration;

use crate::Failure;
use crate::now_us;
use crate::options::PublisherRole;
use crate::report::quantiles;
use crate::report::us_histogram;

/// At high rates, updates go out in bundles this far apart.
const TICK_US: u64 = 1_000;
/// How soon it looks again when something could not be sent yet.
const LOOK_US: u64 = 100;
/// So far behind, the rate can't be had.
const LATE_MAX_US: u64 = 2_000_000;
/// How long the last answers may take.
const SETTLE_MAX_US: u64 = 5_000_000;

/// One update to be sent.
#[derive(Debug, Clone, Copy)]
struct Update {
    job: u64,
    /// Counts the updates of the job.
    n: u64,
    phase: u64,
    due_us: u64,
}

impl Update {
    /// The members of the payload that the reader looks for and a few that make it look like one.
    fn members(&self, now_us: u64) -> String {
        let Self { job, n, phase, due_us } = self;
        let sent_us = now_us.min(due_us + TICK_US);
        let progress = n % 100;
        format!("\"progress\":{progress},\"message\":\"Slide {n}\",\"data\":{{\"~\":\"{job}.{n}.{phase}.{sent_us}\"}}")
    }
}

/// What has not happened yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Everything was sent.
    Answers,
    /// Something could not be sent; when the oldest of it was due.
    Updates(u64),
}

impl Left {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Updates(one), Self::Updates(two)) => Self::Updates(one.min(two)),
            (Self::Updates(one), _) | (_, Self::Updates(one)) => Self::Updates(one),
            (Self::Nothing, Self::Nothing) => Self::Nothing,
            _ => Self::Answers,
        }
    }
}

/// Where updates go.
trait Sink {
    /// Takes an update, and may keep it until `flush`.
    fn push(&mut self, update: Update) -> Result<(), Failure>;
    /// Sends what can be sent without waiting, and reads answers.
    fn flush(&mut self) -> Result<Left, Failure>;
    /// Answers that said that nobody was there, or that something was wrong.
    fn refused(&self) -> u64;
}

/// Obeys `run RATE WARMUP_S SECONDS PHASE` on standard input until that ends. Answers `{"measuring":true}` when the warm-up
/// is over, and at the end what it did.
pub(crate) fn run(role: &PublisherRole) -> Result<(), Failure> {
    let mut sent = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, rate, warmup, seconds, phase] = words[..] else { return Err(format!("unknown order {line:?}").into()) };
        let plan =
            Plan { rate: rate.parse()?, warmup_s: warmup.parse()?, seconds: seconds.parse()?, phase: phase.parse()? };
        // For each order anew: a server closes connections on which nothing is asked, and opening many streams takes a while.
        let answer = plan.run(role.jobs, &mut sent, sink(role)?.as_mut())?;
        println!("{answer}");
    }
    Ok(())
}

fn sink(role: &PublisherRole) -> Result<Box<dyn Sink>, Failure> {
    Ok(match (&role.redis, &role.post) {
        (Some(addr), _) => Box::new(redis::Pipeline::connect(*addr, role)?),
        (None, Some(url)) => Box::new(posts::Posts::connect(url, role)?),
        (None, None) => Box::new(batches::Batches::connect(role)?),
    })
}

/// One order.
#[derive(Debug)]
struct Plan {
    rate: f64,
    warmup_s: f64,
    seconds: f64,
    phase: u64,
}

impl Plan {
    /// Publishes to the jobs in turn, where the last order stopped.
    fn run(&self, jobs: u64, sent: &mut u64, sink: &mut dyn Sink) -> Result<serde_json::Value, Failure> {
        let warm = crate::number::to_u64(self.rate * self.warmup_s);
        let total = warm + crate::number::to_u64(self.rate * self.seconds);
        let (mut late_us, mut done, mut gave_up) = (us_histogram(), 0, false);
        let refused = sink.refused();
        let started = now_us();
        let due_us = |number: u64| started + crate::number::to_u64(number as f64 * 1e6 / self.rate);
        while done < total && !gave_up {
            let now = now_us();
            let due = crate::number::to_u64((now - started) as f64 * self.rate / 1e6 + 0.5).min(total);
            let before = done;
            for number in take(&mut done, due) {
                let phase = if number < warm { 0 } else { self.phase };
                let update = Update { job: *sent % jobs, n: *sent / jobs + 1, phase, due_us: due_us(number) };
                sink.push(update)?;
                *sent += 1;
            }
            if before <= warm && done > warm {
                println!("{}", serde_json::json!({"measuring": true}));
            }
            let left = sink.flush()?;
            let oldest_us = if let Left::Updates(due_us) = left { due_us } else { due_us(before) };
            let behind = now_us().saturating_sub(oldest_us);
            if before >= warm && done > before {
                late_us.saturating_record(behind.max(1));
            }
            gave_up = behind > LATE_MAX_US;
            pause(due_us(done), now, left);
        }
        let seconds = (now_us() - started) as f64 / 1e6;
        let settled = settle(sink)?;
        Ok(serde_json::json!({
            "sent": *sent, "measured": done.saturating_sub(warm), "seconds": seconds, "gaveUp": gave_up || !settled,
            "refused": sink.refused() - refused, "lateUs": quantiles(&late_us),
        }))
    }
}

fn take(done: &mut u64, due: u64) -> Range<u64> {
    let taken = *done..due.max(*done);
    *done = taken.end;
    taken
}

/// Until the next update is due, but no sooner than a tick after the last bundle.
#[expect(clippy::disallowed_methods, reason = "a process without a runtime: nothing else waits on this thread")]
fn pause(next_due_us: u64, last_us: u64, left: Left) {
    let now = now_us();
    let until = if let Left::Updates(_) = left { now + LOOK_US } else { next_due_us.max(last_us + TICK_US) };
    if until > now {
        std::thread::sleep(Duration::from_micros(until - now));
    }
}

fn settle(sink: &mut dyn Sink) -> Result<bool, Failure> {
    let until = now_us() + SETTLE_MAX_US;
    while sink.flush()? != Left::Nothing {
        let now = now_us();
        if now > until {
            return Ok(false);
        }
        pause(now, now, Left::Updates(now));
    }
    Ok(true)
}
