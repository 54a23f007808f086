//! The examples of `docs/protocol.md` are run from top to bottom against one instance, so the document can't drift.
//!
//! The notation is explained at the top of the document. Everything is compared as text, so the order of members counts.

use tidings::event::Cursor;
use tidings::store::Role;

use crate::support::SOON;
use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::id;
use crate::support::eventually;
use crate::support::http;
use crate::support::sse::SseClient;
use crate::support::tokens;
use crate::support::ws;
use crate::support::ws::WsClient;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");
/// A fenced block that is an example, and the line of the document at which it begins.
struct Example {
    language: &'static str,
    line: usize,
    lines: Vec<&'static str>,
}

/// Method, path, headers, and the line at which the rest begins.
type Request = (String, String, Vec<(String, String)>, usize);

struct Runner {
    world: World,
    app: TestApp,
    cursor: String,
    /// The stream that is open, and whose it is.
    stream: (String, String),
}

fn examples() -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut open = false;
    for (at, line) in DOCUMENT.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                found.push(Example { language, line: at + 1, lines: Vec::new() });
            }
            None if open => found.last_mut().unwrap().lines.push(line),
            None => {}
        }
    }
    found.into_iter().filter(|example| matches!(example.language, "http" | "sse" | "ws")).collect()
}

/// Whether the text is the pattern with something in place of each `…`.
fn fits(pattern: &str, text: &str) -> bool {
    let (first, others) = pattern.split_once('…').map_or((pattern, None), |(first, others)| (first, Some(others)));
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(others) = others else { return rest.is_empty() };
    let mut parts: Vec<&str> = others.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Lines that begin with a space continue the line above.
fn unfolded(lines: &[&str]) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for line in lines {
        match whole.last_mut().filter(|_| line.starts_with(' ')) {
            Some(above) => above.push_str(line.trim_start()),
            None => whole.push((*line).to_owned()),
        }
    }
    whole
}

impl Runner {
    /// `<key>`, `<cursor>`, `<ada>` and `<ada publish>` become what they stand for.
    fn filled(&self, value: &str) -> String {
        let Some((before, rest)) = value.split_once('<') else { return value.to_owned() };
        let (name, after) = rest.split_once('>').unwrap_or((rest, ""));
        let text = match (name, name.split_once(' ')) {
            ("key", _) => API_KEY.to_owned(),
            ("cursor", _) => self.cursor.clone(),
            (_, Some((user, scope))) => tokens::with_scope(user, scope),
            (user, None) => tokens::for_user(user),
        };
        format!("{before}{text}{after}")
    }

