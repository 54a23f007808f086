//! What is known of open streams without asking: when ten thousand are looked at, they are asked about together or not at all.

use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::Authorizer;
use crate::auth::Principal;
use crate::auth::Verdict;
use crate::auth::authorizer::Answer;
use crate::auth::authorizer::Remembered;
use crate::auth::authorizer::Resource;
use crate::auth::authorizer::resource;
use crate::auth::authorizer::verdict;
use crate::event::Channel;
use crate::event::Id;
use crate::store::Role;

/// What is known of a user's channels without asking.
#[derive(Debug)]
pub enum Recalled {
    /// One verdict per channel, in the same order.
    Verdicts(Vec<Verdict>),
    /// The user may not come in any more.
    Disabled,
    /// Not even whether the user may come in.
    Unknown,
}

impl Authorizer {
    /// What can be said of these channels without asking: what was asked at `asked` or later counts, and what is fresh, and a yes that is
    /// not too old. When ten thousand streams are looked at, nobody is asked about each of them.
    pub fn recall(&self, principal: &Principal, channels: &[Channel], asked: Instant) -> Recalled {
        let user = &principal.user.id;
        let own = self.recall_standing(principal, asked);
        match own {
            Answer::Unknown => return Recalled::Unknown,
            Answer::Known { role: None } => return Recalled::Disabled,
            Answer::Known { role: Some(_) } => {}
        }
        let resources: HashSet<Resource> = channels.iter().filter_map(resource).collect();
        let answer = |resource: Resource| {
            let key = (user.clone(), resource);
            let answer = self.recall_answer(&key, asked);
            (key.1, answer)
        };
        let answers: HashMap<Resource, Answer> = resources.into_iter().map(answer).collect();
        Recalled::Verdicts(channels.iter().map(|channel| verdict(principal, channel, own, &answers)).collect())
    }

    fn recall_standing(&self, principal: &Principal, asked: Instant) -> Answer {
        let holds = self.changes.user_holds(principal.since, &principal.user.id);
        let checked = |age: Duration| holds && principal.checked.elapsed() < age;
        match self.users.recall(&principal.user.id, asked) {
            _ if checked(self.age_max()) => Answer::Known { role: Some(Role::Owner) },
            Some(found) => Answer::Known { role: found.is_good().then_some(Role::Owner) },
            None if checked(self.stale_max) => Answer::Known { role: Some(Role::Owner) },
            None => Answer::Unknown,
        }
    }

    fn recall_answer(&self, key: &(Id, Resource), asked: Instant) -> Answer {
        let since = |known: &Remembered| known.asked >= asked && self.changes.holds(known.since, &key.0, &key.1);
        match self.fresh(key).or_else(|| self.answers.get(key).filter(since)) {
            Some(known) => {
                self.count("cache", 1);
                Answer::Known { role: known.role }
            }
            None => self.stale(key),
        }
    }
}
