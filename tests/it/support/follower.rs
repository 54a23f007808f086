//! A reader that behaves like a browser's `EventSource` for as long as it lives, and writes down everything for a checker.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::eventually;
use crate::support::sse::NotOpened;
use crate::support::sse::SseClient;
use crate::support::sse::SseEvent;

/// What browsers wait when no `retry:` has come.
const RETRY_DEFAULT: Duration = Duration::from_secs(3);
/// A stream that is silent for this long is given up; heartbeats come more often.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// How it follows.
#[derive(Debug, Clone)]
pub struct FollowerOptions {
    /// Reconnect to the next address in turn, or to any.
    pub random: bool,
    /// Waits are cut to this, so that tests end.
    pub retry_max: Duration,
    /// Milliseconds after which it drops its own connection (with RST), anew at random each time; `None`: never.
    pub drop_after_ms: Option<Range<u64>>,
    /// Sent with every request, as a cookie would be.
    pub headers: Vec<(String, String)>,
}

impl Default for FollowerOptions {
    fn default() -> Self {
        Self { random: false, retry_max: Duration::from_millis(50), drop_after_ms: None, headers: Vec::new() }
    }
}

impl FollowerOptions {
    /// With a bearer token.
    pub fn with_token(token: &str) -> Self {
        Self { headers: vec![("Authorization".to_owned(), format!("Bearer {token}"))], ..Self::default() }
    }
}

/// Why it follows no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// `end` said not to come back; its reason.
    End(String),
    /// An answer after which a browser gives up: 204, or anything but `200 text/event-stream`.
    Status(u16),
}

/// One attempt to connect.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// Which address.
    pub address: usize,
    /// The `Last-Event-ID` that was sent.
    pub sent_id: Option<String>,
    /// Channel and verdict, as `connected` said.
    pub verdicts: Vec<(String, String)>,
    /// Whether `ready` came.
    pub ready: bool,
    /// What was wrong when no stream was opened.
    pub failure: Option<String>,
    /// When `ready` came, and when the stream was over.
    pub ready_at: Option<Instant>,
    pub over_at: Option<Instant>,
    /// For how long it was told to stay away then.
    pub told: Option<Duration>,
}

/// Everything that happened.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// Each attempt in order; the index is the connection's number.
    pub connections: Vec<Connection>,
    /// Number of the connection, and what came, in order.
    pub events: Vec<(usize, SseEvent)>,
    /// Set when it stopped by itself.
    pub stopped: Option<Stopped>,
}

impl Journal {
    /// The events of one name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a SseEvent> {
        self.events.iter().map(|(_, event)| event).filter(move |event| event.event == name)
    }

    /// Every `reset`.
    pub fn resets(&self) -> Vec<&SseEvent> {
        self.named("reset").collect()
    }

    /// Whether the last connection got to `ready`.
    pub fn is_ready(&self) -> bool {
        self.connections.last().is_some_and(|connection| connection.ready)
    }

    /// The newest value of `field` (a JSON pointer) that it saw of a job.
    pub fn newest(&self, job: &str, field: &str) -> Option<u64> {
        let of_job = |event: &&SseEvent| event.text("jobId") == job;
        self.named("job:update").filter(of_job).filter_map(|event| event.data.pointer(field)?.as_u64()).last()
    }

    /// Judges the numbers 1, 2, … n that each job's updates carried in `data.n`; see `check_field`.
    pub fn check_sequence(&self, expected: &[(&str, u64)]) -> Checked {
        self.check_field("/data/n", expected)
    }

    /// Judges the numbers that updates of the jobs carried at `field`: between two resets each must be the one after its
    /// predecessor, up to the expected last one. A snapshot on a channel that was not resumed is where counting begins; a
    /// snapshot after a resume must show what is known already.
    pub fn check_field(&self, field: &str, expected: &[(&str, u64)]) -> Checked {
        let mut checked = Checked { resets: self.resets().len(), ..Checked::default() };
        let mut last: HashMap<&str, u64> = HashMap::new();
        for (connection, event) in &self.events {
            if event.event == "reset" {
                last.clear();
            }
            let number = event.data.pointer(field).and_then(serde_json::Value::as_u64);
            let (job, Some(number)) = (event.text("jobId"), number) else { continue };
            let known = last.get(job).copied();
            if event.is_snapshot() {
                let resumed = self.was_resumed(*connection, job);
                checked.snapshot(resumed.then_some(known).flatten(), number, (job, *connection));
                last.insert(job, number.max(if resumed { known.unwrap_or(0) } else { 0 }));
            } else {
                checked.event(known, number, (job, *connection));
                last.insert(job, number.max(known.unwrap_or(0)));
            }
        }
        for (job, number) in expected {
            let got = last.get(job).copied().unwrap_or(0);
            if got != *number {
                checked.lost += number.saturating_sub(got);
                checked.say(format!("{job}: ends with {got} instead of {number}"));
            }
        }
        checked
    }

    fn was_resumed(&self, connection: usize, job: &str) -> bool {
        let channel = format!("jobs.{job}");
        let verdicts = &self.connections[connection].verdicts;
        verdicts.iter().any(|(name, verdict)| *name == channel && verdict == "resumed")
    }
}