    fn request(&self, lines: &[String]) -> Request {
        let (method, path) = lines[0].split_once(' ').expect("a request line is a method and a path");
        let head = lines.iter().skip(1).take_while(|line| !line.is_empty() && !line.starts_with('→'));
        let pairs = head.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("not a header: {line}")));
        let headers: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), self.filled(value))).collect();
        let rest = 1 + headers.len();
        (method.to_owned(), self.filled(path), headers, rest)
    }

    async fn http(&self, lines: &[String]) -> Result<(), String> {
        let (method, path, headers, rest) = self.request(lines);
        let arrow = lines.iter().position(|line| line.starts_with('→')).ok_or("no answer is given")?;
        let body = lines[rest.min(arrow)..arrow].join("\n");
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answer = http::request(self.app.addr, &method, &path, &headers, body.trim().as_bytes()).await;
        let wanted = lines[arrow].trim_start_matches(['→', ' ']);
        if wanted != answer.status.to_string() {
            return Err(format!("answered {} {}", answer.status, answer.text()));
        }
        if let Some(cursor) = answer.text().split('"').nth(3).and_then(|text| text.parse::<Cursor>().ok()) {
            // What was appended is in this instance's window when the next example asks.
            self.app.app.shared.sessions.hub.window().reached(cursor.at, SOON).await;
        }
        for line in lines[arrow + 1..].iter().filter(|line| !line.is_empty()) {
            let header = line.split_once(": ").filter(|_| !line.starts_with(['{', '[', '…']));
            let value = |name: &str| answer.header(&name.to_ascii_lowercase()).unwrap_or("").to_owned();
            let got = header.map_or_else(|| answer.text(), |(name, _)| value(name));
            if !fits(header.map_or(line.as_str(), |(_, value)| value), &got) {
                return Err(format!("{line} is in truth {got}"));
            }
        }
        Ok(())
    }

    async fn sse(&mut self, lines: &[String]) -> Result<(), String> {
        let (_, path, headers, rest) = self.request(lines);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let opened = SseClient::connect(self.app.addr, &path, &headers).await;
        let mut stream = opened.map_err(|error| error.to_string())?;
        for part in lines[rest..].split(|line| line.is_empty()).filter(|part| !part.is_empty()) {
            if let Some(said) = part[0].strip_prefix("← ") {
                self.meanwhile(said).await?;
                continue;
            }
            let field = |name: &str| part.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let name = field("event").ok_or("an event without a name")?;
            let event = loop {
                let event = stream.next(SOON).await.ok_or_else(|| format!("{name} doesn't come"))?;
                if event.event == name || event.event != "heartbeat" {
                    break event;
                }
            };
            if name == "connected" {
                self.stream = (event.text("connectionId").to_owned(), event.text("userId").to_owned());
            }
            let same = event.event == name && event.has_id == field("id").is_some();
            if !same || !fits(field("data").unwrap_or("…"), &event.raw) {
                return Err(format!("expected {part:?}, got {event:?}"));
            }
            if let Some(id) = event.id.filter(|_| event.has_id) {
                self.cursor = id;
            }
        }
        Ok(())
    }

    /// Edits the stream that is open, as its user. A permission that was just given is waited for.
    async fn edit(&self, edit: &str) -> Result<(), String> {
        let (body, wanted) = edit.split_once(" → ").ok_or("an edit and its answer")?;
        let body = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let (stream, user) = &self.stream;
        eventually(wanted, SOON, async || {
            let answer = self.app.patch(user, stream, &body).await.text();
            fits(wanted, &answer).then_some(())
        })
        .await;
        Ok(())
    }

    async fn ws(&mut self, lines: &[String]) -> Result<(), String> {
        let (_, path, headers, rest) = self.request(lines);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let opened = WsClient::connect(self.app.addr, &path, &headers).await;
        let mut socket = opened.map_err(|answer| answer.text())?;
        for line in lines[rest..].iter().filter(|line| !line.is_empty()) {
            if let Some(said) = line.strip_prefix("← ") {
                self.meanwhile(said).await?;
            } else if let Some(said) = line.strip_prefix("> ") {
                socket.send_raw(&ws::frame(0x81, said.as_bytes())).await;
            } else {
                let wanted = line.strip_prefix("< ").ok_or_else(|| format!("not understood: {line}"))?;
                let got = loop {
                    let message = socket.next_message(SOON).await.ok_or_else(|| format!("{wanted} doesn't come"))?;
                    if message["event"] != "heartbeat" {
                        break message.to_string();
                    }
                };
                if !fits(wanted, &got) {
                    return Err(format!("{wanted} is in truth {got}"));
                }
            }
        }
        Ok(())
    }

    /// What somebody else says while a stream is open: a back end posts, or a worker publishes.
    async fn meanwhile(&self, said: &str) -> Result<(), String> {
        if let Some(edit) = said.strip_prefix("PATCH ") {
            return self.edit(edit).await;
        }
        if let Some((command @ ("GRANT" | "REVOKE"), rest)) = said.split_once(' ') {
            let (document, user) = rest.split_once(' ').ok_or("GRANT and REVOKE take a document and a user")?;
            let store = &self.world.store;
            let done = match command {
                "GRANT" => store.put_role(&id(document), &id(user), Role::Viewer).await,
                _ => store.remove_role(&id(document), &id(user)).await,
            };
            return done.map_err(|error| error.to_string());
        }
        let words: Vec<&str> = said.splitn(3, ' ').collect();
        let [command, target, body] = words[..] else { return Err(format!("not understood: {said}")) };
        if command == "POST" {
            let body = serde_json::from_str(body).map_err(|error| error.to_string())?;
            let answer = http::post(self.app.addr, target, &format!("ApiKey {API_KEY}"), &body).await;
            return if answer.status == 202 { Ok(()) } else { Err(answer.text()) };
        }
        let client = redis::Client::open(self.world.config.redis_url.expose()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut call = redis::cmd(command);
        let config = &self.world.config;
        call.arg(if target == "channel-events" { &config.channel_events_channel } else { &config.job_updates_channel });
        match body.strip_prefix("* data ") {
            Some(body) => call.arg("*").arg("data").arg(body),
            None => call.arg(body),
        };
        call.query_async::<redis::Value>(&mut connection).await.map(drop).map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn the_examples_of_the_protocol_are_true() {
    let world = World::redis().await;
    world.people(&[("ada", &["42", "43", "44"]), ("bob", &[]), ("eve", &["77"])]).await;
    world.document("d7", "ada", &[("bob", Role::Viewer)]).await;
    let mut runner = Runner { app: world.start().await, world, cursor: String::new(), stream: Default::default() };
    assert!(examples().len() > 25, "the examples are no longer found");
    for example in examples() {
        let lines = unfolded(&example.lines);
        let done = match example.language {
            "http" => runner.http(&lines).await,
            "ws" => runner.ws(&lines).await,
            _ => runner.sse(&lines).await,
        };
        assert_eq!(done, Ok(()), "docs/protocol.md:{}", example.line);
    }
    runner.app.app.stop().await;
}

#[test]
fn patterns_fit() {
    assert!(fits("a…c…e", "abcde") && fits("…", "") && fits("a", "a") && fits("a…", "a"));
    assert!(!fits("a", "ab") && !fits("a…c", "ab") && !fits("a…a", "a"));
}
