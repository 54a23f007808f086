//! What HTTP/2 is for: a page with more streams than a browser opens connections.

use serde_json::json;

use crate::browser::PATIENCE;
use crate::support::app::World;
use crate::support::browser::Browser;
use crate::support::tokens;

const STREAMS: u64 = 20;
const UPDATES: u64 = 5;

/// Twenty streams, a WebSocket and ordinary requests of one page, over TLS: all are served, over two connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_more_than_six_streams() {
    let mut world = World::embedded().await.secured();
    world.config.allow_query_token = true;
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    let handshakes = app.app.shared.metrics.tls_handshakes.with_label_values(&["done"]);
    let before = handshakes.get();
    let base = format!("https://localhost:{}", app.app.address.port());
    let mut page = Browser::trusting(&format!("{base}/health/live"), &world.tls().0.fingerprint).await;
    let token = tokens::for_user("ada");
    let open = format!(
        "window.seen = Array.from({{ length: {STREAMS} }}, () => []);
         window.sources = seen.map((told) => {{
           const source = new EventSource('/v1/events?channels=jobs.a&token={token}');
           source.addEventListener('ready', () => told.push('ready'));
           source.addEventListener('job:update', (e) => {{ const d = JSON.parse(e.data); if (!d.snapshot) told.push(d.data.n); }});
           return source;
         }});
         window.spoken = [];
         window.socket = new WebSocket('wss://' + location.host + '/v1/ws?channels=jobs.a', ['tidings.v1', 'access_token.{token}']);
         socket.onmessage = (e) => spoken.push(JSON.parse(e.data).event);
         true"
    );
    page.eval(&open).await;
    page.until("all streams are ready", PATIENCE, "seen.every(told => told[0] === 'ready')").await;
    page.until("the WebSocket is ready", PATIENCE, "spoken.includes('ready')").await;
    for n in 1..=UPDATES {
        app.progress("a", n).await;
    }
    page.until("all have the last", PATIENCE, "seen.every(told => told.at(-1) === 5)").await;
    assert_eq!(page.eval("seen.every(told => told.join() === 'ready,1,2,3,4,5')").await, json!(true));
    let protocol = "fetch('/health/live').then(a => a.text()).then(() => performance.getEntriesByType('resource').at(-1).nextHopProtocol)";
    assert_eq!(page.eval(protocol).await, json!("h2"));
    assert_eq!(app.metric("realtime_active_connections{transport=\"sse\"}"), STREAMS as f64);
    // One of HTTP/2, one for the WebSocket, and at most two that the browser opened and did not need. Each `progress` was one more,
    // through the tunnel.
    let made = handshakes.get() - before - UPDATES;
    assert!((2..=4).contains(&made), "{made} connections");
    drop(page);
    app.until_empty().await;
    app.app.stop().await;
}
