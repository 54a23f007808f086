//! Pages of another origin, and of another site, with a token: a stream that they edit, renew and lose a part of, by
//! EventSource with a ticket and by WebSocket, whatever cookies the browser keeps.
//!
//! The page is at `http://localhost`, the service at `http://127.0.0.1`: two sites, and both names are trustworthy enough for
//! `Secure` cookies without TLS.

use serde_json::json;
use tidings::store::Role;

use crate::browser::PATIENCE;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::id;
use crate::support::browser::Browser;
use crate::support::browser::Cookies;
use crate::support::browser::Origin;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::Mode;
use crate::support::tokens;

/// A service behind a network that can be cut, and a page elsewhere.
struct Across {
    world: World,
    app: TestApp,
    proxy: ChaosProxy,
    origin: Origin,
}

/// A token that ends this many seconds from now; the leeway is 30 s, so it may have ended a little ago.
fn token_for(seconds: i64) -> String {
    tokens::for_user_until("ada", tokens::now_s().checked_add_signed(seconds).unwrap())
}

impl Across {
    async fn start() -> Self {
        let origin = Origin::serve(include_str!("../../browser/across.html")).await;
        let mut world = World::redis().await;
        world.config.cors_origins = vec![origin.by_name()];
        world.people(&[("ada", &["a"]), ("eve", &[])]).await;
        for document in ["kept", "lost", "added"] {
            world.document(document, "eve", &[("ada", Role::Viewer)]).await;
        }
        let app = world.start().await;
        app.until_announced().await;
        let proxy = ChaosProxy::start(app.addr).await;
        Self { world, app, proxy, origin }
    }

    async fn open(&self, way: &str, token: &str, cookies: Cookies) -> Browser {
        let (page, service) = (self.origin.by_name(), self.proxy.addr());
        let channels = "jobs.a,docs.kept,docs.lost";
        let url = format!(
            "{page}/?service=http://{service}&way={way}&channels={channels}&session=across-sites&token={token}"
        );
        let mut page = Browser::with_cookies(&url, cookies).await;
        page.until("the stream is ready", PATIENCE, "seen.some(e => e.event === 'ready')").await;
        page
    }

    async fn says(&self, document: &str, n: u64) {
        self.app.publish(json!({ "channel": format!("docs.{document}"), "data": { "n": n } })).await;
    }

    async fn told(&self, page: &mut Browser, document: &str, n: u64) {
        self.says(document, n).await;
        let heard = format!("seen.some(e => e.data.channel === 'docs.{document}' && e.data.n === {n})");
        page.until("the page hears it", PATIENCE, &heard).await;
    }

    /// A channel is added, one is taken away, the token is renewed.
    async fn edit(&self, page: &mut Browser) {
        self.told(page, "kept", 1).await;
        let added = page.eval("subscribe(['docs.added', 'jobs.of-nobody'])").await;
        assert_eq!(added["channels"], json!([{ "channel": "docs.added", "verdict": "live" }]), "{added}");
        assert_eq!(added["denied"], json!([{ "channel": "jobs.of-nobody", "code": "PERMISSION_DENIED" }]));
        page.until("the stream says so", PATIENCE, &says("subscribed", "docs.added")).await;
        self.told(page, "added", 2).await;
        let left = page.eval("unsubscribe(['jobs.a'])").await;
        assert_eq!(left["type"], "ack", "{left}");
        page.until("the stream says so", PATIENCE, &says("unsubscribed", "jobs.a")).await;
        page.until("it was warned", PATIENCE, "seen.some(e => e.event === 'token:expiring')").await;
        let foreign = page.eval(&format!("renew({})", json!(tokens::for_user("eve")))).await;
        assert_eq!(foreign["code"], "PERMISSION_DENIED", "{foreign}");
        let renewed = page.eval(&format!("renew({})", json!(tokens::for_user("ada")))).await;
        assert_eq!(renewed["type"], "ack", "{renewed}");
    }

    /// One row is deleted: that channel leaves, and nothing of it comes any more.
    async fn lose(&self, page: &mut Browser) {
        self.told(page, "lost", 3).await;
        self.world.store.remove_role(&id("lost"), &id("ada")).await.unwrap();
        let gone = "seen.some(e => e.event === 'unsubscribed' && e.data.channel === 'docs.lost' && e.data.reason === 'revoked')";
        page.until("the channel left", PATIENCE, gone).await;
        self.says("lost", 4).await;
        self.told(page, "kept", 5).await;
    }

