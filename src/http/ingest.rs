//! `POST` of job updates and events: who may, and what they are told.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::http::header;
use http_body::Body as _;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::broker::JobOutcome;
use crate::broker::Once;
use crate::clock;
use crate::error::ApiError;
use crate::event::Cursor;
use crate::event::Id;
use crate::event::Kind;
use crate::event::Trace;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller::caller;
use crate::http::caller::within_rate;
use crate::http::observe;
use crate::ingest::PUBLICATION_BYTES_MAX;
use crate::ingest::Publication;
use crate::jobs::JobUpdate;
use crate::jobs::Reject;
use crate::jobs::UPDATE_BYTES_MAX;

/// Longest body of a batch, in bytes.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Publications in a batch.
const BATCH_MAX: usize = 1000;

/// What became of what was posted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Receipt {
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    applied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// A job update, as protocol §3 has it. For the document only: `JobUpdate::parse` reads it.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "the shape is what counts")]
pub(super) struct JobUpdateBody {
    /// May be left out; must be the one of the path
    job_id: Option<String>,
    /// `[a-z][a-z0-9_-]{0,31}` after lower-casing
    status: String,
    /// Clamped to 0…100; null clears it
    progress: Option<f64>,
    /// At most 4 KiB
    message: Option<String>,
    /// `{code, message}`
    #[schema(value_type = Option<Object>)]
    error: Option<String>,
    /// At most 16 KiB
    #[schema(value_type = Option<Object>)]
    data: Option<String>,
    /// RFC 3339
    timestamp: Option<String>,
    attempt: Option<u64>,
    seq: Option<u64>,
    /// The same one is applied once
    update_id: Option<String>,
    /// W3C Trace Context; before the header of that name
    #[schema(rename = "traceparent")]
    traceparent: Option<String>,
}

/// An event for `docs.*` or `user.*`. For the document only: `Publication::parse` reads it.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "the shape is what counts")]
pub(super) struct PublicationBody {
    channel: String,
    /// Default: doc:update or notification
    event: Option<String>,
    #[schema(value_type = Object)]
    data: String,
    /// Told to whoever listens now, not kept
    ephemeral: Option<bool>,
    /// The same one is appended once
    idempotency_key: Option<String>,
    /// W3C Trace Context; before the header of that name
    #[schema(rename = "traceparent")]
    traceparent: Option<String>,
}

/// Says what a job is doing.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/updates",
    params(("id" = String, Path, description = "The job")),
    request_body = JobUpdateBody,
    responses(
        (status = 202, description = "Judged", body = Receipt),
        (status = 400, description = "Malformed", body = answer::ErrorBody),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "The scope publish is missing", body = answer::ErrorBody),
        (status = 503, description = "Not known whether it was accepted: post again", body = answer::ErrorBody),
    ),
    security(("token" = ["publish"]), ("apiKey" = [])),
)]
pub(super) async fn job_update(
    State(shared): State<AppState>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let caller = caller(&shared, &uri, &headers).await?;
    if !caller.can_publish() {
        return Err(ApiError::denied());
    }
    let id = Id::parse(&id).map_err(|_| ApiError::not_found())?;
    let bytes = read(&shared, &headers, body, UPDATE_BYTES_MAX).await?;
    let mut update = JobUpdate::parse(&bytes, Some(&id)).map_err(|reject| malformed(&shared, reject))?;
    update.trace = update.trace.or_else(|| observe::trace(&headers).map(Box::new));
    let once = Once::Named(format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)));
    let judged = shared.ingest.judge_patiently(&update, &once, clock::now_us(), "http").await;
    let outcome = judged.map_err(|error| {
        tracing::warn!(%error, "job update not accepted");
        ApiError::unavailable("broker")
    })?;
    let receipt = match outcome {
        JobOutcome::Applied(cursor) => Receipt { cursor: Some(cursor.to_string()), applied: true, reason: None },
        JobOutcome::Rejected(reject) => Receipt { cursor: None, applied: false, reason: Some(reject.as_str()) },
        JobOutcome::Done | JobOutcome::Behind(_) | JobOutcome::Unknown => {
            Receipt { cursor: None, applied: false, reason: Some("duplicate") }
        }
    };
    Ok(answer::json(StatusCode::ACCEPTED, serde_json::to_string(&receipt).unwrap_or_default()))
}

fn malformed(shared: &AppState, reject: Reject) -> ApiError {
    shared.metrics.reject("http", reject.as_str());
    match reject {
        Reject::TooLarge => ApiError::malformed(413, "The body is too large."),
        other => {
            let mut error = ApiError::invalid(other.field().unwrap_or("body"));
            error.reason = Some(other.as_str());
            error
        }
    }
}

