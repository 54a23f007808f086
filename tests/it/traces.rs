//! Traces of publishers go on through the log to the delivery on every instance; a collector that is away hinders nobody.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::SOON;
use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::child::free_port;
use crate::support::eventually;
use crate::support::http;
use crate::support::process::Server;
use crate::support::redis::RedisServer;
use crate::support::sse::SseClient;
use crate::support::tokens;

const SPAN: &str = "00f067aa0ba902b7";

/// A span, and which instance sent it.
type Told = (String, Span);

/// Takes what exporters send, and reads it with somebody else's decoder.
struct Collector {
    addr: SocketAddr,
    spans: Arc<Mutex<Vec<Told>>>,
    _task: JoinSet<()>,
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn take(headers: &HeaderMap, body: Bytes, spans: &Mutex<Vec<Told>>) -> StatusCode {
    assert_eq!(headers.get("content-type").unwrap(), "application/x-protobuf");
    for resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        let about = resource.resource.unwrap().attributes;
        assert_eq!(text(&about, "service.name"), "tidings-tests");
        let node = text(&about, "service.instance.id");
        let all = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.lock().extend(all.map(|span| (node.clone(), span)));
    }
    StatusCode::OK
}

impl Collector {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, spans) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let taken = Arc::clone(&spans);
        let take = async move |headers: HeaderMap, body: Bytes| take(&headers, body, &taken);
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", post(take))).await.unwrap() });
        Self { addr, spans, _task: task }
    }

    fn of(&self, trace: &str) -> Vec<Told> {
        let id: u128 = u128::from_str_radix(trace, 16).unwrap();
        self.spans.lock().iter().filter(|(_, span)| span.trace_id == id.to_be_bytes()).cloned().collect()
    }

    /// The spans of a trace, once there are so many.
    async fn until(&self, trace: &str, count: usize) -> Vec<Told> {
        let mut seen = Vec::new();
        let all = eventually(&format!("{count} spans of {trace}"), SOON, async || {
            seen = self.of(trace);
            (seen.len() >= count).then(|| seen.clone())
        })
        .await;
        assert_eq!(all.len(), count, "{all:#?}");
        all
    }
}

fn new_trace() -> String {
    format!("{:016x}{:016x}", fastrand::u64(1..), fastrand::u64(..))
}

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-{SPAN}-01")
}

fn named<'a>(spans: &'a [Told], name: &str) -> Vec<&'a Told> {
    spans.iter().filter(|(_, span)| span.name == name).collect()
}

/// One chain: the publisher's span, the ingest, its append, and below that the delivery of each instance.
fn check(spans: &[Told], channel: &str, streams: &[&str]) {
    let (ingest, append) = (&named(spans, "ingest")[0].1, &named(spans, "append")[0].1);
    assert_eq!(ingest.parent_span_id, u64::from_str_radix(SPAN, 16).unwrap().to_be_bytes());
    assert_eq!(append.parent_span_id, ingest.span_id);
    assert_eq!(text(&ingest.attributes, "tidings.outcome"), "applied");
    assert!(ingest.start_time_unix_nano <= append.start_time_unix_nano);
    let deliveries = named(spans, "deliver");
    let mut told: Vec<String> = deliveries.iter().map(|(_, span)| text(&span.attributes, "tidings.streams")).collect();
    told.sort();
    assert_eq!(told, streams, "how many streams each instance had");
    for (_, delivery) in &deliveries {
        assert_eq!(delivery.parent_span_id, append.span_id);
        assert_eq!(text(&delivery.attributes, "tidings.channel"), channel);
        assert!(delivery.end_time_unix_nano >= delivery.start_time_unix_nano);
    }
    assert!(deliveries.len() < 2 || deliveries[0].0 != deliveries[1].0, "one for each instance");
}

async fn post_with(app: &TestApp, path: &str, trace: &str, body: &serde_json::Value) -> http::Response {
    let (key, parent) = (format!("ApiKey {API_KEY}"), traceparent(trace));
    let headers = [("Authorization", key.as_str()), ("Content-Type", "application/json"), ("traceparent", &parent)];
    http::request(app.addr, "POST", path, &headers, body.to_string().as_bytes()).await
}

