//! Changes of an open stream: channels that are added and taken away, a new token. Through any transport, through any instance.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Mutex;

use crate::auth::Grant;
use crate::auth::Principal;
use crate::clock;
use crate::error::ApiError;
use crate::error::Code;
use crate::event::Channel;
use crate::event::Event;
use crate::event::Kind;
use crate::event::LogId;
use crate::hub;
use crate::hub::ConnectionId;
use crate::hub::Frame;
use crate::hub::Join;
use crate::presence::Parting;
use crate::session::Answer;
use crate::session::Denied;
use crate::session::LEEWAY_S;
use crate::session::Live;
use crate::session::ME;
use crate::session::Requested;
use crate::session::Resume;
use crate::session::Sessions;
use crate::session::catchup::Current;
use crate::session::live::Alteration;
use crate::session::live::Begin;
use crate::session::live::Said;
use crate::session::replay::STATE_AHEAD_WAIT;

/// A job's state, and the log position of that.
type State = (Channel, (LogId, Event));

/// Locks that all streams share.
const TURNS: usize = 64;

/// Lets the edits of one stream happen one after another.
#[derive(Debug)]
pub struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    pub(super) fn of(&self, id: ConnectionId) -> &Mutex<()> {
        // Ids are random in all their bits.
        let at = usize::try_from(id.0 >> 32).unwrap_or(0) % TURNS;
        self.0.get(at).expect("the remainder is below the number of locks")
    }
}

/// A wish to change an open stream.
#[derive(Debug)]
pub struct Wish {
    /// Channels to add.
    pub subscribe: Vec<Requested>,
    /// Channels to take away.
    pub unsubscribe: Vec<Requested>,
    /// Whose new token this is; the same user's.
    pub principal: Option<Principal>,
    /// Where the client is, if the stream carries nothing yet.
    pub resume: Resume,
}

/// What became of a wish.
#[derive(Debug, Default)]
pub struct Edited {
    channels: Vec<(Channel, Option<&'static str>, &'static str)>,
    denied: Vec<Denied>,
}

impl Edited {
    /// The channels that are carried.
    pub(super) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().map(|(channel, _, _)| channel)
    }

    /// The same as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.answer()).unwrap_or_default()
    }

    /// As the answer to a client.
    #[must_use]
    pub fn answer(&self) -> Answer<'_> {
        let channels = self.channels.iter().map(|(channel, alias, verdict)| (channel.as_str(), *alias, *verdict));
        Answer::of(channels, &self.denied)
    }
}

#[derive(Serialize)]
struct Subscribed<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested: Option<&'static str>,
    verdict: &'static str,
    timestamp: String,
}

#[derive(Serialize)]
struct Unsubscribed<'a> {
    channel: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    timestamp: String,
}

fn json(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_default().into()
}

fn subscribed(channel: &Channel, requested: Option<&'static str>, verdict: &'static str) -> Arc<str> {
    let timestamp = clock::rfc3339(clock::now_us());
    json(&Subscribed { channel: channel.as_str(), requested, verdict, timestamp })
}

/// What a client is told of a channel that leaves: `request`, `revoked` or `gone`.
pub(super) fn unsubscribed(channel: &Channel, reason: &'static str) -> Said {
    let code = (reason != "request").then_some(Code::PermissionDenied);
    let timestamp = clock::rfc3339(clock::now_us());
    Said::Frame(Frame::control(
        "unsubscribed",
        json(&Unsubscribed { channel: channel.as_str(), reason, code, timestamp }),
        None,
    ))
}

impl Sessions {
    /// Changes an open stream. `first` makes of the outcome what the stream is told before everything else.
    ///
    /// # Errors
    /// Nothing was changed: too many channels, another user's token, or a dependency is away.
    pub async fn edit(
        &self,
        live: &Arc<Live>,
        wish: Wish,
        first: impl FnOnce(&Edited) -> Option<Frame> + Send,
    ) -> Result<Edited, ApiError> {
        let _turn = self.turns.of(live.id).lock().await;
        let carried = live.channels();
        let leave: Vec<Channel> = wish
            .unsubscribe
            .iter()
            .filter_map(Requested::channel)
            .filter(|channel| carried.contains(channel))
            .cloned()
            .collect();
        let is_new = |wish: &&Requested| wish.channel().is_none_or(|channel| !carried.contains(channel));
        if carried.len() - leave.len() + wish.subscribe.iter().filter(is_new).count() > self.channels_max {
            return Err(ApiError::invalid("subscribe"));
        }
        let principal = Self::renewed(live, wish.principal.as_ref())?;
        let begin = self.begin_anew(&carried, wish.resume).await?;
        let verdict = begin.map_or("live", |begin| begin.verdict.as_str());
        let (mut join, denied) = self.judge_channels(&principal, &wish.subscribe, true).await;
        let channels = join.iter().map(|(grant, alias)| (grant.channel().clone(), *alias, verdict)).collect();
        let edited = Edited { channels, denied };
        // What is carried already stays as it is.
        join.retain(|(grant, _)| !carried.contains(grant.channel()) || leave.contains(grant.channel()));
        let joining: Vec<&Channel> = join.iter().map(|(grant, _)| grant.channel()).collect();
        let visited = joining.iter().copied().cloned().collect::<Vec<_>>();
        let prepared = async {
            self.visit(live, visited.iter()).await?;
            self.remember(live, &joining, &leave).await
        };
        if let Err(error) = prepared.await {
            self.part(live, visited.iter(), Parting::Unsubscribed);
            return Err(error);
        }
        let states = if begin.is_some() { Vec::new() } else { self.states_to_join(&join).await? };
        let mut say: Vec<Said> = first(&edited).map(Said::Frame).into_iter().collect();
        say.extend(leave.iter().map(|channel| unsubscribed(channel, "request")));
        let renewed = wish.principal.is_some();
        say.extend(join.iter().map(|(grant, alias)| Said::Subscribed(subscribed(grant.channel(), *alias, verdict))));
        let join = join.into_iter().map(|(grant, _)| grant).collect();
        let left = leave.clone();
        self.note_edit(live, &leave, |_| "request", &edited.denied);
        let alteration = Alteration { principal: wish.principal, join, leave, say, begin, end: None };
        self.alter(live, alteration, states).await;
        self.part(live, left.iter(), Parting::Unsubscribed);
        if self.lives.get(&principal.user.id, live.id).is_none() {
            self.part(live, visited.iter(), Parting::Gone); // it has ended meanwhile
        }
        if renewed {
            self.recheck_soon(live); // the new token's rights count for what is carried already
        }
        Ok(edited)
    }

