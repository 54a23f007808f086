//! From a principal and channels to grants: asked of the database in batches, remembered for a bounded time.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::Principal;
use crate::auth::changes::Changes;
use crate::auth::directory::Directory;
use crate::auth::directory::UNANNOUNCED_MAX;
use crate::cache::Cache;
use crate::config::Config;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::store::Role;
use crate::store::Store;
use crate::store::StoreError;
use crate::telemetry::Metrics;

/// How old a "no" may be: somebody who was just given access tries again.
const NEGATIVE_MAX: Duration = Duration::from_secs(2);
/// Users, jobs or roles of one question.
const PREFETCH: usize = 1000;
/// Answers remembered at most: about 200 bytes each.
const ANSWERS_MAX: usize = 262_144;

/// The proof that a channel may be seen by whom it was asked for. Only an `Authorizer` makes one; an open stream's are asked for again
/// within the age of an answer (`session::rights`).
#[derive(Debug, Clone)]
pub struct Grant {
    channel: Channel,
    role: Option<Role>,
}

impl Grant {
    /// What may be seen.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The role on the document; `None` for jobs and for the user's own channel.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// A grant nobody was asked for, for tests of other modules.
    #[cfg(test)]
    #[must_use]
    pub fn for_test(channel: &str) -> Self {
        Self { channel: Channel::parse(channel).expect("tests use valid channels"), role: None }
    }
}

/// The answer about one channel.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// May be seen.
    Granted(Grant),
    /// May not be seen, or doesn't exist: the same to whoever asks.
    Denied,
    /// Can't be asked at the moment.
    Unavailable,
}

/// What the database is asked about a user: a job or a document, by its channel, whose text the streams have anyway.
pub(super) type Resource = Channel;

/// What it said. A job's owner has `Some(Owner)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remembered {
    pub(super) role: Option<Role>,
    /// Before the question was asked.
    pub(super) asked: Instant,
    /// The same by the clock of changes.
    pub(super) since: u64,
    /// For how long after that it needs no new question. Small, because there is one of these per stream and channel.
    fresh_ms: u32,
}

impl Remembered {
    fn fresh_until(&self) -> Instant {
        self.asked + Duration::from_millis(self.fresh_ms.into())
    }
}

/// A yes or a no that may be acted upon, or nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Known { role: Option<Role> },
    Unknown,
}

/// Decides who may see what.
#[derive(Debug)]
pub struct Authorizer {
    pub(super) store: Store,
    pub(super) users: Arc<Directory>,
    pub(super) answers: Cache<(Id, Resource), Remembered>,
    max_age: Duration,
    pub(super) stale_max: Duration,
    pub(super) changes: Arc<Changes>,
    metrics: Metrics,
}

impl Authorizer {
    /// With the ages of the settings.
    #[must_use]
    pub fn new(store: Store, users: Arc<Directory>, config: &Config, metrics: &Metrics) -> Self {
        Self {
            changes: Arc::clone(users.changes()),
            users,
            answers: Cache::new(ANSWERS_MAX, config.grant_stale_max),
            max_age: config.grant_max_age,
            stale_max: config.grant_stale_max,
            metrics: metrics.clone(),
            store,
        }
    }

    /// One verdict per channel, in the same order. At most one question to each table for all of them together.
    pub async fn authorize(&self, principal: &Principal, channels: &[Channel]) -> Vec<Verdict> {
        self.judge(principal, channels, true).await
    }

    /// The same without believing a "no" from before: somebody was perhaps given access just now, and asks for it.
    pub async fn authorize_anew(&self, principal: &Principal, channels: &[Channel]) -> Vec<Verdict> {
        self.judge(principal, channels, false).await
    }

    async fn judge(&self, principal: &Principal, channels: &[Channel], believes_no: bool) -> Vec<Verdict> {
        let own = self.standing(principal).await;
        let mut answers = HashMap::new();
        if matches!(own, Answer::Known { role: Some(_) }) {
            let asked: HashSet<Resource> = channels.iter().filter_map(resource).collect();
            answers = self.answers(&principal.user.id, asked, believes_no).await;
        }
        channels.iter().map(|channel| verdict(principal, channel, own, &answers)).collect()
    }

    /// The principal's role on a document, for publishing there: never older than `GRANT_MAX_AGE_MS`.
    ///
    /// # Errors
    /// The database is away and nothing fresh is remembered.
    pub async fn role(&self, principal: &Principal, document: &Id) -> Result<Option<Role>, StoreError> {
        let key = (principal.user.id.clone(), Channel::of(Kind::Docs, document));
        let asked = self.asking();
        if let Some(fresh) = self.fresh(&key) {
            return Ok(fresh.role);
        }
        let pair = (principal.user.id.clone(), document.clone());
        let role = self.store.document_roles(std::slice::from_ref(&pair)).await?.remove(&pair);
        self.remember(key, role, asked);
        Ok(role)
    }

