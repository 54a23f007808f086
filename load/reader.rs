//! The browsers' part: thousands of streams on one thread, each checked number by number.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::Failure;
use crate::now_us;
use crate::options::ReaderRole;
use crate::report::Seen;
use crate::stream::Parser;
use crate::stream::Said;
use crate::stream::Stamp;
use crate::support::tokens;

/// Streams that are being opened at once.
const OPENING_MAX: usize = 64;
/// How long opening all of them may take.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// How long the last updates may be under way.
const TAIL_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const BUFFER: usize = 4096;

/// Shared by all streams; everything runs on one thread.
struct Tally {
    ready: u64,
    last: Vec<u64>,
    seen: Seen,
}

/// Opens all, says `{"ready":…}`, reads until a line `stop SENT` comes, and says what it saw.
pub(crate) async fn run(role: &ReaderRole) -> Result<(), Failure> {
    LocalSet::new().run_until(read_all(role)).await
}

async fn read_all(role: &ReaderRole) -> Result<(), Failure> {
    let count = usize::try_from(role.streams)?;
    let tally = Rc::new(RefCell::new(Tally { ready: 0, last: vec![0; count], seen: Seen::default() }));
    let opening = Rc::new(Semaphore::new(OPENING_MAX));
    let mut streams = JoinSet::new();
    for number in 0..role.streams {
        let request = request(role, number);
        streams.spawn_local(follow(role.url, request, number, Rc::clone(&tally), Rc::clone(&opening)));
    }
    let until = Instant::now() + OPEN_MAX;
    wait_for(until, || tally.borrow().ready >= role.streams || tally.borrow().seen.disconnected > 0).await;
    let ready = tally.borrow().ready;
    if ready < role.streams {
        let why = tally.borrow().seen.complaints.join("; ");
        return Err(format!("only {ready} of {} streams are ready: {why}", role.streams).into());
    }
    say(&serde_json::json!({ "ready": ready }))?;
    let mut order = String::new();
    let heard = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut order).map(|_| order)).await??;
    // Nothing: whoever started us is gone.
    let Some(order) = heard.strip_prefix("stop ") else { return Ok(()) };
    let sent: u64 = order.trim().parse()?;
    let expected = |stream: u64| if role.shared { sent } else { (sent + role.streams - 1 - stream) / role.streams };
    let all: u64 = (0..role.streams).map(expected).sum();
    wait_for(Instant::now() + TAIL_MAX, || tally.borrow().last.iter().sum::<u64>() >= all).await;
    let mut tally = tally.borrow_mut();
    let missing: u64 = (0..).zip(&tally.last).map(|(stream, last)| expected(stream).saturating_sub(*last)).sum();
    tally.seen.lost += missing;
    say(&tally.seen.to_json()?)
}

fn say(line: &serde_json::Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

async fn wait_for(until: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn request(role: &ReaderRole, number: u64) -> String {
    let run = &role.run;
    let channel = if role.shared { format!("docs.load-{run}") } else { format!("jobs.load-{run}-{number}") };
    let claims = serde_json::json!({"sub": format!("load-{run}-{number}"), "exp": now_us() / 1_000_000 + 86_400});
    let token = tokens::hs256(tokens::HEADER, &claims.to_string(), role.jwt_secret.as_bytes());
    format!(
        "GET /v1/events?channels={channel} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\
         Authorization: Bearer {token}\r\n\r\n",
        role.url
    )
}

async fn follow(
    addr: std::net::SocketAddr,
    request: String,
    number: u64,
    tally: Rc<RefCell<Tally>>,
    opening: Rc<Semaphore>,
) {
    let why = match follow_until_end(addr, request, number, &tally, &opening).await {
        Ok(()) => "closed".to_owned(),
        Err(why) => why,
    };
    tally.borrow_mut().seen.disconnected(&format!("stream {number}: {why}"));
}

async fn follow_until_end(
    addr: std::net::SocketAddr,
    request: String,
    number: u64,
    tally: &RefCell<Tally>,
    opening: &Semaphore,
) -> Result<(), String> {
    let mut permit = Some(opening.acquire().await.map_err(|e| e.to_string())?);
    let mut socket = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
    socket.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut parser = Parser::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = socket.read(&mut buffer).await.map_err(|e| e.to_string())?;
        if read == 0 {
            return Ok(());
        }
        let now = now_us();
        let mut tally = tally.borrow_mut();
        let bytes = buffer.get(..read).unwrap_or_default();
        let mut is_ready = false;
        parser
            .push(bytes, &mut |said| {
                is_ready |= said == Said::Ready;
                tally.hear(number, said, now);
            })
            .map_err(|refused| refused.0)?;
        if is_ready {
            drop(permit.take());
        }
    }
}

impl Tally {
    fn hear(&mut self, stream: u64, said: Said, now_us: u64) {
        match said {
            Said::Ready => self.ready += 1,
            Said::Reset => self.seen.resets += 1,
            Said::End => self.seen.ends += 1,
            Said::Stamp(stamp) => self.check(stream, stamp, now_us),
        }
    }

    fn check(&mut self, stream: u64, stamp: Stamp, now_us: u64) {
        let Some(last) = usize::try_from(stream).ok().and_then(|at| self.last.get_mut(at)) else { return };
        match stamp.n {
            n if n > *last => {
                self.seen.lost += n - *last - 1;
                *last = n;
            }
            n if n == *last => self.seen.repeated += 1,
            _ => self.seen.out_of_order += 1,
        }
        if stamp.cold {
            self.seen.cold += 1;
        } else {
            self.seen.measure(now_us.saturating_sub(stamp.sent_us));
        }
    }
}
