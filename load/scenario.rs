//! The scenarios: start what is needed, let the parts run, say what they saw.

use std::path::Path;
use std::time::Duration;

use serde_json::Map;
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use crate::Failure;
use crate::now_us;
use crate::options::Scenario;
use crate::processes::Meter;
use crate::processes::Part;
use crate::report;
use crate::stack::Stack;
use crate::support::http;

/// Between two publishes to everybody.
const ROUND: Duration = Duration::from_millis(500);
/// The owner's figure: a thousand streams have a publish within a second.
const BROADCAST_US_MAX: u64 = 1_000_000;
const SHORT_S: u64 = 10;
const SHORT_WARMUP_S: u64 = 3;

/// One job per stream, updates in turn.
pub(crate) async fn latency(scenario: &Scenario) -> Result<bool, Failure> {
    let (good, result) = measure_latency(scenario).await?;
    write(scenario.json.as_deref(), [("latency", result)])?;
    Ok(good)
}

/// One channel for all.
pub(crate) async fn broadcast(scenario: &Scenario) -> Result<bool, Failure> {
    let (good, result) = measure_broadcast(scenario).await?;
    write(scenario.json.as_deref(), [("broadcast", result)])?;
    Ok(good)
}

/// Both, each on a fresh stack.
pub(crate) async fn all(mut scenario: Scenario, short: bool) -> Result<bool, Failure> {
    if short {
        (scenario.seconds, scenario.warmup) = (SHORT_S, SHORT_WARMUP_S);
    }
    let (good_latency, latency) = measure_latency(&scenario).await?;
    let (good_broadcast, broadcast) = measure_broadcast(&scenario).await?;
    write(scenario.json.as_deref(), [("latency", latency), ("broadcast", broadcast)])?;
    Ok(good_latency && good_broadcast)
}

async fn measure_latency(scenario: &Scenario) -> Result<(bool, Value), Failure> {
    let mut stack = Stack::new(scenario).await?;
    let run = new_run();
    stack.seed(&run, scenario.streams).await?;
    let mut reader = start_reader(&stack, scenario, &run, false)?;
    let [streams, rate, seconds, warmup] =
        [scenario.streams, scenario.rate, scenario.seconds, scenario.warmup].map(|number| number.to_string());
    let publish = ["publisher", "--redis-url", &stack.redis_url, "--run", &run, "--streams", &streams];
    let how = ["--rate", &rate, "--seconds", &seconds, "--warmup", &warmup];
    let mut publisher = Part::start(&[&publish[..], &how[..]].concat())?;
    publisher.hear()?; // the warm-up is over
    let meter = Meter::start(stack.processes().into_iter().chain([("reader", reader.pid())]));
    let published = publisher.hear()?;
    let used = meter.read();
    let seen = stop(&mut reader, published["sent"].as_u64().ok_or("the publisher doesn't say how many")?)?;
    let good = report::is_clean(&seen) && stack.is_alive();
    let result = result(scenario, &seen, &[("published", published), ("used", used)]);
    report::print("latency", &result);
    Ok((good, result))
}

async fn measure_broadcast(scenario: &Scenario) -> Result<(bool, Value), Failure> {
    let mut stack = Stack::new(scenario).await?;
    let run = new_run();
    stack.seed(&run, scenario.streams).await?;
    let mut reader = start_reader(&stack, scenario, &run, true)?;
    let meter = Meter::start(stack.processes().into_iter().chain([("reader", reader.pid())]));
    let rounds = (scenario.seconds * 2).max(1);
    let authorization = format!("ApiKey {}", scenario.api_key);
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 1..=rounds {
        tick.tick().await;
        let data = serde_json::json!({"n": n, "cold": 0, "t": now_us()});
        let body = serde_json::json!({"channel": format!("docs.load-{run}"), "data": data});
        let answer = http::post(stack.url, "/v1/publish", &authorization, &body).await;
        if !(200..300).contains(&answer.status) {
            return Err(format!("POST /v1/publish: {} {}", answer.status, answer.text()).into());
        }
    }
    let used = meter.read();
    let seen = stop(&mut reader, rounds)?;
    let fast = seen["latencyUs"]["p100"].as_u64() < Some(BROADCAST_US_MAX);
    let good = fast && report::is_clean(&seen) && stack.is_alive();
    let result = result(scenario, &seen, &[("publishes", rounds.into()), ("used", used)]);
    report::print("broadcast", &result);
    Ok((good, result))
}

fn start_reader(stack: &Stack, scenario: &Scenario, run: &str, shared: bool) -> Result<Part, Failure> {
    let (url, streams) = (stack.url.to_string(), scenario.streams.to_string());
    let mut args = vec!["reader", "--url", &url, "--run", run, "--streams", &streams];
    args.extend(["--jwt-secret", &scenario.jwt_secret]);
    args.extend(shared.then_some("--shared"));
    let mut reader = Part::start(&args)?;
    reader.hear()?; // all are ready
    Ok(reader)
}

fn stop(reader: &mut Part, sent: u64) -> Result<Value, Failure> {
    reader.tell(&format!("stop {sent}"))?;
    reader.hear()
}

/// Ids of this run, so that a database may be used again.
fn new_run() -> String {
    format!("{:08x}", fastrand::u32(..))
}

fn result(scenario: &Scenario, seen: &Value, more: &[(&str, Value)]) -> Value {
    let mut result = Map::new();
    result.insert("streams".to_owned(), scenario.streams.into());
    result.extend(seen.as_object().cloned().unwrap_or_default());
    result.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Value::Object(result)
}

fn write<const N: usize>(json: Option<&Path>, results: [(&str, Value); N]) -> Result<(), Failure> {
    let Some(path) = json else { return Ok(()) };
    let all: Map<String, Value> = results.into_iter().map(|(name, result)| (name.to_owned(), result)).collect();
    Ok(std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?)
}
