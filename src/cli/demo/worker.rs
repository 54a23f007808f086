//! A sample worker: posts what it does to `POST /v1/jobs/{id}/updates`, like any worker that is a program of its own.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Works on one job over and over until `stop`: each round is a new attempt, every third one fails.
pub(super) async fn run(
    base: String,
    key: String,
    (job, last): (&'static str, u64),
    at: usize,
    stop: CancellationToken,
) {
    let Ok(http) = reqwest::Client::builder().timeout(Duration::from_secs(5)).build() else { return };
    let worker = Worker { http, url: format!("{base}/v1/jobs/{job}/updates"), key };
    let mut attempt = last;
    tokio::select! {
        () = stop.cancelled() => {}
        () = async {
            loop {
                attempt += 1;
                Round { worker: &worker, attempt, seq: 0 }.work(at).await;
            }
        } => {}
    }
}

struct Worker {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// One attempt. Its updates are numbered without gaps, so that a page can tell when it missed one.
struct Round<'a> {
    worker: &'a Worker,
    attempt: u64,
    seq: u64,
}

impl Round<'_> {
    async fn work(mut self, at: usize) {
        let slides = 6 + at * 3;
        let fails = (usize::try_from(self.attempt).unwrap_or(0) + at).is_multiple_of(3);
        self.say(json!({ "status": "queued", "message": "Waiting for a worker" })).await;
        pause(400, 1500).await;
        for slide in 1..=slides {
            let progress = slide * 100 / slides;
            let message = format!("Slide {slide} of {slides}");
            self.say(json!({ "status": "running", "progress": progress, "message": message })).await;
            pause(150, 900).await;
            if fails && slide * 3 > slides * 2 {
                let error = json!({ "code": "font_missing", "message": "The font of this slide is not installed" });
                self.say(json!({ "status": "failed", "error": error, "message": null })).await;
                return pause(4000, 8000).await;
            }
        }
        let done = json!({ "slides": slides });
        self.say(json!({ "status": "completed", "progress": 100, "message": "Done", "data": done })).await;
        pause(4000, 8000).await;
    }

    async fn say(&mut self, mut update: Value) {
        self.seq += 1;
        if let Some(object) = update.as_object_mut() {
            object.extend([("attempt".to_owned(), json!(self.attempt)), ("seq".to_owned(), json!(self.seq))]);
        }
        let Worker { http, url, key } = self.worker;
        let request = http.post(url).header("authorization", format!("ApiKey {key}")).json(&update);
        if let Err(error) = request.send().await {
            tracing::debug!(%error, "sample worker could not post");
        }
    }
}

async fn pause(from_ms: u64, to_ms: u64) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(from_ms..to_ms))).await;
}
