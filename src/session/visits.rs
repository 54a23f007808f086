//! Streams as visitors of documents: whoever carries `presence.{id}` is there, or looks on.

use std::sync::Arc;

use crate::auth::Grant;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Event;
use crate::event::Id;
use crate::event::Kind;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::States;
use crate::presence::Parting;
use crate::presence::Presence;
use crate::presence::Visitor;
use crate::session::Live;
use crate::session::Session;
use crate::session::Sessions;
use crate::session::Target;

/// What rooms are like, for the hub.
#[derive(Debug)]
pub struct RoomStates(pub Presence);

impl States for RoomStates {
    fn state(&self, channel: &Channel) -> Option<(Event, u64)> {
        self.0.state(channel)
    }
}

/// Who is where of what a stream carries.
#[derive(Debug)]
pub struct Rooms {
    sessions: Arc<Sessions>,
    live: Arc<Live>,
}

impl Rooms {
    /// The states as of now.
    #[must_use]
    pub fn states(&self) -> Vec<Frame> {
        let channels = self.live.channels();
        let states = channels.iter().filter_map(|channel| self.sessions.presence.state(channel));
        states.map(|(event, _)| Frame::event(&event, None)).collect()
    }
}

impl Session {
    /// Who is where of what this stream carries, for a transport that tells states instead of changes.
    #[must_use]
    pub fn rooms(&self) -> Rooms {
        Rooms { sessions: Arc::clone(&self.sessions), live: Arc::clone(&self.live) }
    }
}

/// The documents of those of these channels that are about who is there.
fn documents<'a>(channels: impl Iterator<Item = &'a Channel>) -> impl Iterator<Item = Id> {
    let rooms = channels.filter(|channel| channel.kind() == Kind::Presence);
    rooms.filter_map(|channel| Id::parse(channel.id()).ok())
}

impl Sessions {
    /// The stream is there from now on, or looks on, at the documents of these channels. Again: nothing happens.
    pub(super) async fn visit<'a>(
        &self,
        live: &Live,
        channels: impl Iterator<Item = &'a Channel>,
    ) -> Result<(), ApiError> {
        let documents: Vec<Id> = documents(channels).collect();
        if documents.is_empty() {
            return Ok(());
        }
        let (principal, observes) = (live.principal(), live.observes());
        let (user, avatar) = (&principal.user, principal.user.avatar_url.as_deref());
        let visitor = Visitor { stream: live.id.0, user: &user.id, name: &user.name, avatar, observes };
        let visits = documents.iter().map(|document| self.presence.attach(document, visitor));
        // At most as many as a stream may have channels.
        let visited = futures_util::future::try_join_all(visits).await;
        visited.map(drop).map_err(|_| ApiError::unavailable("broker"))
    }

    /// The stream is not there any more.
    pub(super) fn part<'a>(&self, live: &Live, channels: impl Iterator<Item = &'a Channel>, parting: Parting) {
        documents(channels).for_each(|document| self.presence.detach(&document, live.id.0, parting));
    }

    /// The stream has ended.
    pub(super) fn part_for(&self, live: &Live, reason: CloseReason) {
        let parting = match reason {
            CloseReason::Drain | CloseReason::Shutdown => Parting::Drained,
            CloseReason::Revoked | CloseReason::Gone | CloseReason::Disabled => Parting::Revoked,
            _ => Parting::Gone,
        };
        let grants = live.grants();
        self.part(live, grants.iter().map(Grant::channel), parting);
    }

    /// People who are at documents without a stream, and may not any more. Those who have streams leave with these.
    pub(super) async fn expel_others(&self, permissions: &[(Id, Id)]) {
        let known: Vec<(Id, Id)> = permissions
            .iter()
            .filter(|(document, user)| self.presence.knows(document, user))
            .map(|(document, user)| (user.clone(), document.clone()))
            .collect();
        if known.is_empty() {
            return;
        }
        // When that can't be asked, their leases end soon.
        let Ok(roles) = self.store.document_roles(&known).await else { return };
        for pair in known.iter().filter(|pair| !roles.contains_key(*pair)) {
            self.presence.expel(&pair.1, &pair.0);
        }
    }

    /// Open streams of this user on this node, by number or name.
    #[must_use]
    pub fn mine(&self, user: &Id, target: &Target) -> Option<Arc<Live>> {
        match target {
            Target::Connection(id) => self.lives.get(user, *id),
            Target::Session(name) => {
                self.lives.of(user).into_iter().find(|live| live.session.as_deref() == Some(&**name))
            }
        }
    }
}
