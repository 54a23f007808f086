//! The example worker, for real: a deck is made, and its owner sees every slide of it.

use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use crate::support::app::World;
use crate::support::child::TempDir;
use crate::support::redis::RedisServer;
use crate::support::sse::SseEvent;

const OUTLINE: &str =
    "# A deck\n\nIntroduced\n\n## First\n\n- one\n  - deeper\n- two\n\n> said aloud\n\n## Second\n\nA paragraph\n";

async fn work(url: &str, channel: &str, job: &str, outline: &Path, deck: &Path) -> Output {
    let python = std::env::var("TIDINGS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/slide-worker/worker.py");
    let mut command = Command::new(python);
    command.arg(script).args(["--job", job, "--redis", url, "--channel", channel]).arg(outline).arg(deck);
    tokio::task::spawn_blocking(move || command.output().expect("python runs")).await.unwrap()
}

fn told(output: &Output) -> String {
    let hint = "if python-pptx or redis is missing: run `make test`, which makes a virtual environment";
    format!("{} {}; {hint}", output.status, String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slide_worker_makes_a_deck_that_its_owner_watches() {
    let server = RedisServer::shared().await;
    let world = World::redis().await;
    world.people(&[("ada", &["deck", "broken"])]).await;
    let app = world.start().await;
    let directory = TempDir::new("deck");
    let (outline, deck) = (directory.path().join("outline.md"), directory.path().join("out.pptx"));
    std::fs::write(&outline, OUTLINE).unwrap();
    let channel = world.config.job_updates_channel.clone();
    let mut stream = app.stream("ada", "jobs.deck,jobs.broken").await;
    stream.until("ready").await;

    let output = work(&server.url(), &channel, "deck", &outline, &deck).await;
    assert!(output.status.success(), "{}", told(&output));
    let events = stream.until_that("the end of the job", |event| event.data["terminal"] == true).await;
    let statuses: Vec<&str> = events.iter().map(|event| event.text("status")).filter(|s| !s.is_empty()).collect();
    assert_eq!((statuses.first(), statuses.last()), (Some(&"queued"), Some(&"completed")));
    let progress: Vec<f64> = events.iter().filter_map(|event| event.data["progress"].as_f64()).collect();
    assert!(progress.is_sorted() && progress.last() == Some(&100.0), "{progress:?}");
    let end: &SseEvent = events.last().unwrap();
    assert_eq!(end.data["data"]["slides"], 3);
    let bytes = std::fs::read(&deck).unwrap();
    assert!(bytes.starts_with(b"PK") && bytes.len() > 10_000, "a real .pptx");

    let missing = directory.path().join("nowhere.md");
    let output = work(&server.url(), &channel, "broken", &missing, &deck).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let failed =
        stream.find("the failure", |event| event.text("jobId") == "broken" && event.data["terminal"] == true).await;
    assert_eq!((failed.text("status"), failed.data["error"]["code"].as_str()), ("failed", Some("outline_not_found")));
    tokio::time::timeout(Duration::from_secs(10), app.app.stop()).await.unwrap();
}
