//! Streams wherever they are: an edit reaches its stream through any instance, and is remembered for a stream that has a name.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::auth::Principal;
use crate::auth::Scopes;
use crate::broker::BrokerError;
use crate::broker::Call;
use crate::broker::Heard;
use crate::broker::Record;
use crate::digest;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Id;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::session::Live;
use crate::session::Requested;
use crate::session::Resume;
use crate::session::Sessions;
use crate::session::Wish;
use crate::session::inspect::Asked;
use crate::session::inspect::Told;
use crate::session::names::requested;

/// How long other nodes may take to edit their streams.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Questions of other nodes that are worked on at once.
const CALLS_AT_ONCE: usize = 32;

/// Which open stream is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By the number that the server gave it.
    Connection(ConnectionId),
    /// By the name that the client gave it.
    Session(Box<str>),
}

impl Target {
    /// A `connectionId`, or a name; sixteen hexadecimal digits are the former.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits && let Ok(id) = u64::from_str_radix(text, 16) {
            return Some(Self::Connection(ConnectionId(id)));
        }
        is_session_name(text).then(|| Self::Session(text.into()))
    }
}

/// Whether this may name a stream: `[A-Za-z0-9_-]{8,64}`.
#[must_use]
pub fn is_session_name(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    plain && (8..=64).contains(&text.len())
}

/// What nodes ask each other.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// To edit a stream.
    Patch(Patch),
    /// To end a poll: another one of the same name has begun.
    Supersede { user: String, session: String },
    /// The number of a stream.
    Find { user: String, session: String },
    /// What an operator wants to know.
    Inspect(Asked),
}

/// An edit as nodes tell it each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Patch {
    user: String,
    connection: Option<u64>,
    session: Option<String>,
    subscribe: Vec<String>,
    unsubscribe: Vec<String>,
    renewed: Option<Renewed>,
}

/// A newer token that another node has verified. Only its user's own streams are changed by it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Renewed {
    expires_at: u64,
    publish: bool,
    admin: bool,
}

/// What a node answers: nothing, or what became of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    NotHere,
    Edited(String),
    Refused { status: u16 },
    Found(u64),
    Told(Told),
}

impl Sessions {
    /// Changes this user's open stream, wherever it is. Answers channels and refusals, as `connected` lists them.
    ///
    /// # Errors
    /// No such stream (404), nothing could be changed (400, 403), or it can't be done at the moment (503).
    pub async fn patch(
        &self,
        principal: &Principal,
        target: &Target,
        subscribe: &[String],
        unsubscribe: &[String],
        renewed: Option<Principal>,
    ) -> Result<String, ApiError> {
        let renewed = renewed.map(|new| Renewed {
            expires_at: new.expires_at,
            publish: new.scopes.publish,
            admin: new.scopes.admin,
        });
        let (connection, session) = match target {
            Target::Connection(id) => (Some(id.0), None),
            Target::Session(name) => (None, Some(name.to_string())),
        };
        let (subscribe, unsubscribe) = (subscribe.to_vec(), unsubscribe.to_vec());
        if subscribe.len() + unsubscribe.len() > 2 * self.channels_max {
            return Err(ApiError::invalid("subscribe"));
        }
        let user = principal.user.id.to_string();
        let patch = Patch { user, connection, session, subscribe, unsubscribe, renewed };
        let here = self.patch_here(&patch).await?;
        match (here, target) {
            (Some(answer), Target::Connection(_)) => Ok(answer),
            (here, _) => self.patch_elsewhere(principal, &patch, here).await,
        }
    }

    /// A stream of the same name may be open in several places: a duplicated tab.
    async fn patch_elsewhere(
        &self,
        principal: &Principal,
        patch: &Patch,
        here: Option<String>,
    ) -> Result<String, ApiError> {
        let question = serde_json::to_string(&Question::Patch(patch.clone())).unwrap_or_default();
        let asked = self.broker.ask_nodes(&question, PATIENCE).await.map_err(|error| away(&error))?;
        let mut refused = None;
        let mut found = here;
        for answer in asked.answers.iter().filter_map(|answer| serde_json::from_str(answer).ok()) {
            match answer {
                Outcome::Edited(answer) => found = found.or(Some(answer)),
                Outcome::Refused { status } => refused = Some(status),
                Outcome::NotHere | Outcome::Found(_) | Outcome::Told(_) => {}
            }
        }
        match (found, refused) {
            (Some(answer), _) => Ok(answer),
            (None, Some(400)) => Err(ApiError::invalid("subscribe")),
            (None, Some(403)) => Err(ApiError::denied()),
            (None, Some(_)) => Err(ApiError::unavailable("elsewhere")),
            (None, None) if !asked.complete => Err(ApiError::unavailable("elsewhere")),
            (None, None) => self.patch_record(principal, patch).await,
        }
    }

