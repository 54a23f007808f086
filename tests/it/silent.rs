//! B-86, the last part: a WebSocket whose client answers no ping is gone after two of them; one that is only quiet stays.
//! Every 25 s as in production by `make chaos`, far more often here.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chaos::times;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::Mode;
use crate::support::tokens;
use crate::support::wire::Wire;
use crate::support::ws::WsClient;
use crate::support::ws::handshake;

const SOCKETS: &str = "realtime_active_connections{transport=\"ws\"}";
const GONE: &str = "realtime_ended_total{reason=\"client_gone\"}";
/// How late anything may be on a busy machine, and what a task that has given up on its client still waits for a close.
const LATE: Duration = Duration::from_secs(9);

fn ping_every() -> Duration {
    Duration::from_millis(times(600, 25_000) as u64)
}

async fn connect(addr: std::net::SocketAddr, user: &str) -> WsClient {
    let authorization = format!("Bearer {}", tokens::for_user(user));
    let path = format!("/v1/ws?channels=jobs.{user}");
    let opened = WsClient::connect(addr, &path, &[("Authorization", &authorization)]).await;
    let mut client = opened.unwrap_or_else(|answer| panic!("{}", answer.text()));
    client.until("ready").await;
    client
}

/// In what way somebody is not there.
#[derive(Debug, Clone, Copy)]
enum How {
    /// Reads everything and answers nothing.
    Mute,
    /// Reads nothing either.
    Deaf,
    /// Would answer; the network swallows everything.
    Swallowed,
}

const HOWS: [How; 3] = [How::Mute, How::Deaf, How::Swallowed];

/// Somebody who is not there, and since when.
#[derive(Debug)]
struct Silent {
    _reading: JoinSet<()>,
    _wire: Option<Wire>,
    _network: Option<ChaosProxy>,
    since: Instant,
}

fn read(mut client: WsClient) -> JoinSet<()> {
    let mut reading = JoinSet::new();
    reading.spawn(async move { while client.next_message(Duration::from_secs(120)).await.is_some() {} });
    reading
}

impl Silent {
    async fn at(app: &TestApp, how: How) -> Self {
        let (mut reading, mut wire, mut network) = (JoinSet::new(), None, None);
        match how {
            How::Mute => {
                let mut client = connect(app.addr, "ada").await;
                client.polite = false;
                reading = read(client);
            }
            How::Deaf => {
                let authorization = format!("Bearer {}", tokens::for_user("ada"));
                let headers = handshake(&[("Authorization", &authorization)]);
                let connected = wire.insert(Wire::connect(app.addr).await.unwrap());
                let request = http::bytes_of(app.addr, "GET", "/v1/ws?channels=jobs.ada", &headers, b"");
                connected.send(&request).await.unwrap();
                assert_eq!(connected.head().await.unwrap().status, 101);
            }
            How::Swallowed => {
                let proxy = network.insert(ChaosProxy::start(app.addr).await);
                let client = connect(proxy.addr(), "ada").await;
                proxy.set_mode(Mode::Swallow);
                reading = read(client);
            }
        }
        Self { _reading: reading, _wire: wire, _network: network, since: Instant::now() }
    }
}

/// Answers for how long the silent one was borne.
async fn until_gone(app: &TestApp, silent: Silent) -> Duration {
    let patience = ping_every() * 3 + LATE;
    eventually("whoever answers nothing is gone", patience, async || (app.metric(GONE) == 1.0).then_some(())).await;
    silent.since.elapsed()
}

/// The honest one has nothing to say either, but is there.
async fn beside_an_honest_one(takeover: bool, how: How) -> (Duration, usize) {
    let mut world = World::embedded().await;
    world.config.sse_takeover = takeover;
    world.config.hooks.ping = ping_every();
    world.people(&[("ada", &["ada"]), ("eve", &["eve"])]).await;
    let app = world.start().await;
    let mut honest = connect(app.addr, "eve").await;
    let mut gone = Box::pin(async { until_gone(&app, Silent::at(&app, how).await).await });
    let (begun, mut borne) = (Instant::now(), None);
    // One ping longer than anybody who is silent may stay.
    while borne.is_none() || begun.elapsed() < ping_every() * 4 {
        tokio::select! {
            lasted = &mut gone, if borne.is_none() => borne = Some(lasted),
            _ = honest.next_message(Duration::from_millis(50)) => assert!(!honest.has_ended(), "whoever answers stays"),
        }
    }
    drop(gone);
    let borne = borne.unwrap();
    assert!(honest.pings >= 3, "{} pings", honest.pings);
    app.progress("eve", 1).await;
    assert_eq!(honest.until("job:update").await.pop().unwrap().data["data"]["n"], 1, "it is still a stream");
    assert_eq!(app.metric(SOCKETS), 1.0);
    let pings = honest.pings;
    drop(honest);
    app.until_empty().await;
    app.app.stop().await;
    (borne, pings)
}

#[tokio::test(flavor = "multi_thread")]
async fn b86_whoever_answers_no_ping_is_gone_after_two() {
    let cases = [true, false].into_iter().flat_map(|takeover| HOWS.map(|how| (takeover, how)));
    let running = cases.map(async |(takeover, how)| (how, takeover, beside_an_honest_one(takeover, how).await));
    let every = ping_every();
    for (how, takeover, (borne, pings)) in join_all(running).await {
        println!(
            "b86: {how:?}, takeover={takeover}: gone after {borne:.1?}; the honest one answered {pings} pings and stayed"
        );
        // Two pings are asked and left unanswered; where the first of them falls is up to the lane.
        assert!(borne > every * 3 / 2 && borne < every * 3 + LATE, "{how:?}, takeover={takeover}: {borne:?}");
    }
}
