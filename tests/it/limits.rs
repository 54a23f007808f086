//! Rates of users and back ends, of real instances.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::store::Role;

use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::http::Response;
use crate::support::tokens;

const LIMITED: &str = "realtime_rejected_total{reason=\"rate\",source=\"http\"}";

async fn publish(app: &TestApp, user: &str) -> Response {
    let authorization = format!("Bearer {}", tokens::for_user(user));
    http::post(app.addr, "/v1/publish", &authorization, &json!({"channel": "docs.d1", "data": {}})).await
}

async fn batch(app: &TestApp, authorization: &str, items: usize) -> Response {
    let items: Vec<Value> = (0..items).map(|n| json!({"channel": "docs.d1", "data": {"n": n}})).collect();
    http::post(app.addr, "/v1/publish/batch", authorization, &Value::from(items)).await
}

/// 429, with a wait that is at most so long and the same in both places.
fn assert_limited(answer: &Response, ms_max: u64) {
    assert_eq!((answer.status, answer.code()), (429, "RATE_LIMIT_EXCEEDED".to_owned()), "{}", answer.text());
    let details = answer.json()["details"].clone();
    let ms = details["retryAfterMs"].as_u64().unwrap();
    assert!((1..=ms_max).contains(&ms), "{details}");
    assert_eq!(answer.header("retry-after").unwrap().parse::<u64>().unwrap(), ms.div_ceil(1000));
    assert_eq!((&details["recoverable"], &details["reason"]), (&json!(true), &json!("rate")));
}

async fn world(rate: u32) -> World {
    let mut world = World::embedded().await;
    world.config.rate_limit_messages_per_second = rate;
    world.config.rate_limit_api_key_per_second = 100;
    world.people(&[("ada", &[]), ("bob", &[])]).await;
    world.document("d1", "ada", &[("bob", Role::Editor)]).await;
    world
}

#[tokio::test]
async fn publishing_and_tickets_are_one_budget() {
    let world = world(1).await;
    let app = world.start().await;
    for turn in 0..10 {
        let authorization = format!("Bearer {}", tokens::for_user("ada"));
        let answer = match turn % 2 {
            0 => publish(&app, "ada").await,
            _ => http::post(app.addr, "/v1/tickets", &authorization, &json!({})).await,
        };
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    }
    // On a slow machine a token may have come back meanwhile.
    let refused = eventually("the budget is used up", Duration::from_secs(10), async || {
        Some(publish(&app, "ada").await).filter(|answer| answer.status == 429)
    })
    .await;
    assert_limited(&refused, 1000);
    assert!(app.metric(LIMITED) >= 1.0);
    assert_eq!(publish(&app, "bob").await.status, 202, "others have their own");
    let wait = Duration::from_millis(refused.json()["details"]["retryAfterMs"].as_u64().unwrap());
    eventually("after the wait it passes", wait + Duration::from_secs(5), async || {
        (publish(&app, "ada").await.status == 202).then_some(())
    })
    .await;
    app.app.stop().await;
}

#[tokio::test]
async fn a_batch_costs_its_items() {
    let world = world(10).await;
    let app = world.start().await;
    let ada = format!("Bearer {}", tokens::for_user("ada"));
    assert_eq!(batch(&app, &ada, 90).await.status, 202);
    assert_limited(&batch(&app, &ada, 90).await, 8000);
    // One that is larger than the bucket passes when that is full, and is paid off.
    let bob = format!("Bearer {}", tokens::for_user("bob"));
    assert_eq!(batch(&app, &bob, 1000).await.status, 202);
    let refused = publish(&app, "bob").await;
    assert_limited(&refused, 90_100);
    assert!(refused.json()["details"]["retryAfterMs"].as_u64().unwrap() > 60_000);
    assert_eq!(app.metric(LIMITED), 2.0);
    app.app.stop().await;
}

#[tokio::test]
async fn back_ends_have_another_budget_and_updates_of_jobs_none() {
    let (limited, free) = (world(1).await, world(0).await);
    let app = limited.start().await;
    let key = format!("ApiKey {API_KEY}");
    assert_eq!(batch(&app, &key, 1000).await.status, 202);
    assert_limited(&batch(&app, &key, 1000).await, 10_000);
    for n in 0..30 {
        app.progress("job", n).await;
    }
    let unlimited = free.start().await;
    let ada = format!("Bearer {}", tokens::for_user("ada"));
    for _ in 0..3 {
        assert_eq!(batch(&unlimited, &ada, 1000).await.status, 202);
    }
    app.app.stop().await;
    unlimited.app.stop().await;
}
