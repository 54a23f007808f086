//! `/v1/presence/{documentId}`: who is there, and a word from those whose transport has no way back.

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::response::IntoResponse as _;
use serde::Deserialize;

use crate::auth::Caller;
use crate::auth::Principal;
use crate::auth::Verdict;
use crate::broker::Patch;
use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller::reader;
use crate::http::caller::within_rate;
use crate::http::events;
use crate::http::ingest;
use crate::presence::Saying;
use crate::presence::Visitor;
use crate::session::Target;
use crate::session::is_session_name;

/// Longest body, in bytes: the free object and everything else that may be said.
const BODY_BYTES_MAX: usize = 8 * 1024;

/// Through which stream, if any, and whether that is the last word.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Means {
    session: Option<String>,
    connection_id: Option<String>,
    lease: Option<String>,
    leave: bool,
}

/// What somebody says of themselves. What is not there stays as it is; what is `null` is forgotten.
#[derive(Debug, utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the body, which is read as `Saying` and `Means`")]
pub(super) struct PresenceBody {
    /// The stream as which they speak, by its `session`
    session: Option<String>,
    /// The same by the `connectionId` of `connected`
    connection_id: Option<String>,
    /// Which of several leases of theirs, where there is no stream: `[A-Za-z0-9_-]{8,64}`
    lease: Option<String>,
    /// `online`, `away`, `dnd`, `idle`, `offline`
    status: Option<String>,
    /// `{x, y}`
    #[schema(value_type = Option<Object>)]
    cursor: Option<()>,
    /// `{slideId, elementId?, range?: {start, end}}`
    #[schema(value_type = Option<Object>)]
    selection: Option<()>,
    /// True for three seconds after it was last said
    typing: Option<bool>,
    /// Anything, up to 2 KiB of JSON
    #[schema(value_type = Option<Object>)]
    data: Option<()>,
    /// They leave: as DELETE, for `sendBeacon`
    leave: Option<bool>,
}

