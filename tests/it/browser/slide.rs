//! The shared slide of the demo's page: people see each other, on each transport; and all tabs of a browser are one person on
//! one stream, whichever of them is closed.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::store::Role;

use crate::browser::PATIENCE;
use crate::browser::demo::Demo;
use crate::browser::demo::LIVE;
use crate::browser::demo::click;
use crate::browser::demo::switch;
use crate::support::app::World;
use crate::support::browser::Browser;
use crate::support::browser::Origin;
use crate::support::eventually;
use crate::support::http;
use crate::support::tokens;

/// Longer than the grace in which a page may come back.
const PAST_THE_GRACE_MS: u64 = 6000;
/// Less than the life of a lease.
const WITHIN_A_LEASE: Duration = Duration::from_secs(25);
const TABS: usize = 10;
/// Where the pointer of the moves below ends, in the slide's units.
const LAST: &str = r#"{"x":1200,"y":450}"#;

impl Demo {
    /// A page of one of the sample people.
    async fn open_as(&self, user: &str) -> Browser {
        let mut page = Browser::open(&format!("http://{}/?as={user}", self.addr)).await;
        page.until("the stream is live", PATIENCE, &format!("tidings.state.me?.id === '{user}' && {LIVE}")).await;
        page
    }

    /// What the service says of somebody to Katherine, who is not there herself; null of who isn't there either.
    async fn member(&self, user: &str) -> Value {
        let visit = http::post(self.addr, "/demo/session", "", &json!({ "user": "katherine" })).await;
        let cookie = visit.header("set-cookie").unwrap();
        let token = cookie.split(['=', ';']).nth(1).unwrap();
        let list = http::get(self.addr, "/v1/presence/launch-deck", token).await.json();
        let members = list["members"].as_array().unwrap();
        members.iter().find(|member| member["userId"] == user).cloned().unwrap_or_default()
    }

    async fn until(&self, what: &str, user: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, WITHIN_A_LEASE, async || is_so(&self.member(user).await).then_some(())).await;
    }
}

/// Moves the pointer over the slide for half a second, at the rate of the screen, and stops.
async fn wander(page: &mut Browser) {
    let wander = r"(async () => {
        const slide = document.querySelector('#slide'), { left, top, width, height } = slide.getBoundingClientRect();
        const to = (x, y) => slide.dispatchEvent(new PointerEvent('pointermove',
            { bubbles: true, clientX: left + x * width, clientY: top + y * height }));
        for (let step = 0; step <= 30; step += 1) {
            to(step * 0.025, 0.5);
            await new Promise(requestAnimationFrame);
        }
    })()";
    page.eval(wander).await;
}

/// From now on, collects where a pointer is drawn.
async fn watch_pointer(page: &mut Browser, of: &str) {
    let watch = format!(
        "window.drawn = new Set(); (function look() {{ const pointer = document.querySelector('.cursor[data-user={of}]'); if (pointer) drawn.add(pointer.style.transform); requestAnimationFrame(look); }})()"
    );
    page.eval(&watch).await;
}

async fn choose_user(page: &mut Browser, tab: usize, user: &str) {
    let choose = "select.dispatchEvent(new Event('change', { bubbles: true }))";
    let select = "document.querySelector('#user')";
    page.eval_in(tab, &format!("(select => {{ select.value = '{user}'; {choose}; }})({select})")).await;
}

async fn type_note(page: &mut Browser) {
    let type_in = "field.value = 'Hm'; field.dispatchEvent(new InputEvent('input', { bubbles: true }))";
    page.eval(&format!("(field => {{ {type_in}; }})(document.querySelector('#note').elements.text)")).await;
}

async fn outlast_the_grace(page: &mut Browser, tab: usize) {
    let now = page.eval_in(tab, "Date.now()").await.as_u64().unwrap();
    page.until_in(tab, "the grace is over", PATIENCE, &format!("Date.now() > {}", now + PAST_THE_GRACE_MS)).await;
}

fn news(what: &str) -> String {
    format!("tidings.state.news.map(news => news.userId + ' ' + news.what).join() === '{what}'")
}

