//! The log of one process: the same contract as Redis, kept under one lock.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::EventAppend;
use crate::broker::EventOnce;
use crate::broker::JobAppend;
use crate::broker::JobOutcome;
use crate::broker::KnownJob;
use crate::broker::Once;
use crate::broker::Outputs;
use crate::broker::TailMessage;
use crate::broker::nodes::Records;
use crate::broker::rosters;
use crate::broker::tickets::MemoryTickets;
use crate::clock;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Delivery;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Fingerprint;
use crate::event::Id;
use crate::event::Kind;
use crate::event::LogId;
use crate::event::RawName;
use crate::event::Trace;
use crate::jobs::JobState;
use crate::jobs::Judgement;
use crate::jobs::Reject;
use crate::jobs::TerminalStatuses;
use crate::jobs::judge;

/// How long an `updateId` or the name of an append is remembered.
const ONCE_KEPT: Duration = Duration::from_secs(600);
/// Names remembered at most; the oldest go first.
const ONCE_MAX: usize = 200_000;
/// Jobs remembered at most; the one that changed longest ago goes first and is seeded from the database again.
const JOBS_MAX: usize = 100_000;

/// The in-process log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBroker {
    epoch: Epoch,
    terminal: TerminalStatuses,
    inner: Arc<Mutex<Inner>>,
    records: Records,
    tickets: Arc<MemoryTickets>,
    rosters: Arc<rosters::Shared>,
}

#[derive(Debug)]
struct Inner {
    last: LogId,
    jobs: HashMap<Id, Job>,
    /// Changes of jobs, oldest first; only the newest of a job still says something.
    by_age: VecDeque<(LogId, Id)>,
    once: Remembered,
    source: LogId,
    tail: Option<mpsc::Sender<TailMessage>>,
}

#[derive(Debug, Clone, Default)]
struct Job {
    state: Option<JobState>,
    version: LogId,
    digest: String,
    raw: RawName,
}

/// Names with an end of life, oldest first.
#[derive(Debug, Default)]
struct Remembered {
    answers: HashMap<String, Answer>,
    order: VecDeque<(Instant, String)>,
}

/// Jobs of which an update of this batch was not judged, and whether that is true of an entry of the inbox: nothing
/// overtakes these.
#[derive(Debug, Default)]
struct Waits {
    jobs: HashSet<Id>,
    inbox: bool,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Applied(Cursor),
    Judged,
}

impl Remembered {
    fn get(&mut self, name: &str) -> Option<Answer> {
        self.forget_old();
        self.answers.get(name).copied()
    }

    fn put(&mut self, name: String, answer: Answer) {
        self.order.push_back((Instant::now(), name.clone()));
        self.answers.insert(name, answer);
    }

    fn forget_old(&mut self) {
        while let Some((at, name)) = self.order.front() {
            if at.elapsed() < ONCE_KEPT && self.order.len() <= ONCE_MAX {
                break;
            }
            self.answers.remove(name);
            self.order.pop_front();
        }
    }
}

impl MemoryBroker {
    /// An empty log with a new epoch.
    #[must_use]
    pub fn new(terminal: TerminalStatuses) -> Self {
        let inner = Inner {
            last: LogId::ZERO,
            jobs: HashMap::new(),
            by_age: VecDeque::new(),
            once: Remembered::default(),
            source: LogId::ZERO,
            tail: None,
        };
        Self {
            epoch: Epoch(fastrand::u64(1..)),
            terminal,
            inner: Arc::new(Mutex::new(inner)),
            records: Records::default(),
            tickets: Arc::default(),
            rosters: Arc::default(),
        }
    }

    pub(super) fn tickets(&self) -> Arc<MemoryTickets> {
        Arc::clone(&self.tickets)
    }

