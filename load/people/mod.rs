//! The people's part: each has a WebSocket, moves their pointer at a steady rate, and sees the others move.
//!
//! A pointer's `x` is the moment at which it was there, so whoever sees it knows how old it is. Positions that are passed over
//! are no fault: what counts is how often a person is seen, and how old they are then.

mod socket;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::MissedTickBehavior;

use crate::Failure;
use crate::now_us;
use crate::options::PeopleRole;
use crate::report::quantiles;
use crate::report::us_histogram;
use crate::support::tokens;
use socket::Reading;
use socket::Writing;

/// What all of them saw.
#[derive(Debug)]
struct Seen {
    /// By who saw and who was seen.
    updates: Vec<u64>,
    latency: Histogram<u64>,
    bytes: u64,
    reads: u64,
    /// Positions that came after a newer one of the same person.
    back: u64,
    newest: Vec<u64>,
    people: usize,
    begun_us: u64,
}

impl Seen {
    fn new(people: usize) -> Self {
        let pairs = people * people;
        let (updates, newest) = (vec![0; pairs], vec![0; pairs]);
        Self { updates, latency: us_histogram(), bytes: 0, reads: 0, back: 0, newest, people, begun_us: now_us() }
    }

    fn begin(&mut self) {
        self.updates.fill(0);
        self.latency.reset();
        (self.bytes, self.reads, self.back) = (0, 0, 0);
    }

    fn saw(&mut self, viewer: usize, person: usize, x: u64) {
        let pair = viewer * self.people + person;
        self.updates[pair] += 1;
        self.back += u64::from(x < self.newest[pair]);
        self.newest[pair] = x;
        let age = now_us().saturating_sub(self.begun_us + x);
        self.latency.saturating_record(age);
    }

    fn report(&self, seconds: f64) -> serde_json::Value {
        let others = |pair: &usize| pair / self.people != pair % self.people;
        let echoes: u64 = (0..self.people).map(|at| self.updates[at * self.people + at]).sum();
        let mut each: Vec<u64> = (0..self.updates.len()).filter(others).map(|pair| self.updates[pair]).collect();
        each.sort_unstable();
        let per_second = |count: Option<&u64>| crate::number::round(count.copied().unwrap_or(0) as f64 / seconds);
        let total: u64 = each.iter().sum();
        serde_json::json!({
            "seenPerSecondMin": per_second(each.first()),
            "seenPerSecondMedian": per_second(each.get(each.len() / 2)),
            "told": total,
            "toldPerSecond": (total as f64 / seconds).round(),
            "latencyUs": quantiles(&self.latency),
            "bytesRead": self.bytes,
            "reads": self.reads,
            "outOfOrder": self.back,
            "repeated": echoes,
        })
    }
}

/// Opens everybody, says `ready`; at `run` lets them move, says `begun` when the warm-up is over and what was seen at the end.
pub(crate) fn run(role: &PeopleRole) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, live(role))
}

async fn live(role: &PeopleRole) -> Result<(), Failure> {
    let seen = Rc::new(RefCell::new(Seen::new(role.people)));
    let mut writers = Vec::new();
    for at in 0..role.people {
        let user = format!("load-{}-{at}", role.run);
        let path = format!("/v1/ws?channels=presence.load-{}-0", role.run);
        let url = role.url[at % role.url.len()];
        let (reading, writing) = socket::open(url, &path, &tokens::for_user(&user)).await?;
        let writing = Rc::new(tokio::sync::Mutex::new(writing));
        tokio::task::spawn_local(look(reading, Rc::clone(&writing), at, Rc::clone(&seen), role.run.clone()));
        writers.push(writing);
    }
    println!("{{\"ready\":{}}}", writers.len());
    let mut order = String::new();
    std::io::stdin().read_line(&mut order)?;
    for (at, writing) in writers.into_iter().enumerate() {
        tokio::task::spawn_local(wander(writing, at, role.clone(), seen.borrow().begun_us));
    }
    tokio::time::sleep(Duration::from_secs_f64(role.warmup)).await;
    seen.borrow_mut().begin();
    println!("{{\"begun\":true}}");
    tokio::time::sleep(Duration::from_secs_f64(role.seconds)).await;
    println!("{}", seen.borrow().report(role.seconds));
    Ok(())
}

/// Moves the pointer, so many times a second.
async fn wander(writing: Rc<tokio::sync::Mutex<Writing>>, at: usize, role: PeopleRole, begun_us: u64) {
    let every = Duration::from_secs_f64(1.0 / role.hz);
    let first = tokio::time::Instant::now() + every.mul_f64(at as f64 / role.people as f64);
    let mut tick = tokio::time::interval_at(first, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let x = now_us() - begun_us;
        let document = format_args!("load-{}-0", role.run);
        let text =
            format!("{{\"type\":\"presence\",\"documentId\":\"{document}\",\"cursor\":{{\"x\":{x},\"y\":{at}}}}}");
        if writing.lock().await.text(&text).await.is_err() {
            return;
        }
    }
}

/// Sees the others move.
async fn look(
    mut reading: Reading,
    writing: Rc<tokio::sync::Mutex<Writing>>,
    at: usize,
    seen: Rc<RefCell<Seen>>,
    run: String,
) {
    let who = format!("\"userId\":\"load-{run}-");
    loop {
        let pings = match reading.next(|text| {
            if let Some((person, x)) = position(text, &who) {
                seen.borrow_mut().saw(at, person, x);
            }
        }) {
            Ok(pings) => pings,
            Err(error) => return eprintln!("load: somebody's connection ended: {error}"),
        };
        for payload in pings {
            if writing.lock().await.pong(&payload).await.is_err() {
                return;
            }
        }
        match reading.fill().await {
            Ok(bytes) => {
                let mut seen = seen.borrow_mut();
                seen.bytes += bytes as u64;
                seen.reads += 1;
            }
            Err(error) => return eprintln!("load: somebody's connection ended: {error}"),
        }
    }
}

/// Who, and the `x` of where, in an update of one person.
fn position(text: &[u8], who: &str) -> Option<(usize, u64)> {
    memchr::memmem::find(text, b"\"presence:update\"")?;
    let person = number_after(text, who.as_bytes())?;
    let x = number_after(text, b"\"cursor\":{\"x\":")?;
    Some((usize::try_from(person).ok()?, x))
}

fn number_after(text: &[u8], before: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(text, before)? + before.len();
    let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let mut any = false;
    let number = digits.fold(0, |number: u64, digit| {
        any = true;
        number * 10 + u64::from(digit - b'0')
    });
    any.then_some(number)
}
