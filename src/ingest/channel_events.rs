//! What back ends `PUBLISH` on `channel-events`: heard by every node, appended by one, told at once where it is ephemeral.

use tokio::sync::mpsc;
use tokio::time::Duration;
use tokio::time::Instant;

use crate::broker::BrokerError;
use crate::broker::EventAppend;
use crate::broker::TailMessage;
use crate::clock;
use crate::event::Id;
use crate::event::RawName;
use crate::ingest::Ingest;
use crate::ingest::PUBLICATION_BYTES_MAX;
use crate::ingest::Publication;
use crate::ingest::heard::Heard;
use crate::ingest::heard::HeardQueue;
use crate::ingest::publish::Traced;

/// In metrics.
const SOURCE: &str = "channel_events";
/// How often dropped events are said in the log; the metrics count each.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// What holding an event costs beside its text.
const HELD_BYTES: usize = 512;

/// Hears, and says what to append.
pub(super) struct EventLine<'a> {
    ingest: &'a Ingest,
    pub(super) queue: HeardQueue,
    /// To the streams of this node. Every node hears for itself, so nothing is passed on.
    told: mpsc::Sender<TailMessage>,
    said: Option<Instant>,
}

impl<'a> EventLine<'a> {
    pub(super) fn new(ingest: &'a Ingest, told: mpsc::Sender<TailMessage>) -> Self {
        Self { ingest, queue: HeardQueue::default(), told, said: None }
    }

    pub(super) fn hear(&mut self, bytes: &[u8], now: Instant) {
        let publication = match parse(bytes) {
            Ok(publication) => publication,
            Err(reason) => {
                self.queue.skip();
                return self.drop_event(reason, now);
            }
        };
        if publication.is_ephemeral() {
            self.queue.skip();
            // What is not kept is not waited for either.
            if self.told.try_send(TailMessage::Ephemeral(publication.event)).is_err() {
                self.drop_event("ephemeral", now);
            }
            return;
        }
        let resource = Id::parse(publication.event.channel.id()).expect("what follows a channel's kind is an id");
        if !self.queue.hear(resource, publication, bytes.len() + HELD_BYTES, now) {
            self.drop_event("overflow", now);
        }
    }

    pub(super) fn strike_off(&mut self, names: &[(Id, RawName)]) {
        names.iter().for_each(|(resource, name)| self.queue.judged(resource, *name));
    }

    pub(super) fn look(&mut self, caught_up: bool, had_elder: bool, now: Instant) {
        self.queue.catch_up(caught_up, had_elder);
        for _ in 0..self.queue.look(now) {
            self.drop_event("too_old", now);
        }
    }

    /// A batch has ended.
    pub(super) fn answered(&mut self, (batch, error): Appended) {
        let now = Instant::now();
        let word = if error.is_none() { "applied" } else { "failed" };
        self.ingest.metrics.appends.with_label_values(&[SOURCE, word]).inc_by(batch.len() as u64);
        if let Some(error) = &error
            && self.may_say(now)
        {
            tracing::warn!(%error, "appends of channel events fail and are tried again");
        }
        self.queue.done(&batch, error.is_none(), now);
    }

    fn drop_event(&mut self, reason: &'static str, now: Instant) {
        self.ingest.metrics.reject(SOURCE, reason);
        if self.may_say(now) {
            tracing::warn!(reason, "channel event dropped; the metrics count all of them");
        }
    }

    fn may_say(&mut self, now: Instant) -> bool {
        let may = self.said.is_none_or(|said| now > said + SAID_EVERY);
        if may {
            self.said = Some(now);
        }
        may
    }
}

/// As the body of `POST /v1/publish`; a word for what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Publication, &'static str> {
    if bytes.len() > PUBLICATION_BYTES_MAX {
        return Err("too_large");
    }
    let snake = |field| if field == "idempotencyKey" { "idempotency_key" } else { field };
    Publication::parse(bytes, clock::now_us()).map_err(snake)
}

/// A batch that has ended, and why not well.
pub(super) type Appended = (Vec<Heard>, Option<BrokerError>);

pub(super) async fn append(ingest: &Ingest, batch: Vec<Heard>) -> Appended {
    let names: Vec<_> = batch.iter().map(|heard| heard.publication.heard_as(heard.name)).collect();
    let traced = Traced::of(batch.iter().map(|heard| &*heard.publication), &ingest.spans, SOURCE);
    let append = |(at, (heard, once))| {
        let heard: &Heard = heard;
        EventAppend { event: &heard.publication.event, once, trace: traced.at(at) }
    };
    let appends: Vec<EventAppend<'_>> = batch.iter().zip(&names).enumerate().map(append).collect();
    let done = ingest.broker.append_events(&appends).await;
    drop(appends);
    // What could not be appended comes again, and has its spans then.
    if done.is_ok() {
        traced.end("applied", false);
    }
    (batch, done.err())
}