    pub(super) fn rosters(&self) -> &Arc<rosters::Shared> {
        &self.rosters
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    pub(super) async fn run(&self, outputs: Outputs, stop: CancellationToken) {
        let opened = TailMessage::Opened {
            epoch: self.epoch,
            before: (LogId::ZERO, Fingerprint::default()),
            entries: Vec::new(),
        };
        {
            let mut inner = self.inner.lock().await;
            drop(outputs.tail.send(opened).await);
            inner.tail = Some(outputs.tail);
        }
        stop.cancelled().await;
        self.inner.lock().await.tail = None;
    }

    pub(super) async fn append_jobs(&self, batch: &[JobAppend<'_>]) -> Result<Vec<JobOutcome>, BrokerError> {
        let mut inner = self.inner.lock().await;
        if inner.tail.is_none() {
            return Err(BrokerError::Unavailable(None));
        }
        let (mut outcomes, mut entries) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        let mut waits = Waits::default();
        for append in batch {
            let (outcome, entry) = inner.judge(append, self.epoch, &self.terminal, &mut waits);
            outcomes.push(outcome);
            entries.extend(entry.map(Arc::new));
        }
        inner.deliver(entries).await;
        Ok(outcomes)
    }

    pub(super) async fn append_events(&self, batch: &[EventAppend<'_>]) -> Result<Vec<Cursor>, BrokerError> {
        let mut inner = self.inner.lock().await;
        if inner.tail.is_none() {
            return Err(BrokerError::Unavailable(None));
        }
        let (mut cursors, mut entries) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for append in batch {
            let (cursor, entry) = inner.publish(append, self.epoch);
            cursors.push(cursor);
            entries.extend(entry.map(Arc::new));
        }
        inner.deliver(entries).await;
        Ok(cursors)
    }

    pub(super) async fn publish_ephemeral(&self, event: &Event) -> Result<(), BrokerError> {
        let inner = self.inner.lock().await;
        let tail = inner.tail.as_ref().ok_or(BrokerError::Unavailable(None))?;
        tail.send(TailMessage::Ephemeral(event.clone())).await.map_err(|_| BrokerError::Unavailable(None))
    }

    pub(super) async fn job(&self, id: &Id) -> Option<KnownJob> {
        let inner = self.inner.lock().await;
        let job = inner.jobs.get(id)?;
        job.state.clone().map(|state| KnownJob { state, version: job.version })
    }
}

/// The name under which an append is remembered beside its job, if it has one.
fn remembered_name(append: &JobAppend<'_>) -> Option<String> {
    match &append.once {
        Once::Named(name) => Some(name.clone()),
        Once::LateRaw(raw) => Some(format!("late:{}:{}:{}", append.update.job, raw.mark, raw.offset)),
        Once::Raw(_) | Once::Source(_) => None,
    }
}

impl Inner {
    /// A name that only this request has is not kept: an answer always comes.
    fn publish(&mut self, append: &EventAppend<'_>, epoch: Epoch) -> (Cursor, Option<Entry>) {
        let name = Some(append.once).filter(|once| once.may_come_again()).map(EventOnce::name);
        if let Some(Answer::Applied(cursor)) = name.and_then(|name| self.once.get(name)) {
            return (cursor, None);
        }
        let heard = append.once.raw().zip(Id::parse(append.event.channel.id()).ok()).map(|(raw, id)| (id, raw));
        let entry = self.entry(Some(append.event.clone()), heard, append.trace);
        let cursor = Cursor { epoch, at: entry.id, print: entry.print };
        if let Some(name) = name {
            self.once.put(name.to_owned(), Answer::Applied(cursor));
        }
        (cursor, Some(entry))
    }

    /// The Rust twin of `append.lua`, step by step.
    fn judge(
        &mut self,
        append: &JobAppend<'_>,
        epoch: Epoch,
        terminal: &TerminalStatuses,
        waits: &mut Waits,
    ) -> (JobOutcome, Option<Entry>) {
        let update = append.update;
        if let Once::Source(id) = append.once {
            // One that was not judged must not be passed by: the position would say that it was.
            if waits.inbox {
                return (JobOutcome::Unknown, None);
            }
            if id <= self.source {
                return (JobOutcome::Done, None);
            }
        }
        let name = remembered_name(append);
        match name.as_ref().and_then(|name| self.once.get(name)) {
            Some(Answer::Applied(cursor)) => return (JobOutcome::Applied(cursor), None),
            Some(Answer::Judged) => return (JobOutcome::Done, None),
            None => {}
        }
        let known = self.jobs.get(&update.job).filter(|_| !waits.jobs.contains(&update.job)).cloned();
        let seed = append.seed.filter(|_| !waits.jobs.contains(&update.job));
        let mut job = match (known, seed) {
            (Some(job), _) => job,
            (None, Some(seed)) => Job { state: seed.state.clone(), version: seed.version, ..Job::default() },
            (None, None) => {
                waits.jobs.insert(update.job.clone());
                waits.inbox |= matches!(append.once, Once::Source(_));
                return (JobOutcome::Unknown, None);
            }
        };
        if let Once::Raw(raw) = append.once {
            if raw <= job.raw {
                waits.jobs.insert(update.job.clone());
                return (JobOutcome::Behind(self.last), None);
            }
            job.raw = raw;
        }
        // A version in the database may be ahead of this log's clock; what follows must be newer.
        self.last = self.last.max(job.version);
        let judgement = self.look(append, &job, terminal);
        job.digest.clone_from(&update.digest);
        let (outcome, entry) = self.carry_out(append, judgement, &mut job, epoch);
        if let Some(name) = name {
            let answer = match &outcome {
                JobOutcome::Applied(cursor) => Answer::Applied(*cursor),
                _ => Answer::Judged,
            };
            self.once.put(name, answer);
        }
        if let Once::Source(id) = append.once {
            self.source = id;
        }
        self.keep(update.job.clone(), job);
        (outcome, entry)
    }

    fn look(&mut self, append: &JobAppend<'_>, job: &Job, terminal: &TerminalStatuses) -> Judgement {
        let update = append.update;
        let repeated = match &update.update_id {
            Some(id) => self.once.get(&format!("update:{}:{id}", update.job)).is_some(),
            None => update.digest == job.digest,
        };
        if repeated {
            return Judgement::Rejected(Reject::Duplicate);
        }
        let now = match update.timestamp {
            Some(_) => String::new(),
            None => format!("\"{}\"", clock::rfc3339(append.accepted_us)),
        };
        judge(job.state.as_ref(), update, terminal, &now)
    }

    fn carry_out(
        &mut self,
        append: &JobAppend<'_>,
        judgement: Judgement,
        job: &mut Job,
        epoch: Epoch,
    ) -> (JobOutcome, Option<Entry>) {
        let (update, trace) = (append.update, append.update.trace.as_deref());
        let judged = match append.once {
            Once::Raw(raw) | Once::LateRaw(raw) => Some((update.job.clone(), raw)),
            Once::Named(_) | Once::Source(_) => None,
        };
        match judgement {
            Judgement::Rejected(reject) => {
                let entry = judged.map(|judged| self.entry(None, Some(judged), trace));
                (JobOutcome::Rejected(reject), entry)
            }
            Judgement::Applied(state, delivery) => {
                let event = job_event(&update.job, &state, delivery, append.accepted_us);
                let entry = self.entry(Some(event), judged, trace);
                let cursor = Cursor { epoch, at: entry.id, print: entry.print };
                job.version = entry.id;
                job.state = Some(state);
                if let Some(id) = &update.update_id {
                    self.once.put(format!("update:{}:{id}", update.job), Answer::Judged);
                }
                (JobOutcome::Applied(cursor), Some(entry))
            }
        }
    }

    fn keep(&mut self, id: Id, job: Job) {
        let version = job.version;
        let before = self.jobs.insert(id.clone(), job);
        if before.is_none_or(|before| before.version != version) {
            self.by_age.push_back((version, id));
        }
        let jobs = &mut self.jobs;
        let is_newest = |(version, id): &(LogId, Id)| jobs.get(id).is_some_and(|job| job.version == *version);
        if self.by_age.len() > 2 * jobs.len() + JOBS_MAX / 10 {
            self.by_age.retain(is_newest);
        }
        while jobs.len() > JOBS_MAX {
            let Some((version, oldest)) = self.by_age.pop_front() else { break };
            if jobs.get(&oldest).is_some_and(|job| job.version == version) {
                jobs.remove(&oldest);
            }
        }
    }

    fn entry(&mut self, event: Option<Event>, judged: Option<(Id, RawName)>, trace: Option<&Trace>) -> Entry {
        let now = LogId { ms: clock::now_us() / 1000, seq: 0 };
        // A clock that steps back must not reorder the log.
        let next = LogId { ms: self.last.ms, seq: self.last.seq + 1 };
        self.last = now.max(next);
        Entry { id: self.last, print: Fingerprint::random(), event, judged, trace: trace.copied().map(Box::new) }
    }

    async fn deliver(&mut self, entries: Vec<Arc<Entry>>) {
        if let Some(tail) = self.tail.as_ref().filter(|_| !entries.is_empty()) {
            // The receiver is gone only when the app stops.
            drop(tail.send(TailMessage::Entries(entries)).await);
        }
    }
}

fn job_event(id: &Id, state: &JobState, delivery: Delivery, accepted_us: u64) -> Event {
    Event {
        channel: Channel::of(Kind::Jobs, id),
        name: EventName::JOB_UPDATE,
        data: state.to_json(id).into(),
        delivery,
        terminal: state.terminal,
        accepted_us,
    }
}