    /// The network is gone for a moment, in which something happens; the page comes back by itself.
    async fn cut(&self, page: &mut Browser) {
        let connected = page.eval("seen.filter(e => e.event === 'connected').length").await.as_u64().unwrap();
        self.proxy.set_mode(Mode::Refuse);
        self.proxy.reset_all();
        page.until("it is cut", PATIENCE, "!isOpen").await;
        for (document, n) in [("kept", 6), ("added", 7), ("lost", 8)] {
            self.says(document, n).await;
        }
        self.app.progress("a", 9).await;
        self.proxy.set_mode(Mode::Pass);
        let back = format!("isOpen && seen.filter(e => e.event === 'connected').length > {connected}");
        page.until("it came back", PATIENCE, &back).await;
        self.told(page, "kept", 10).await;
        let last = page.eval("seen.findLast(e => e.event === 'connected').data").await;
        let channels = json!([
            { "channel": "docs.kept", "verdict": "resumed" }, { "channel": "docs.added", "verdict": "resumed" },
        ]);
        assert_eq!(last["channels"], channels, "edits outlive the connection");
        assert_eq!(last["denied"], json!([{ "channel": "docs.lost", "code": "PERMISSION_DENIED" }]));
    }

    /// Each event that was for the page, once and in order.
    async fn check(&self, page: &mut Browser) {
        let heard = page.eval("seen.filter(e => e.event === 'doc:update').map(e => e.data.n)").await;
        assert_eq!(heard, json!([1, 2, 3, 5, 6, 7, 10]), "nothing lost, nothing repeated, nothing that it may not see");
        assert_eq!(page.eval("seen.filter(e => ['end', 'reset', 'problem'].includes(e.event))").await, json!([]));
        assert_eq!(page.eval("new Set(seen.filter(e => e.event === 'doc:update').map(e => e.id)).size").await, 7);
    }

    async fn keeps_third_party_cookies(&self, page: &mut Browser) -> bool {
        let sent = page.eval(&format!("thirdParty('http://{}/cookie')", self.origin.addr)).await;
        sent.as_str().unwrap().contains("plain=1")
    }
}

fn says(event: &str, channel: &str) -> String {
    format!("seen.some(e => e.event === '{event}' && e.data.channel === '{channel}')")
}

/// One ticket: after the cut the browser's own reconnect is judged by the cookie that came with it. That cookie is
/// partitioned, so it is kept as well where the ordinary ones of other sites are not.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_with_a_ticket_comes_back_by_its_cookie() {
    for (cookies, ordinary) in [(Cookies::Kept, true), (Cookies::FirstParty, false)] {
        let across = Across::start().await;
        let mut page = across.open("sse", &token_for(50), cookies).await;
        assert_eq!(across.keeps_third_party_cookies(&mut page).await, ordinary, "{cookies:?}");
        across.edit(&mut page).await;
        across.lose(&mut page).await;
        across.cut(&mut page).await;
        across.check(&mut page).await;
        assert_eq!(page.eval("[tickets, gaveUp]").await, json!([1, 0]), "{cookies:?}: the browser came back alone");
    }
}

/// No cookie at all: the reconnect is refused, and the page takes a new ticket and goes on from its cursor. Its first token
/// had all but ended, so without the renewal the stream would not have lived.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_without_cookies_takes_a_new_ticket() {
    let across = Across::start().await;
    let mut page = across.open("sse", &token_for(-18), Cookies::Blocked).await;
    let begun = page.eval("Date.now()").await.as_u64().unwrap();
    assert!(!across.keeps_third_party_cookies(&mut page).await);
    across.edit(&mut page).await;
    across.lose(&mut page).await;
    page.until("the first token is over", PATIENCE, &format!("Date.now() > {}", begun + 14_000)).await;
    across.cut(&mut page).await;
    across.check(&mut page).await;
    assert_eq!(page.eval("[tickets, gaveUp]").await, json!([2, 1]));
}

/// A ticket in the query for each socket, without cookies; or the token among the sub-protocols, which needs neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_of_another_site_comes_back() {
    for (way, cookies, tickets) in [("ws-ticket", Cookies::Blocked, 2), ("ws-token", Cookies::FirstParty, 0)] {
        let across = Across::start().await;
        let mut page = across.open(way, &token_for(-18), cookies).await;
        let begun = page.eval("Date.now()").await.as_u64().unwrap();
        across.edit(&mut page).await;
        across.lose(&mut page).await;
        page.until("the first token is over", PATIENCE, &format!("Date.now() > {}", begun + 14_000)).await;
        across.cut(&mut page).await;
        across.check(&mut page).await;
        let taken = page.eval("tickets").await.as_u64().unwrap();
        // While there was no network it may have asked in vain.
        assert!(taken >= tickets && (tickets > 0 || taken == 0), "{way}: {taken}");
    }
}
