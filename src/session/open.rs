//! Deciding: who may see what, and from where the stream continues.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::auth;
use crate::broker::Located;
use crate::clock;
use crate::error::ApiError;
use crate::error::Code;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Id;
use crate::event::Kind;
use crate::event::LogId;
use crate::event::Lookup;
use crate::hub::ConnectionId;
use crate::session::Denied;
use crate::session::Live;
use crate::session::Lives;
use crate::session::Request;
use crate::session::Requested;
use crate::session::ResetReason;
use crate::session::Resume;
use crate::session::Session;
use crate::session::Sessions;
use crate::session::ToldMark;
use crate::session::Verdict;
use crate::session::Wanted;
use crate::session::edit;
use crate::session::live::Begin;
use crate::session::lives::Reserved;

/// How long a cursor from a faster instance is waited for.
const AHEAD_WAIT: Duration = Duration::from_millis(2000);
/// How long it is waited for before Redis is asked whether it can be true at all.
const AHEAD_WAIT_UNASKED: Duration = Duration::from_millis(100);

/// What a wish for a stream leads to.
#[derive(Debug)]
pub enum Opened {
    /// A stream.
    Stream(Box<Session>),
    /// `until=done`, and the client already knows how every job ended.
    NothingLeft,
}

/// The answer to a dry run, and a part of `connected`.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    channels: Vec<AnswerChannel<'a>>,
    denied: Vec<AnswerDenied<'a>>,
}

#[derive(Debug, Serialize)]
struct AnswerChannel<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested: Option<&'static str>,
    verdict: &'static str,
}

#[derive(Debug, Serialize)]
struct AnswerDenied<'a> {
    channel: &'a str,
    code: Code,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connected<'a> {
    connection_id: String,
    user_id: &'a str,
    session: Option<&'a str>,
    #[serde(flatten)]
    answer: Answer<'a>,
    heartbeat_ms: u64,
    timestamp: String,
}

impl<'a> Answer<'a> {
    /// Of channels with the client's own spelling and a verdict.
    pub(super) fn of(
        channels: impl Iterator<Item = (&'a str, Option<&'static str>, &'static str)>,
        denied: &'a [Denied],
    ) -> Self {
        let entry = |(channel, requested, verdict)| AnswerChannel { channel, requested, verdict };
        let denied = denied.iter().map(|d| AnswerDenied { channel: &d.channel, code: d.code }).collect();
        Self { channels: channels.map(entry).collect(), denied }
    }
}

impl Sessions {
    /// Runs every check. Nothing is subscribed until the session's stream is read.
    ///
    /// # Errors
    /// Nothing may be seen (403), none is a channel name (404), or a dependency is away (503).
    pub async fn open(self: &Arc<Self>, request: Request) -> Result<Opened, ApiError> {
        if !self.is_open() {
            return Err(ApiError::unavailable("starting"));
        }
        if request.until_done && request.channels.iter().any(|wish| !is_job(wish)) {
            return Err(ApiError::invalid("until"));
        }
        let reserved = self.reserve(&request)?;
        let (request, fresh) = self.with_edits(request).await?;
        let asked = self.authorizer.changes().now();
        let (grants, denied) = self.judge_channels(&request.principal, &request.channels, false).await;
        if grants.is_empty() && !(request.channels.is_empty() && request.may_be_empty) {
            let error = nothing_left(&denied);
            self.note_refusal(&request.principal, &request.channels, &error);
            return Err(error);
        }
        let generation = self.hub.window().generation();
        let (verdict, resume) = self.judge_cursor(request.resume).await?;
        if !matches!(verdict, Verdict::Reset(_)) {
            self.metrics.resumes.with_label_values(&[verdict.as_str()]).inc();
        }
        let wrote_me = grants.iter().any(|(_, alias)| alias.is_some());
        let grants = grants.into_iter().map(|(grant, _)| grant).collect();
        let live = Live::new(
            ConnectionId(random()?),
            request.principal,
            grants,
            request.session,
            (request.polls, request.observes),
        );
        tracing::debug!(connection.id = %live.name(), verdict = verdict.as_str(), "stream opens");
        let mark = ToldMark::of(&fresh);
        let fresh = if mark == request.told { HashSet::new() } else { fresh };
        let session = Session {
            sessions: Arc::clone(self),
            live: Arc::new(live),
            asked,
            until_done: request.until_done,
            _place: request.place,
            begin: Some(Box::new(Begin { verdict, resume, generation })),
            wanted: Some(Box::new(Wanted { wrote_me, denied, told: request.polls.then_some(fresh), mark, reserved })),
        };
        if session.knows_the_end().await? {
            return Ok(Opened::NothingLeft);
        }
        Ok(Opened::Stream(Box::new(session)))
    }