/// Says what happened on a document or for a user.
#[utoipa::path(
    post, path = "/v1/publish",
    request_body = PublicationBody,
    responses(
        (status = 202, description = "Appended", body = Receipt),
        (status = 400, description = "Malformed", body = answer::ErrorBody),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "Neither scope nor role", body = answer::ErrorBody),
        (status = 429, description = "Too many: Retry-After says when", body = answer::ErrorBody),
        (status = 503, description = "Not known whether it was accepted: post again with the same idempotencyKey", body = answer::ErrorBody),
    ),
    security(("token" = ["publish"]), ("apiKey" = [])),
)]
pub(super) async fn publish(
    State(shared): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let caller = caller(&shared, &uri, &headers).await?;
    within_rate(&shared, &caller, 1)?;
    let bytes = read(&shared, &headers, body, PUBLICATION_BYTES_MAX).await?;
    let cursor = publish_one(&shared, &caller, &bytes, observe::trace(&headers)).await?;
    let mut receipt = String::new();
    push_receipt(&mut receipt, cursor);
    Ok(answer::json(StatusCode::ACCEPTED, receipt))
}

/// Appends one publication for somebody who may. Answers its cursor, if it has one.
pub(super) async fn publish_one(
    shared: &AppState,
    caller: &Caller,
    bytes: &[u8],
    trace: Option<Trace>,
) -> Result<Option<Cursor>, ApiError> {
    let mut publication = checked(shared, caller, parse(bytes, clock::now_us())).await?;
    publication.trace = publication.trace.or(trace.map(Box::new));
    let (done, failed) = append(shared, caller, std::slice::from_ref(&publication)).await;
    failed.map_or(Ok(done.into_iter().next().flatten()), Err)
}

/// Up to 1,000 publications. Each is judged by itself: one that is wrong does not hold back the others.
#[utoipa::path(
    post, path = "/v1/publish/batch",
    request_body = Vec<PublicationBody>,
    responses((status = 202, description = "A receipt or an error for each, in order"), (status = 400, body = answer::ErrorBody, description = "Not an array of at most 1,000"), (status = 429, body = answer::ErrorBody, description = "Too many: Retry-After says when")),
    security(("token" = ["publish"]), ("apiKey" = [])),
)]
pub(super) async fn publish_batch(
    State(shared): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let caller = caller(&shared, &uri, &headers).await?;
    let bytes = read(&shared, &headers, body, BATCH_BYTES_MAX).await?;
    let items = parsed(&bytes)?;
    let count = items.len();
    within_rate(&shared, &caller, count)?;
    let (mut publications, trace) = (Vec::with_capacity(count), observe::trace(&headers));
    let mut refused = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        match checked(&shared, &caller, item).await {
            Ok(mut publication) => {
                publication.trace = publication.trace.or_else(|| trace.map(Box::new));
                publications.push(publication);
            }
            Err(error) => {
                let away = error.status == 503;
                refused.push((at, error));
                if away {
                    break;
                }
            }
        }
    }
    let (done, failed) = append(&shared, &caller, &publications).await;
    Ok(answer::json(StatusCode::ACCEPTED, results(count, done, refused, failed.as_ref())))
}

/// The items of a batch. Most are good, so first all are read at one go.
fn parsed(bytes: &[u8]) -> Result<Vec<Result<Publication, ApiError>>, ApiError> {
    let now = clock::now_us();
    // In a body that is no longer than one item may be, none is too long.
    let at_once = (bytes.len() <= PUBLICATION_BYTES_MAX).then(|| Publication::parse_all(bytes, now)).flatten();
    let items: Vec<_> = match at_once {
        Some(items) => items.into_iter().map(|item| item.map_err(ApiError::invalid)).collect(),
        None => {
            let items: Vec<&RawValue> = serde_json::from_slice(bytes).map_err(|_| ApiError::invalid("body"))?;
            let items = items.into_iter().take(BATCH_MAX + 1);
            items.map(|item| parse(item.get().as_bytes(), now)).collect()
        }
    };
    if items.len() > BATCH_MAX { Err(ApiError::invalid("body")) } else { Ok(items) }
}

