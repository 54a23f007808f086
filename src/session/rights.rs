//! What open streams may still see: asked again when the database says that something has changed, and in any case before an answer
//! is too old. A channel that may not be seen any more leaves the stream, and with it what of it is not written yet.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::auth;
use crate::auth::Principal;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::presence::Parting;
use crate::session::Live;
use crate::session::Sessions;
use crate::session::edit;
use crate::session::live::Alteration;
use crate::store::Changed;
use crate::store::Notice;

/// Streams that are asked about together: one question to each table.
const CHUNK: usize = 256;
/// Streams whose answers are acted upon at once.
const AT_ONCE: usize = 16;
/// How often a part of all streams is asked about anew.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How soon a question that could not be answered is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// For how long a stream goes on when it is in doubt what it may see and nobody can be asked.
const DOUBT_MAX: Duration = Duration::from_secs(10);
/// Streams in doubt at most; beyond that all are asked about.
const DOUBTFUL_MAX: usize = 16_384;
/// Announcements that are worked off together.
const NOTICES_MAX: usize = 256;

/// Streams whose permissions are to be asked for again soon.
#[derive(Debug, Default)]
pub struct Doubts {
    waiting: Mutex<Doubtful>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Doubtful {
    /// And since when.
    streams: HashMap<ConnectionId, (Arc<Live>, Instant)>,
    everything: bool,
}

impl Doubts {
    /// `since`: for how long it has been in doubt.
    fn add(&self, live: &Arc<Live>, since: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.streams.len() >= DOUBTFUL_MAX {
            *waiting = Doubtful { everything: true, ..Doubtful::default() };
        } else {
            waiting.streams.entry(live.id).or_insert((Arc::clone(live), since));
        }
        drop(waiting);
        self.bell.notify_one();
    }

    fn all(&self) {
        self.waiting.lock().everything = true;
        self.bell.notify_one();
    }

    fn take(&self) -> (Vec<(Arc<Live>, Instant)>, bool) {
        let Doubtful { streams, everything } = std::mem::take(&mut *self.waiting.lock());
        (streams.into_values().collect(), everything)
    }
}

/// What became of a stream's rights.
enum Reviewed {
    Same,
    Lost { leave: Vec<Channel>, end: Option<CloseReason> },
    Unknown,
}

impl Sessions {
    /// Keeps the rights of open streams true until nobody announces any more. `jobs` hears of jobs whose rows were changed, and
    /// whether a stream here carries them.
    pub async fn keep_rights(&self, mut notices: mpsc::Receiver<Notice>, jobs: mpsc::Sender<Vec<(Id, bool)>>) {
        let announced = async {
            let mut waiting = Vec::with_capacity(NOTICES_MAX);
            while notices.recv_many(&mut waiting, NOTICES_MAX).await > 0 {
                let mut changed = Changed::default();
                for notice in waiting.drain(..) {
                    match notice {
                        Notice::Announcing(whether) => self.authorizer.changes().announced(whether),
                        Notice::Changed(rows) => changed.merge(rows),
                    }
                }
                self.changed(changed, &jobs).await;
            }
        };
        tokio::select! {
            () = announced => {}
            () = self.settle_doubts() => {}
            () = self.sweep(&jobs) => {}
        }
    }

    async fn changed(&self, changed: Changed, jobs: &mpsc::Sender<Vec<(Id, bool)>>) {
        if changed.is_empty() {
            return;
        }
        let heard = Instant::now();
        self.authorizer.changes().note(&changed);
        if changed.all {
            self.doubts.all();
        }
        let affected = self.affected(&changed).await;
        self.expel_others(&changed.permissions).await;
        let carried: HashSet<Channel> = match changed.jobs.as_slice() {
            [] => HashSet::new(),
            _ => affected.iter().flat_map(|live| live.channels()).collect(),
        };
        self.recheck(affected).await;
        self.metrics.revocation.observe(heard.elapsed().as_secs_f64());
        if !changed.jobs.is_empty() {
            // A full queue holds the announcements back, and with them nothing that the sweep would not find.
            let rows = changed.jobs.into_iter().map(|job| {
                let carried = carried.contains(&Channel::of(Kind::Jobs, &job));
                (job, carried)
            });
            drop(jobs.send(rows.collect()).await);
        }
    }

