//! A real headless Chromium, driven over `tests/browser/drive.mjs`, and a place that serves pages of another origin.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::HeaderValue;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::net::TcpListener;
use tokio::process::Child;
use tokio::process::ChildStdin;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::child::require;
use crate::support::eventually;

/// How long a browser may take to answer, on a machine that is busy with other tests.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// The browser's window.
const WINDOW: &str = "1400x1000";

/// Which cookies a browser keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookies {
    /// All.
    Kept,
    /// Those of other sites than the page's only if they are partitioned.
    FirstParty,
    /// None.
    Blocked,
}

impl Cookies {
    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::FirstParty => "first-party",
            Self::Blocked => "blocked",
        }
    }
}

/// One page in a browser of its own. Dropping it closes the browser: the driver ends with its input.
pub struct Browser {
    _driver: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// Opens a page and waits until it is loaded.
    pub async fn open(url: &str) -> Self {
        Self::start(url, Cookies::Kept, "").await
    }

    /// The same, in a browser that keeps these cookies.
    pub async fn with_cookies(url: &str, cookies: Cookies) -> Self {
        Self::start(url, cookies, "").await
    }

    /// The same, in a browser that trusts the key of that fingerprint.
    pub async fn trusting(url: &str, fingerprint: &str) -> Self {
        Self::start(url, Cookies::Kept, fingerprint).await
    }

    async fn start(url: &str, cookies: Cookies, fingerprint: &str) -> Self {
        require("node", "nodejs");
        let chromium = std::env::var("TIDINGS_TEST_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        if chromium == "chromium" {
            require("chromium", "chromium");
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/drive.mjs");
        let mut driver = Command::new("node")
            .args([script, &chromium, url, WINDOW, cookies.word(), fingerprint])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let commands = driver.stdin.take().expect("piped");
        let answers = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let mut this = Self { _driver: driver, commands, answers };
        assert_eq!(this.answer().await, json!({"ready": true}));
        this
    }

    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(ANSWER_MAX, self.answers.next_line()).await;
        let line = line.expect("the browser answers in time").unwrap().expect("the browser runs");
        serde_json::from_str(&line).unwrap()
    }

    async fn obey(&mut self, command: Value) -> Value {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.commands.flush().await.unwrap();
        let answer = self.answer().await;
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer
    }

    /// The value of an expression in the page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        self.eval_in(0, expression).await
    }

    /// The value of an expression in one of the tabs; the page is the first.
    pub async fn eval_in(&mut self, tab: usize, expression: &str) -> Value {
        self.obey(json!({ "tab": tab, "eval": expression })).await["value"].clone()
    }

    /// Another tab of the same browser, loaded.
    pub async fn open_tab(&mut self, url: &str) -> usize {
        let answer = self.obey(json!({ "open": url })).await;
        usize::try_from(answer["opened"].as_u64().unwrap()).unwrap()
    }

    /// Closes a tab, as a person does it.
    pub async fn shut_tab(&mut self, tab: usize) {
        self.obey(json!({ "shut": tab })).await;
    }

    /// Loads the page again.
    pub async fn reload(&mut self) {
        self.obey(json!({ "reload": true })).await;
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, what: &str, deadline: Duration, expression: &str) {
        self.until_in(0, what, deadline, expression).await;
    }

    /// Waits until an expression is true in one of the tabs.
    pub async fn until_in(&mut self, tab: usize, what: &str, deadline: Duration, expression: &str) {
        let cell = tokio::sync::Mutex::new(self);
        eventually(what, deadline, async || {
            let mut browser = cell.lock().await;
            (browser.eval_in(tab, expression).await == true).then_some(())
        })
        .await;
    }
}

/// Serves one page, whatever is asked: an origin that is not the service's.
pub struct Origin {
    /// Where it is served.
    pub addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Origin {
    /// Serves this text as HTML on any free port; at `/cookie` an ordinary third-party cookie is set, and told if it came.
    pub async fn serve(page: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let router = axum::Router::new()
            .route("/cookie", axum::routing::get(cookie))
            .fallback(move || async move { axum::response::Html(page) });
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, _tasks: tasks }
    }

    /// The same place under the name `localhost`, which browsers take for another site than `127.0.0.1`.
    pub fn by_name(&self) -> String {
        format!("http://localhost:{}", self.addr.port())
    }
}

/// A control: whether this browser keeps the cookies of other sites at all.
async fn cookie(headers: HeaderMap) -> (HeaderMap, String) {
    let sent = headers.get("cookie").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut answer = HeaderMap::new();
    if let Some(origin) = headers.get("origin") {
        answer.insert("access-control-allow-origin", origin.clone());
    }
    answer.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
    answer.insert("set-cookie", HeaderValue::from_static("plain=1; HttpOnly; Secure; SameSite=None"));
    (answer, sent)
}