/// What the checker found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Changes that came, snapshots not counted.
    pub delivered: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Numbers that came again at once or as the newest.
    pub repeated: u64,
    /// Numbers below the newest.
    pub out_of_order: u64,
    /// How often the server said to forget everything.
    pub resets: usize,
    /// The first of what was found, for people.
    pub details: Vec<String>,
}

impl Checked {
    /// 0 lost, 0 repeated, 0 out of order, 0 resets.
    ///
    /// # Panics
    /// When not.
    pub fn assert_clean(&self) {
        let bad = self.lost + self.repeated + self.out_of_order + self.resets as u64;
        assert!(bad == 0, "{self}");
    }

    fn event(&mut self, known: Option<u64>, number: u64, at: (&str, usize)) {
        self.delivered += 1;
        // Without a snapshot before it, the first change of a job is its first.
        let due = known.unwrap_or(0) + 1;
        match number.cmp(&due) {
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Greater => self.lost += number - due,
            std::cmp::Ordering::Less if number + 1 == due => self.repeated += 1,
            std::cmp::Ordering::Less => self.out_of_order += 1,
        }
        self.say(format!("{}: {number} instead of {due} (connection {})", at.0, at.1));
    }

    fn snapshot(&mut self, known: Option<u64>, number: u64, at: (&str, usize)) {
        let Some(known) = known.filter(|known| *known != number) else { return };
        if number > known {
            self.lost += number - known;
        } else {
            self.out_of_order += 1;
        }
        self.say(format!("{}: snapshot {number} after {known} was resumed (connection {})", at.0, at.1));
    }

