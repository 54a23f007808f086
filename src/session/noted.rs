//! What sessions write down for the inspector, where there is one.

use std::sync::Arc;

use crate::auth::Principal;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Cursor;
use crate::inspect::Inspector;
use crate::inspect::Opened;
use crate::session::Denied;
use crate::session::Live;
use crate::session::Requested;
use crate::session::Session;
use crate::session::Sessions;
use crate::session::Transport;
use crate::session::Verdict;

/// A poll, as whoever answers it tells the inspector of the answer.
#[derive(Debug)]
pub struct Polled {
    inspector: Inspector,
    live: Arc<Live>,
}

impl Polled {
    /// The answer tells everything up to this cursor.
    pub fn told(&self, cursor: Option<&str>) {
        self.inspector.note(|ledger| {
            if let Some(cursor) = cursor.and_then(|cursor| cursor.parse::<Cursor>().ok()) {
                ledger.told(self.live.number(), cursor.at);
            }
        });
    }
}

impl Session {
    /// Of one poll, for its transport.
    #[must_use]
    pub fn polled(&self) -> Polled {
        Polled { inspector: self.sessions.inspector().clone(), live: Arc::clone(&self.live) }
    }

    pub(super) fn note_opening(&self, transport: Transport) {
        self.sessions.inspector().note(|ledger| {
            let begun = self.begun();
            let principal = self.live.principal();
            let code = |denied: &Denied| (denied.channel.clone(), denied.code.as_str());
            ledger.opened(Opened {
                connection: self.live.id.0,
                user: &principal.user.id,
                session: self.live.session.clone(),
                transport: transport.as_str(),
                channels: self.live.channels(),
                denied: self.denied().iter().map(code).collect(),
                verdict: begun.verdict.as_str(),
                reset: if let Verdict::Reset(reason) = begun.verdict { Some(reason.as_str()) } else { None },
                resume: begun.resume.map(|cursor| cursor.at),
            });
        });
    }
}

impl Sessions {
    /// Who remembers what happened to streams.
    #[must_use]
    pub fn inspector(&self) -> &Inspector {
        self.hub.inspector()
    }

    pub(super) fn note_refusal(&self, principal: &Principal, wishes: &[Requested], error: &ApiError) {
        self.inspector().note(|ledger| {
            ledger.refused(&principal.user.id, wishes.iter().map(Requested::name), error.code.as_str());
        });
    }

    /// Channels are about to leave a stream; what was refused of those that were to join it.
    pub(super) fn note_edit(
        &self,
        live: &Live,
        leave: &[Channel],
        why: impl Fn(&Channel) -> &'static str,
        denied: &[Denied],
    ) {
        self.inspector().note(|ledger| {
            ledger.leaving(live.id.0, leave, why);
            let code = |denied: &Denied| (denied.channel.clone(), denied.code.as_str());
            ledger.denied(live.id.0, denied.iter().map(code).collect());
        });
    }
}
