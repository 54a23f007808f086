//! Tokens that end under load: their streams end with them, on every transport, and nothing is delivered afterwards.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::json;
use tidings::store::Role;
use tokio::task::JoinSet;

use crate::chaos::times;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::pace;
use crate::support::sse::SseEvent;
use crate::support::tokens;

/// Seconds for which a token is honoured beyond its `exp`.
const LEEWAY_S: u64 = 30;
/// Seconds that are left when a stream is opened.
const LEFT_S: std::ops::RangeInclusive<u64> = 3..=6;
/// Streams that are open at once.
const WAVE: usize = 100;
/// How late the end may be.
const LATE_MAX: f64 = 1.0;

/// Seconds since 1970: tokens are judged by the wall clock.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// How long after the end of its token's leeway a stream ended, and its newest delivery came.
#[derive(Debug)]
struct Ended {
    transport: Transport,
    end: f64,
    newest: f64,
    /// With what it could try to come back.
    again: (std::net::SocketAddr, String, Option<String>),
}

impl Ended {
    /// Not while others are measured: a thousand times three handshakes are a load of their own.
    async fn assert_refused(&self) {
        let (addr, token, cursor) = &self.again;
        for transport in Transport::ALL {
            let refused = Client::open(transport, *addr, token, "channels=docs.d", cursor.as_deref()).await;
            assert_eq!(refused.unwrap_err().status, 401, "{transport:?}");
        }
    }
}

async fn until_expired(addr: std::net::SocketAddr, transport: Transport, user: String) -> Ended {
    // What is left of its leeway: enough to open a stream among so many.
    let exp = tokens::now_s() - LEEWAY_S + fastrand::u64(LEFT_S);
    let (token, over) = (tokens::for_user_until(&user, exp), (exp + LEEWAY_S) as f64);
    let mut client = Client::open(transport, addr, &token, "channels=docs.d", None).await.unwrap();
    let (mut newest, mut end, mut said) = (f64::MIN, f64::MIN, false);
    while let Some(event) = client.next(Duration::from_secs(20)).await {
        match event.event.as_str() {
            "end" => {
                assert_eq!(event.text("reason"), "token_expired");
                (end, said) = (now() - over, true);
            }
            "doc:update" => {
                assert!(!said, "{transport:?}: something after the end");
                newest = now() - over;
            }
            _ => {}
        }
    }
    assert!(client.has_ended(), "{transport:?} goes on");
    if !said {
        // The token ended between two polls, and the next one was refused.
        assert_eq!((transport, client.end_code()), (Transport::Poll, Some(401)));
        end = now() - over;
    }
    Ended { transport, end, newest, again: (addr, token, client.cursor().map(str::to_owned)) }
}

async fn publish(app: &TestApp, stop: &AtomicBool) {
    let mut every = tokio::time::interval(Duration::from_millis(20));
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        app.publish(json!({ "channel": "docs.d", "data": { "n": n } })).await;
        every.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_the_end_within_a_second() {
    let count = times(60, 1000);
    let world = World::full().await.mixed();
    let users: Vec<String> = (0..10).map(|n| format!("e{n}")).collect();
    let roles: Vec<(&str, Role)> = users.iter().map(|user| (user.as_str(), Role::Viewer)).collect();
    world.people(&[("owner", &[])]).await;
    world.document("d", "owner", &roles).await;
    let apps = [world.start().await, world.start().await];
    // The load goes on beyond the end of all of them, and is delivered to others.
    let token = tokens::for_user("owner");
    let mut witness = Client::open(Transport::Sse, apps[0].addr, &token, "channels=docs.d", None).await.unwrap();
    let stop = AtomicBool::new(false);
    let reading = async {
        let mut ended = Vec::new();
        for wave in 0..count.div_ceil(WAVE) {
            let mut readers = JoinSet::new();
            for n in wave * WAVE..count.min((wave + 1) * WAVE) {
                let (addr, transport) = (apps[n / 3 % 2].addr, Transport::ALL[n % 3]);
                readers.spawn(until_expired(addr, transport, users[n % users.len()].clone()));
                pace(Duration::from_millis(2)).await;
            }
            let wave = readers.join_all().await;
            for one in &wave {
                one.assert_refused().await;
            }
            ended.extend(wave);
        }
        stop.store(true, Ordering::Relaxed);
        ended
    };
    let (ended, ()) = tokio::join!(reading, publish(&apps[0], &stop));
    let published = |event: &SseEvent| event.event == "doc:update";
    witness.until_that("what others saw until then", published).await;
    let latest = |of: fn(&Ended) -> f64| ended.iter().map(of).fold(f64::MIN, f64::max);
    let heard = ended.iter().filter(|ended| ended.newest > f64::MIN).count();
    println!(
        "expiries: {count}, ends at most {:.3} s after exp and leeway, newest delivery {:.3} s, {heard} heard something before",
        latest(|ended| ended.end),
        latest(|ended| ended.newest)
    );
    assert!(heard * 10 > count * 9, "there was something to be delivered");
    for one in &ended {
        assert!((0.0..=LATE_MAX).contains(&one.end) && one.newest <= one.end, "{:?}: {one:?}", one.transport);
    }
    drop(witness);
    for app in apps {
        app.until_empty().await;
        app.app.stop().await;
    }
}
