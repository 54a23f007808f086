//! B-18, B-19: tickets of real instances, over the in-process broker and Redis, by both ways to the socket.

use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;

use crate::support::SOON;
use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::http::Response;
use crate::support::process::Server;
use crate::support::sse::SseClient;
use crate::support::tokens;

async fn ticket_by(addr: SocketAddr, token: &str, headers: &[(&str, &str)]) -> Response {
    let authorization = format!("Bearer {token}");
    let mut all = vec![("Authorization", authorization.as_str())];
    all.extend_from_slice(headers);
    http::request(addr, "POST", "/v1/tickets", &all, b"").await
}

async fn ticket(app: &TestApp, user: &str) -> String {
    let answer = ticket_by(app.addr, &tokens::for_user(user), &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((answer.json()["expiresIn"].as_u64(), answer.header("cache-control")), (Some(30), Some("no-store")));
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

/// The stream, or the status and reason of the refusal.
async fn open(app: &TestApp, ticket: &str, headers: &[(&str, &str)]) -> Result<SseClient, (u16, String)> {
    let path = format!("/v1/events?channels=user.me&ticket={ticket}");
    let opened = SseClient::connect(app.addr, &path, headers).await;
    opened.map_err(|refused| {
        let answer = refused.answer();
        (answer.status, answer.json()["details"]["reason"].as_str().unwrap_or_default().to_owned())
    })
}

fn unknown() -> (u16, String) {
    (401, "ticket_unknown".to_owned())
}

/// `name=value` of the cookie that a stream's answer sets.
fn cookie(stream: &SseClient) -> String {
    let line = stream.head().header("set-cookie").expect("the answer to a ticket sets a cookie");
    line.split(';').next().unwrap().to_owned()
}

async fn worlds() -> [World; 2] {
    let worlds = [World::embedded().await.mixed(), World::redis().await.mixed()];
    for world in &worlds {
        world.people(&[("ada", &[]), ("bob", &[])]).await;
    }
    worlds
}

#[tokio::test]
async fn b18_a_ticket_is_good_once_and_its_cookie_until_the_token_ends() {
    for world in worlds().await {
        let one = world.start().await;
        // Without Redis there is one instance.
        let other = if world.config.redis_url.expose().is_empty() { None } else { Some(world.start().await) };
        let other = other.as_ref().unwrap_or(&one);
        let first = ticket(&one, "ada").await;
        let mut stream = open(other, &first, &[]).await.unwrap();
        let connected = stream.until("ready").await.remove(0);
        assert_eq!(connected.text("userId"), "ada");
        let line = stream.head().header("set-cookie").unwrap().to_owned();
        for attribute in ["HttpOnly", "Secure", "SameSite=None", "Partitioned", "Path=/"] {
            assert!(line.split("; ").any(|part| part == attribute), "{line}");
        }
        let life = line.split("; ").find_map(|part| part.strip_prefix("Max-Age=")).unwrap().parse::<u64>().unwrap();
        assert!((3590..=3600).contains(&life), "{line}");
        assert!(line.starts_with("tidings_t_") && !line.contains(&first));
        let cookie = cookie(&stream);
        drop(stream);
        // The second use; with the cookie, at any instance; the cookie alone or with another's ticket.
        assert_eq!(open(&one, &first, &[]).await.unwrap_err(), unknown());
        for app in [&one, other, &one] {
            let mut again = open(app, &first, &[("Cookie", &cookie)]).await.unwrap();
            assert!(again.head().header("set-cookie").is_none());
            assert_eq!(again.until("ready").await[0].text("userId"), "ada");
        }
        let (name, value) = cookie.split_once('=').unwrap();
        for wrong in [format!("{name}={}", value.replace("ada", "bob")), format!("{name}=x"), format!("other={value}")]
        {
            assert_eq!(open(&one, &first, &[("Cookie", &wrong)]).await.unwrap_err(), unknown(), "{wrong}");
        }
        let bare = http::request(one.addr, "GET", "/v1/events?channels=user.me", &[("Cookie", &cookie)], b"").await;
        assert_eq!((bare.status, bare.json()["details"]["reason"].as_str()), (401, Some("missing")));
        let second = ticket(&one, "bob").await;
        let mut bobs = open(&one, &second, &[("Cookie", &cookie)]).await.unwrap();
        assert_eq!(bobs.until("ready").await[0].text("userId"), "bob", "a cookie counts with its own ticket only");
        one.app.stop().await;
    }
}

#[tokio::test]
async fn b18_guesses_and_races() {
    for world in worlds().await {
        let apps = [world.start().await, world.start().await];
        let shared = !world.config.redis_url.expose().is_empty();
        for guess in ["", "x", "0", &"0".repeat(64), &"F".repeat(64), &"é".repeat(32), &"a".repeat(9000)] {
            assert_eq!(open(&apps[0], guess, &[]).await.err(), Some(unknown()), "{guess}");
        }
        for _ in 0..10 {
            let ticket = ticket(&apps[0], "ada").await;
            let racers = (0..16).map(|racer| open(&apps[if shared { racer % 2 } else { 0 }], &ticket, &[]));
            let all = futures_util::future::join_all(racers).await;
            assert_eq!(all.iter().filter(|opened| opened.is_ok()).count(), 1);
            assert!(all.into_iter().filter_map(Result::err).all(|refused| refused == unknown()));
        }
        assert!(apps[0].metric("realtime_rejected_total{reason=\"ticket_unknown\",source=\"auth\"}") > 50.0);
        for app in apps {
            app.app.stop().await;
        }
    }
}

#[tokio::test]
async fn b18_a_ticket_is_used_from_the_page_that_asked_for_it() {
    let world = World::embedded().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    let token = tokens::for_user("ada");
    let from = |origin: &'static str| [("Origin", origin)];
    for (origin, good) in [(None, true), (Some("https://a.example"), true), (Some("https://b.example"), false)] {
        let answer = ticket_by(app.addr, &token, &from("https://a.example")).await;
        let ticket = answer.json()["ticket"].as_str().unwrap().to_owned();
        let headers: Vec<_> = origin.into_iter().flat_map(from).collect();
        assert_eq!(open(&app, &ticket, &headers).await.is_ok(), good, "{origin:?}");
        assert_eq!(open(&app, &ticket, &headers).await.unwrap_err(), unknown(), "it is spent either way");
    }
    app.app.stop().await;
}

#[tokio::test]
async fn b18_a_ticket_lives_for_thirty_seconds() {
    let world = World::redis().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    ticket(&app, "ada").await;
    let server = crate::support::redis::RedisServer::shared().await;
    let mut client = server.client().await;
    let pattern = format!("{}:ticket:*", world.config.redis_prefix);
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut client).await.unwrap();
    let left: u64 = redis::cmd("PTTL").arg(&keys[0]).query_async(&mut client).await.unwrap();
    assert!(keys.len() == 1 && (20_000..=30_000).contains(&left), "{keys:?} {left}");
    app.app.stop().await;
}

#[tokio::test]
async fn who_gets_a_ticket() {
    let world = World::embedded().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    let reason = |answer: &Response| answer.json()["details"]["reason"].as_str().unwrap_or_default().to_owned();
    let by_key = http::post(app.addr, "/v1/tickets", &format!("ApiKey {API_KEY}"), &json!({})).await;
    assert_eq!((by_key.status, reason(&by_key)), (403, "api_key_has_no_user".to_owned()));
    let nobody = http::request(app.addr, "POST", "/v1/tickets", &[], b"").await;
    assert_eq!((nobody.status, reason(&nobody)), (401, "missing".to_owned()));
    // A ticket gets no ticket, no job's state, and publishes nothing.
    let ticket = ticket(&app, "ada").await;
    let as_bearer = ticket_by(app.addr, &ticket, &[]).await;
    assert_eq!((as_bearer.status, reason(&as_bearer)), (401, "token_invalid".to_owned()));
    for (method, path) in [("POST", "/v1/tickets"), ("GET", "/v1/jobs/1")] {
        let answer = http::request(app.addr, method, &format!("{path}?ticket={ticket}"), &[], b"").await;
        assert_eq!((answer.status, reason(&answer)), (401, "ticket_refused".to_owned()), "{path}");
    }
    let stream = open(&app, &ticket, &[]).await.expect("none of that spent it");
    let cookie = cookie(&stream);
    let by_cookie = http::request(app.addr, "POST", "/v1/tickets", &[("Cookie", &cookie)], b"").await;
    assert_eq!((by_cookie.status, reason(&by_cookie)), (401, "missing".to_owned()));
    app.app.stop().await;
}

#[tokio::test]
async fn b16_a_ticket_beside_another_credential() {
    let world = World::embedded().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    let (ticket, token) = (ticket(&app, "ada").await, tokens::for_user("ada"));
    let bearer = format!("Bearer {token}");
    let conflict = (400, "credentials_conflict".to_owned());
    assert_eq!(open(&app, &ticket, &[("Authorization", &bearer)]).await.unwrap_err(), conflict);
    assert_eq!(open(&app, &format!("{ticket}&token={token}"), &[]).await.unwrap_err(), conflict);
    assert_eq!(open(&app, &format!("{ticket}&ticket={}", "0".repeat(64)), &[]).await.unwrap_err(), conflict);
    open(&app, &format!("{ticket}&ticket={ticket}"), &[]).await.expect("the same twice is one, and not spent before");
    app.app.stop().await;
}

#[tokio::test]
async fn a_ticket_carries_the_end_and_the_scopes_of_its_token() {
    let world = World::embedded().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    // In its leeway: 30 s after `exp` it is over, a second or two from now.
    let token = tokens::for_user_until("ada", tokens::now_s() - 28);
    let issued = || async { ticket_by(app.addr, &token, &[]).await.json()["ticket"].as_str().unwrap().to_owned() };
    let (used, unused) = (issued().await, issued().await);
    let mut stream = open(&app, &used, &[]).await.unwrap();
    let cookie = cookie(&stream);
    let end = stream.find("the end", |event| event.event == "end").await;
    assert_eq!(end.text("reason"), "token_expired");
    let expired = (401, "token_expired".to_owned());
    eventually("the token's end is the ticket's and the cookie's", SOON, async || {
        (open(&app, &used, &[("Cookie", &cookie)]).await.err() == Some(expired.clone())).then_some(())
    })
    .await;
    assert_eq!(open(&app, &unused, &[]).await.unwrap_err(), expired);
    app.app.stop().await;
}

#[tokio::test]
async fn whoever_is_disabled_between_issue_and_use_stays_out() {
    for world in worlds().await {
        let app = world.start().await;
        let ticket = ticket(&app, "ada").await;
        let id = crate::support::app::id("ada");
        world.store.disable_user(&id).await.unwrap();
        assert_eq!(open(&app, &ticket, &[]).await.unwrap_err(), (401, "disabled".to_owned()));
        app.app.stop().await;
    }
}

#[tokio::test]
async fn b19_tickets_and_cookies_are_in_no_log() {
    let world = World::redis().await;
    world.people(&[("ada", &[])]).await;
    let env = world.env();
    let mut env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.push(("LOG_LEVEL", "trace"));
    let server = Server::spawn(&env).await;
    let answer = ticket_by(server.addr(), &tokens::for_user("ada"), &[]).await;
    let ticket = answer.json()["ticket"].as_str().unwrap().to_owned();
    let path = format!("/v1/events?channels=user.me&ticket={ticket}");
    let mut stream = SseClient::connect(server.addr(), &path, &[]).await.unwrap();
    stream.until("ready").await;
    let cookie = cookie(&stream);
    let secret = cookie.split_once('=').unwrap().1.split('.').next().unwrap().to_owned();
    let again = SseClient::connect(server.addr(), &path, &[("Cookie", &cookie), ("Referer", &path)]).await;
    again.unwrap().until("ready").await;
    let spent = http::request(server.addr(), "GET", &path, &[], b"").await;
    assert_eq!(spent.status, 401);
    let logs = server.logs().join("\n");
    assert!(logs.contains("answered"), "requests are logged at this level");
    let ours = logs.lines().filter(|line| line.contains("\"target\":\"tidings"));
    assert!(ours.clone().count() > 3);
    for line in ours {
        assert!(!line.contains(&ticket) && !line.contains(&secret), "{line}");
    }
}

#[tokio::test]
async fn asking_first_spends_the_ticket_and_sets_the_cookie() {
    let world = World::embedded().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    let ticket = ticket(&app, "ada").await;
    let path = format!("/v1/events?channels=user.me,jobs.none&ticket={ticket}");
    let asked = http::request(app.addr, "GET", &path, &[("Accept", "application/json")], b"").await;
    assert_eq!((asked.status, asked.json()["denied"].as_array().map(Vec::len)), (200, Some(1)));
    let cookie = asked.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    open(&app, &ticket, &[("Cookie", &cookie)]).await.unwrap();
    // So does an answer that refuses.
    let refused = self::ticket(&app, "ada").await;
    let path = format!("/v1/events?channels=jobs.none&ticket={refused}");
    let refused = http::request(app.addr, "GET", &path, &[], b"").await;
    assert_eq!((refused.status, refused.header("set-cookie").is_some()), (403, true));
    assert_eq!(refused.json()["code"], Value::from("PERMISSION_DENIED"));
    app.app.stop().await;
}
