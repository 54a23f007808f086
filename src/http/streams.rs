//! `PATCH /v1/streams/{id}`: an open stream is changed, wherever it is open.

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use serde::Deserialize;

use crate::auth::Caller;
use crate::auth::Principal;
use crate::clock;
use crate::error::ApiError;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller::reader;
use crate::http::caller::within_rate;
use crate::http::events;
use crate::http::ingest;
use crate::session::Target;

/// Longest body, in bytes: two lists of the longest names, and a token.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is to change.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(super) struct PatchBody {
    /// Channels to add
    subscribe: Vec<String>,
    /// Channels to take away
    unsubscribe: Vec<String>,
    /// A newer token of the same user
    token: Option<String>,
}

/// Adds channels to an open stream, takes some away, or renews its token; through any instance. The stream is told as well.
#[utoipa::path(
    patch, path = "/v1/streams/{id}",
    params(("id" = String, Path, description = "The `connectionId` of `connected`, or the stream's `session`")),
    request_body = PatchBody,
    responses(
        (status = 200, description = "What became of it, as in `connected`", content_type = "application/json", body = String),
        (status = 400, description = "Malformed, or too many channels", body = answer::ErrorBody),
        (status = 401, description = "No valid credential, or the new token is none", body = answer::ErrorBody),
        (status = 403, description = "The new token is somebody else's", body = answer::ErrorBody),
        (status = 404, description = "No such stream of this user", body = answer::ErrorBody),
        (status = 429, description = "Too much: Retry-After says when", body = answer::ErrorBody),
        (status = 503, description = "Can't be done at the moment", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn patch(
    State(shared): State<AppState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let query = events::parse_query(&uri)?;
    let principal = reader(&shared, &uri, &headers, query.credentials()).await?;
    within_rate(&shared, &Caller::User(principal.clone()), 1)?;
    let target = Target::parse(&id).ok_or(ApiError::not_found())?;
    let bytes = ingest::read(&shared, &headers, body, BODY_BYTES_MAX).await?;
    let wish = read(&bytes)?;
    let renewed = renewed(&shared, &principal, wish.token.as_deref()).await?;
    let (subscribe, unsubscribe) = (wish.subscribe, wish.unsubscribe);
    let answer = shared.sessions.patch(&principal, &target, &subscribe, &unsubscribe, renewed).await?;
    Ok(answer::json(StatusCode::OK, answer))
}

fn read(bytes: &[u8]) -> Result<PatchBody, ApiError> {
    // A derived struct also reads an array, by position.
    let text = std::str::from_utf8(bytes).map(str::trim_start).unwrap_or_default();
    let body: Option<PatchBody> = serde_json::from_str(text).ok().filter(|_| text.starts_with('{'));
    let body = body.ok_or(ApiError::invalid("body"))?;
    if body.subscribe.is_empty() && body.unsubscribe.is_empty() && body.token.is_none() {
        return Err(ApiError::invalid("body"));
    }
    Ok(body)
}

/// A new token is the same user's, or it is refused.
async fn renewed(shared: &AppState, principal: &Principal, token: Option<&str>) -> Result<Option<Principal>, ApiError> {
    let Some(token) = token else { return Ok(None) };
    let verified = shared.authenticator.verify_token(token, clock::now_s()).await;
    let renewed = verified.map_err(|failure| failure.to_api_error())?;
    if renewed.user.id == principal.user.id { Ok(Some(renewed)) } else { Err(ApiError::denied()) }
}
