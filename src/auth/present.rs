//! Who may see what at this moment, for people who ask why somebody did not see something.

use crate::auth::Authorizer;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;

impl Authorizer {
    /// Whether somebody may see a channel, as the database says now, for people who ask why: a word, and no grant.
    pub async fn present(&self, user: &Id, channel: &Channel) -> &'static str {
        let Ok(users) = self.store.users(std::slice::from_ref(user)).await else { return "unavailable" };
        match users.get(user) {
            None => return "no_such_user",
            Some(found) if found.disabled => return "disabled",
            Some(_) => {}
        }
        let granted = match (channel.kind(), Id::parse(channel.id())) {
            (Kind::User, _) => Ok(channel.id() == user.as_str()),
            (_, Err(_)) => Ok(false),
            (Kind::Jobs, Ok(job)) => {
                let owners = self.store.job_owners(std::slice::from_ref(&job)).await;
                owners.map(|owners| owners.get(&job) == Some(user))
            }
            (Kind::Docs | Kind::Presence, Ok(document)) => {
                let pair = (user.clone(), document);
                let roles = self.store.document_roles(std::slice::from_ref(&pair)).await;
                roles.map(|roles| roles.contains_key(&pair))
            }
        };
        match granted {
            Ok(true) => "granted",
            Ok(false) => "denied",
            Err(_) => "unavailable",
        }
    }
}
