//! Tickets of one process.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::auth::CookieHash;
use crate::auth::Holder;
use crate::auth::TicketHash;
use crate::auth::TicketStore;
use crate::auth::TicketStoreAway;
use crate::event::Id;

/// Tickets that wait to be used; beyond them none is issued.
const TICKETS_MAX: usize = 100_000;
/// Users whose cookies are remembered; beyond them a ticket is good without a cookie.
const USERS_MAX: usize = 65_536;
/// Cookies of one user; what ends first goes first.
pub(super) const COOKIES_MAX: usize = 256;

/// The in-process store.
#[derive(Debug, Default)]
pub(super) struct MemoryTickets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    tickets: HashMap<TicketHash, (Instant, Holder)>,
    /// When they end, as they were put; of those that were taken too.
    ends: VecDeque<(Instant, TicketHash)>,
    cookies: HashMap<Id, BTreeSet<(u64, CookieHash)>>,
}

impl Kept {
    fn put(&mut self, ticket: &TicketHash, holder: &Holder, life: Duration) -> Result<(), TicketStoreAway> {
        let now = Instant::now();
        while let Some((_, old)) = self.ends.pop_front_if(|(end, _)| *end <= now) {
            if self.tickets.get(&old).is_some_and(|(end, _)| *end <= now) {
                self.tickets.remove(&old);
            }
        }
        if self.ends.len() >= TICKETS_MAX {
            return Err(TicketStoreAway);
        }
        self.ends.push_back((now + life, ticket.clone()));
        self.tickets.insert(ticket.clone(), (now + life, holder.clone()));
        Ok(())
    }

    fn remember(&mut self, user: &Id, cookie: &CookieHash, expires_at: u64, now: u64) -> Result<(), TicketStoreAway> {
        if !self.cookies.contains_key(user) && self.cookies.len() >= USERS_MAX {
            self.cookies.retain(|_, cookies| cookies.last().is_some_and(|(end, _)| end + super::COOKIE_LEEWAY_S > now));
            if self.cookies.len() >= USERS_MAX {
                return Err(TicketStoreAway);
            }
        }
        let cookies = self.cookies.entry(user.clone()).or_default();
        cookies.insert((expires_at, cookie.clone()));
        while cookies.len() > COOKIES_MAX {
            cookies.pop_first();
        }
        cookies.retain(|(end, _)| end + super::COOKIE_LEEWAY_S > now);
        Ok(())
    }
}

impl TicketStore for MemoryTickets {
    fn put<'a>(
        &'a self,
        ticket: &'a TicketHash,
        holder: &'a Holder,
        life: Duration,
    ) -> BoxFuture<'a, Result<(), TicketStoreAway>> {
        std::future::ready(self.0.lock().put(ticket, holder, life)).boxed()
    }

    fn take<'a>(&'a self, ticket: &'a TicketHash) -> BoxFuture<'a, Result<Option<Holder>, TicketStoreAway>> {
        let kept = self.0.lock().tickets.remove(ticket);
        let holder = kept.filter(|(end, _)| *end > Instant::now()).map(|(_, holder)| holder);
        std::future::ready(Ok(holder)).boxed()
    }

    fn remember<'a>(
        &'a self,
        user: &'a Id,
        cookie: &'a CookieHash,
        expires_at: u64,
        now: u64,
    ) -> BoxFuture<'a, Result<(), TicketStoreAway>> {
        std::future::ready(self.0.lock().remember(user, cookie, expires_at, now)).boxed()
    }

    fn remembered<'a>(
        &'a self,
        user: &'a Id,
        cookie: &'a CookieHash,
    ) -> BoxFuture<'a, Result<Option<u64>, TicketStoreAway>> {
        let kept = self.0.lock();
        let found = kept.cookies.get(user).and_then(|cookies| cookies.iter().find(|(_, known)| known == cookie));
        std::future::ready(Ok(found.map(|(end, _)| *end))).boxed()
    }
}
