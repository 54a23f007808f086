//! Hearing the changes of rosters, over a connection of its own: a channel for each document that is listened to.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use redis::PushInfo;
use redis::PushKind;
use redis::Value;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::broker::BrokerError;
use crate::broker::RosterNews;
use crate::broker::redis::Shared;
use crate::broker::redis::link::Backoff;
use crate::broker::redis::pushes::GROUP_MAX;
use crate::broker::redis::pushes::Pushes;
use crate::broker::redis::rosters::text;
use crate::event::Id;

/// How often the connection has to prove that it is there, and how long any answer may take.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long whoever wishes waits: as long as a few answers may take. Nobody may even hear.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wishes that may wait; beyond them whoever wishes waits.
const WISHES_MAX: usize = 1024;
/// Channels of one `SUBSCRIBE`.
const CHANNELS_MAX: usize = 1024;

/// Which rosters are listened to.
#[derive(Debug, Default)]
pub(super) struct Listening(Mutex<Wanted>);

#[derive(Debug, Default)]
struct Wanted {
    documents: HashSet<Id>,
    /// To the connection that there is at the moment.
    wishes: Option<mpsc::Sender<Wish>>,
}

/// Whether it is to be listened to or not stands in `Wanted`: so it does not matter which of two wishes comes first.
#[derive(Debug)]
struct Wish {
    document: Id,
    /// Told when Redis has confirmed it; dropped: it has not.
    done: oneshot::Sender<()>,
}

/// Says that there is no connection any more, however its life ends.
struct Connected<'a>(&'a Listening);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.0.lock().wishes = None;
    }
}

impl Listening {
    /// From the answer on it is listened to. Without a connection it will be as soon as there is one.
    pub(super) async fn begin(&self, document: &Id) -> Result<(), BrokerError> {
        let wishes = {
            let mut wanted = self.0.lock();
            wanted.documents.insert(document.clone());
            wanted.wishes.clone()
        };
        wish(wishes, document).await.ok_or(BrokerError::Unavailable(None))
    }

    pub(super) async fn end(&self, document: &Id) {
        let wishes = {
            let mut wanted = self.0.lock();
            wanted.documents.remove(document);
            wanted.wishes.clone()
        };
        wish(wishes, document).await;
    }

    fn wants(&self, document: &Id) -> bool {
        self.0.lock().documents.contains(document)
    }

    /// Takes wishes from now on. Answers what is wanted already.
    fn connect(&self) -> (Vec<Id>, mpsc::Receiver<Wish>, Connected<'_>) {
        let (sender, wishes) = mpsc::channel(WISHES_MAX);
        let mut wanted = self.0.lock();
        wanted.wishes = Some(sender);
        (wanted.documents.iter().cloned().collect(), wishes, Connected(self))
    }
}

async fn wish(wishes: Option<mpsc::Sender<Wish>>, document: &Id) -> Option<()> {
    let (done, confirmed) = oneshot::channel();
    let (wishes, wish) = (wishes?, Wish { document: document.clone(), done });
    let fulfilled = async move {
        wishes.send(wish).await.ok()?;
        confirmed.await.ok()
    };
    tokio::time::timeout(PATIENCE, fulfilled).await.ok()?
}

/// Whoever hears, and by what.
pub(super) struct Ear<'a> {
    pub(super) shared: &'a Shared,
    pub(super) listening: &'a Listening,
    /// What stands before the document in the name of its channel.
    pub(super) stem: &'a str,
}