fn traced(world: &mut World, collector: SocketAddr) {
    world.config.otlp_endpoint = format!("http://{collector}/");
    world.config.otlp_service_name = "tidings-tests".to_owned();
}

/// By every way into the log, over two instances of which one has the streams.
#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_trace_reaches_the_delivery_on_every_instance() {
    let (collector, server) = (Collector::start().await, RedisServer::shared().await);
    let mut world = World::redis().await;
    traced(&mut world, collector.addr);
    world.people(&[("ada", &["a"])]).await;
    let (one, two) = (world.start().await, world.start().await);
    let mut streams = [two.stream("ada", "jobs.a,user.me").await, two.stream("ada", "jobs.a").await];
    for stream in &mut streams {
        stream.until("ready").await;
    }
    let update = |n: u64, trace: &str| json!({ "jobId": "a", "status": "running", "data": { "n": n }, "traceparent": traceparent(trace) });
    let heard = new_trace();
    assert!(server.publish(&world.config.job_updates_channel, update(1, &heard).to_string()).await > 0);
    check(&collector.until(&heard, 4).await, "jobs.a", &["0", "2"]);
    let waited = new_trace();
    let data = update(2, &waited).to_string();
    server.xadd(&world.config.job_updates_channel, data).await;
    check(&collector.until(&waited, 4).await, "jobs.a", &["0", "2"]);
    let posted = new_trace();
    let answer =
        post_with(&one, "/v1/jobs/a/updates", &posted, &json!({ "status": "running", "data": { "n": 3 } })).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    check(&collector.until(&posted, 4).await, "jobs.a", &["0", "2"]);
    let published = new_trace();
    let event = json!({ "channel": "user.ada", "data": {} });
    assert_eq!(post_with(&one, "/v1/publish", &published, &event).await.status, 202);
    check(&collector.until(&published, 4).await, "user.ada", &["0", "1"]);
    // What the body says comes before the header.
    let (header, body) = (new_trace(), new_trace());
    let event = json!([{ "channel": "user.ada", "data": {}, "traceparent": traceparent(&body) }, { "channel": "user.ada", "data": {} }]);
    assert_eq!(post_with(&one, "/v1/publish/batch", &header, &event).await.status, 202);
    check(&collector.until(&body, 4).await, "user.ada", &["0", "1"]);
    check(&collector.until(&header, 4).await, "user.ada", &["0", "1"]);
    let channel = new_trace();
    let event = json!({ "channel": "user.ada", "data": {}, "traceparent": traceparent(&channel) }).to_string();
    assert!(server.publish(&world.config.channel_events_channel, event).await > 0);
    check(&collector.until(&channel, 4).await, "user.ada", &["0", "1"]);
    // A browser does not see it.
    let seen = streams[0].until_that("the last", |event| event.event == "notification").await;
    assert!(seen.iter().all(|event| !event.raw.contains("traceparent") && !event.raw.contains(&posted)), "{seen:?}");
    let (exported, dropped) = (
        |app: &TestApp| app.metric("realtime_spans_total{outcome=\"exported\"}"),
        |app: &TestApp| app.metric("realtime_spans_total{outcome=\"dropped\"}"),
    );
    assert!(exported(&one) + exported(&two) >= 24.0 && dropped(&one) + dropped(&two) == 0.0);
    for app in [one, two] {
        app.app.stop().await;
    }
}