    /// What would become of a wish.
    pub(super) async fn judge_wish(&self, principal: &Principal, wish: &Wish) -> Edited {
        let (join, denied) = self.judge_channels(principal, &wish.subscribe, true).await;
        Edited {
            channels: join.into_iter().map(|(grant, alias)| (grant.channel().clone(), alias, "live")).collect(),
            denied,
        }
    }

    /// Tells an open stream something, in the order of its edits.
    pub async fn tell(&self, live: &Arc<Live>, frame: Frame) {
        let _turn = self.turns.of(live.id).lock().await;
        self.alter(live, Alteration { say: vec![Said::Frame(frame)], ..Alteration::default() }, Vec::new()).await;
    }

    /// Ends an open stream.
    pub async fn end(&self, live: &Arc<Live>, reason: hub::CloseReason) {
        let _turn = self.turns.of(live.id).lock().await;
        self.alter(live, Alteration { end: Some(reason), ..Alteration::default() }, Vec::new()).await;
    }

    /// Does an edit here and, if the stream is live, in its lane. The caller has the stream's turn.
    pub(super) async fn alter(&self, live: &Arc<Live>, alteration: Alteration, states: Vec<State>) {
        let mut edit = hub::Edit { recall: alteration.begin.is_some(), end: alteration.end, ..hub::Edit::default() };
        edit.expires_at = alteration.principal.as_ref().map(|new| new.expires_at.saturating_add(LEEWAY_S));
        edit.leave.clone_from(&alteration.leave);
        let mut joining = alteration.join.iter().cloned();
        let mut states: HashMap<Channel, (LogId, Event)> = states.into_iter().collect();
        for said in &alteration.say {
            match said {
                Said::Frame(frame) => edit.say.push(frame.clone()),
                Said::Subscribed(said) => edit.join.extend(joining.next().map(|grant: Grant| {
                    let state = states.remove(grant.channel());
                    Join { grant, said: Arc::clone(said), state }
                })),
            }
        }
        edit.edition = live.alter(alteration);
        self.hub.edit(live.id, edit).await;
    }

    /// Whose rights count; a new token must be the same user's.
    fn renewed(live: &Live, new: Option<&Principal>) -> Result<Principal, ApiError> {
        let present = live.principal();
        match new {
            Some(new) if new.user.id != present.user.id => Err(ApiError::denied()),
            Some(new) => Ok(new.clone()),
            None => Ok(present),
        }
    }

    /// A cursor counts while the stream carries nothing: later it would take positions back.
    async fn begin_anew(&self, carried: &[Channel], resume: Resume) -> Result<Option<Begin>, ApiError> {
        if !carried.is_empty() || resume == Resume::Fresh {
            return Ok(None);
        }
        let generation = self.hub.window().generation();
        let (verdict, resume) = self.judge_cursor(resume).await?;
        Ok(Some(Begin { verdict, resume, generation }))
    }

    /// The states of jobs that join, none of them newer than the window.
    async fn states_to_join(&self, join: &[(Grant, Option<&'static str>)]) -> Result<Vec<State>, ApiError> {
        let channels: Vec<Channel> = join.iter().map(|(grant, _)| grant.channel().clone()).collect();
        if !channels.iter().any(|channel| channel.kind() == Kind::Jobs) {
            return Ok(Vec::new());
        }
        let states = self.states(&channels, self.hub.window().head().at).await?;
        let in_log = states.values().filter(|state| state.in_log);
        let newest = in_log.map(|state| state.version).max().unwrap_or(LogId::ZERO);
        if !self.hub.window().reached(newest, STATE_AHEAD_WAIT).await {
            return Err(ApiError::unavailable("broker"));
        }
        // The version of a row may be that of a log that is no more.
        let version = |current: &Current| if current.in_log { current.version } else { LogId::ZERO };
        Ok(states.into_iter().map(|(channel, current)| (channel, (version(&current), current.event))).collect())
    }
}

impl Denied {
    pub(super) fn of(name: &str, code: Code) -> Self {
        Self { channel: name.to_owned(), code }
    }
}

/// How a client wrote a channel.
pub(super) fn alias_of(channel: &Channel, wrote_me: bool) -> Option<&'static str> {
    (wrote_me && channel.kind() == Kind::User).then_some(ME)
}