    fn say(&mut self, text: String) {
        if self.details.len() < 50 {
            self.details.push(text);
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, lost, repeated, out_of_order, resets, details } = self;
        write!(
            f,
            "{delivered} delivered, {lost} lost, {repeated} repeated, {out_of_order} out of order, {resets} resets"
        )?;
        details.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A running follower. Dropping it closes its stream.
#[derive(Debug)]
pub struct Follower {
    journal: Arc<Mutex<Journal>>,
    _task: JoinSet<()>,
}

impl Follower {
    /// Starts to follow at the first of the addresses, or at any if `random`.
    pub fn start(addrs: &[SocketAddr], path_and_query: &str, options: FollowerOptions) -> Self {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let mut task = JoinSet::new();
        let follow = Follow {
            addrs: addrs.to_vec(),
            path: path_and_query.to_owned(),
            options,
            journal: Arc::clone(&journal),
            last_event_id: None,
            retry: RETRY_DEFAULT,
        };
        task.spawn(follow.run());
        Self { journal, _task: task }
    }

    /// A copy of everything so far.
    pub fn journal(&self) -> Journal {
        self.journal.lock().clone()
    }

    /// Asks the journal without copying it.
    pub fn look<T>(&self, ask: impl FnOnce(&Journal) -> T) -> T {
        ask(&self.journal.lock())
    }

    /// Waits until the journal fits.
    ///
    /// # Panics
    /// When it doesn't within `deadline`.
    pub async fn until(&self, what: &str, deadline: Duration, fits: impl Fn(&Journal) -> bool) {
        eventually(what, deadline, async || self.look(&fits).then_some(())).await;
    }

    /// Waits until its connection is `ready`.
    pub async fn ready(&self) {
        self.until("a follower is ready", Duration::from_secs(30), Journal::is_ready).await;
    }
}

struct Follow {
    addrs: Vec<SocketAddr>,
    path: String,
    options: FollowerOptions,
    journal: Arc<Mutex<Journal>>,
    last_event_id: Option<String>,
    retry: Duration,
}

impl Follow {
    async fn run(mut self) {
        for number in 0.. {
            let stopped = match self.connect(number).await {
                Ok(client) => self.read(number, client).await,
                Err(NotOpened::Answer(answer)) => Some(Stopped::Status(answer.status)),
                Err(NotOpened::NoAnswer(why)) => {
                    self.note(number, |connection| connection.failure = Some(why.to_string()));
                    None
                }
            };
            if stopped.is_some() {
                self.journal.lock().stopped = stopped;
                return;
            }
            tokio::time::sleep(self.retry.min(self.options.retry_max)).await;
        }
    }

    async fn connect(&mut self, number: usize) -> Result<SseClient, NotOpened> {
        let address =
            if self.options.random { fastrand::usize(0..self.addrs.len()) } else { number % self.addrs.len() };
        let connection = Connection { address, sent_id: self.last_event_id.clone(), ..Connection::default() };
        self.journal.lock().connections.push(connection);
        let mut headers: Vec<(&str, &str)> =
            self.options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.extend(self.last_event_id.as_deref().map(|id| ("Last-Event-ID", id)));
        SseClient::connect(self.addrs[address], &self.path, &headers).await
    }

    /// Reads until the stream ends, is silent for too long, or is dropped on purpose.
    async fn read(&mut self, number: usize, mut client: SseClient) -> Option<Stopped> {
        let leave =
            self.options.drop_after_ms.clone().map(|ms| Instant::now() + Duration::from_millis(fastrand::u64(ms)));
        let mut stopped = None;
        loop {
            let wait = leave.map_or(SILENCE_MAX, |leave| leave.saturating_duration_since(Instant::now()));
            let Some(event) = client.next(wait.min(SILENCE_MAX)).await else { break };
            stopped = stopped.or_else(|| said_to_stop(&event));
            self.write_down(number, event);
        }
        self.last_event_id = client.last_event_id().map(str::to_owned);
        self.retry = client.retry().unwrap_or(self.retry);
        let told = self.retry;
        self.note(number, |connection| (connection.over_at, connection.told) = (Some(Instant::now()), Some(told)));
        if client.ended().is_none() {
            client.reset();
        }
        stopped
    }

    fn write_down(&self, number: usize, event: SseEvent) {
        match event.event.as_str() {
            "connected" => self.note(number, |connection| connection.verdicts = verdicts(&event)),
            "ready" => self.note(number, |connection| {
                (connection.ready, connection.ready_at) = (true, Some(Instant::now()));
            }),
            _ => {}
        }
        self.journal.lock().events.push((number, event));
    }

    fn note(&self, number: usize, write: impl FnOnce(&mut Connection)) {
        write(&mut self.journal.lock().connections[number]);
    }
}

fn said_to_stop(event: &SseEvent) -> Option<Stopped> {
    let stop = event.event == "end" && event.data["reconnect"] == false;
    stop.then(|| Stopped::End(event.text("reason").to_owned()))
}

fn verdicts(connected: &SseEvent) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let channels = connected.data["channels"].as_array().cloned().unwrap_or_default();
    channels.iter().map(|entry| (text(&entry["channel"]), text(&entry["verdict"]))).collect()
}