    /// One more stream of its user, if it becomes one.
    fn reserve(&self, request: &Request) -> Result<Option<Reserved>, ApiError> {
        if self.per_user == 0 || request.place.is_none() {
            return Ok(None);
        }
        let reserved = Lives::reserve(&self.lives, &request.principal.user.id, self.per_user);
        reserved.map(Some).ok_or_else(|| {
            self.metrics.reject("stream", "per_user");
            self.inspector().note(|ledger| ledger.limited(&request.principal.user.id, "connections"));
            ApiError::too_many("connections_of_user")
        })
    }

    /// The wish as edits of a stream of its name have changed it, and the channels that joined after its cursor.
    async fn with_edits(&self, request: Request) -> Result<(Request, HashSet<Channel>), ApiError> {
        let Some(name) = &request.session else { return Ok((request, HashSet::new())) };
        if request.polls {
            self.supersede(&request.principal.user.id, name).await;
        }
        let at = if let Resume::From(cursor) = request.resume { cursor.at } else { LogId::ZERO };
        let (channels, fresh) = self.as_edited(&request.principal, name, request.channels, at).await?;
        Ok((Request { channels, may_be_empty: true, ..request }, fresh))
    }

    /// The current state of a job, as `job:update` carries it.
    ///
    /// # Errors
    /// Not this caller's job or no job at all (403), no state yet (404), or a dependency is away (503).
    pub async fn job(&self, principal: &auth::Principal, id: &Id) -> Result<Arc<str>, ApiError> {
        if !self.is_open() {
            return Err(ApiError::unavailable("starting"));
        }
        let channel = Channel::of(Kind::Jobs, id);
        match self.authorizer.authorize(principal, std::slice::from_ref(&channel)).await.pop() {
            Some(auth::Verdict::Granted(_)) => {}
            Some(auth::Verdict::Unavailable) => return Err(ApiError::unavailable("database")),
            Some(auth::Verdict::Denied) | None => return Err(ApiError::denied()),
        }
        let mut states = self.states(std::slice::from_ref(&channel), self.hub.window().head().at).await?;
        states.remove(&channel).map(|state| state.event.data).ok_or(ApiError::not_found())
    }

    fn is_open(&self) -> bool {
        self.hub.window().generation() > 0
    }