/// Who is at a document.
#[utoipa::path(
    get, path = "/v1/presence/{documentId}",
    params(("documentId" = String, Path, description = "The document")),
    responses(
        (status = 200, description = "`{channel, members, counts}`", content_type = "application/json", body = String),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "May not be seen", body = answer::ErrorBody),
        (status = 404, description = "Not an id", body = answer::ErrorBody),
        (status = 503, description = "Can't be asked at the moment", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn list(
    State(shared): State<AppState>,
    Path(document): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let (_, document) = visitor(&shared, &uri, &headers, &document).await?;
    let who = shared.sessions.presence.who(&document).await.map_err(|_| ApiError::unavailable("broker"))?;
    Ok(answer::json(StatusCode::OK, who.to_string()))
}

/// Says where somebody is: as an open stream of theirs, or else by a lease that each request renews.
#[utoipa::path(
    post, path = "/v1/presence/{documentId}",
    params(("documentId" = String, Path, description = "The document")),
    request_body = PresenceBody,
    responses(
        (status = 204, description = "Said"),
        (status = 400, description = "Malformed", body = answer::ErrorBody),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "May not be there", body = answer::ErrorBody),
        (status = 404, description = "Not an id, or no such stream is there", body = answer::ErrorBody),
        (status = 503, description = "Can't be said at the moment", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn say(
    State(shared): State<AppState>,
    Path(document): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let (principal, document) = visitor(&shared, &uri, &headers, &document).await?;
    // `sendBeacon` of a string says that it is text.
    if !matches!(ingest::essence(&headers).as_deref(), None | Some("application/json" | "text/plain")) {
        return Err(ApiError::malformed(415, "The body must be application/json or text/plain."));
    }
    let bytes = ingest::read_whole(&shared, body, BODY_BYTES_MAX).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::invalid("body"))?.trim();
    // A renewal may say nothing at all.
    let text = if text.is_empty() { "{}" } else { text };
    let saying: Option<Saying<'_>> = serde_json::from_str(text).ok().filter(|_| text.starts_with('{'));
    let patch = saying.ok_or(ApiError::invalid("body"))?.patch().map_err(ApiError::invalid)?;
    let means: Means = serde_json::from_str(text).map_err(|_| ApiError::invalid("body"))?;
    if means.leave {
        leave_by(&shared, &principal, &document, means).await?;
    } else {
        say_by(&shared, &principal, &document, means, patch).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Leaves: the lease ends, or the stream is unsubscribed.
#[utoipa::path(
    delete, path = "/v1/presence/{documentId}",
    params(
        ("documentId" = String, Path, description = "The document"),
        ("session" = Option<String>, Query, description = "The stream that leaves, by its name"),
        ("connectionId" = Option<String>, Query, description = "The same by its number"),
        ("lease" = Option<String>, Query, description = "Which lease ends, where it has a name"),
    ),
    responses(
        (status = 204, description = "Left"),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "May not be there", body = answer::ErrorBody),
        (status = 404, description = "Not an id, or no such stream", body = answer::ErrorBody),
        (status = 503, description = "Can't be said at the moment", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn leave(
    State(shared): State<AppState>,
    Path(document): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let (principal, document) = visitor(&shared, &uri, &headers, &document).await?;
    let query = axum_extra::extract::Query::<Means>::try_from_uri(&uri).map_err(|_| ApiError::invalid("query"))?;
    leave_by(&shared, &principal, &document, query.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Who asks, and for what; only those who may.
async fn visitor(
    shared: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
    document: &str,
) -> Result<(Principal, Id), ApiError> {
    let query = events::parse_query(uri)?;
    let principal = reader(shared, uri, headers, query.credentials()).await?;
    let document = Id::parse(document).map_err(|_| ApiError::not_found())?;
    let channel = Channel::of(Kind::Presence, &document);
    let verdicts = shared.sessions.authorizer.authorize(&principal, &[channel]).await;
    match verdicts.first() {
        Some(Verdict::Granted(_)) => Ok((principal, document)),
        Some(Verdict::Denied) => Err(ApiError::denied()),
        Some(Verdict::Unavailable) | None => Err(ApiError::unavailable("database")),
    }
}

impl Means {
    /// One lease costs nothing; a page that says that it has many is held to the user's rate.
    fn lease(&self, shared: &AppState, principal: &Principal) -> Result<Option<&str>, ApiError> {
        let Some(name) = self.lease.as_deref() else { return Ok(None) };
        if !is_session_name(name) {
            return Err(ApiError::invalid("lease"));
        }
        within_rate(shared, &Caller::User(principal.clone()), 1)?;
        Ok(Some(name))
    }

    fn target(&self) -> Result<Option<Target>, ApiError> {
        let Some(name) = self.connection_id.as_deref().or(self.session.as_deref()) else { return Ok(None) };
        Target::parse(name).map(Some).ok_or(ApiError::invalid("session"))
    }
}

async fn say_by(
    shared: &AppState,
    principal: &Principal,
    document: &Id,
    means: Means,
    patch: Patch,
) -> Result<(), ApiError> {
    let (presence, user) = (&shared.sessions.presence, &principal.user);
    let said = match means.target()? {
        None => {
            let avatar = user.avatar_url.as_deref();
            let visitor = Visitor { stream: 0, user: &user.id, name: &user.name, avatar, observes: false };
            let name = means.lease(shared, principal)?;
            presence.lease(document, visitor, name, patch).await
        }
        Some(target) => match shared.sessions.mine(&user.id, &target) {
            Some(live) => {
                let there = presence.say(document, live.number(), patch);
                return if there { Ok(()) } else { Err(ApiError::not_found()) };
            }
            None => {
                let stream = shared.sessions.elsewhere(&user.id, &target).await?;
                presence.say_elsewhere(document, &user.id, stream, patch);
                Ok(())
            }
        },
    };
    said.map_err(|_| ApiError::unavailable("broker"))
}

async fn leave_by(shared: &AppState, principal: &Principal, document: &Id, means: Means) -> Result<(), ApiError> {
    match means.target()? {
        None => {
            let name = means.lease(shared, principal)?;
            let left = shared.sessions.presence.end_lease(document, &principal.user.id, name).await;
            left.map_err(|_| ApiError::unavailable("broker"))
        }
        Some(target) => {
            let channel = Channel::of(Kind::Presence, document).to_string();
            shared.sessions.patch(principal, &target, &[], &[channel], None).await.map(drop)
        }
    }
}
