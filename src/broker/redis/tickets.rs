//! Tickets in Redis: a key for each until it is used, and for each user the cookies of those that were.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::Script;

use crate::auth::CookieHash;
use crate::auth::Holder;
use crate::auth::Scopes;
use crate::auth::TicketHash;
use crate::auth::TicketStore;
use crate::auth::TicketStoreAway;
use crate::broker::BrokerError;
use crate::broker::COOKIE_LEEWAY_S;
use crate::broker::RedisBroker;
use crate::broker::tickets::COOKIES_MAX;
use crate::event::Id;

/// The store that all instances share.
#[derive(Debug)]
pub(crate) struct RedisTickets {
    broker: RedisBroker,
    remember: Script,
}

impl RedisTickets {
    pub(crate) fn new(broker: RedisBroker) -> Self {
        Self { broker, remember: Script::new(include_str!("remember.lua")) }
    }

    fn key(&self, name: &str, rest: &str) -> String {
        format!("{}:{name}:{rest}", self.broker.shared.settings.prefix)
    }

    async fn query<T: redis::FromRedisValue>(&self, command: redis::Cmd) -> Result<T, TicketStoreAway> {
        self.broker.shared.link.query(&command).await.map_err(|error| away(&error))
    }
}

fn away(error: &BrokerError) -> TicketStoreAway {
    tracing::warn!(%error, "tickets can't be asked for");
    TicketStoreAway
}

/// `expires_at scopes origin user`
fn text(holder: &Holder) -> String {
    let Holder { user, expires_at, scopes, origin } = holder;
    let scopes = u8::from(scopes.publish) | u8::from(scopes.admin) << 1;
    let origin = origin.map_or("-".to_owned(), |origin| origin.to_string());
    format!("{expires_at} {scopes} {origin} {user}")
}

fn holder(text: &str) -> Option<Holder> {
    let mut parts = text.splitn(4, ' ');
    let expires_at = parts.next()?.parse().ok()?;
    let scopes: u8 = parts.next()?.parse().ok()?;
    let origin = match parts.next()? {
        "-" => None,
        number => Some(number.parse().ok()?),
    };
    let scopes = Scopes { publish: scopes & 1 != 0, admin: scopes & 2 != 0 };
    Some(Holder { user: Id::parse(parts.next()?).ok()?, expires_at, scopes, origin })
}

impl TicketStore for RedisTickets {
    fn put<'a>(
        &'a self,
        ticket: &'a TicketHash,
        holder: &'a Holder,
        life: Duration,
    ) -> BoxFuture<'a, Result<(), TicketStoreAway>> {
        let mut set = redis::cmd("SET");
        set.arg(self.key("ticket", ticket.as_str())).arg(text(holder));
        set.arg("PX").arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        async move { self.query::<String>(set).await.map(drop) }.boxed()
    }

    fn take<'a>(&'a self, ticket: &'a TicketHash) -> BoxFuture<'a, Result<Option<Holder>, TicketStoreAway>> {
        let mut take = redis::cmd("GETDEL");
        take.arg(self.key("ticket", ticket.as_str()));
        async move { Ok(self.query::<Option<String>>(take).await?.and_then(|text| holder(&text))) }.boxed()
    }

    fn remember<'a>(
        &'a self,
        user: &'a Id,
        cookie: &'a CookieHash,
        expires_at: u64,
        now: u64,
    ) -> BoxFuture<'a, Result<(), TicketStoreAway>> {
        async move {
            let mut call = self.remember.prepare_invoke();
            call.key(self.key("cookies", user.as_str())).arg(cookie.as_str()).arg(expires_at).arg(now);
            call.arg(COOKIES_MAX).arg(COOKIE_LEEWAY_S);
            self.broker.shared.link.invoke::<i64>(call).await.map(drop).map_err(|error| away(&error))
        }
        .boxed()
    }

    fn remembered<'a>(
        &'a self,
        user: &'a Id,
        cookie: &'a CookieHash,
    ) -> BoxFuture<'a, Result<Option<u64>, TicketStoreAway>> {
        let mut score = redis::cmd("ZSCORE");
        score.arg(self.key("cookies", user.as_str())).arg(cookie.as_str());
        async move {
            let end: Option<String> = self.query(score).await?;
            Ok(end.and_then(|end| end.parse().ok()))
        }
        .boxed()
    }
}