    /// Asks together what is not known of these users and channels, so that answers about each are at hand.
    ///
    /// # Errors
    /// Not everything was answered.
    pub async fn prefetch(&self, wanted: &[(Id, Vec<Channel>)]) -> Result<(), StoreError> {
        let users: HashSet<&Id> = wanted.iter().map(|(user, _)| user).collect();
        let pairs = wanted.iter().flat_map(|(user, channels)| channels.iter().map(move |channel| (user, channel)));
        let keys: HashSet<(Id, Resource)> =
            pairs.filter_map(|(user, channel)| Some((user.clone(), resource(channel)?))).collect();
        let unknown = keys.into_iter().filter(|key| self.fresh(key).is_none());
        let (jobs, documents): (Vec<_>, Vec<_>) = unknown.partition(|(_, resource)| resource.kind() == Kind::Jobs);
        let users: Vec<Id> = users.into_iter().cloned().collect();
        let (users, jobs, documents) =
            tokio::join!(self.users.prefetch(&users), self.prefetch_jobs(jobs), self.prefetch_documents(documents));
        users.and(jobs).and(documents)
    }

    async fn prefetch_jobs(&self, keys: Vec<(Id, Resource)>) -> Result<(), StoreError> {
        for keys in keys.chunks(PREFETCH) {
            let asked = self.asking();
            let ids: Vec<Id> = keys.iter().filter_map(|(_, job)| Id::parse(job.id()).ok()).collect();
            let owners = self.store.job_owners(&ids).await?;
            for key in keys {
                let role = owners.get(key.1.id()).filter(|owner| **owner == key.0).map(|_| Role::Owner);
                self.remember(key.clone(), role, asked);
            }
        }
        Ok(())
    }

    async fn prefetch_documents(&self, keys: Vec<(Id, Resource)>) -> Result<(), StoreError> {
        for keys in keys.chunks(PREFETCH) {
            let asked = self.asking();
            let pair = |(user, document): &(Id, Resource)| Some((user.clone(), Id::parse(document.id()).ok()?));
            let pairs: Vec<(Id, Id)> = keys.iter().filter_map(pair).collect();
            let roles = self.store.document_roles(&pairs).await?;
            for key in keys {
                let role = pair(key).and_then(|pair| roles.get(&pair).copied());
                self.remember(key.clone(), role, asked);
            }
        }
        Ok(())
    }

    /// Whether the user exists and is enabled; `None`: that can't be asked at the moment.
    pub async fn admits(&self, principal: &Principal) -> Option<bool> {
        match self.standing(principal).await {
            Answer::Known { role } => Some(role.is_some()),
            Answer::Unknown => None,
        }
    }