/// A receipt or an error for each of so many. Where something was away, those after it did not wait for it once more, and say
/// the same.
fn results(
    count: usize,
    done: Vec<Option<Cursor>>,
    refused: Vec<(usize, ApiError)>,
    failed: Option<&ApiError>,
) -> String {
    let (mut done, mut refused) = (done.into_iter(), refused.into_iter().peekable());
    let mut text = String::with_capacity(count * 96 + 16);
    text.push_str("{\"results\":[");
    let mut away: Option<String> = None;
    for at in 0..count {
        if at > 0 {
            text.push(',');
        }
        if let Some(said) = &away {
            text.push_str(said);
            continue;
        }
        let error = match refused.next_if(|(refused_at, _)| *refused_at == at) {
            Some((_, error)) => error,
            None => match done.next() {
                Some(cursor) => {
                    push_receipt(&mut text, cursor);
                    continue;
                }
                None => failed.cloned().unwrap_or_else(|| ApiError::unavailable("broker")),
            },
        };
        let said = format!("{{\"error\":{}}}", error.to_json(&clock::rfc3339(clock::now_us())));
        text.push_str(&said);
        away = (error.status == 503).then_some(said);
    }
    text.push_str("]}");
    text
}

/// As `Receipt` of what was published; a cursor needs no escapes.
fn push_receipt(text: &mut String, cursor: Option<Cursor>) {
    text.push('{');
    if let Some(cursor) = cursor {
        write!(text, "\"cursor\":\"{cursor}\",").expect("writing to a String does not fail");
    }
    text.push_str("\"applied\":true}");
}

fn parse(bytes: &[u8], accepted_us: u64) -> Result<Publication, ApiError> {
    if bytes.len() > PUBLICATION_BYTES_MAX {
        return Err(ApiError::malformed(413, "The body is too large."));
    }
    Publication::parse(bytes, accepted_us).map_err(ApiError::invalid)
}

/// A publication that is well formed, from somebody who may.
async fn checked(
    shared: &AppState,
    caller: &Caller,
    parsed: Result<Publication, ApiError>,
) -> Result<Publication, ApiError> {
    let publication = parsed.inspect_err(|error| {
        if error.status == 400 {
            shared.metrics.reject("publish", "malformed");
        }
    })?;
    may_publish(shared, caller, &publication).await?;
    Ok(publication)
}

/// As many as went well, and why not more.
async fn append(
    shared: &AppState,
    caller: &Caller,
    publications: &[Publication],
) -> (Vec<Option<Cursor>>, Option<ApiError>) {
    let publisher = match caller {
        Caller::User(principal) => principal.user.id.as_str(),
        Caller::Service => "",
    };
    let (done, failed) = shared.ingest.publish(publications, publisher).await;
    let failed = failed.map(|error| {
        tracing::warn!(%error, "event not accepted");
        ApiError::unavailable("broker")
    });
    (done, failed)
}

/// Back ends with the scope or a key; and owners and editors on their own documents.
async fn may_publish(shared: &AppState, caller: &Caller, publication: &Publication) -> Result<(), ApiError> {
    if caller.can_publish() {
        return Ok(());
    }
    let channel = &publication.event.channel;
    let (Caller::User(principal), Kind::Docs) = (caller, channel.kind()) else { return Err(ApiError::denied()) };
    let document = Id::parse(channel.id()).map_err(|_| ApiError::denied())?;
    let role = shared.sessions.authorizer.role(principal, &document).await;
    let role = role.map_err(|_| ApiError::unavailable("database"))?;
    if role.is_some_and(crate::store::Role::can_edit) { Ok(()) } else { Err(ApiError::denied()) }
}

/// What the body says that it is, without parameters; nothing, where it says nothing.
pub(super) fn essence(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    kind.map(|kind| kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

/// The whole of a body that is JSON, bounded in bytes and time.
pub(super) async fn read(
    shared: &AppState,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<bytes::Bytes, ApiError> {
    if !matches!(essence(headers).as_deref(), None | Some("application/json")) {
        return Err(ApiError::malformed(415, "The body must be application/json."));
    }
    read_whole(shared, body, bytes_max).await
}

/// The same, whatever it says that it is.
pub(super) async fn read_whole(shared: &AppState, body: Body, bytes_max: usize) -> Result<bytes::Bytes, ApiError> {
    let bytes_max = bytes_max.min(shared.config.body_bytes_max);
    let too_large = || {
        shared.metrics.reject("http", "body_too_large");
        ApiError::malformed(413, "The body is too large.")
    };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let whole = axum::body::to_bytes(body, bytes_max);
    let read = tokio::time::timeout(shared.config.body_timeout.max(Duration::from_millis(1)), whole).await;
    let read = read.map_err(|_| {
        shared.metrics.reject("http", "body_timeout");
        ApiError::malformed(408, "The body did not arrive in time.")
    })?;
    read.map_err(|error| {
        let limited =
            std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("length limit"));
        if limited { too_large() } else { ApiError::invalid("body") }
    })
}