    /// The streams that such a change can mean something to.
    async fn affected(&self, changed: &Changed) -> Vec<Arc<Live>> {
        let mut affected: HashMap<ConnectionId, Arc<Live>> = HashMap::new();
        let users = changed.users.iter().chain(changed.permissions.iter().map(|(_, user)| user));
        for live in users.flat_map(|user| self.lives.of(user)) {
            affected.insert(live.id, live);
        }
        let jobs = changed.jobs.iter().chain(&changed.new_jobs).map(|id| Channel::of(Kind::Jobs, id));
        let documents =
            changed.documents.iter().flat_map(|id| [Channel::of(Kind::Docs, id), Channel::of(Kind::Presence, id)]);
        let channels: Arc<[Channel]> = jobs.chain(documents).collect();
        if !channels.is_empty() {
            let carriers = self.hub.carriers(&channels).await;
            let lives = carriers.into_iter().filter_map(|(user, id)| self.lives.get(&user, id));
            affected.extend(lives.map(|live| (live.id, live)));
        }
        affected.into_values().collect()
    }

    /// Asks for these streams' permissions again as soon as that can be done.
    pub(super) fn recheck_soon(&self, live: &Arc<Live>) {
        self.doubts.add(live, Instant::now());
    }

    /// Asks what these streams may see, where what is known of it may be wrong, and takes away what they may not.
    pub(super) async fn recheck(&self, lives: Vec<Arc<Live>>) {
        let now = Instant::now();
        self.review_all(lives.into_iter().map(|live| (live, now)).collect()).await;
    }

    async fn review_all(&self, lives: Vec<(Arc<Live>, Instant)>) {
        for chunk in lives.chunks(CHUNK) {
            let wanted: Vec<(Id, Vec<Channel>)> =
                chunk.iter().map(|(live, _)| (live.principal().user.id.clone(), live.channels())).collect();
            self.authorizer.prefetch(&wanted).await;
            let reviews = stream::iter(chunk).for_each_concurrent(AT_ONCE, |(live, since)| self.settle(live, *since));
            reviews.await;
        }
    }

    async fn settle(&self, live: &Arc<Live>, since: Instant) {
        let _turn = self.turns.of(live.id).lock().await;
        let lost = match self.review(live).await {
            Reviewed::Same => return,
            Reviewed::Unknown if since.elapsed() < DOUBT_MAX => return self.doubts.add(live, since),
            // Errors deny. It may come back, and is let in when it can be asked.
            Reviewed::Unknown => Alteration { end: Some(CloseReason::Overloaded), ..Alteration::default() },
            Reviewed::Lost { leave, end } => {
                let gone = self.gone(&leave).await;
                let reason = |channel: &Channel| if gone.contains(channel) { "gone" } else { "revoked" };
                let say = leave.iter().map(|channel| edit::unsubscribed(channel, reason(channel))).collect();
                let all_gone = leave.iter().all(|channel| gone.contains(channel));
                let end = end.map(|reason| match reason {
                    CloseReason::Revoked if all_gone => CloseReason::Gone,
                    other => other,
                });
                Alteration { leave, say, end, ..Alteration::default() }
            }
        };
        let left = lost.leave.clone();
        self.alter(live, lost, Vec::new()).await;
        self.part(live, left.iter(), Parting::Revoked);
    }

    async fn review(&self, live: &Arc<Live>) -> Reviewed {
        let (principal, channels) = (live.principal(), live.channels());
        match self.authorizer.admits(&principal).await {
            None => return Reviewed::Unknown,
            Some(false) => return Reviewed::Lost { leave: channels, end: Some(CloseReason::Disabled) },
            Some(true) => {}
        }
        self.lost(&principal, channels).await
    }

