//! `GET /v1/poll`: what has happened since a cursor, for clients that can hold no stream.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Extensions;
use axum::http::HeaderMap;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::response::IntoResponse as _;
use serde::Deserialize;

use crate::error::ApiError;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller::SetCookie;
use crate::http::events;
use crate::http::guard;
use crate::session::Transport;
use crate::transport::poll;

/// How long an answer is waited for unless the client says otherwise, and at most; in seconds.
const WAIT_S: u64 = 25;
const WAIT_MAX_S: u64 = 60;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    cursor: Option<String>,
    wait: Option<String>,
}

/// Answers at once with the current states, or, with a cursor, as soon as there is something after it.
#[utoipa::path(
    get, path = "/v1/poll",
    params(
        ("channels" = String, Query, description = "Names separated by commas, at most 100"),
        ("cursor" = Option<String>, Query, description = "That of the last answer"),
        ("session" = Option<String>, Query, description = "Names this stream across polls: [A-Za-z0-9_-]{8,64}"),
        ("wait" = Option<String>, Query, description = "Seconds to wait for something, 0 to 60; 25 if left out"),
        ("until" = Option<String>, Query, description = "`done`: 204 when every job has ended and its end is known"),
        ("token" = Option<String>, Query, description = "A token, where ALLOW_QUERY_TOKEN allows it"),
        ("ticket" = Option<String>, Query, description = "A ticket of POST /v1/tickets"),
    ),
    responses(
        (status = 200, description = "`{cursor, verdicts, denied, events}`", content_type = "application/json", body = String),
        (status = 204, description = "until=done, and every job's end is known"),
        (status = 400, description = "Malformed", body = answer::ErrorBody),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "Nothing of it may be seen", body = answer::ErrorBody),
        (status = 404, description = "None is a channel name", body = answer::ErrorBody),
        (status = 503, description = "Try again later", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn poll(
    State(shared): State<AppState>,
    uri: Uri,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    let mut set_cookie = SetCookie::default();
    let result = respond(&shared, &uri, &extensions, &headers, &mut set_cookie).await;
    let status = result.as_ref().map_or_else(ApiError::outcome, |_| "accepted");
    shared.metrics.connections.with_label_values(&[Transport::Poll.as_str(), status]).inc();
    set_cookie.on(result.unwrap_or_else(|error| error.into_response()))
}

async fn respond(
    shared: &AppState,
    uri: &Uri,
    extensions: &Extensions,
    headers: &HeaderMap,
    set_cookie: &mut SetCookie,
) -> Result<Response<Body>, ApiError> {
    let axum_extra::extract::Query(Query { cursor, wait }) =
        axum_extra::extract::Query::try_from_uri(uri).map_err(|_| ApiError::invalid("query"))?;
    let wait = read_wait(wait.as_deref())?;
    let place = guard::admit(shared, extensions, headers, cursor.is_none())?;
    let session = events::open_poll(shared, uri, headers, cursor.as_deref(), place, set_cookie).await?;
    let Some(session) = session else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    Ok(answer::json(StatusCode::OK, poll::answer(*session, cursor, wait).await?))
}

/// Whole seconds; more than the most is the most, what is no number is refused.
fn read_wait(wait: Option<&str>) -> Result<Duration, ApiError> {
    let Some(text) = wait else { return Ok(Duration::from_secs(WAIT_S)) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return Err(ApiError::invalid("wait"));
    }
    // Too many digits for a number is more than the most as well.
    Ok(Duration::from_secs(text.parse().unwrap_or(WAIT_MAX_S).min(WAIT_MAX_S)))
}
