//! What stands in files beside the code and would go stale in silence: manifests, alerts, the dashboard. Whether they are valid in
//! themselves is for `scripts/manifests.sh`; here they are held to the code and to each other.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::process::Server;
use crate::support::sse::SseClient;
use crate::support::tokens;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The defaults of the settings.
fn defaults() -> toml::Table {
    read("src/config/config.default.toml").parse().unwrap()
}

/// `NAME=value` of a file of settings.
fn settings(path: &str) -> Vec<(String, String)> {
    let text = read(path);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{path}: {line}")))
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

/// The values of `key: value` anywhere in a text of YAML, without comments.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let of = |line: &'a str| {
        let line = line.trim_start().trim_start_matches("- ");
        let value = line.strip_prefix(key)?.strip_prefix(':')?;
        Some(value.split(" #").next().unwrap_or_default().trim())
    };
    text.lines().filter_map(of).collect()
}

fn number(text: &str, key: &str) -> u64 {
    let found = values(text, key);
    assert_eq!(found.len(), 1, "{key}: {found:?}");
    found[0].parse().unwrap_or_else(|e| panic!("{key}: {} {e}", found[0]))
}

/// Every word in a text that begins like one of our metrics.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !part(c)).filter(|word| word.starts_with("realtime_")).collect()
}

fn known_metrics() -> BTreeSet<String> {
    let source = read("src/telemetry/metrics.rs");
    let quoted = source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("realtime_"));
    quoted.map(str::to_owned).collect()
}

/// Names that are no metric, and why that is not a mistake.
fn unknown(text: &str) -> Vec<&str> {
    let known = known_metrics();
    let base =
        |word: &str| word.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count").to_owned();
    metrics_in(text).into_iter().filter(|word| !known.contains(*word) && !known.contains(&base(word))).collect()
}

#[test]
fn settings_of_the_manifests_exist() {
    let known: BTreeSet<String> = defaults().keys().map(|key| key.to_uppercase()).collect();
    for file in ["k8s/base/settings.env", "k8s/overlays/tls/settings.env"] {
        for (name, _) in settings(file) {
            assert!(known.contains(&name), "{file}: {name} is no setting");
        }
    }
    let compose = read("docker-compose.yml");
    let ours = compose.split("environment: &settings").nth(1).unwrap().split("read_only").next().unwrap();
    for name in ours.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name) {
        assert!(known.contains(name), "docker-compose.yml: {name} is no setting");
    }
    assert!(values(&read("k8s/base/migrate.yaml"), "name").contains(&"DATABASE_URL"));
}

/// Who is given less time than the sum is killed in the middle of a drain.
#[test]
fn the_grace_is_the_sum() {
    let deployment = read("k8s/base/deployment.yaml");
    let set = settings("k8s/base/settings.env");
    let seconds = |name: &str| -> u64 {
        let given = set.iter().find(|(key, _)| key == name).map(|(_, value)| value.parse::<u64>().unwrap());
        let default = defaults().get(&name.to_lowercase()).map_or(0, |value| value.as_integer().unwrap() as u64);
        given.unwrap_or(default) / 1000
    };
    let pre_stop = number(&deployment, "seconds");
    let needed = pre_stop + seconds("DRAIN_NOTICE_MS") + seconds("DRAIN_MS") + 5;
    let grace = number(&deployment, "terminationGracePeriodSeconds");
    assert!((needed + 5..needed + 15).contains(&grace), "{grace} s for {needed} s");
    let said = format!(
        "preStop {pre_stop} + DRAIN_NOTICE_MS {} + DRAIN_MS {} + the end 5 + to spare 5 = {grace}",
        seconds("DRAIN_NOTICE_MS"),
        seconds("DRAIN_MS")
    );
    assert!(deployment.contains(&said), "the comment says: {said}");
    assert!(read("k8s/README.md").contains(&format!("**Grace {grace} s**")));
    let compose = read("docker-compose.yml");
    let said = ["DRAIN_NOTICE_MS", "DRAIN_MS", "stop_grace_period"].map(|key| values(&compose, key));
    assert_eq!(said, [vec!["0s"], vec!["5s"], vec!["15s"]]);
}