    async fn lost(&self, principal: &Principal, channels: Vec<Channel>) -> Reviewed {
        let verdicts = self.authorizer.authorize(principal, &channels).await;
        if verdicts.iter().any(|verdict| matches!(verdict, auth::Verdict::Unavailable)) {
            return Reviewed::Unknown;
        }
        let all = channels.len();
        let denied = channels.into_iter().zip(verdicts).filter(|(_, v)| matches!(v, auth::Verdict::Denied));
        let leave: Vec<Channel> = denied.map(|(channel, _)| channel).collect();
        let end = (leave.len() == all).then_some(CloseReason::Revoked);
        if leave.is_empty() { Reviewed::Same } else { Reviewed::Lost { leave, end } }
    }

    /// Those of which there is nothing any more. When that can't be asked, they count as taken away.
    async fn gone(&self, channels: &[Channel]) -> Vec<Channel> {
        let ids = |of: &[Kind]| -> Vec<Id> {
            let wanted = channels.iter().filter(|channel| of.contains(&channel.kind()));
            wanted.filter_map(|channel| Id::parse(channel.id()).ok()).collect()
        };
        let (jobs, documents) = (ids(&[Kind::Jobs]), ids(&[Kind::Docs, Kind::Presence]));
        let Ok(there) = self.store.existing(&jobs, &documents).await else { return Vec::new() };
        let is_gone = |channel: &&Channel| match channel.kind() {
            Kind::Jobs => !there.0.iter().any(|id| id.as_str() == channel.id()),
            Kind::Docs | Kind::Presence => !there.1.iter().any(|id| id.as_str() == channel.id()),
            Kind::User => false,
        };
        channels.iter().filter(is_gone).cloned().collect()
    }

    /// What the application writes into its rows is looked for where nobody announces it.
    async fn look_at_jobs(&self, lives: &[Arc<Live>], jobs: &mpsc::Sender<Vec<(Id, bool)>>) {
        let channels: HashSet<Channel> = lives.iter().flat_map(|live| live.channels()).collect();
        let carried = channels.iter().filter(|channel| channel.kind() == Kind::Jobs);
        let ids: Vec<(Id, bool)> = carried.filter_map(|channel| Some((Id::parse(channel.id()).ok()?, true))).collect();
        if !ids.is_empty() {
            drop(jobs.send(ids).await);
        }
    }

    async fn settle_doubts(&self) {
        loop {
            self.doubts.bell.notified().await;
            let (doubtful, everything) = self.doubts.take();
            let tried_before = doubtful.iter().any(|(_, since)| since.elapsed() > AGAIN);
            if tried_before {
                tokio::time::sleep(AGAIN).await;
            }
            self.review_all(doubtful).await;
            if everything {
                self.review_everything().await;
            }
        }
    }

    async fn review_everything(&self) {
        let mut last = None;
        loop {
            let part = self.lives.after(last.as_ref(), CHUNK);
            let Some(newest) = part.last() else { return };
            last = Some(Arc::clone(newest));
            self.recheck(part).await;
        }
    }

    /// Goes round all streams, once in the time for which an answer may be old.
    async fn sweep(&self, jobs: &mpsc::Sender<Vec<(Id, bool)>>) {
        let mut last: Option<Arc<Live>> = None;
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let rounds = (self.authorizer.age_max().as_millis() / SWEEP_EVERY.as_millis()).max(1);
            let part = self.lives.count().div_ceil(usize::try_from(rounds).unwrap_or(usize::MAX)).max(1);
            let lives = self.lives.after(last.as_ref(), part);
            last = lives.last().cloned();
            if !self.authorizer.changes().are_announced() {
                self.look_at_jobs(&lives, jobs).await;
            }
            self.recheck(lives).await;
        }
    }
}
