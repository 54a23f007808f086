//! Rights that change while a stream is open: what may not be seen any more leaves it, what may be is there at once.

use std::time::Duration;

use serde_json::json;
use tidings::store::Role;

use crate::support::app::TestApp;
use crate::support::app::every_way;
use crate::support::app::id;
use crate::support::sse::SseClient;

async fn ready(app: &TestApp, user: &str, channels: &str) -> SseClient {
    let mut stream = app.stream(user, channels).await;
    stream.until("ready").await;
    stream
}

async fn says(app: &TestApp, document: &str, n: u64) {
    app.publish(json!({ "channel": format!("docs.{document}"), "data": { "n": n } })).await;
}

/// One permission of several: that channel leaves, the others go on.
#[tokio::test]
async fn a_revoked_channel_leaves_and_the_others_stay() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a"]), ("eve", &[])]).await;
        world.document("d1", "eve", &[("ada", Role::Viewer)]).await;
        let mut stream = ready(&app, "ada", "jobs.a,docs.d1").await;
        let mut owner = ready(&app, "eve", "docs.d1").await;
        says(&app, "d1", 1).await;
        stream.find("what may be seen", |event| event.data["n"] == 1).await;
        world.store.remove_role(&id("d1"), &id("ada")).await.unwrap();
        let left = stream.until("unsubscribed").await.pop().unwrap();
        assert_eq!(
            (left.text("channel"), left.text("reason"), left.text("code")),
            ("docs.d1", "revoked", "PERMISSION_DENIED")
        );
        says(&app, "d1", 2).await;
        owner.find("the owner goes on", |event| event.data["n"] == 2).await;
        app.progress("a", 3).await;
        let heard = stream.until_that("the job", |event| event.data["data"]["n"] == 3).await;
        assert!(heard.iter().all(|event| event.data["n"] != 2), "nothing of it after the revocation");
        // Not by a replay either, nor by asking again.
        let cursor = stream.last_event_id().unwrap().to_owned();
        let mut again = app.resume("ada", "jobs.a,docs.d1", &cursor).await;
        let opening = again.until("ready").await;
        assert_eq!(opening[0].data["denied"], json!([{ "channel": "docs.d1", "code": "PERMISSION_DENIED" }]));
        // Given back: a PATCH right after the grant succeeds.
        world.store.put_role(&id("d1"), &id("ada"), Role::Editor).await.unwrap();
        let stream_id = opening[0].text("connectionId").to_owned();
        let answer = app.patch("ada", &stream_id, &json!({ "subscribe": ["docs.d1"] })).await.json();
        assert_eq!(answer["channels"][0]["channel"], "docs.d1", "at once: {answer}");
        says(&app, "d1", 4).await;
        again.find("it is there again", |event| event.data["n"] == 4).await;
        app.app.stop().await;
    }
}

/// Nothing left to see ends the stream; so does the end of a user, of a job and of a document.
#[tokio::test]
async fn a_stream_of_which_nothing_may_be_seen_ends() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a", "b"]), ("eve", &[]), ("kim", &["k"])]).await;
        world.document("d1", "eve", &[("ada", Role::Viewer)]).await;
        world.document("d2", "eve", &[("ada", Role::Viewer)]).await;
        let revoked = ready(&app, "ada", "docs.d1").await;
        let gone_document = ready(&app, "ada", "docs.d2").await;
        let gone_job = ready(&app, "ada", "jobs.a").await;
        let given_away = ready(&app, "ada", "jobs.b").await;
        let disabled = ready(&app, "kim", "jobs.k,user.me").await;
        world.store.remove_role(&id("d1"), &id("ada")).await.unwrap();
        world.store.remove_document(&id("d2")).await.unwrap();
        world.store.remove_job(&id("a")).await.unwrap();
        world.store.put_job(&id("b"), &id("eve"), "queued").await.unwrap();
        world.store.disable_user(&id("kim")).await.unwrap();
        for (mut stream, reason) in [
            (revoked, "revoked"),
            (gone_document, "gone"),
            (gone_job, "gone"),
            (given_away, "revoked"),
            (disabled, "disabled"),
        ] {
            let end = stream.until("end").await.pop().unwrap();
            assert_eq!((end.text("reason"), &end.data["reconnect"]), (reason, &json!(false)));
        }
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// The application writes a job's end straight into its table.
#[tokio::test]
async fn what_the_application_writes_into_a_row_reaches_the_streams() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["known", "unknown"])]).await;
        let mut stream = ready(&app, "ada", "jobs.known,jobs.unknown").await;
        app.progress("known", 1).await;
        stream.find("the update", |event| event.data["data"]["n"] == 1).await;
        for job in ["known", "unknown"] {
            world.store.put_job(&id(job), &id("ada"), "completed").await.unwrap();
            let end = stream.find("its end", |event| event.text("status") == "completed").await;
            assert_eq!((end.text("jobId"), end.has_id, &end.data["terminal"]), (job, true, &json!(true)));
        }
        // Whoever asks now sees the end as well, and the streams heard of it once.
        let mut late = app.stream("ada", "jobs.known").await;
        let snapshot = late.until("ready").await.into_iter().find(|event| event.event == "job:update").unwrap();
        assert_eq!(snapshot.text("status"), "completed");
        stream.quiet(Duration::from_millis(1500)).await;
        app.app.stop().await;
    }
}
