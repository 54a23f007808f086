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
                worker.round(attempt, at).await;
            }
        } => {}
    }
}

struct Worker {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Worker {
    async fn round(&self, attempt: u64, at: usize) {
        let slides = 6 + at * 3;
        let fails = (usize::try_from(attempt).unwrap_or(0) + at).is_multiple_of(3);
        self.say(json!({ "status": "queued", "attempt": attempt, "message": "Waiting for a worker" })).await;
        pause(400, 1500).await;
        for slide in 1..=slides {
            let progress = slide * 100 / slides;
            let message = format!("Slide {slide} of {slides}");
            self.say(json!({ "status": "running", "attempt": attempt, "progress": progress, "message": message }))
                .await;
            pause(150, 900).await;
            if fails && slide * 3 > slides * 2 {
                let error = json!({ "code": "font_missing", "message": "The font of this slide is not installed" });
                self.say(json!({ "status": "failed", "attempt": attempt, "error": error, "message": null })).await;
                return pause(4000, 8000).await;
            }
        }
        let done = json!({ "slides": slides });
        self.say(
            json!({ "status": "completed", "attempt": attempt, "progress": 100, "message": "Done", "data": done }),
        )
        .await;
        pause(4000, 8000).await;
    }

    async fn say(&self, update: Value) {
        let request = self.http.post(&self.url).header("authorization", format!("ApiKey {}", self.key)).json(&update);
        if let Err(error) = request.send().await {
            tracing::debug!(%error, "sample worker could not post");
        }
    }
}

async fn pause(from_ms: u64, to_ms: u64) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(from_ms..to_ms))).await;
}
