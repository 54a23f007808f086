//! The lives of this node's streams, in bounded memory. Everybody who turns something writes it down here; nobody does so per event.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::clock;
use crate::event::Channel;
use crate::event::Id;
use crate::event::LogId;
use crate::inspect::Account;
use crate::inspect::Conflated;
use crate::inspect::LifeView;
use crate::inspect::Note;
use crate::inspect::Opened;
use crate::inspect::Recent;
use crate::inspect::Standing;
use crate::inspect::Way;
use crate::inspect::life::Life;
use crate::inspect::life::Stopped;
use crate::inspect::recent;
use crate::telemetry::Metrics;

/// Open lives that are remembered at most; what opens beyond that is not.
pub(super) const OPEN_MAX: usize = 65_536;
/// Ended lives that are remembered at most, in all and of one user; the oldest go.
pub(super) const ENDED_MAX: usize = 16_384;
pub(super) const ENDED_OF_USER_MAX: usize = 64;
/// For how long they are, in milliseconds.
const ENDED_KEPT_MS: u64 = 60 * 60 * 1000;
/// Channels of a note that are told by name.
const CHANNELS_NOTED: usize = 4;
/// Lives that are told at once.
const LIVES_TOLD: usize = 16;

/// What this node remembers of streams.
#[derive(Debug)]
pub struct Ledger {
    books: Mutex<Books>,
    metrics: Metrics,
    since_ms: u64,
}

#[derive(Debug, Default)]
struct Books {
    lives: HashMap<u64, Box<Life>>,
    /// The life of each connection; also of one that has ended, for its lane may have yet to say up to where it was written.
    of_connection: HashMap<u64, u64>,
    of_user: HashMap<Id, Person>,
    /// By the number of the ending, which is the order in which they ended.
    ended: BTreeMap<u64, u64>,
    next: u64,
    recent: Recent,
}

/// Whose lives these are.
#[derive(Debug, Default)]
struct Person {
    open: BTreeSet<u64>,
    /// In the order in which they ended.
    ended: VecDeque<u64>,
}

fn now_ms() -> u64 {
    clock::now_us() / 1000
}