#[test]
fn ports_probes_and_rollouts_are_what_the_code_means() {
    let (deployment, defaults) = (read("k8s/base/deployment.yaml"), defaults());
    let port = |name: &str| defaults[name].to_string();
    assert_eq!(values(&deployment, "containerPort"), [port("realtime_port"), port("metrics_port")]);
    assert_eq!(values(&deployment, "path"), ["/health/live", "/health/ready", "/health/live"]);
    let service = read("k8s/base/service.yaml");
    assert_eq!(values(&service, "port"), ["80".to_owned(), port("metrics_port")]);
    assert!(!service.contains("sessionAffinity"));
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("EXPOSE {} {}", port("realtime_port"), port("metrics_port"))));
    assert_eq!((number(&deployment, "maxSurge"), number(&deployment, "maxUnavailable")), (1, 0));
    assert_eq!((number(&deployment, "replicas"), number(&deployment, "minReadySeconds")), (3, 10));
    let hpa = read("k8s/overlays/production/hpa.yaml");
    let bound: f64 = settings("k8s/base/settings.env")
        .iter()
        .find(|(name, _)| name == "MAX_CONNECTIONS")
        .unwrap()
        .1
        .parse()
        .unwrap();
    let wanted: f64 = values(&hpa, "averageValue")[0].trim_matches('"').parse().unwrap();
    let (least, most) = (number(&hpa, "minReplicas") as f64, number(&hpa, "maxReplicas") as f64);
    assert!(wanted * least <= bound * (least - 1.0), "one that leaves can be taken up by the others");
    assert!(most > least);
}

/// The image builds what Cargo.toml names: its stand-ins for everything else have to be where Cargo looks for them.
#[test]
fn the_image_stands_in_for_every_target() {
    let (dockerfile, manifest) = (read("Dockerfile"), read("Cargo.toml"));
    for path in manifest.lines().filter_map(|line| line.strip_prefix("path = ")).map(|path| path.trim_matches('"')) {
        assert!(dockerfile.contains(path), "{path}");
    }
    let version =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"').to_owned();
    assert!(dockerfile.contains(&format!("rust:{version}-slim")), "{version}");
    let user = values(&read("k8s/base/deployment.yaml"), "runAsUser")[0].to_owned();
    assert!(dockerfile.contains(&format!("USER {user}:{user}")));
    let tag = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap().trim_matches('"').to_owned();
    for file in ["k8s/base/kustomization.yaml", "k8s/overlays/production/kustomization.yaml"] {
        assert_eq!(values(&read(file), "newTag"), [tag.as_str()], "{file}");
    }
}

/// The part of a link after `#`, as GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_name_a_heading() {
    let (rules, docs) = (read("k8s/monitoring/rules.yaml"), read("docs/operations.md"));
    assert_eq!(unknown(&rules), Vec::<&str>::new());
    assert_eq!(unknown(&read("k8s/monitoring/prometheus-adapter.values.yaml")), Vec::<&str>::new());
    let runbook = docs.split("## Runbook\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let headings: BTreeSet<String> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(anchor).collect();
    let (alerts, named) = (values(&rules, "alert"), values(&rules, "runbook"));
    assert!(alerts.len() > 20 && alerts.len() == named.len(), "{} alerts, {} runbooks", alerts.len(), named.len());
    assert_eq!(alerts.iter().collect::<BTreeSet<_>>().len(), alerts.len(), "each once");
    for link in named {
        let heading = link.trim_matches('"').strip_prefix("docs/operations.md#").unwrap_or_else(|| panic!("{link}"));
        assert!(headings.contains(heading), "{heading} is none of {headings:?}");
    }
    // Every alert is played.
    let played = read("k8s/monitoring/rules_test.yaml");
    let played: BTreeSet<&str> = values(&played, "alertname").into_iter().collect();
    assert_eq!(alerts.into_iter().collect::<BTreeSet<_>>(), played);
}

/// Kustomize can't take a file in as a part of another, so the rules stand in two.
#[test]
fn the_operators_rules_are_the_same() {
    let (rules, operator) = (read("k8s/monitoring/rules.yaml"), read("k8s/monitoring/prometheusrule.yaml"));
    let plain = &rules[rules.find("groups:").unwrap()..];
    let below: String = operator
        .split_once("spec:\n")
        .unwrap()
        .1
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
        .collect();
    assert_eq!(below, plain, "prometheusrule.yaml");
}

/// What Grafana needs of a dashboard, as far as it can be told without one.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read("k8s/monitoring/dashboard.json")).unwrap();
    assert_eq!((&dashboard["uid"], dashboard["schemaVersion"].as_u64() > Some(30)), (&Value::from("tidings"), true));
    let variables: Vec<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each id once");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && cells.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
        let asked = panel["targets"].as_array().map_or(0, Vec::len);
        assert_eq!(asked == 0, panel["type"] == "row", "{}", panel["title"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(unknown(target["expr"].as_str().unwrap()), Vec::<&str>::new(), "{}", panel["title"]);
            assert_eq!(target["datasource"]["uid"], "${datasource}");
        }
    }
    // Nothing that we count is left out.
    let text = dashboard.to_string();
    let shown = metrics_in(&text);
    let left: Vec<String> = known_metrics()
        .into_iter()
        .filter(|name| !shown.contains(name.as_str()) && !shown.contains(format!("{name}_bucket").as_str()))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "metrics that no panel shows");
}