/// What one does shows to the other: pointer, selection, typing, status.
async fn see_each_other(one: &mut Browser, other: &mut Browser, transport: &str) {
    watch_pointer(other, "ada").await;
    wander(one).await;
    let is_last = format!("JSON.stringify(tidings.state.members.ada.cursor) === '{LAST}'");
    other.until("the pointer arrives where it stopped", PATIENCE, &is_last).await;
    let is_drawn = "(({ clientWidth }) => { const [, x] = document.querySelector('.cursor[data-user=ada]').style.transform.match(/\\(([\\d.]+)px/); return Math.abs(x - clientWidth * 0.75) < 1; })(document.querySelector('#cursors'))";
    other.until("it is drawn there", PATIENCE, is_drawn).await;
    let drawn = other.eval("drawn.size").await.as_u64().unwrap();
    // A poll says where things are, not how they went there.
    assert!(drawn >= if transport == "poll" { 1 } else { 8 }, "{transport}: it moved in {drawn} steps");
    assert_eq!(one.eval("document.querySelectorAll('.cursor[data-user=ada]').length").await, 0, "no echo");

    click(one, "[data-piece=chart]").await;
    let framed = "document.querySelector('[data-piece=chart] .frame-name')?.textContent === 'Ada Lovelace'";
    other.until("the selection shows", PATIENCE, framed).await;
    click(one, "[data-piece=chart]").await;
    other.until("it is taken back", PATIENCE, "!document.querySelector('.frame')").await;
    type_note(one).await;
    let typing = "document.querySelector('#typing').textContent.startsWith('Ada Lovelace is typing')";
    other.until("the typing shows", PATIENCE, typing).await;
    one.eval("document.querySelector('#note').elements.text.dispatchEvent(new FocusEvent('blur'))").await;
    other.until("it ends", PATIENCE, "document.querySelector('#typing').textContent === ''").await;
    for status in ["dnd", "online"] {
        click(one, &format!("#status input[value={status}]")).await;
        let face = format!("document.querySelector('.person[data-user=ada]').dataset.status === '{status}'");
        other.until("the status shows", PATIENCE, &face).await;
    }
}

/// Two people on two pages, on each transport; a reload is no news, a closed page is.
#[tokio::test(flavor = "multi_thread")]
async fn two_people_see_each_other_on_the_slide() {
    let demo = Demo::start(&["--quiet"]).await;
    let mut alan = demo.open_as("alan").await;
    let mut ada = demo.open_as("ada").await;
    alan.until("they meet", PATIENCE, &news("ada joined")).await;
    for transport in ["sse", "ws", "poll"] {
        for page in [&mut ada, &mut alan] {
            if page.eval("tidings.state.transport").await != transport {
                switch(page, transport).await;
            }
        }
        see_each_other(&mut ada, &mut alan, transport).await;
        // A stream that was changed for another one may be counted until its end is noticed, a lease longer than we wait.
        demo.until("a word of the stream is no further device", "ada", |ada| ada["devices"] == 1).await;
    }
    switch(&mut alan, "sse").await;
    ada.reload().await;
    ada.until("it is live again", PATIENCE, &format!("tidings.state.me?.id === 'ada' && {LIVE}")).await;
    outlast_the_grace(&mut alan, 0).await;
    assert_eq!(alan.eval(&news("ada joined")).await, true, "neither a change of transport nor a reload is news");
    assert_eq!(alan.eval("Object.keys(tidings.state.members).sort()").await, json!(["ada", "alan"]));
    drop(ada);
    alan.until("the one who left is gone", PATIENCE, &news("ada joined,ada left")).await;
    let shown = "document.querySelector('#news').textContent === 'Ada Lovelace left.' && !document.querySelector('.cursor, .person[data-user=ada]')";
    alan.until("it shows to people", PATIENCE, shown).await;
}

/// Over HTTP/1.1 the seventh stream of a browser would wait for ever. All tabs are live on one; the tab that has it is closed,
/// twice, while things happen: each of the others hears each of them once, and for others it is one person all the time.
#[tokio::test(flavor = "multi_thread")]
async fn many_tabs_are_one_person_on_one_stream() {
    let demo = Demo::start(&[]).await;
    let mut ada = demo.open_as("ada").await;
    let joined = demo.member("ada").await["joinedAt"].clone();
    for _ in 1..TABS {
        ada.open_tab(&format!("http://{}/", demo.addr)).await;
    }
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    assert_eq!(ada.eval(protocol).await, "http/1.1");
    let mut tabs: Vec<usize> = (0..TABS).collect();
    let mut said = 0;
    for closed in 0..3 {
        let stream = {
            for tab in &tabs {
                let whole = format!("{LIVE} && tidings.state.notes.length === {said}");
                ada.until_in(*tab, "each tab is live and has heard everything", PATIENCE, &whole).await;
            }
            ada.eval_in(tabs[0], "tidings.state.connectionId").await
        };
        for tab in &tabs {
            assert_eq!(ada.eval_in(*tab, "tidings.state.connectionId").await, stream, "one stream");
            let notes = ada.eval_in(*tab, "tidings.state.notes.map(note => note.text)").await;
            let texts: Vec<String> = (0..said).map(|n| format!("note {n}")).collect();
            assert_eq!(notes, json!(texts), "each once and in order");
            let counts = ada.eval_in(*tab, "tidings.state.counts").await;
            assert_eq!((&counts["missed"], &counts["repeated"]), (&json!(0), &json!(0)), "tab {tab}: {counts}");
        }
        demo.until("each tab is a device", "ada", |ada| ada["devices"] == TABS - closed).await;
        if closed == 2 {
            break;
        }
        for n in said..said + 10 {
            if n == said + 5 {
                let leader = leading(&mut ada, &tabs).await;
                ada.shut_tab(leader).await;
                tabs.retain(|tab| *tab != leader);
            }
            demo.says(&format!("note {n}")).await;
        }
        said += 10;
    }
    outlast_the_grace(&mut ada, tabs[0]).await;
    let member = demo.member("ada").await;
    assert_eq!(
        (&member["joinedAt"], &member["devices"]),
        (&joined, &json!(TABS - 2)),
        "one person all the time, with as many devices as tabs"
    );
}

