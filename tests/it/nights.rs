//! The questions of a night: each fault is caused for real, and what an operator is shown leads to it. The alert exists and asks for the
//! metric that moves, its runbook heading names what is seen there, and the log says what it is said to say.

use std::time::Duration;

use serde_json::json;
use tidings::config::Secret;
use tokio::net::TcpStream;

use crate::support::app::API_KEY;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::postgres::Postgres;
use crate::support::process::Server;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::sse::SseClient;
use crate::support::tls::Pair;
use crate::support::tls::PairFiles;
use crate::support::tokens;
use crate::support::wire::narrow;

const PATIENCE: Duration = Duration::from_secs(30);

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The section of the runbook to which an alert leads, and what it asks for.
fn alert(name: &str) -> (String, String) {
    let rules = read("k8s/monitoring/rules.yaml");
    let rule = rules.split("- alert: ").find(|rule| rule.starts_with(&format!("{name}\n")));
    let rule = rule.unwrap_or_else(|| panic!("no alert {name}")).to_owned();
    let link = rule.split("docs/operations.md#").nth(1).unwrap().split('"').next().unwrap();
    let docs = read("docs/operations.md");
    let section = docs.split("\n### ").find(|section| anchor(section.lines().next().unwrap()) == link);
    (rule.clone(), section.unwrap_or_else(|| panic!("no heading {link}")).to_owned())
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// What somebody who is woken by this alert finds.
struct Clue<'a> {
    alert: &'a str,
    /// The beginning of the name, and labels, as `/metrics` has them.
    metric: (&'a str, &'a [&'a str]),
    /// What the runbook's heading says to look for.
    says: &'a str,
    /// And what the log says.
    logs: &'a str,
}

impl Clue<'_> {
    async fn is_found_at(&self, server: &Server, wanted: impl Fn(f64) -> bool) {
        let (rule, section) = alert(self.alert);
        let (name, labels) = self.metric;
        assert!(rule.contains(name), "{} asks for {name}: {rule}", self.alert);
        assert!(section.contains(self.says), "the runbook of {} says {:?}: {section}", self.alert, self.says);
        eventually(&format!("{} is seen", self.alert), PATIENCE, async || {
            let text = server.metrics_text().await;
            let fits = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
            let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            text.lines().filter(fits).filter_map(value).any(&wanted).then_some(())
        })
        .await;
        eventually(&format!("the log says {:?}", self.logs), PATIENCE, async || {
            server.logs().iter().any(|line| line.contains(self.logs)).then_some(())
        })
        .await;
    }
}

async fn serve(world: &World, more: &[(&str, &str)]) -> Server {
    world.people(&[("ada", &["a"]), ("eve", &["e"])]).await;
    let env = world.env();
    let mut env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend(more);
    Server::spawn(&env).await
}

async fn open(server: &Server, headers: &[(&str, &str)]) -> Result<SseClient, u16> {
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let mut all = vec![("Authorization", token.as_str()), ("X-Tidings-Client", "1")];
    all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
    all.extend(headers);
    let opened = SseClient::connect(server.addr(), "/v1/events?channels=jobs.a,user.me", &all).await;
    opened.map_err(|refused| refused.answer().status)
}

/// Redis refuses to write; then it is gone. A worker that has never read the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_redis_and_of_workers() {
    let mut redis = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&redis).await;
    let server = serve(&world, &[]).await;
    let channel = &world.config.job_updates_channel;
    redis.publish(channel, "{ half a").await;
    let clue = Clue {
        alert: "TidingsInputRejected",
        metric: ("realtime_rejected_total", &["source=\"redis\""]),
        says: "a form error is a worker",
        logs: "",
    };
    clue.is_found_at(&server, |count| count > 0.0).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    redis.publish(channel, json!({"jobId": "a", "status": "running"}).to_string()).await;
    let clue = Clue {
        alert: "TidingsAppendsFail",
        metric: ("realtime_appends_total", &["outcome=\"failed\""]),
        says: "appends\nfail and are tried again",
        logs: "appends fail and are tried again",
    };
    clue.is_found_at(&server, |count| count > 0.0).await;
    redis.kill();
    let clue =
        Clue { alert: "TidingsBrokerDown", metric: ("realtime_broker_up", &[]), says: "CLIENT LIST", logs: "redis: " };
    clue.is_found_at(&server, |up| up == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away() {
    let mut postgres = Postgres::dedicated().await;
    let mut world = World::redis().await;
    world.config.database_url = Secret::new(postgres.database().await);
    world.store = tidings::store::Store::open(&world.config, &tidings::telemetry::Metrics::new()).await.unwrap();
    let server = serve(&world, &[]).await;
    postgres.stop();
    let token = format!("Bearer {}", tokens::for_user("eve"));
    let eve = [("Authorization", token.as_str())];
    assert_eq!(open(&server, &eve).await.err(), Some(503));
    let failed = ["timeout", "unreachable", "error"].map(|outcome| format!("outcome=\"{outcome}\""));
    let clue = |label| Clue {
        alert: "TidingsDatabaseAway",
        metric: ("realtime_store_queries_total", label),
        says: "realtime_store_queries_total",
        logs: "",
    };
    let label = eventually("one of them is counted", PATIENCE, async || {
        let text = server.metrics_text().await;
        let counted = |line: &str| line.starts_with("realtime_store_queries_total") && !line.ends_with(" 0");
        failed.iter().find(|label| text.lines().any(|line| counted(line) && line.contains(*label)))
    })
    .await;
    clue(&[label]).is_found_at(&server, |count| count > 0.0).await;
}

/// A cursor from nowhere, a token of somebody else's key, a crowd at one address, connections that say nothing, a client that does
/// not read.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_clients() {
    let world = World::redis().await;
    let more = [("RATE_LIMIT_CONNECTIONS_PER_IP", "100"), ("OUTBOX_EVENTS_MAX", "8"), ("OUTBOX_BYTES_MAX", "131072")];
    let server = serve(&world, &more).await;
    let mut lost = open(&server, &[("Last-Event-ID", "1.zzzz.mwq00000-0.zzzz")]).await.unwrap();
    assert_eq!(lost.until("reset").await.last().unwrap().text("reason"), "cursor_unknown");
    let clue = Clue {
        alert: "TidingsResets",
        metric: ("realtime_resumes_total", &["verdict=\"reset\""]),
        says: "cursor_unknown",
        logs: "",
    };
    clue.is_found_at(&server, |count| count > 0.0).await;
    let forged =
        tokens::hs256(r#"{"alg":"HS256"}"#, r#"{"sub":"ada","exp":9999999999}"#, b"another secret of thirty-two byte");
    let forged = format!("Bearer {forged}");
    assert_eq!(open(&server, &[("Authorization", &forged)]).await.err(), Some(401));
    let clue = Clue {
        alert: "TidingsForgedTokens",
        metric: ("realtime_rejected_total", &["source=\"auth\"", "reason=\"token_invalid\""]),
        says: "a key was changed",
        logs: "",
    };
    clue.is_found_at(&server, |count| count > 0.0).await;
    let silent = futures_util::future::join_all((0..50).map(|_| TcpStream::connect(server.addr()))).await;
    let clue = Clue {
        alert: "TidingsSilentConnections",
        metric: ("realtime_sockets", &["state=\"silent\""]),
        says: "FIRST_BYTE_TIMEOUT_MS",
        logs: "",
    };
    clue.is_found_at(&server, |count| count >= 50.0).await;
    drop(silent);
    slow(&server).await;
    let mut crowd = Vec::new();
    let refused = loop {
        match open(&server, &[("X-Forwarded-For", "203.0.113.1")]).await {
            Ok(stream) => crowd.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((refused, crowd.len() <= 100), (429, true));
    let clue = Clue {
        alert: "TidingsClientsRefused",
        metric: ("realtime_rejected_total", &["source=\"stream\"", "reason=\"per_ip\""]),
        says: "TRUSTED_PROXIES",
        logs: "name it in TRUSTED_PROXIES",
    };
    clue.is_found_at(&server, |count| count > 0.0).await;
}

async fn slow(server: &Server) {
    let mut deaf = narrow(open(server, &[])).await.unwrap();
    deaf.until("ready").await;
    let body = json!({"channel": "user.ada", "data": {"bulk": "x".repeat(48 * 1024)}});
    let clue = Clue {
        alert: "TidingsSlowClients",
        metric: ("realtime_ended_total", &["reason=\"slow\""]),
        says: "their network",
        logs: "",
    };
    eventually("it is too slow", PATIENCE, async || {
        for _ in 0..20 {
            let answer = http::post(server.addr(), "/v1/publish", &format!("ApiKey {API_KEY}"), &body).await;
            assert_eq!(answer.status, 202, "{}", answer.text());
        }
        (server.metric("realtime_ended_total{reason=\"slow\"}").await? > 0.0).then_some(())
    })
    .await;
    clue.is_found_at(server, |count| count > 0.0).await;
}

/// A certificate that is replaced by half a one, and an instance that has been told to leave and takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_deploy() {
    let files = PairFiles::new(&Pair::make());
    let (cert, key) = (files.cert().display().to_string(), files.key().display().to_string());
    let more = [("TLS_CERT_FILE", cert.as_str()), ("TLS_KEY_FILE", &key)];
    let mut server = Server::launch(&["serve"], &more);
    eventually("it listens", PATIENCE, async || {
        server.logs().iter().any(|line| line.contains("listening")).then_some(())
    })
    .await;
    files.write("half of one", "none");
    let clue = Clue {
        alert: "TidingsCertificateRefused",
        metric: ("realtime_tls_reloads_total", &["outcome=\"failed\""]),
        says: "the certificate has changed and can't be used",
        logs: "the certificate has changed and can't be used",
    };
    clue.is_found_at(&server, |count| count > 0.0).await;
    drop(server);
    let world = World::embedded().await;
    server = serve(&world, &[("DRAIN_NOTICE_MS", "20000")]).await;
    server.terminate();
    let clue =
        Clue { alert: "TidingsDrainStuck", metric: ("realtime_draining", &[]), says: "SIGKILL", logs: "leaving" };
    clue.is_found_at(&server, |draining| draining == 1.0).await;
}
