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
use crate::auth::Recalled;
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
    /// All streams, since then. As long as too many are in doubt this does not become younger, or nobody would ever be in doubt for long.
    everything: Option<Instant>,
}

impl Doubts {
    /// `since`: for how long it has been in doubt.
    fn add(&self, live: &Arc<Live>, since: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.streams.len() >= DOUBTFUL_MAX {
            let all = waiting.streams.values().map(|(_, since)| *since).chain(waiting.everything).chain([since]);
            let oldest = all.min();
            *waiting = Doubtful { everything: oldest, ..Doubtful::default() };
        } else {
            // While it is looked at it is not in here, and the sweep may have come by meanwhile: what was in doubt before still is.
            let known = waiting.streams.entry(live.id).or_insert_with(|| (Arc::clone(live), since));
            known.1 = known.1.min(since);
        }
        drop(waiting);
        self.bell.notify_one();
    }

    fn all(&self) {
        self.waiting.lock().everything.get_or_insert_with(Instant::now);
        self.bell.notify_one();
    }

    fn take(&self) -> (Vec<(Arc<Live>, Instant)>, Option<Instant>) {
        let Doubtful { streams, everything } = std::mem::take(&mut *self.waiting.lock());
        (streams.into_values().collect(), everything)
    }
}

/// How many of so many streams, each of which is due once in `round`.
fn due(streams: usize, passed: Duration, round: Duration) -> usize {
    let round = round.max(SWEEP_EVERY);
    let part = (streams as u128 * passed.min(round).as_millis()).div_ceil(round.as_millis());
    usize::try_from(part).unwrap_or(streams).max(1)
}