/// In one process too; and what nobody samples, or is no `traceparent`, is delivered like everything else and makes no span.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_samples_makes_no_span() {
    let collector = Collector::start().await;
    let mut world = World::embedded().await;
    traced(&mut world, collector.addr);
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    let quiet = new_trace();
    for (n, parent) in [json!(format!("00-{quiet}-{SPAN}-00")), json!("nonsense"), json!(7), json!(null), json!({})]
        .into_iter()
        .enumerate()
    {
        let receipt = app.update("a", json!({ "status": "running", "data": { "n": n }, "traceparent": parent })).await;
        assert_eq!(receipt["applied"], true, "{receipt}");
    }
    let sampled = new_trace();
    let answer = post_with(&app, "/v1/jobs/a/updates", &sampled, &json!({ "status": "completed" })).await;
    assert_eq!(answer.status, 202);
    check(&collector.until(&sampled, 3).await, "jobs.a", &["1"]);
    let late = new_trace();
    post_with(&app, "/v1/jobs/a/updates", &late, &json!({ "status": "running" })).await;
    let spans = collector.until(&late, 2).await;
    assert_eq!(
        text(&named(&spans, "append")[0].1.attributes, "tidings.outcome"),
        "terminal",
        "judged and dropped, so not delivered"
    );
    assert_eq!(collector.spans.lock().len(), 5, "and nothing else");
    // What waits at the end is sent before the process goes.
    let last = new_trace();
    post_with(&app, "/v1/jobs/a/updates", &last, &json!({ "status": "queued", "attempt": 2 })).await;
    stream.find("it", |event| event.data["status"] == "queued").await;
    app.app.stop().await;
    assert_eq!(collector.of(&last).len(), 3);
}

/// Nobody listens at the endpoint: everything goes on, what can't be sent is counted, and the end does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_hinders_nobody() {
    let mut world = World::embedded().await;
    traced(&mut world, SocketAddr::from(([127, 0, 0, 1], free_port())));
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    for n in 0..20 {
        let update = json!({ "status": "running", "data": { "n": n } });
        assert_eq!(post_with(&app, "/v1/jobs/a/updates", &new_trace(), &update).await.status, 202);
        stream.find("it", |event| event.data["data"]["n"] == n).await;
    }
    let failed = "realtime_spans_total{outcome=\"failed\"}";
    eventually("they are counted", SOON, async || (app.metric(failed) >= 60.0).then_some(())).await;
    post_with(&app, "/v1/jobs/a/updates", &new_trace(), &json!({ "status": "completed" })).await;
    let begun = Instant::now();
    app.app.stop().await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// The log of a process: lines of a request have its trace, the beginning of a stream its request, both ends the connection.
#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_say_where_they_belong() {
    let world = World::full().await;
    world.people(&[("ada", &["a"])]).await;
    let mut env = world.env();
    env.push(("LOG_LEVEL", "debug".to_owned()));
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::spawn(&env).await;
    let (key, trace) = (format!("ApiKey {API_KEY}"), new_trace());
    let parent = traceparent(&trace);
    let headers = [("Authorization", key.as_str()), ("Content-Type", "application/json"), ("traceparent", &parent)];
    let answer =
        http::request(server.addr(), "POST", "/v1/jobs/a/updates", &headers, b"{\"status\":\"running\"}").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let headers = [("Authorization", token.as_str()), ("X-Request-Id", "request-of-the-stream")];
    let mut stream = SseClient::connect(server.addr(), "/v1/events?channels=jobs.a", &headers).await.unwrap();
    let connection = stream.until("connected").await.pop().unwrap().text("connectionId").to_owned();
    stream.until("ready").await;
    drop(stream);
    let line = async |what: &str, fits: &dyn Fn(&Value) -> bool| {
        eventually(what, SOON, async || {
            let lines = server.logs();
            lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(fits)
        })
        .await
    };
    let answered = line("the answer", &|line| line["message"] == "answered" && line["span"]["trace.id"] == trace).await;
    assert_eq!(answered["span"]["http.route"], "/v1/jobs/{id}/updates");
    let of_stream = |message: &'static str| {
        let connection = connection.clone();
        move |line: &Value| line["message"] == message && line["connection.id"] == connection
    };
    let opened = line("its beginning", &of_stream("stream opens")).await;
    assert_eq!(opened["span"]["request.id"], "request-of-the-stream", "{opened}");
    let ended = line("its end", &of_stream("stream ended")).await;
    assert_eq!(ended["reason"], "client_gone");
}