impl Ear<'_> {
    /// Hands on what it hears until nobody wants to know any more.
    pub(super) async fn hear(&self, news: &mpsc::Sender<RosterNews>) {
        let mut backoff = Backoff::default();
        while !news.is_closed() {
            let done = tokio::select! {
                () = news.closed() => return,
                done = self.hear_once(news, &mut backoff) => done,
            };
            if let Err(error) = done {
                tracing::debug!(%error, "redis: changes of rosters can't be heard");
                self.shared.metrics.broker_restarts.with_label_values(&["rosters"]).inc();
            }
            tokio::select! {
                () = news.closed() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// One connection's life. Its inputs: what Redis pushes, whoever wants to listen, room for news, and the clock.
    async fn hear_once(&self, news: &mpsc::Sender<RosterNews>, backoff: &mut Backoff) -> Result<(), BrokerError> {
        let mut pushes = Pushes::open(&self.shared.link, PING_EVERY).await.map_err(unavailable)?;
        let (documents, mut wishes, _connected) = self.listening.connect();
        self.subscribe(&mut pushes, documents.iter()).await?;
        let mut waiting = VecDeque::new();
        // What nobody has listened to before this can't have been missed.
        waiting.extend((!documents.is_empty()).then_some(RosterNews::Interrupted));
        drop(documents);
        let (mut pushed, mut asked) = (Vec::with_capacity(GROUP_MAX), Vec::new());
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Nothing more is taken while something waits for room; too much then ends the connection, and not the memory.
                more = pushes.next(&mut pushed), if waiting.is_empty() => {
                    more?;
                    waiting.extend(pushed.drain(..).filter_map(|push| self.read_push(&push)));
                }
                room = news.reserve(), if !waiting.is_empty() => {
                    let Ok(room) = room else { return Ok(()) };
                    if let Some(next) = waiting.pop_front() {
                        room.send(next);
                    }
                }
                _ = wishes.recv_many(&mut asked, WISHES_MAX) => self.fulfil(&mut pushes, &mut asked).await?,
                _ = ping.tick() => {
                    redis::cmd("PING").exec_async(&mut pushes.connection).await.map_err(unavailable)?;
                    backoff.reset();
                }
            }
        }
    }

    /// Listens to what is wanted of these, and to the others no more.
    async fn fulfil(&self, pushes: &mut Pushes, asked: &mut Vec<Wish>) -> Result<(), BrokerError> {
        let documents: BTreeSet<&Id> = asked.iter().map(|wish| &wish.document).collect();
        let (wanted, unwanted): (Vec<&Id>, Vec<&Id>) =
            documents.into_iter().partition(|document| self.listening.wants(document));
        if !unwanted.is_empty() {
            let channels: Vec<String> = unwanted.iter().map(|document| self.channel(document)).collect();
            pushes.connection.unsubscribe(&channels[..]).await.map_err(unavailable)?;
        }
        self.subscribe(pushes, wanted.into_iter()).await?;
        for wish in asked.drain(..) {
            // Whoever does not wait for it any more does not have to know.
            let _ = wish.done.send(());
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        pushes: &mut Pushes,
        documents: impl Iterator<Item = &Id> + Send,
    ) -> Result<(), BrokerError> {
        let channels: Vec<String> = documents.map(|document| self.channel(document)).collect();
        for channels in channels.chunks(CHANNELS_MAX) {
            pushes.connection.subscribe(channels).await.map_err(unavailable)?;
        }
        Ok(())
    }

    fn channel(&self, document: &Id) -> String {
        format!("{}{document}", self.stem)
    }

    fn read_push(&self, push: &PushInfo) -> Option<RosterNews> {
        if push.kind != PushKind::Message {
            return None;
        }
        let [Value::BulkString(channel), Value::BulkString(payload)] = push.data.as_slice() else { return None };
        let document = std::str::from_utf8(channel).ok()?.strip_prefix(self.stem)?;
        let document = Id::parse(document).ok().filter(|document| self.listening.wants(document))?;
        let news = text::news(document, payload);
        if news.is_none() {
            tracing::debug!("redis: unreadable news of a roster");
            self.shared.metrics.reject("rosters", "unreadable");
        }
        news
    }
}

fn unavailable(error: redis::RedisError) -> BrokerError {
    BrokerError::Unavailable(Some(error))
}