/// What of a stream's channels is denied.
fn lost(channels: Vec<Channel>, verdicts: Vec<auth::Verdict>) -> Reviewed {
    if verdicts.iter().any(|verdict| matches!(verdict, auth::Verdict::Unavailable)) {
        return Reviewed::Unknown;
    }
    let all = channels.len();
    let denied = channels.into_iter().zip(verdicts).filter(|(_, v)| matches!(v, auth::Verdict::Denied));
    let leave: Vec<Channel> = denied.map(|(channel, _)| channel).collect();
    let end = (leave.len() == all).then_some(CloseReason::Revoked);
    if leave.is_empty() { Reviewed::Same } else { Reviewed::Lost { leave, end } }
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
                let channel = Channel::of(Kind::Jobs, &job);
                (job, carried.contains(&channel) || self.polled.get(&channel).is_some())
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
        self.review_all(lives.into_iter().map(|live| (live, now)).collect(), false).await;
    }

    /// `away`: nobody is there to be asked. Answers the same: who waits for one answer in vain does not wait for the next.
    async fn review_all(&self, lives: Vec<(Arc<Live>, Instant)>, mut away: bool) -> bool {
        for chunk in lives.chunks(CHUNK) {
            let wanted: Vec<(Id, Vec<Channel>)> =
                chunk.iter().map(|(live, _)| (live.principal().user.id.clone(), live.channels())).collect();
            let mut asked = Some(Instant::now());
            if !away && let Err(error) = self.authorizer.prefetch(&wanted).await {
                away = error.is_away();
                // The database is there, and one of these many questions is what it can't answer: each alone.
                asked = asked.filter(|_| away);
                tracing::debug!(cause = %error, streams = chunk.len(), "permissions of open streams can't be asked");
            }
            let reviews =
                stream::iter(chunk).for_each_concurrent(AT_ONCE, |(live, since)| self.settle(live, *since, asked));
            reviews.await;
        }
        away
    }

    /// `asked`: everything that could be asked was asked then.
    async fn settle(&self, live: &Arc<Live>, since: Instant, asked: Option<Instant>) {
        let _turn = self.turns.of(live.id).lock().await;
        let lost = match self.review(live, asked).await {
            Reviewed::Same => return,
            Reviewed::Unknown if since.elapsed() < DOUBT_MAX => return self.doubts.add(live, since),
            // Errors deny. It may come back, and is let in when it can be asked.
            Reviewed::Unknown => Alteration { end: Some(CloseReason::Overloaded), ..Alteration::default() },
            Reviewed::Lost { leave, end } => {
                let gone = self.gone(&leave).await;
                let reason = |channel: &Channel| if gone.contains(channel) { "gone" } else { "revoked" };
                self.note_edit(live, &leave, reason, &[]);
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

    async fn review(&self, live: &Arc<Live>, asked: Option<Instant>) -> Reviewed {
        let (principal, channels) = (live.principal(), live.channels());
        let recalled = match asked {
            Some(asked) => self.authorizer.recall(&principal, &channels, asked),
            None => self.ask(&principal, &channels).await,
        };
        match recalled {
            Recalled::Unknown => Reviewed::Unknown,
            Recalled::Disabled => Reviewed::Lost { leave: channels, end: Some(CloseReason::Disabled) },
            Recalled::Verdicts(verdicts) => lost(channels, verdicts),
        }
    }

    async fn ask(&self, principal: &Principal, channels: &[Channel]) -> Recalled {
        match self.authorizer.admits(principal).await {
            None => Recalled::Unknown,
            Some(false) => Recalled::Disabled,
            Some(true) => Recalled::Verdicts(self.authorizer.authorize(principal, channels).await),
        }
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
            let tried_before = doubtful.iter().map(|(_, since)| *since).chain(everything);
            if tried_before.into_iter().any(|since| since.elapsed() > AGAIN) {
                tokio::time::sleep(AGAIN).await;
            }
            let away = self.review_all(doubtful, false).await;
            if let Some(since) = everything {
                self.review_everything(since, away).await;
            }
        }
    }

    async fn review_everything(&self, since: Instant, mut away: bool) {
        let mut last = None;
        loop {
            let part = self.lives.after(last.as_ref(), CHUNK);
            let Some(newest) = part.last() else { return };
            last = Some(Arc::clone(newest));
            away = self.review_all(part.into_iter().map(|live| (live, since)).collect(), away).await;
        }
    }

    /// Goes round all streams, once in the time for which an answer may be old.
    async fn sweep(&self, jobs: &mpsc::Sender<Vec<(Id, bool)>>) {
        if !self.sweeps {
            return std::future::pending().await;
        }
        let mut last: Option<Arc<Live>> = None;
        let mut before = Instant::now();
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            // As many as have become due: more of them when the last part took long, because nobody answered.
            let passed = std::mem::replace(&mut before, Instant::now()).elapsed();
            let part = due(self.lives.count(), passed, self.authorizer.age_max());
            let lives = self.lives.after(last.as_ref(), part);
            last = lives.last().cloned();
            if !self.authorizer.changes().are_announced() {
                self.look_at_jobs(&lives, jobs).await;
            }
            self.recheck(lives).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_is_due_once_a_round() {
        let round = Duration::from_secs(60);
        assert_eq!(due(48_000, SWEEP_EVERY, round), 200);
        assert_eq!(due(48_000, Duration::from_secs(6), round), 4800, "a part that took long is made up for");
        assert_eq!(due(48_000, Duration::from_secs(600), round), 48_000, "but nobody is looked at twice");
        assert_eq!((due(10, SWEEP_EVERY, round), due(0, SWEEP_EVERY, round)), (1, 1));
        assert_eq!(due(10, SWEEP_EVERY, Duration::ZERO), 10);
    }

    /// Whoever comes by again makes no doubt younger, or one that is looked at often would never last long enough to end its stream.
    #[tokio::test(start_paused = true)]
    async fn a_doubt_is_as_old_as_it_is() {
        let (doubts, begun) = (Doubts::default(), Instant::now());
        let live =
            Arc::new(Live::new(ConnectionId(1), Principal::for_test("ada"), Arc::from([]), None, (false, false)));
        doubts.add(&live, begun);
        let taken = doubts.take().0.pop().unwrap();
        tokio::time::advance(DOUBT_MAX).await;
        doubts.add(&live, Instant::now());
        doubts.add(&taken.0, taken.1);
        doubts.add(&live, Instant::now());
        assert_eq!(doubts.take().0.pop().unwrap().1, begun);
    }

    /// More than can be remembered: since when one of them is in doubt is not forgotten, or as long as there are so many nobody's doubt
    /// would ever last long enough to end them.
    #[tokio::test(start_paused = true)]
    async fn too_many_doubts_are_not_younger_ones() {
        let (doubts, begun) = (Doubts::default(), Instant::now());
        tokio::time::advance(DOUBT_MAX).await;
        let live =
            |n| Arc::new(Live::new(ConnectionId(n), Principal::for_test("ada"), Arc::from([]), None, (false, false)));
        for n in 0..2 * DOUBTFUL_MAX as u64 {
            doubts.add(&live(n), if n == 7 { begun } else { Instant::now() });
        }
        let (streams, everything) = doubts.take();
        assert!(streams.len() <= DOUBTFUL_MAX);
        assert_eq!(everything, Some(begun));
    }
}