    /// Between two connections of a stream that has a name, its edits are remembered for the next one.
    async fn patch_record(&self, principal: &Principal, patch: &Patch) -> Result<String, ApiError> {
        let Some(name) = &patch.session else { return Err(ApiError::not_found()) };
        let key = record_key(&principal.user.id, name);
        if !self.broker.knows_record(&key).await.map_err(|error| away(&error))? {
            return Err(ApiError::not_found());
        }
        let edited = self.judge_wish(principal, &wish_of(patch, principal)).await;
        let now = Some(self.hub.window().head().at);
        let granted = edited.channels().map(|channel| (channel.as_str(), now));
        let unsubscribe = requested(patch.unsubscribe.iter().map(String::as_str), principal);
        let left = unsubscribe.iter().filter_map(Requested::channel).map(|channel| (channel.as_str(), None));
        let edits: Vec<(&str, Option<LogId>)> = left.chain(granted).collect();
        self.broker.edit_record(&key, &edits, self.record_kept).await.map_err(|error| away(&error))?;
        Ok(edited.to_json())
    }

    async fn patch_here(&self, patch: &Patch) -> Result<Option<String>, ApiError> {
        let Ok(user) = Id::parse(&patch.user) else { return Ok(None) };
        let mut answer = None;
        for live in self.lives.of(&user).iter().filter(|live| patch.means(live)) {
            let present = live.principal();
            let mut wish = wish_of(patch, &present);
            wish.principal = patch.renewed.map(|new| {
                let scopes = Scopes { publish: new.publish, admin: new.admin };
                present.renewed(new.expires_at, scopes)
            });
            let edited = self.edit(live, wish, |_| None).await?;
            answer = answer.or(Some(edited.to_json()));
        }
        Ok(answer)
    }

    /// Does what other nodes ask, until nothing is heard any more.
    pub async fn answer_nodes(&self, heard: mpsc::Receiver<Heard>) {
        let answer = |heard| async move {
            match heard {
                Heard::Call(call) => self.answer_call(call).await,
                Heard::Anew => self.reread_records().await,
            }
        };
        ReceiverStream::new(heard).for_each_concurrent(CALLS_AT_ONCE, answer).await;
    }

    /// Ends the poll of this name that is under way, wherever it is: a client has one at a time.
    pub(super) async fn supersede(&self, user: &Id, session: &str) {
        self.supersede_here(user, session).await;
        let question = Question::Supersede { user: user.to_string(), session: session.to_owned() };
        let question = serde_json::to_string(&question).unwrap_or_default();
        // Not waited for: two answers to one client are no harm.
        drop(self.broker.ask_nodes(&question, Duration::ZERO).await);
    }

    async fn supersede_here(&self, user: &Id, session: &str) {
        for live in self.lives.of(user) {
            if live.polls() && live.session.as_deref() == Some(session) {
                self.end(&live, CloseReason::Superseded).await;
            }
        }
    }

    /// The number of this user's stream that is on another node.
    ///
    /// # Errors
    /// There is none of that name (404), or nobody can be asked (503).
    pub async fn elsewhere(&self, user: &Id, target: &Target) -> Result<u64, ApiError> {
        let name = match target {
            Target::Connection(id) => return Ok(id.0),
            Target::Session(name) => name,
        };
        let key = (user.clone(), name.clone());
        if let Some(known) = self.elsewhere.get(&key) {
            return Ok(known);
        }
        let question = Question::Find { user: user.to_string(), session: name.to_string() };
        let question = serde_json::to_string(&question).unwrap_or_default();
        let asked = self.broker.ask_nodes(&question, PATIENCE).await.map_err(|error| away(&error))?;
        let found = asked.answers.iter().find_map(|answer| match serde_json::from_str(answer) {
            Ok(Outcome::Found(number)) => Some(number),
            _ => None,
        });
        match found {
            Some(number) => {
                self.elsewhere.insert(key, number);
                Ok(number)
            }
            None if asked.complete => Err(ApiError::not_found()),
            None => Err(ApiError::unavailable("elsewhere")),
        }
    }

    async fn answer_call(&self, Call { question, answer }: Call) {
        let outcome = match serde_json::from_str::<Question>(&question) {
            Ok(Question::Patch(patch)) => match self.patch_here(&patch).await {
                Ok(Some(answer)) => Outcome::Edited(answer),
                Ok(None) => Outcome::NotHere,
                Err(error) => Outcome::Refused { status: error.status },
            },
            Ok(Question::Supersede { user, session }) => {
                if let Ok(user) = Id::parse(&user) {
                    self.supersede_here(&user, &session).await;
                }
                Outcome::NotHere
            }
            Ok(Question::Find { user, session }) => {
                let lives = Id::parse(&user).map(|user| self.lives.of(&user)).unwrap_or_default();
                let live = lives.into_iter().find(|live| live.session.as_deref() == Some(&session));
                live.map_or(Outcome::NotHere, |live| Outcome::Found(live.id.0))
            }
            Ok(Question::Inspect(asked)) => match self.tell_node(asked).await {
                Some(told) => Outcome::Told(told),
                None => return,
            },
            Err(_) => return,
        };
        // Whoever asked may have given up.
        drop(answer.send(serde_json::to_string(&outcome).unwrap_or_default()));
    }

