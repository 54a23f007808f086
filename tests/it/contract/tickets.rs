//! What every store of tickets promises: one winner, an end, and cookies that belong to a user.

use std::sync::Arc;
use std::time::Duration;

use tidings::auth::CookieHash;
use tidings::auth::Holder;
use tidings::auth::Scopes;
use tidings::auth::TicketHash;
use tidings::auth::TicketStore;
use tidings::event::Id;

use crate::contract::broker::Bench;
use crate::support::SOON;
use crate::support::eventually;

const LIFE: Duration = Duration::from_secs(30);
const NOW: u64 = 1_800_000_000;

fn ticket(n: usize) -> TicketHash {
    TicketHash::of(&format!("ticket {n}"))
}

fn cookie(n: usize) -> CookieHash {
    CookieHash::of(&format!("ticket {n}"), "cookie")
}

fn holder(user: &str, origin: Option<u64>) -> Holder {
    let scopes = Scopes { publish: user == "ada", admin: false };
    Holder { user: Id::parse(user).unwrap(), expires_at: NOW + 600, scopes, origin }
}

/// `stores` are of two instances that share a log, or twice the same one.
async fn all(stores: [Arc<dyn TicketStore>; 2]) {
    let [one, other] = &stores;
    // Whom it stands for comes back, once, at whichever instance.
    for (n, holder) in [holder("ada", None), holder("auth0|5f:7c@x~y", Some(u64::MAX))].into_iter().enumerate() {
        one.put(&ticket(n), &holder, LIFE).await.unwrap();
        assert_eq!(other.take(&ticket(n)).await.unwrap(), Some(holder));
        assert_eq!(one.take(&ticket(n)).await.unwrap(), None);
        assert_eq!(other.take(&ticket(n)).await.unwrap(), None);
    }
    // Of a crowd that races for one, one wins.
    for round in 100..120 {
        one.put(&ticket(round), &holder("ada", None), LIFE).await.unwrap();
        let racers = (0..32).map(|racer| {
            let store = Arc::clone(&stores[racer % 2]);
            async move { store.take(&ticket(round)).await.unwrap() }
        });
        let won = futures_util::future::join_all(racers).await.into_iter().flatten().count();
        assert_eq!(won, 1);
    }
    // It ends by itself.
    one.put(&ticket(200), &holder("ada", None), Duration::from_millis(30)).await.unwrap();
    let mut n = 201;
    eventually("a ticket ends", SOON, async || {
        n += 1;
        one.put(&ticket(n), &holder("ada", None), Duration::from_millis(1)).await.unwrap();
        tokio::time::timeout(Duration::from_millis(40), std::future::pending::<()>()).await.unwrap_err();
        other.take(&ticket(n)).await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(other.take(&ticket(200)).await.unwrap(), None);
    cookies(one.as_ref(), other.as_ref()).await;
}

async fn cookies(one: &dyn TicketStore, other: &dyn TicketStore) {
    let (ada, bob) = (Id::parse("ada").unwrap(), Id::parse("bob").unwrap());
    one.remember(&ada, &cookie(0), NOW + 600, NOW).await.unwrap();
    assert_eq!(other.remembered(&ada, &cookie(0)).await.unwrap(), Some(NOW + 600));
    assert_eq!(other.remembered(&bob, &cookie(0)).await.unwrap(), None, "it is ada's");
    assert_eq!(other.remembered(&ada, &cookie(1)).await.unwrap(), None);
    // What has ended, leeway and all, goes when the next one comes.
    one.remember(&ada, &cookie(1), NOW + 601, NOW + 629).await.unwrap();
    assert_eq!(one.remembered(&ada, &cookie(0)).await.unwrap(), Some(NOW + 600));
    one.remember(&ada, &cookie(2), NOW + 700, NOW + 630).await.unwrap();
    assert_eq!(one.remembered(&ada, &cookie(0)).await.unwrap(), None);
    assert_eq!(one.remembered(&ada, &cookie(1)).await.unwrap(), Some(NOW + 601));
    // Too many of one user: what ends first goes first.
    for n in 0..300_u64 {
        one.remember(&bob, &cookie(1000 + n as usize), NOW + 600 + n, NOW).await.unwrap();
    }
    assert_eq!(other.remembered(&bob, &cookie(1043)).await.unwrap(), None);
    assert_eq!(other.remembered(&bob, &cookie(1044)).await.unwrap(), Some(NOW + 644));
    assert_eq!(other.remembered(&bob, &cookie(1299)).await.unwrap(), Some(NOW + 899));
}

#[tokio::test]
async fn the_in_process_broker_keeps_tickets() {
    let bench = Bench::memory().await;
    all([bench.broker.tickets(), bench.broker.tickets()]).await;
    bench.stop().await;
}

#[tokio::test]
async fn redis_keeps_tickets() {
    let settings = crate::contract::broker::settings(
        crate::support::redis::RedisServer::shared().await.url(),
        crate::contract::broker::fresh_prefix(),
    );
    let (one, other) = (Bench::redis_with(settings.clone()).await, Bench::redis_with(settings).await);
    all([one.broker.tickets(), other.broker.tickets()]).await;
    one.stop().await;
    other.stop().await;
}