    /// What the database said has changed.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Answers that are remembered, and users.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (self.answers.entries(), self.users.entries())
    }

    /// Forgets what is too old, and never returns; run it beside the server.
    pub async fn maintain(&self) {
        loop {
            tokio::time::sleep(self.stale_max).await;
            self.answers.prune();
            self.users.prune();
        }
    }

    /// Whether the user still exists and is enabled: a stream outlives the look-up that its principal had at the start.
    async fn standing(&self, principal: &Principal) -> Answer {
        let holds = self.changes.user_holds(principal.since, &principal.user.id);
        if principal.checked.elapsed() < self.age_max() && holds {
            return Answer::Known { role: Some(Role::Owner) };
        }
        match self.users.find(&principal.user.id).await {
            Ok(found) => Answer::Known { role: found.is_good().then_some(Role::Owner) },
            Err(_) if principal.checked.elapsed() < self.stale_max && holds => {
                Answer::Known { role: Some(Role::Owner) }
            }
            Err(_) => Answer::Unknown,
        }
    }

    async fn answers(&self, user: &Id, asked: HashSet<Resource>, believes_no: bool) -> HashMap<Resource, Answer> {
        let mut answers = HashMap::with_capacity(asked.len());
        let (mut jobs, mut documents) = (Vec::new(), Vec::new());
        for resource in asked {
            let known = self.fresh(&(user.clone(), resource.clone()));
            match known.filter(|known| believes_no || known.role.is_some()) {
                Some(known) => {
                    self.count("cache", 1);
                    answers.insert(resource, Answer::Known { role: known.role });
                }
                None if resource.kind() == Kind::Jobs => jobs.push(resource),
                None => documents.push(resource),
            }
        }
        let (jobs, documents) =
            futures_util::future::join(self.ask_jobs(user, jobs), self.ask_documents(user, documents)).await;
        answers.extend(jobs);
        answers.extend(documents);
        answers
    }

    async fn ask_jobs(&self, user: &Id, jobs: Vec<Resource>) -> Vec<(Resource, Answer)> {
        if jobs.is_empty() {
            return Vec::new();
        }
        let asked = self.asking();
        let ids = ids(&jobs);
        let owners = self.store.job_owners(&ids).await;
        let role =
            |id: &Id, owners: &HashMap<Id, Id>| owners.get(id).filter(|owner| *owner == user).map(|_| Role::Owner);
        self.learn(user, jobs, ids, asked, &owners.as_ref().map(|owners| |id: &Id| role(id, owners)))
    }

    async fn ask_documents(&self, user: &Id, documents: Vec<Resource>) -> Vec<(Resource, Answer)> {
        if documents.is_empty() {
            return Vec::new();
        }
        let asked = self.asking();
        let ids = ids(&documents);
        let pairs: Vec<(Id, Id)> = ids.iter().map(|id| (user.clone(), id.clone())).collect();
        let roles = self.store.document_roles(&pairs).await;
        let role = |id: &Id, roles: &HashMap<(Id, Id), Role>| roles.get(&(user.clone(), id.clone())).copied();
        self.learn(user, documents, ids, asked, &roles.as_ref().map(|roles| |id: &Id| role(id, roles)))
    }

    /// Remembers what the database said; when it said nothing, falls back on a yes that is not too old.
    fn learn(
        &self,
        user: &Id,
        resources: Vec<Resource>,
        ids: Vec<Id>,
        asked: (Instant, u64),
        said: &Result<impl Fn(&Id) -> Option<Role>, &StoreError>,
    ) -> Vec<(Resource, Answer)> {
        if let Err(error) = said {
            tracing::warn!(cause = %error, "permissions can't be asked");
        }
        let answer = |(resource, id): (Resource, Id)| {
            let role = said.as_ref().ok().map(|role| role(&id));
            let key = (user.clone(), resource.clone());
            let answer = match role {
                Some(role) => {
                    self.remember(key, role, asked);
                    Answer::Known { role }
                }
                None => self.stale(&key),
            };
            (resource, answer)
        };
        resources.into_iter().zip(ids).map(answer).collect()
    }

    /// Both clocks, before a question.
    fn asking(&self) -> (Instant, u64) {
        (Instant::now(), self.changes.now())
    }

    /// How old an answer may be.
    #[must_use]
    pub fn age_max(&self) -> Duration {
        if self.changes.are_announced() { self.max_age } else { self.max_age.min(UNANNOUNCED_MAX) }
    }

    pub(super) fn fresh(&self, key: &(Id, Resource)) -> Option<Remembered> {
        let young = |known: &Remembered| {
            let now = Instant::now();
            now < known.fresh_until() && now < known.asked + self.age_max()
        };
        self.answers.get(key).filter(|known| young(known) && self.changes.holds(known.since, &key.0, &key.1))
    }

    fn remember(&self, key: (Id, Resource), role: Option<Role>, (asked, since): (Instant, u64)) {
        self.count("database", 1);
        let age = if role.is_some() { self.max_age } else { NEGATIVE_MAX.min(self.max_age) };
        // Streams that began together shouldn't all ask again together.
        let age = age.mul_f64(1.0 - 0.1 * fastrand::f64());
        let known = Remembered { role, asked, since, fresh_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX) };
        self.answers.insert(key, known);
    }

    pub(super) fn stale(&self, key: &(Id, Resource)) -> Answer {
        let known =
            self.answers.get(key).filter(|known| known.role.is_some() && known.asked.elapsed() < self.stale_max);
        // What was announced as changed is not believed, however long the database stays away.
        let known = known.filter(|known| self.changes.holds(known.since, &key.0, &key.1));
        self.count(if known.is_some() { "stale" } else { "unavailable" }, 1);
        known.map_or(Answer::Unknown, |known| Answer::Known { role: known.role })
    }

    pub(super) fn count(&self, from: &str, number: u64) {
        self.metrics.grants_cached.with_label_values(&[from]).inc_by(number);
    }
}

/// What has to be asked for a channel; the user's own needs no question.
pub(super) fn resource(channel: &Channel) -> Option<Resource> {
    match channel.kind() {
        Kind::Jobs | Kind::Docs => Some(channel.clone()),
        Kind::Presence => Id::parse(channel.id()).ok().map(|id| Channel::of(Kind::Docs, &id)),
        Kind::User => None,
    }
}

/// The ids in channels that have one each, as all of ours do.
fn ids(resources: &[Resource]) -> Vec<Id> {
    resources.iter().filter_map(|resource| Id::parse(resource.id()).ok()).collect()
}

pub(super) fn verdict(
    principal: &Principal,
    channel: &Channel,
    own: Answer,
    answers: &HashMap<Resource, Answer>,
) -> Verdict {
    let Answer::Known { role: standing } = own else { return Verdict::Unavailable };
    let answer = match channel.kind() {
        _ if standing.is_none() => return Verdict::Denied,
        Kind::User if channel.id() == principal.user.id.as_str() => own,
        Kind::User => return Verdict::Denied,
        _ => resource(channel).and_then(|resource| answers.get(&resource).copied()).unwrap_or(Answer::Unknown),
    };
    match answer {
        Answer::Unknown => Verdict::Unavailable,
        Answer::Known { role: None } => Verdict::Denied,
        Answer::Known { role } => Verdict::Granted(Grant {
            channel: channel.clone(),
            role: role.filter(|_| matches!(channel.kind(), Kind::Docs | Kind::Presence)),
        }),
    }
}
