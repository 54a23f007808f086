//! A bare `EventSource` on another origin.

use serde_json::json;

use crate::browser::PATIENCE;
use crate::support::app::World;
use crate::support::browser::Browser;
use crate::support::browser::Origin;
use crate::support::process::Server;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::Mode;
use crate::support::redis::RedisServer;
use crate::support::tokens;

/// A page with nothing but `EventSource`, on another origin than the service: it sees updates, survives the kill of its
/// instance, and shows how the job ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_bare_event_source_on_another_origin_survives_a_kill() {
    let server = RedisServer::shared().await;
    let world = World::redis().await;
    world.people(&[("ada", &["a"])]).await;
    let origin = Origin::serve(include_str!("../../browser/page.html")).await;
    let allowed = format!("http://{}", origin.addr);
    let mut env = world.env();
    env.extend([("CORS_ORIGINS", allowed.clone()), ("ALLOW_QUERY_TOKEN", "true".to_owned())]);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (mut one, two) = (Server::spawn(&env).await, Server::spawn(&env).await);
    let proxy = ChaosProxy::start(one.addr()).await;
    let publish = async |status: &str, n: u64| {
        let update = json!({"jobId": "a", "status": status, "progress": n}).to_string();
        assert!(server.publish(&world.config.job_updates_channel, update).await > 0);
    };
    let token = tokens::for_user("ada");
    let url = format!("{allowed}/?service=http://{}&channels=jobs.a&token={token}", proxy.addr());
    let mut page = Browser::open(&url).await;
    page.until("the stream is ready", PATIENCE, "seen.some(e => e.event === 'ready')").await;
    publish("running", 10).await;
    page.until("the update shows", PATIENCE, "seen.some(e => e.event === 'job:update' && e.data.progress === 10)")
        .await;
    proxy.set_mode(Mode::Refuse);
    one.kill();
    publish("running", 20).await;
    proxy.set_target(two.addr());
    proxy.set_mode(Mode::Pass);
    page.until("it came back to the other instance and resumed", PATIENCE, "seen.filter(e => e.event === 'connected').length > 1 && seen.findLast(e => e.event === 'connected').data.channels[0].verdict === 'resumed'").await;
    publish("completed", 100).await;
    page.until(
        "it shows the end",
        PATIENCE,
        "seen.some(e => e.event === 'job:update' && e.data.status === 'completed')",
    )
    .await;
    let progress =
        page.eval("seen.filter(e => e.event === 'job:update' && !e.data.snapshot).map(e => e.data.progress)").await;
    assert_eq!(progress, json!([10, 20, 100]), "nothing lost, nothing repeated");
    assert_eq!(page.eval("document.body.innerText.includes('completed')").await, true);
}

/// The examples for WebSocket and long-poll, as they are: they show what happens, also what happened while they were cut off.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_come_back_by_themselves() {
    let examples =
        [include_str!("../../../examples/browser-websocket.html"), include_str!("../../../examples/browser-poll.html")];
    for example in examples {
        let origin = Origin::serve(example).await;
        let mut world = World::embedded().await;
        world.config.cors_origins = vec![origin.by_name()];
        world.people(&[("ada", &["a"])]).await;
        let app = world.start().await;
        let proxy = ChaosProxy::start(app.addr).await;
        let (page, service, token) = (origin.by_name(), proxy.addr(), tokens::for_user("ada"));
        let mut page = Browser::open(&format!("{page}/?service=http://{service}&channels=jobs.a&token={token}")).await;
        let shows = |n: u64| format!("document.body.innerText.includes('\"n\":{n}}}')");
        page.until("the state shows", PATIENCE, "document.body.innerText.includes('queued')").await;
        app.progress("a", 1).await;
        page.until("an update shows", PATIENCE, &shows(1)).await;
        proxy.set_mode(Mode::Refuse);
        proxy.reset_all();
        app.progress("a", 2).await;
        proxy.set_mode(Mode::Pass);
        page.until("what it missed shows", PATIENCE, &shows(2)).await;
        app.progress("a", 3).await;
        page.until("what follows shows", PATIENCE, &shows(3)).await;
        let told = "document.body.innerText.match(/\"n\":\\d+/g)";
        assert_eq!(page.eval(told).await, json!(["\"n\":3", "\"n\":2", "\"n\":1"]), "each once, newest first");
        app.app.stop().await;
    }
}