    /// Edits of streams with names, which were told while this node did not hear.
    async fn reread_records(&self) {
        for live in self.lives.named() {
            let Some(name) = &live.session else { continue };
            let present = live.principal();
            let Ok(record) = self.broker.open_record(&record_key(&present.user.id, name), self.record_kept).await
            else {
                return;
            };
            let carried = live.channels();
            let wanted = valid(record).map(|(channel, since)| (channel, since.is_some()));
            let edits: Vec<(Channel, bool)> =
                wanted.filter(|(channel, wanted)| carried.contains(channel) != *wanted).collect();
            if !edits.is_empty() {
                let of =
                    |wanted: bool| edits.iter().filter(move |(_, w)| *w == wanted).map(|(channel, _)| channel.as_str());
                let (subscribe, unsubscribe) = (requested(of(true), &present), requested(of(false), &present));
                let wish = Wish { subscribe, unsubscribe, principal: None, resume: Resume::Fresh };
                drop(self.edit(&live, wish, |_| None).await);
            }
        }
    }

    /// The channels of a stream that has a name: those that were asked for, as edits have changed them since; and which of them
    /// joined after `at`.
    pub(super) async fn as_edited(
        &self,
        user: &Principal,
        name: &str,
        wishes: Vec<Requested>,
        at: LogId,
    ) -> Result<(Vec<Requested>, HashSet<Channel>), ApiError> {
        let record = self.broker.open_record(&record_key(&user.user.id, name), self.record_kept).await;
        let edits: Vec<(Channel, Option<LogId>)> = valid(record.map_err(|error| away(&error))?).collect();
        let left = |wish: &Requested| {
            wish.channel().is_some_and(|of| edits.iter().any(|(c, since)| c == of && since.is_none()))
        };
        let mut edited: Vec<Requested> = wishes.into_iter().filter(|wish| !left(wish)).collect();
        for (channel, _) in edits.iter().filter(|(_, since)| since.is_some()) {
            if !edited.iter().any(|wish| wish.channel() == Some(channel)) && edited.len() < self.channels_max {
                edited.push(Requested::Channel { channel: channel.clone(), alias: None });
            }
        }
        let fresh = edits.into_iter().filter(|(_, since)| since.is_some_and(|since| since >= at));
        Ok((edited, fresh.map(|(channel, _)| channel).collect()))
    }

    /// Remembers an edit of a stream that has a name, before anybody is told of it.
    pub(super) async fn remember(&self, live: &Live, join: &[&Channel], leave: &[Channel]) -> Result<(), ApiError> {
        let Some(name) = &live.session else { return Ok(()) };
        let now = Some(self.hub.window().head().at);
        let left = leave.iter().map(|channel| (channel.as_str(), None));
        let edits: Vec<(&str, Option<LogId>)> =
            left.chain(join.iter().map(|channel| (channel.as_str(), now))).collect();
        if edits.is_empty() {
            return Ok(());
        }
        let key = record_key(&live.principal().user.id, name);
        self.broker.edit_record(&key, &edits, self.record_kept).await.map_err(|error| away(&error))
    }

    /// Keeps what is remembered of open streams that have names.
    pub(super) async fn keep_records(&self) {
        loop {
            tokio::time::sleep(self.record_kept / 4).await;
            for live in self.lives.named() {
                let Some(name) = &live.session else { continue };
                drop(self.broker.open_record(&record_key(&live.principal().user.id, name), self.record_kept).await);
            }
        }
    }
}

impl Patch {
    fn means(&self, live: &Live) -> bool {
        match (self.connection, &self.session) {
            (Some(id), _) => live.id.0 == id,
            (None, Some(name)) => live.session.as_deref() == Some(name),
            (None, None) => false,
        }
    }
}

fn wish_of(patch: &Patch, principal: &Principal) -> Wish {
    let names = |list: &[String]| requested(list.iter().map(String::as_str), principal);
    let (subscribe, unsubscribe) = (names(&patch.subscribe), names(&patch.unsubscribe));
    Wish { subscribe, unsubscribe, principal: None, resume: Resume::Fresh }
}

/// What stands in Redis is checked like everything that comes from outside.
fn valid(record: Record) -> impl Iterator<Item = (Channel, Option<LogId>)> {
    record.into_iter().filter_map(|(channel, since)| Some((Channel::parse(&channel).ok()?, since)))
}

/// Of user and name; a hash, because a client chose the name.
fn record_key(user: &Id, name: &str) -> String {
    digest::name_of(&[user.as_str(), name])
}

fn away(error: &BrokerError) -> ApiError {
    tracing::warn!(%error, "streams elsewhere can't be reached");
    ApiError::unavailable("broker")
}