async fn leading(browser: &mut Browser, tabs: &[usize]) -> usize {
    let mut leaders = Vec::new();
    for tab in tabs {
        if browser.eval_in(*tab, "tidings.tabs.leads").await == true {
            leaders.push(*tab);
        }
    }
    assert_eq!(leaders.len(), 1, "one leads");
    leaders[0]
}

/// What one tab chooses counts for all tabs of its browser, as the cookie does: status, transport, only watching, and who one is.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_tab_chooses_counts_for_all() {
    let demo = Demo::start(&["--quiet"]).await;
    let mut page = demo.open_as("ada").await;
    let follower = page.open_tab(&format!("http://{}/", demo.addr)).await;
    page.until_in(follower, "it is told", PATIENCE, LIVE).await;
    let choose = async |page: &mut Browser, selector: &str, then: &str| {
        page.eval_in(follower, &format!("document.querySelector('{selector}').click()")).await;
        for tab in [0, follower] {
            page.until_in(tab, "both tabs are so", PATIENCE, &format!("{then} && {LIVE}")).await;
        }
    };
    for transport in ["ws", "poll", "sse"] {
        let chosen = format!("tidings.state.transport === '{transport}'");
        choose(&mut page, &format!("#transport input[value={transport}]"), &chosen).await;
        let edited = format!("'docs.d1' in tidings.state.verdicts === {}", transport != "poll");
        choose(&mut page, "#channels li:last-child input", &edited).await;
    }
    // A leader that sleeps is robbed of the lock, and follows when it wakes.
    page.eval_in(follower, "tidings.tabs.take()").await;
    page.until_in(follower, "it has the stream now", PATIENCE, "tidings.tabs.leads").await;
    page.until("the other one follows", PATIENCE, &format!("!tidings.tabs.leads && {LIVE}")).await;
    choose(&mut page, "#status input[value=away]", "document.querySelector('#status input[value=away]').checked").await;
    demo.until("others see it", "ada", |ada| ada["status"] == "away").await;
    choose(&mut page, "#observe", "tidings.state.observe").await;
    demo.until("who only watches is not there", "ada", Value::is_null).await;
    choose(&mut page, "#observe", "!tidings.state.observe").await;
    demo.until("and comes back as away", "ada", |ada| ada["status"] == "away").await;
    assert_eq!(leading(&mut page, &[0, follower]).await, follower);
    choose_user(&mut page, follower, "alan").await;
    for tab in [0, follower] {
        let other = format!("tidings.state.me?.id === 'alan' && tidings.state.tabs === 2 && {LIVE}");
        page.until_in(tab, "both are somebody else", PATIENCE, &other).await;
    }
    demo.until("as others see", "alan", |alan| alan["devices"] == 2).await;
}

/// The example as it is, on another origin: two people see each other, and one leaves.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_shows_who_is_here() {
    let origin = Origin::serve(include_str!("../../../examples/browser-presence.html")).await;
    let mut world = World::embedded().await;
    world.config.cors_origins = vec![origin.by_name()];
    world.config.allow_query_token = true;
    world.config.presence_grace = Duration::from_millis(500);
    world.people(&[("ada", &[]), ("eve", &[])]).await;
    world.document("d7", "eve", &[("ada", Role::Viewer)]).await;
    let app = world.start().await;
    let open = async |user: &str| {
        let (page, service, token) = (origin.by_name(), app.addr, tokens::for_user(user));
        Browser::open(&format!("{page}/?service=http://{service}&doc=d7&token={token}")).await
    };
    let (mut ada, mut eve) = (open("ada").await, open("eve").await);
    for page in [&mut ada, &mut eve] {
        page.until("both are here", PATIENCE, "document.querySelectorAll('li').length === 2").await;
    }
    ada.eval("dispatchEvent(new PointerEvent('pointermove', { clientX: 30, clientY: 40 }))").await;
    ada.eval("dispatchEvent(new PointerEvent('pointermove', { clientX: 120, clientY: 80 }))").await;
    let moved = "[...document.querySelectorAll('b')].some(b => b.textContent === '↖ ada' && b.style.translate === '120px 80px')";
    eve.until("the last position shows", PATIENCE, moved).await;
    let status = json!({ "status": "dnd", "typing": true });
    let said = http::post(app.addr, "/v1/presence/d7", &format!("Bearer {}", tokens::for_user("ada")), &status).await;
    assert_eq!(said.status, 204, "{}", said.text());
    eve.until(
        "so does what a back end says",
        PATIENCE,
        "document.body.innerText.includes('ada: dnd, devices: 2, typing')",
    )
    .await;
    drop(eve);
    ada.until("who leaves is gone", PATIENCE, "!document.body.innerText.includes('eve')").await;
}
