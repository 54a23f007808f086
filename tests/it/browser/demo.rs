//! The page of the demo, as `make run` starts it.

use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;

use crate::browser::PATIENCE;
use crate::support::browser::Browser;
use crate::support::child::TempDir;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::http;
use crate::support::process::Server;

/// A demo in a directory of its own.
pub(super) struct Demo {
    pub(super) addr: SocketAddr,
    /// What a worker would have.
    key: String,
    arguments: Vec<String>,
    server: Server,
    _directory: TempDir,
}

impl Demo {
    pub(super) async fn start(more: &[&str]) -> Self {
        let directory = TempDir::new("demo");
        let (port, data) = (free_port(), directory.path().display().to_string());
        let text = port.to_string();
        let arguments = [&["demo", "--port", &text, "--data-dir", &data], more].concat();
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let server = launch(&arguments, addr).await;
        Self { addr, key: key(addr).await, arguments, server, _directory: directory }
    }

    /// Ends it and starts it again on what it has kept.
    async fn restart(&mut self) {
        self.server.kill();
        self.server = launch(&self.arguments, self.addr).await;
        self.key = key(self.addr).await;
    }

    async fn open(&self) -> Browser {
        let mut page = Browser::open(&format!("http://{}/", self.addr)).await;
        page.until("the stream is live", PATIENCE, LIVE).await;
        page
    }

    async fn post(&self, path: &str, body: &Value) {
        let posted = http::post(self.addr, path, &format!("ApiKey {}", self.key), body).await;
        assert_eq!(posted.status, 202, "{}", posted.text());
    }

    /// Somebody else says something on the shared document.
    pub(super) async fn says(&self, text: &str) {
        let data = json!({ "by": "a back end", "text": text });
        self.post("/v1/publish", &json!({ "channel": "docs.launch-deck", "data": data })).await;
    }
}

async fn launch(arguments: &[String], addr: SocketAddr) -> Server {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::launch(&arguments, &[]);
    eventually("the demo serves", PATIENCE, async || {
        let asked = http::try_raw(addr, b"GET /health/ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
        asked.ok().filter(|answer| answer.status == 200)
    })
    .await;
    server
}

async fn key(addr: SocketAddr) -> String {
    let commands = http::request(addr, "GET", "/demo/commands", &[], b"").await.json();
    let curl = commands["curl"].as_str().unwrap();
    curl.split("ApiKey ").nth(1).unwrap().split('\'').next().unwrap().to_owned()
}

pub(super) const LIVE: &str = "tidings.state.connection === 'live' && tidings.state.ready";
const TRANSPORTS: [&str; 3] = ["sse", "ws", "poll"];

pub(super) async fn click(page: &mut Browser, selector: &str) {
    page.eval(&format!("document.querySelector({}).click()", json!(selector))).await;
}

pub(super) async fn switch(page: &mut Browser, transport: &str) {
    click(page, &format!("#transport input[value={transport}]")).await;
    page.until("the stream is live again", PATIENCE, &format!("tidings.state.transport === '{transport}' && {LIVE}"))
        .await;
}

/// Turns the switch of a channel, as a person would.
async fn turn(page: &mut Browser, channel: &str) {
    let row =
        format!("[...document.querySelectorAll('#channels label')].find(row => row.textContent.includes('{channel}'))");
    page.eval(&format!("{row}.click()")).await;
}

/// Fills a field of a form and sends it.
async fn fill(page: &mut Browser, form: &str, field: &str, text: &str) {
    let form = format!("document.querySelector('{form}')");
    page.eval(&format!("{form}.elements.{field}.value = {}; {form}.requestSubmit()", json!(text))).await;
}

async fn until_noted(page: &mut Browser, text: &str) {
    let shown = format!("document.querySelector('#notes').textContent.includes({})", json!(text));
    page.until("the note shows", PATIENCE, &shown).await;
}

/// Jobs move, a cut stream comes back by itself and says `resumed`, a published update shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_page_shows_jobs_moving_and_a_cut_that_heals() {
    let demo = Demo::start(&[]).await;
    let mut page = demo.open().await;
    page.until("a job moves", PATIENCE, "tidings.state.counts.updates > 3").await;
    page.until("somebody else's job is not shown", PATIENCE, "'jobs.secret-project' in tidings.state.denied").await;
    let update = json!({"status": "running", "progress": 61, "message": "Hello from a test"});
    demo.post("/v1/jobs/your-job/updates", &update).await;
    page.until("the update shows", PATIENCE, "tidings.state.jobs['your-job']?.message === 'Hello from a test'").await;
    page.until("it shows to people", PATIENCE, "document.body.innerText.includes('Hello from a test')").await;
    click(&mut page, "#cut").await;
    page.until("the stream resumed by itself", PATIENCE, &format!("tidings.state.verdict === 'resumed' && {LIVE}"))
        .await;
    assert_eq!(page.eval("tidings.state.transport").await, "sse");
    let inline = "(() => { const made = document.createElement('script'); made.textContent = 'window.ran = true'; document.head.append(made); return window.ran ?? false; })()";
    assert_eq!(page.eval(inline).await, false, "the policy allows no script but the server's files");
}

