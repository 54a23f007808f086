//! Settings: precedence, every mistake at once, nothing secret shown.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;

fn with(pairs: &[(&str, &str)]) -> Result<Config, String> {
    let variables: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config::from_parts(&variables, None).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_valid_and_are_the_documented_ones() {
    let config = Config::defaults();
    assert_eq!((config.realtime_port, config.metrics_port), (3001, 9090));
    assert_eq!(config.job_updates_channel, "job-updates");
    assert_eq!(config.heartbeat_interval, Duration::from_secs(15));
    assert!(!config.allow_query_token && config.job_writeback);
}

#[test]
fn environment_beats_file_beats_defaults() {
    let variables = BTreeMap::from([("REALTIME_PORT".to_owned(), "1".to_owned())]);
    let file = "realtime_port = 2\nmetrics_port = 3\n";
    let config = Config::from_parts(&variables, Some(("t.toml", file))).unwrap();
    assert_eq!((config.realtime_port, config.metrics_port), (1, 3));
}

#[test]
fn every_mistake_is_reported_at_once_with_its_source() {
    let variables = BTreeMap::from([
        ("REALTIME_PORT".to_owned(), "x".to_owned()),
        ("ALLOW_QUERY_TOKEN".to_owned(), "maybe".to_owned()),
    ]);
    let file = "relatime_port = 2\nmetrics_port = \"3\"\n";
    let text = Config::from_parts(&variables, Some(("t.toml", file))).unwrap_err().to_string();
    for part in
        ["REALTIME_PORT", "ALLOW_QUERY_TOKEN", "`relatime_port`: no such setting", "`metrics_port`: expected integer"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn b104_risky_settings_are_refused() {
    let cases = [
        ("JWT_SECRET", "short", "shorter than 32 bytes"),
        ("CORS_ORIGINS", "*", "* is refused"),
        ("CORS_ORIGINS", "https://a.example.com/path", "exact origin"),
        ("CORS_ORIGINS", "null", "exact origin"),
        ("REDIS_URL", "http://x", "redis://"),
        ("DATABASE_URL", "mysql://x", "postgres://"),
        ("DATABASE_SCHEMA", "a\";drop", "letters"),
        ("HEARTBEAT_INTERVAL", "60s", "at most 15 s"),
        ("API_KEYS", "short", "at least 16"),
        ("TERMINAL_STATUSES", "Done!", "[a-z]"),
        ("JWKS_URL", "ftp://x", "https://"),
        ("TLS_CERT_FILE", "tls.crt", "both or neither"),
        ("TLS_KEY_FILE", "tls.key", "both or neither"),
        ("OTLP_ENDPOINT", "collector:4318", "http://"),
        ("OTLP_ENDPOINT", "http://user:word@collector:4318", "http://"),
    ];
    for (name, value, part) in cases {
        let text = with(&[(name, value)]).expect_err(name);
        assert!(text.contains(name) && text.contains(part), "{name}: {text}");
    }
}

#[test]
fn durations_lists_and_flags_read_as_people_write_them() {
    let config = with(&[
        ("HEARTBEAT_INTERVAL", "5s"),
        ("LOG_RETENTION_MS", "2min"),
        ("CORS_ORIGINS", "https://a.example, http://localhost:3000"),
        ("ALLOW_QUERY_TOKEN", "1"),
        ("FRONTEND_ORIGIN", "https://c.example"),
    ])
    .unwrap();
    assert_eq!((config.heartbeat_interval, config.log_retention), (Duration::from_secs(5), Duration::from_secs(120)));
    assert_eq!(config.cors_origins, ["https://a.example", "http://localhost:3000", "https://c.example"]);
    assert!(config.allow_query_token);
}

#[test]
fn b102_nothing_secret_is_shown() {
    let secret = "0123456789abcdef0123456789abcdef";
    let config = with(&[
        ("JWT_SECRET", secret),
        ("REDIS_URL", "redis://:hunter2@h:1"),
        ("DATABASE_URL", "postgres://u:hunter2@h/d"),
        ("API_KEYS", "hunter2hunter2hunter2"),
    ])
    .unwrap();
    for text in [config.shown.clone(), format!("{config:?}")] {
        assert!(!text.contains("hunter2") && !text.contains(secret), "{text}");
    }
}

#[test]
fn the_variables_of_opentelemetry_count_after_ours() {
    let theirs = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://their:4318"), ("OTEL_SERVICE_NAME", "theirs")];
    let config = with(&theirs).unwrap();
    assert_eq!((config.otlp_endpoint.as_str(), config.otlp_service_name.as_str()), ("http://their:4318", "theirs"));
    let config = with(&[theirs[0], ("OTLP_ENDPOINT", "http://ours:4318")]).unwrap();
    assert_eq!((config.otlp_endpoint.as_str(), config.otlp_service_name.as_str()), ("http://ours:4318", "tidings"));
}
