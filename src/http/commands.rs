//! What clients ask for on a WebSocket (protocol §5): the same as by HTTP, with the same checks and the same budget.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::event::Id;
use crate::http::AppState;
use crate::http::caller::within_rate;
use crate::http::ingest;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::presence::Saying;
use crate::session::Answer;
use crate::session::Live;
use crate::session::Resume;
use crate::session::Wish;
use crate::session::requested;
use crate::transport::ws;

/// Messages beyond the budget, in a row, after which the client is cut off: it does not mind being told.
const REFUSED_MAX: u32 = 100;

/// Does what the client of one WebSocket asks for.
#[derive(Debug)]
pub(super) struct Commander {
    shared: AppState,
    /// Messages refused since the last one that was not.
    refused: AtomicU32,
}

/// A message. Which fields it needs depends on its type.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: String,
    id: Option<u64>,
    channels: Vec<String>,
    /// A position, or that of a pointer.
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
    token: Option<String>,
    channel: Option<String>,
    #[serde(rename = "documentId")]
    document: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Ack<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(flatten)]
    answer: Option<Answer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

fn ack(id: Option<u64>, answer: Option<Answer<'_>>, cursor: Option<String>) -> Frame {
    let ack = Ack { kind: "ack", id, answer, cursor };
    ws::message(&serde_json::to_string(&ack).unwrap_or_default())
}

impl ws::Commands for Commander {
    fn run<'a>(&'a self, live: &'a Arc<Live>, text: String) -> ws::Done<'a> {
        Box::pin(async move { self.obey(live, &text).await })
    }
}

impl Commander {
    pub(super) fn new(shared: AppState) -> Self {
        Self { shared, refused: AtomicU32::new(0) }
    }

    async fn obey(&self, live: &Arc<Live>, text: &str) {
        let caller = Caller::User(live.principal());
        let parsed = serde_json::from_str::<Wire<'_>>(text).ok().filter(|_| text.trim_start().starts_with('{'));
        let id = parsed.as_ref().and_then(|wire| wire.id);
        if let Some(wire) = parsed.as_ref().filter(|wire| wire.kind == "presence") {
            // It has no budget: whatever comes within a tick is one.
            if let Err(error) = self.presence(live, wire, text) {
                self.shared.sessions.tell(live, ws::error(id, &error)).await;
            }
            return;
        }
        let result = match within_rate(&self.shared, &caller, 1) {
            Ok(()) => {
                self.refused.store(0, Ordering::Relaxed);
                match parsed {
                    Some(wire) => self.act(live, &caller, wire, text).await,
                    None => Err(ApiError::invalid("message")),
                }
            }
            Err(error) => {
                if self.refused.fetch_add(1, Ordering::Relaxed) >= REFUSED_MAX {
                    return self.shared.sessions.end(live, CloseReason::TooMuch).await;
                }
                Err(error)
            }
        };
        match result {
            Ok(None) => {}
            Ok(Some(frame)) => self.shared.sessions.tell(live, frame).await,
            Err(error) => self.shared.sessions.tell(live, ws::error(id, &error)).await,
        }
    }

    /// Answers what is still to be told.
    async fn act(
        &self,
        live: &Arc<Live>,
        caller: &Caller,
        wire: Wire<'_>,
        text: &str,
    ) -> Result<Option<Frame>, ApiError> {
        match wire.kind.as_str() {
            "subscribe" => self.subscribe(live, &wire).await.map(|()| None),
            "unsubscribe" => self.unsubscribe(live, &wire).await.map(|()| None),
            "auth" => self.renew(live, &wire).await.map(|()| None),
            "publish" => self.publish(caller, &wire, text).await.map(Some),
            "ping" => Ok(Some(ws::message("{\"type\":\"pong\"}"))),
            _ => Err(ApiError::invalid("type")),
        }
    }

    async fn edit(&self, live: &Arc<Live>, wish: Wish, id: Option<u64>) -> Result<(), ApiError> {
        self.shared.sessions.edit(live, wish, |edited| Some(ack(id, Some(edited.answer()), None))).await.map(drop)
    }

    async fn subscribe(&self, live: &Arc<Live>, wire: &Wire<'_>) -> Result<(), ApiError> {
        if wire.channels.is_empty() {
            return Err(ApiError::invalid("channels"));
        }
        let subscribe = requested(wire.channels.iter().map(String::as_str), &live.principal());
        let cursor = wire.cursor.map(|cursor| serde_json::from_str::<String>(cursor.get())).transpose();
        let resume = Resume::parse(cursor.map_err(|_| ApiError::invalid("cursor"))?.as_deref());
        self.edit(live, Wish { subscribe, unsubscribe: Vec::new(), principal: None, resume }, wire.id).await
    }

    async fn unsubscribe(&self, live: &Arc<Live>, wire: &Wire<'_>) -> Result<(), ApiError> {
        if wire.channels.is_empty() {
            return Err(ApiError::invalid("channels"));
        }
        let unsubscribe = requested(wire.channels.iter().map(String::as_str), &live.principal());
        let wish = Wish { subscribe: Vec::new(), unsubscribe, principal: None, resume: Resume::Fresh };
        self.edit(live, wish, wire.id).await
    }

    /// A newer token of the same user.
    async fn renew(&self, live: &Arc<Live>, wire: &Wire<'_>) -> Result<(), ApiError> {
        let token = wire.token.as_deref().ok_or(ApiError::invalid("token"))?;
        let verified = self.shared.authenticator.verify_token(token, clock::now_s()).await;
        let principal = Some(verified.map_err(|failure| failure.to_api_error())?);
        let wish = Wish { subscribe: Vec::new(), unsubscribe: Vec::new(), principal, resume: Resume::Fresh };
        self.edit(live, wish, wire.id).await
    }

    /// Where somebody is. Not answered: there are dozens in a second.
    fn presence(&self, live: &Arc<Live>, wire: &Wire<'_>, text: &str) -> Result<(), ApiError> {
        let document = wire.document.as_deref().and_then(|id| Id::parse(id).ok());
        let document = document.ok_or(ApiError::invalid("documentId"))?;
        let saying: Saying<'_> = serde_json::from_str(text).map_err(|_| ApiError::invalid("message"))?;
        let patch = saying.patch().map_err(ApiError::invalid)?;
        // Whoever is there may be: a stream that may not any more has left.
        let there = self.shared.sessions.presence.say(&document, live.number(), patch);
        if there { Ok(()) } else { Err(ApiError::not_found()) }
    }

    /// The message is a publication as it stands; its other members are ignored there.
    async fn publish(&self, caller: &Caller, wire: &Wire<'_>, text: &str) -> Result<Frame, ApiError> {
        if wire.channel.is_none() {
            return Err(ApiError::invalid("channel"));
        }
        if wire.data.is_none() {
            return Err(ApiError::invalid("data"));
        }
        let cursor = ingest::publish_one(&self.shared, caller, text.as_bytes(), None).await?;
        Ok(ack(wire.id, None, cursor.map(|cursor| cursor.to_string())))
    }
}