/// While jobs move, the transport changes again and again, and each is cut: the page's own count of what is missing in the
/// workers' numbers, and of cursors that came twice, stays at nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_page_changes_its_transport_and_misses_nothing() {
    let demo = Demo::start(&[]).await;
    let mut page = demo.open().await;
    for round in 0..4 {
        for transport in TRANSPORTS.iter().cycle().skip(1).take(3) {
            switch(&mut page, transport).await;
            assert_eq!(page.eval("tidings.state.verdict").await, "resumed");
            let before = page.eval("tidings.state.counts.updates").await.as_u64().unwrap();
            page.until("updates come", PATIENCE, &format!("tidings.state.counts.updates > {before}")).await;
            if round == 1 {
                let before = page.eval("tidings.state.counts.reconnects").await.as_u64().unwrap();
                click(&mut page, "#cut").await;
                page.until("it is back", PATIENCE, &format!("tidings.state.counts.reconnects > {before} && {LIVE}"))
                    .await;
            }
        }
    }
    let counts = page.eval("tidings.state.counts").await;
    assert_eq!((&counts["missed"], &counts["repeated"]), (&json!(0), &json!(0)), "{counts}");
    assert!(counts["reconnects"].as_u64() >= Some(15), "{counts}");
    assert_eq!(page.eval("document.querySelector('#count-missed').textContent").await, "0", "people see it");
    // The counts can count: a gap of one number, and a cursor that comes twice.
    let update = |seq: u64| format!("known.countGap({{ jobId: 'x', attempt: 1, seq: {seq} }})");
    let (one, three) = (update(1), update(3));
    let twice = "known.countCursor('c'); known.countCursor('c')";
    let counted =
        format!("import('/state.js').then((known) => {{ {one}; {three}; {twice}; return known.state.counts; }})");
    let counts = page.eval(&counted).await;
    assert_eq!((&counts["missed"], &counts["repeated"]), (&json!(1), &json!(1)), "{counts}");
}

/// On each transport: a note is published and heard, a channel is added and taken away, and one whose permission is deleted
/// in the database leaves the page with what it had told, until the permission is given back.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_page_edits_its_stream_and_loses_a_channel() {
    let demo = Demo::start(&["--quiet"]).await;
    let mut page = demo.open().await;
    for transport in TRANSPORTS {
        switch(&mut page, transport).await;
        let note = format!("<b>said</b> over {transport}");
        fill(&mut page, "#note", "text", &note).await;
        until_noted(&mut page, &note).await;
        turn(&mut page, "docs.d1").await;
        page.until("the channel is there", PATIENCE, "tidings.state.verdicts['docs.d1'] === 'live'").await;
        turn(&mut page, "docs.d1").await;
        page.until("it is not any more", PATIENCE, "!('docs.d1' in tidings.state.verdicts)").await;
        fill(&mut page, "#add-channel", "name", "jobs.of-nobody").await;
        page.until(
            "what may not be seen is refused",
            PATIENCE,
            "tidings.state.denied['jobs.of-nobody'] === 'PERMISSION_DENIED'",
        )
        .await;
        click(&mut page, "#role").await;
        page.until("the channel left", PATIENCE, "tidings.state.denied['docs.launch-deck'] === 'PERMISSION_DENIED'")
            .await;
        assert_eq!(page.eval("document.querySelector('#notes').textContent").await, "", "nothing of it is shown");
        fill(&mut page, "#note", "text", "may I?").await;
        let trouble = "document.querySelector('#document-note').textContent.startsWith('PERMISSION_DENIED')";
        page.until("nothing can be said there either", PATIENCE, trouble).await;
        demo.says("not for you").await;
        demo.post("/v1/jobs/your-job/updates", &json!({"status": "running", "message": format!("after {transport}")}))
            .await;
        let after = format!("tidings.state.jobs['your-job']?.message === 'after {transport}'");
        page.until("the others go on", PATIENCE, &after).await;
        click(&mut page, "#role").await;
        page.until("it is there again", PATIENCE, "'docs.launch-deck' in tidings.state.verdicts").await;
        demo.says(&format!("again, {transport}")).await;
        until_noted(&mut page, &format!("again, {transport}")).await;
    }
    let notes = "tidings.state.events.filter(e => e.event === 'doc:update').map(e => e.data.text)";
    let heard: Vec<String> =
        TRANSPORTS.iter().flat_map(|t| [format!("<b>said</b> over {t}"), format!("again, {t}")]).collect();
    assert_eq!(page.eval(notes).await, json!(heard), "each once, in order, and nothing of what was not for this page");
    let counts = page.eval("tidings.state.counts").await;
    assert_eq!((&counts["missed"], &counts["repeated"]), (&json!(0), &json!(0)), "{counts}");
    assert_eq!(page.eval("document.querySelectorAll('#notes b, .log b').length").await, 0, "text is text");
    let alan = "const select = document.querySelector('#user'); select.value = 'alan'; select.dispatchEvent(new Event('change', { bubbles: true }));";
    page.eval(alan).await;
    page.until("another one visits", PATIENCE, &format!("tidings.state.aliases['user.alan'] && {LIVE}")).await;
    assert_eq!(
        page.eval("document.querySelector('main').innerText.includes('over poll')").await,
        false,
        "nothing of the other's"
    );
}

/// The demo's secret is new at each start, and its log as well: whoever is on the page gets a new session by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_page_outlives_its_server() {
    let mut demo = Demo::start(&[]).await;
    let mut page = demo.open().await;
    for transport in TRANSPORTS {
        switch(&mut page, transport).await;
        let session = page.eval("tidings.state.session").await;
        demo.restart().await;
        page.until("there is a new session", PATIENCE, &format!("tidings.state.session !== {session} && {LIVE}")).await;
        demo.says(&format!("before {transport} was left")).await;
        until_noted(&mut page, &format!("before {transport} was left")).await;
        page.until("jobs move", PATIENCE, "tidings.state.counts.updates > 12").await;
        let counts = page.eval("tidings.state.counts").await;
        assert_eq!((&counts["missed"], &counts["repeated"]), (&json!(0), &json!(0)), "{transport}: {counts}");
    }
}