    /// What of this somebody may see, with the client's own spelling, and what not.
    pub(super) async fn judge_channels(
        &self,
        principal: &auth::Principal,
        wishes: &[Requested],
        anew: bool,
    ) -> (Vec<(auth::Grant, Option<&'static str>)>, Vec<Denied>) {
        let mut denied = Vec::new();
        let mut served: Vec<(Channel, Option<&'static str>)> = Vec::new();
        for wish in wishes {
            match wish {
                Requested::Channel { channel, alias } => served.push((channel.clone(), *alias)),
                Requested::Invalid(text) => denied.push(Denied::of(text, Code::ChannelNotFound)),
            }
        }
        if served.is_empty() {
            return (Vec::new(), denied);
        }
        let channels: Vec<Channel> = served.iter().map(|(channel, _)| channel.clone()).collect();
        // A rate bounds how often somebody edits, nothing how often a crowd comes back.
        let verdicts = match anew {
            true => self.authorizer.authorize_anew(principal, &channels).await,
            false => self.authorizer.authorize(principal, &channels).await,
        };
        let mut grants = Vec::new();
        for ((channel, alias), verdict) in served.into_iter().zip(verdicts) {
            let name = alias.unwrap_or(channel.as_str());
            match verdict {
                auth::Verdict::Granted(grant) => grants.push((grant, alias)),
                auth::Verdict::Denied => denied.push(Denied::of(name, Code::PermissionDenied)),
                auth::Verdict::Unavailable => denied.push(Denied::of(name, Code::ConnectionLost)),
            }
        }
        (grants, denied)
    }

    /// Whether everything after the cursor can be given; a cursor that can't be proven costs a reset, never an error.
    pub(super) async fn judge_cursor(&self, resume: Resume) -> Result<(Verdict, Option<Cursor>), ApiError> {
        let reset = |reason| Ok((Verdict::Reset(reason), None));
        let cursor = match resume {
            Resume::Fresh => return Ok((Verdict::Live, None)),
            Resume::Garbage => return reset(ResetReason::CursorUnknown),
            Resume::From(cursor) => cursor,
        };
        let window = self.hub.window();
        if window.lookup(&cursor) == Lookup::Newer {
            // Another instance was faster. If this one can't catch up soon, Redis knows whether such an entry exists.
            let near = window.reached(cursor.at, AHEAD_WAIT_UNASKED).await;
            if !near && self.broker.locate(&cursor).await.map_err(|error| away(&error))? != Located::Found {
                return reset(ResetReason::HistoryRewritten);
            }
            if !near && !window.reached(cursor.at, AHEAD_WAIT).await {
                return Err(ApiError::unavailable("broker"));
            }
        }
        match window.lookup(&cursor) {
            Lookup::Here => Ok((Verdict::Resumed, Some(cursor))),
            Lookup::Refuted if cursor.epoch != window.head().epoch => reset(ResetReason::CursorUnknown),
            Lookup::Refuted | Lookup::Newer => reset(ResetReason::HistoryRewritten),
            Lookup::Older => match self.broker.locate(&cursor).await.map_err(|error| away(&error))? {
                Located::Found => Ok((Verdict::Resumed, Some(cursor))),
                Located::Gone | Located::Ahead => reset(ResetReason::CursorExpired),
            },
        }
    }
}

fn away(error: &crate::broker::BrokerError) -> ApiError {
    tracing::warn!(%error, "the log can't be asked about a cursor");
    ApiError::unavailable("broker")
}

fn is_job(wish: &Requested) -> bool {
    matches!(wish, Requested::Channel { channel, .. } if channel.kind() == Kind::Jobs)
}

/// Why a stream of which nothing may be seen is not opened.
fn nothing_left(denied: &[Denied]) -> ApiError {
    let any = |code: Code| denied.iter().any(|refusal| refusal.code == code);
    if any(Code::ConnectionLost) {
        ApiError::unavailable("database")
    } else if any(Code::PermissionDenied) {
        ApiError::denied()
    } else {
        ApiError::not_found()
    }
}

/// Hard to guess, because it names a stream in requests.
fn random() -> Result<u64, ApiError> {
    getrandom::u64().map_err(|error| {
        tracing::error!(%error, "no random numbers");
        ApiError::internal()
    })
}

impl Session {
    /// What a dry run answers, of what the stream may see.
    #[must_use]
    pub fn answer<'a>(&'a self, grants: &'a [auth::Grant]) -> Answer<'a> {
        let verdict = self.begun().verdict.as_str();
        let wrote_me = self.wanted.as_ref().is_some_and(|wanted| wanted.wrote_me);
        let channels =
            grants.iter().map(|grant| (grant.channel().as_str(), edit::alias_of(grant.channel(), wrote_me), verdict));
        Answer::of(channels, self.denied())
    }

    pub(super) fn denied(&self) -> &[Denied] {
        self.wanted.as_ref().map_or(&[], |wanted| &wanted.denied)
    }

    /// The stream as others find it.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether everything after the client's cursor follows.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.begun().verdict == Verdict::Resumed
    }

    /// What the cursor of a poll's answer says of the channels that have joined at the one it came with.
    #[must_use]
    pub fn mark(&self) -> Option<ToldMark> {
        self.wanted.as_ref()?.mark
    }

    /// Verdicts and refusals, each as a JSON array.
    #[must_use]
    pub fn verdicts(&self) -> (String, String) {
        let grants = self.live.grants();
        let answer = self.answer(&grants);
        let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        (json(serde_json::to_string(&answer.channels)), json(serde_json::to_string(&answer.denied)))
    }

    /// The same as JSON.
    #[must_use]
    pub fn dry_run(&self) -> String {
        serde_json::to_string(&self.answer(&self.live.grants())).unwrap_or_default()
    }

    /// The data of `connected`.
    pub(super) fn connected(&self) -> String {
        let (grants, principal) = (self.live.grants(), self.live.principal());
        let connected = Connected {
            connection_id: self.live.name(),
            user_id: principal.user.id.as_str(),
            session: self.live.session.as_deref(),
            answer: self.answer(&grants),
            heartbeat_ms: self.sessions.heartbeat_ms,
            timestamp: clock::rfc3339(clock::now_us()),
        };
        serde_json::to_string(&connected).unwrap_or_default()
    }

    /// `until=done` with a cursor at or after the latest state of every job, all of them terminal.
    async fn knows_the_end(&self) -> Result<bool, ApiError> {
        let Some(cursor) = self.begun().resume.filter(|_| self.until_done && self.denied().is_empty()) else {
            return Ok(false);
        };
        let channels = self.live.channels();
        let states = self.sessions.states(&channels, self.sessions.hub.window().head().at).await?;
        let ended =
            |channel: &Channel| states.get(channel).is_some_and(|state| state.terminal && state.version <= cursor.at);
        Ok(channels.iter().all(ended))
    }
}