pub(super) fn name(connection: u64) -> String {
    format!("{connection:016x}")
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let (shown, more) = all.split_at(all.len().min(CHANNELS_NOTED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{}{more}", shown.join(", "))
}

impl Ledger {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { books: Mutex::default(), metrics, since_ms: now_ms() }
    }

    /// A stream begins.
    pub fn opened(&self, opened: Opened<'_>) {
        let now = now_ms();
        let mut books = self.books.lock();
        books.note_opening(&opened, now);
        if books.lives.len() - books.ended.len() >= OPEN_MAX {
            self.metrics.inspector_forgotten.with_label_values(&["open"]).inc();
            return;
        }
        books.open(opened, now);
        let forgotten = books.forget_old(now);
        self.count(&books, forgotten);
    }

    /// A request for a stream was refused as a whole.
    pub fn refused<'a>(&self, user: &Id, channels: impl Iterator<Item = &'a str>, code: &'static str) {
        let note = Note {
            at_ms: now_ms(),
            user: user.to_string(),
            connection: None,
            channels: list(channels),
            what: code.to_owned(),
        };
        recent::push(&mut self.books.lock().recent.refusals, note);
    }

    /// Somebody asked for too much.
    pub fn limited(&self, user: &Id, what: &'static str) {
        let note = Note {
            at_ms: now_ms(),
            user: user.to_string(),
            connection: None,
            channels: String::new(),
            what: what.to_owned(),
        };
        recent::push(&mut self.books.lock().recent.limits, note);
    }

    /// An update of a job came in from there, and the log dropped it.
    pub fn rejected(&self, channel: &Channel, source: &'static str, reason: &'static str) {
        let (user, channels, what) = (String::new(), channel.to_string(), format!("{source}: {reason}"));
        let note = Note { at_ms: now_ms(), user, connection: None, channels, what };
        recent::push(&mut self.books.lock().recent.rejections, note);
    }

    /// A stream that is catching up carries these channels; those that are new from `at` on.
    pub fn carries(&self, connection: u64, channels: Vec<Channel>, at: Option<LogId>) {
        self.with(connection, |life| life.carry(channels, at));
    }

    /// A stream has caught up: what of it had no beginning yet begins here.
    pub fn settled(&self, connection: u64, at: LogId) {
        self.with(connection, |life| life.settle(at));
    }

    /// A stream is live.
    pub fn joined(&self, connection: u64, at: LogId, way: Way) {
        self.with(connection, |life| {
            life.settle(at);
            (life.joined, life.way, life.stopped) = (Some(at), way, None);
        });
    }

    /// A channel joined a live stream.
    pub fn channel_joined(&self, connection: u64, channel: &Channel, at: LogId) {
        self.with(connection, |life| life.join(channel.clone(), Some(at)));
    }

    /// Channels are about to leave a stream, each for this reason.
    pub fn leaving(&self, connection: u64, channels: &[Channel], why: impl Fn(&Channel) -> &'static str) {
        if channels.is_empty() {
            return;
        }
        let mut books = self.books.lock();
        let Some(life) = books.life(connection) else { return };
        channels.iter().for_each(|channel| life.leaves_soon(channel, why(channel)));
        let user = life.user.to_string();
        let taken: Vec<&Channel> = channels.iter().filter(|channel| why(channel) != "request").collect();
        if let Some(first) = taken.first() {
            let what = why(first).to_owned();
            let channels = list(taken.iter().map(|channel| channel.as_str()));
            let note = Note { at_ms: now_ms(), user, connection: Some(name(connection)), channels, what };
            recent::push(&mut books.recent.revocations, note);
        }
    }

    /// What was to join a stream and was refused, as the client wrote it, and why.
    pub fn denied(&self, connection: u64, denied: Vec<(String, &'static str)>) {
        if !denied.is_empty() {
            self.with(connection, |life| life.deny(denied));
        }
    }

    /// A channel left a live stream; from `unwritten` on, what waited of it was taken back.
    pub fn channel_left(&self, connection: u64, channel: &Channel, at: LogId, unwritten: Option<LogId>) {
        self.with(connection, |life| life.leave(channel, at, unwritten));
    }

    /// What a lagging stream was not sent: superseded progress, and from where on everything was thrown away.
    pub fn unsent(&self, connection: u64, superseded: Vec<Conflated>, from: Option<LogId>) {
        self.with(connection, |life| {
            life.supersede(superseded);
            life.lost = life.lost.or(from);
        });
    }

    /// Ephemeral events that did not fit.
    pub fn dropped(&self, connection: u64, events: usize) {
        self.with(connection, |life| life.dropped += events as u64);
    }

    /// The lane stops writing to a stream: it ends, or has to catch up.
    pub fn stopped(&self, connection: u64, at: LogId, unwritten: Option<LogId>) {
        self.with(connection, |life| {
            let unwritten = [unwritten, life.lost].into_iter().flatten().min();
            life.stopped = Some(Stopped { at, unwritten });
        });
    }

    /// What waited when it stopped was written after all, up to this.
    pub fn flushed(&self, connection: u64, unwritten: Option<LogId>) {
        self.with(connection, |life| life.stopped.iter_mut().for_each(|stopped| stopped.unwritten = unwritten));
    }

    /// A stream was told to forget everything, and begins at `at`.
    pub fn reset(&self, connection: u64, reason: &'static str, at: LogId) {
        self.with(connection, |life| life.begin_anew(reason, at));
    }

    /// The answer of a poll has told everything up to here.
    pub fn told(&self, connection: u64, at: LogId) {
        self.with(connection, |life| life.told = life.told.max(Some(at)));
    }

    /// A stream has ended.
    pub fn ended(&self, connection: u64, reason: &'static str) {
        let now = now_ms();
        let mut books = self.books.lock();
        let Some(number) = books.of_connection.get(&connection).copied() else { return };
        let Some(life) = books.lives.get_mut(&number).filter(|life| life.ended.is_none()) else { return };
        life.ended = Some((reason, now));
        let (user, connection) = (life.user.clone(), name(life.connection));
        if matches!(reason, "slow" | "too_much") {
            let (channels, what) = (String::new(), reason.to_owned());
            let note = Note { at_ms: now, user: user.to_string(), connection: Some(connection), channels, what };
            recent::push(&mut books.recent.limits, note);
        }
        books.bury(number);
        let forgotten = books.forget_old(now);
        self.count(&books, forgotten);
    }

    /// What happened of late.
    #[must_use]
    pub fn recent(&self) -> Recent {
        self.books.lock().recent.clone()
    }

    /// The connections of a user's open lives that would be told.
    #[must_use]
    pub fn open_of(&self, user: &Id) -> Vec<u64> {
        let books = self.books.lock();
        let numbers = books.of_user.get(user).into_iter().flat_map(|person| person.open.iter().rev());
        numbers.filter_map(|number| books.lives.get(number)).map(|life| life.connection).take(LIVES_TOLD).collect()
    }

    /// A user's lives on this node, open ones first, newest first, with what became of these events of a channel, and what was refused
    /// or dropped. `live` says how those stand that are live, `head` how far this node's log has come.
    #[must_use]
    pub fn account(
        &self,
        node: String,
        user: &Id,
        events: Option<(&Channel, &[LogId])>,
        live: &HashMap<u64, Standing>,
        head: LogId,
    ) -> Account {
        let books = self.books.lock();
        let person = books.of_user.get(user);
        let numbers = person.into_iter().flat_map(|person| person.open.iter().rev().chain(person.ended.iter().rev()));
        let lives = numbers.clone().filter_map(|number| books.lives.get(number)).take(LIVES_TOLD);
        let lives = lives.map(|life| LifeView::of(life, events, live.get(&life.connection), head)).collect();
        let refused = |note: &&Note| note.user == user.as_str() && note.connection.is_none();
        let dropped = |note: &&Note| events.is_some_and(|(channel, _)| note.channels == channel.as_str());
        Account {
            node,
            inspector: true,
            since_ms: self.since_ms,
            head: head.to_string(),
            lives,
            more: numbers.count().saturating_sub(LIVES_TOLD),
            refusals: books.recent.refusals.iter().rev().filter(refused).take(LIVES_TOLD).cloned().collect(),
            rejections: books.recent.rejections.iter().rev().filter(dropped).take(LIVES_TOLD).cloned().collect(),
        }
    }

    fn with(&self, connection: u64, write: impl FnOnce(&mut Life)) {
        if let Some(life) = self.books.lock().life(connection) {
            write(life);
        }
    }

    fn count(&self, books: &Books, forgotten: usize) {
        self.metrics.inspector_lives.set(i64::try_from(books.lives.len()).unwrap_or(i64::MAX));
        self.metrics.inspector_forgotten.with_label_values(&["ended"]).inc_by(forgotten as u64);
    }

    /// How many lives, of how many users, are remembered. Panics when the indexes disagree.
    #[cfg(test)]
    pub(super) fn check(&self) -> (usize, usize) {
        let books = self.books.lock();
        let people = books.of_user.values();
        let open = people.clone().map(|person| person.open.len()).sum::<usize>();
        assert_eq!(books.of_connection.len(), books.lives.len());
        assert_eq!(books.ended.len(), people.clone().map(|person| person.ended.len()).sum::<usize>());
        assert_eq!(books.lives.len(), open + books.ended.len());
        assert!(people.clone().all(|person| person.open.len() + person.ended.len() > 0), "maps shrink");
        (books.lives.len(), books.of_user.len())
    }
}

impl Books {
    fn life(&mut self, connection: u64) -> Option<&mut Life> {
        let number = self.of_connection.get(&connection)?;
        self.lives.get_mut(number).map(Box::as_mut)
    }

    fn open(&mut self, opened: Opened<'_>, now_ms: u64) {
        let person = self.of_user.entry(opened.user.clone()).or_default();
        let goes_on = |number: &u64| self.lives.get(number).is_some_and(|life| life.goes_on(&opened));
        let former = person.ended.iter().rposition(goes_on).and_then(|at| person.ended.remove(at));
        let number = former.unwrap_or(self.next);
        person.open.insert(number);
        self.of_connection.insert(opened.connection, number);
        match self.lives.get_mut(&number) {
            Some(life) => {
                self.ended.remove(&life.ending);
                self.of_connection.remove(&life.connection);
                life.go_on(opened);
            }
            None => {
                self.next += 1;
                self.lives.insert(number, Box::new(Life::new(opened, now_ms)));
            }
        }
    }

    fn note_opening(&mut self, opened: &Opened<'_>, at_ms: u64) {
        let (user, connection) = (opened.user.to_string(), Some(name(opened.connection)));
        let note = |channels, what: &str| Note {
            at_ms,
            user: user.clone(),
            connection: connection.clone(),
            channels,
            what: what.to_owned(),
        };
        if opened.verdict != "live" && opened.transport != "poll" {
            let what = opened.reset.unwrap_or(opened.verdict);
            recent::push(&mut self.recent.resumes, note(list(opened.channels.iter().map(Channel::as_str)), what));
        }
        if let Some((_, code)) = opened.denied.first() {
            let denied = list(opened.denied.iter().map(|(name, _)| name.as_str()));
            recent::push(&mut self.recent.refusals, note(denied, code));
        }
    }

    /// A life has ended: it is remembered as one of those, and not too many of one user.
    fn bury(&mut self, number: u64) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        (life.ending, self.next) = (self.next, self.next + 1);
        self.ended.insert(life.ending, number);
        let Some(person) = self.of_user.get_mut(&life.user) else { return };
        person.open.remove(&number);
        person.ended.push_back(number);
        if person.ended.len() > ENDED_OF_USER_MAX
            && let Some(oldest) = person.ended.front().copied()
        {
            self.forget(oldest);
        }
    }

    fn forget_old(&mut self, now_ms: u64) -> usize {
        let mut forgotten = 0;
        while let Some((_, number)) = self.ended.first_key_value() {
            let number = *number;
            let ended = self.lives.get(&number).and_then(|life| life.ended);
            let is_old = ended.is_none_or(|(_, at)| at + ENDED_KEPT_MS < now_ms);
            if !is_old && self.ended.len() <= ENDED_MAX {
                break;
            }
            self.forget(number);
            forgotten += 1;
        }
        forgotten
    }

    /// Forgets a life that has ended.
    fn forget(&mut self, number: u64) {
        let Some(life) = self.lives.remove(&number) else { return };
        self.ended.remove(&life.ending);
        self.of_connection.remove(&life.connection);
        if let Some(person) = self.of_user.get_mut(&life.user) {
            person.ended.retain(|other| *other != number);
            if person.open.is_empty() && person.ended.is_empty() {
                self.of_user.remove(&life.user);
            }
        }
    }
}