/// The labels of a row of docs/operations.md, each with the values that it lists.
fn listed(cell: &str) -> Vec<(&str, Vec<&str>)> {
    let mut labels: Vec<(&str, Vec<&str>)> = Vec::new();
    let parts: Vec<&str> = cell.split('`').collect();
    for pair in parts[1..].chunks(2).filter(|pair| pair.len() == 2) {
        if pair[1].starts_with(':') || pair[1].starts_with(", ") && labels.iter().all(|(_, values)| values.is_empty()) {
            labels.push((pair[0], Vec::new()));
        } else if let Some((_, values)) = labels.last_mut() {
            values.push(pair[0]);
        }
    }
    labels
}

/// A rate shows nothing of the first event of a series that appears with it.
#[test]
fn counters_are_there_before_they_count() {
    let (docs, close) = (read("docs/operations.md"), read("src/hub/close.rs"));
    let page = String::from_utf8(tidings::telemetry::Metrics::new().render()).unwrap();
    let is_there = |metric: &str, label: &str, value: &str| {
        let said = format!("{label}=\"{value}\"");
        page.lines().any(|line| line.starts_with(metric) && line.contains(&said) && line.ends_with(" 0"))
    };
    let later =
        ["messages_sent", "job_updates", "rejected", "http_requests"].map(|name| format!("`realtime_{name}_total`"));
    let mut seen = 0;
    for row in docs.lines().filter(|line| line.starts_with("| `realtime_") && line.contains("_total`")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let metric = cells[1];
        for (label, values) in listed(cells[2]).into_iter().filter(|_| !later.iter().any(|name| name == metric)) {
            for value in values {
                assert!(is_there(metric.trim_matches('`'), label, value), "{metric} {label} {value}");
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen} values are listed");
    let words = close.split("fn as_str").nth(1).unwrap().split("\n    }\n").next().unwrap();
    for reason in words.split('"').skip(1).step_by(2) {
        assert!(is_there("realtime_ended_total", "reason", reason), "{reason}");
    }
}

/// A page of metrics says whether the instance is ready, and if not why, also while it leaves.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_a_metric() {
    let world = World::embedded().await;
    world.people(&[("ada", &["a"])]).await;
    let owned = world.env();
    let mut env: Vec<(&str, &str)> = owned.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend([("DRAIN_NOTICE_MS", "10000"), ("DRAIN_MS", "20000"), ("MAX_CONNECTIONS", "123")]);
    let mut server = Server::spawn(&env).await;
    async fn why(server: &Server, reason: &str) -> Option<f64> {
        server.metric(&format!("realtime_not_ready{{reason=\"{reason}\"}}")).await
    }
    for reason in ["starting", "broker"] {
        assert_eq!(why(&server, reason).await, Some(0.0), "{reason}");
    }
    assert_eq!(server.metric("realtime_max_connections").await, Some(123.0));
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let opened =
            SseClient::connect(server.addr(), "/v1/events?channels=jobs.a", &[("Authorization", &token)]).await;
        streams.push(opened.unwrap());
    }
    for stream in &mut streams {
        stream.until("ready").await;
    }
    server.terminate();
    eventually("it says that it leaves", Duration::from_secs(10), async || {
        (server.metric("realtime_draining").await == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(http::get(server.addr(), "/health/ready", "").await.status, 503);
}

/// A container begins with 1,024 open files and may have more; an image without a shell has nobody else who could raise it.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_as_streams_may_be_open() {
    for (limit, files, warned) in
        [("64:9000", 4_256.0, false), ("64:2000", 2_000.0, true), ("8000:9000", 8_000.0, false)]
    {
        let by = format!("--nofile={limit}");
        let mut server = Server::launch_by(&["prlimit", &by], &["serve"], &[("MAX_CONNECTIONS", "3000")]);
        server.ready().await;
        assert_eq!(server.metric("process_max_fds").await, Some(files), "{limit}");
        let said = server.logs().iter().any(|line| line.contains("fewer open files are allowed"));
        assert_eq!(said, warned, "{limit}");
    }
}
