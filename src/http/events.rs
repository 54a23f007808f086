//! `GET /v1/events` and `GET /v1/jobs/{id}`: from a request to a session.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::http::Extensions;
use axum::http::HeaderMap;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::http::header;
use axum::response::IntoResponse as _;
use serde::Deserialize;

use crate::auth::Principal;
use crate::error::ApiError;
use crate::event::Id;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller::InQuery;
use crate::http::caller::SetCookie;
use crate::http::caller::reader;
use crate::http::caller::streamer;
use crate::http::guard;
use crate::limits::Place;
use crate::session::Opened;
use crate::session::Request;
use crate::session::Requested;
use crate::session::Resume;
use crate::session::Session;
use crate::session::ToldMark;
use crate::session::Transport;
use crate::session::is_session_name;
use crate::session::requested;
use crate::transport::Uptake;
use crate::transport::plain;
use crate::transport::plain::MayClaim;
use crate::transport::sse;

/// Longest list of channels, in bytes: a hundred of the longest names.
const CHANNELS_BYTES_MAX: usize = 16 * 1024;
/// A longer `Last-Event-ID` is no cursor and not worth parsing.
const CURSOR_BYTES_MAX: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Query {
    channels: Vec<String>,
    last_event_id: Option<String>,
    session: Option<String>,
    observe: Option<String>,
    until: Option<String>,
    token: Vec<String>,
    ticket: Vec<String>,
}

impl Query {
    pub(super) fn credentials(&self) -> InQuery<'_> {
        InQuery { tokens: &self.token, tickets: &self.ticket, protocols: &[] }
    }
}

/// What the client wants back.
enum Wanted {
    Stream,
    DryRun,
}

/// Opens a stream of channels; with `Accept: application/json` only answers what such a stream would be.
#[utoipa::path(
    get, path = "/v1/events",
    params(
        ("channels" = String, Query, description = "Names separated by commas, at most 100"),
        ("last_event_id" = Option<String>, Query, description = "A cursor, for clients that can't send the header"),
        ("session" = Option<String>, Query, description = "Names this stream across reconnects: [A-Za-z0-9_-]{8,64}"),
        ("until" = Option<String>, Query, description = "`done`: the stream ends with its jobs"),
        ("observe" = Option<String>, Query, description = "`1`: presence channels are watched without joining"),
        ("token" = Option<String>, Query, description = "A token, where ALLOW_QUERY_TOKEN allows it"),
        ("ticket" = Option<String>, Query, description = "A ticket of POST /v1/tickets"),
        ("Last-Event-ID" = Option<String>, Header, description = "A cursor"),
    ),
    responses(
        (status = 200, description = "The stream, or the answer of the dry run", content_type = "text/event-stream", body = String),
        (status = 204, description = "until=done, and every job's end is known"),
        (status = 400, description = "Malformed", body = answer::ErrorBody),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "Nothing of it may be seen", body = answer::ErrorBody),
        (status = 404, description = "None is a channel name", body = answer::ErrorBody),
        (status = 406, description = "Only streams and JSON are to be had", body = answer::ErrorBody),
        (status = 503, description = "Only with X-Tidings-Client: try again later", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn open(
    State(shared): State<AppState>,
    uri: Uri,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    let mut set_cookie = SetCookie::default();
    let response = respond(&shared, &uri, &extensions, &headers, &mut set_cookie).await;
    set_cookie.on(response)
}

async fn respond(
    shared: &AppState,
    uri: &Uri,
    extensions: &Extensions,
    headers: &HeaderMap,
    set_cookie: &mut SetCookie,
) -> Response<Body> {
    let transport = Transport::Sse.as_str();
    let count = |status: &str| shared.metrics.connections.with_label_values(&[transport, status]).inc();
    let wanted = match wanted(headers) {
        Ok(wanted) => wanted,
        Err(error) => return error.into_response(),
    };
    let opened = match admit(shared, extensions, headers, &wanted) {
        Ok(place) => open_session(shared, uri, headers, place, set_cookie).await,
        Err(error) => Err(error),
    };
    match (opened, wanted) {
        (Ok(Opened::NothingLeft), _) => StatusCode::NO_CONTENT.into_response(),
        (Ok(Opened::Stream(session)), Wanted::Stream) => {
            count("accepted");
            if extensions.get::<MayClaim>().is_some() {
                return plain::respond(session);
            }
            sse::respond(*session, extensions.get::<Arc<Uptake>>().cloned().unwrap_or_default())
        }
        (Ok(Opened::Stream(session)), Wanted::DryRun) => answer::json(StatusCode::OK, session.dry_run()),
        (Err(error), wanted) => {
            count(error.outcome());
            refuse(&error, &wanted, headers)
        }
    }
}

/// The place of a stream; who only asks what it would be needs none.
fn admit(
    shared: &AppState,
    extensions: &Extensions,
    headers: &HeaderMap,
    wanted: &Wanted,
) -> Result<Option<Place>, ApiError> {
    match wanted {
        Wanted::Stream => guard::admit(shared, extensions, headers, true).map(Some),
        Wanted::DryRun => guard::stays(shared).map(|()| None),
    }
}

/// A request that is refused before it is looked at any closer.
pub(super) fn refuse_unread(error: &ApiError, path: &str, headers: &HeaderMap) -> Response<Body> {
    match wanted(headers) {
        Ok(wanted) if path == "/v1/events" => refuse(error, &wanted, headers),
        _ => error.clone().into_response(),
    }
}

/// A native `EventSource` gives up for good on any status but 200; clients that know us get the status.
fn refuse(error: &ApiError, wanted: &Wanted, headers: &HeaderMap) -> Response<Body> {
    let native = !headers.contains_key("x-tidings-client");
    if matches!(wanted, Wanted::Stream) && native && matches!(error.status, 429 | 503) {
        sse::refuse(error)
    } else {
        error.clone().into_response()
    }
}

async fn open_session(
    shared: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
    place: Option<Place>,
    set_cookie: &mut SetCookie,
) -> Result<Opened, ApiError> {
    let query = parse_query(uri)?;
    let principal = streamer(shared, uri, headers, query.credentials(), set_cookie).await?;
    let resume = resume(headers, query.last_event_id.as_deref())?;
    open_query(shared, query, principal, Terms { resume, place, ..Terms::default() }).await
}

/// The session of a WebSocket, which may begin without channels; `None`: nothing is left to be told.
pub(super) async fn open_socket(
    shared: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
    protocols: &[&str],
    place: Place,
    set_cookie: &mut SetCookie,
) -> Result<Option<Box<Session>>, ApiError> {
    let query = parse_query(uri)?;
    let credentials = InQuery { protocols, ..query.credentials() };
    let principal = streamer(shared, uri, headers, credentials, set_cookie).await?;
    let resume = resume(headers, query.last_event_id.as_deref())?;
    match open_query(
        shared,
        query,
        principal,
        Terms { resume, may_be_empty: true, place: Some(place), ..Terms::default() },
    )
    .await?
    {
        Opened::Stream(session) => Ok(Some(session)),
        Opened::NothingLeft => Ok(None),
    }
}

/// The session of one poll; `None`: nothing is left to be told.
pub(super) async fn open_poll(
    shared: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
    cursor: Option<&str>,
    place: Place,
    set_cookie: &mut SetCookie,
) -> Result<Option<Box<Session>>, ApiError> {
    let query = parse_query(uri)?;
    let principal = streamer(shared, uri, headers, query.credentials(), set_cookie).await?;
    let resume = resume(&HeaderMap::new(), cursor)?;
    let told = cursor.and_then(|cursor| ToldMark::split(cursor).1);
    match open_query(
        shared,
        query,
        principal,
        Terms { resume, told, polls: true, may_be_empty: false, place: Some(place) },
    )
    .await?
    {
        Opened::Stream(session) => Ok(Some(session)),
        Opened::NothingLeft => Ok(None),
    }
}

/// What differs between the transports; as in `Request`.
#[derive(Debug, Default)]
struct Terms {
    resume: Resume,
    may_be_empty: bool,
    polls: bool,
    told: Option<ToldMark>,
    place: Option<Place>,
}

async fn open_query(shared: &AppState, query: Query, principal: Principal, terms: Terms) -> Result<Opened, ApiError> {
    let Terms { resume, may_be_empty, polls, told, place } = terms;
    let channels = wishes(&query.channels, &principal, shared.config.channels_max, may_be_empty)?;
    let until_done = match query.until.as_deref() {
        None => false,
        Some("done") => true,
        Some(_) => return Err(ApiError::invalid("until")),
    };
    let observes = match query.observe.as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(ApiError::invalid("observe")),
    };
    let session = query.session.map(session_name).transpose()?;
    let request =
        Request { principal, channels, resume, until_done, session, may_be_empty, polls, observes, told, place };
    shared.sessions.open(request).await
}

/// A parameter that is given twice where one is meant is ambiguous, and refused.
pub(super) fn parse_query(uri: &Uri) -> Result<Query, ApiError> {
    let parsed = axum_extra::extract::Query::try_from_uri(uri);
    parsed.map(|axum_extra::extract::Query(query)| query).map_err(|_| ApiError::invalid("query"))
}

/// The names of the request, without repetitions, `user.me` resolved.
fn wishes(
    lists: &[String],
    principal: &Principal,
    channels_max: usize,
    may_be_empty: bool,
) -> Result<Vec<Requested>, ApiError> {
    if lists.iter().map(String::len).sum::<usize>() > CHANNELS_BYTES_MAX {
        return Err(ApiError::invalid("channels"));
    }
    let names = lists.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
    let wishes = requested(names, principal);
    if (wishes.is_empty() && !may_be_empty) || wishes.len() > channels_max {
        Err(ApiError::invalid("channels"))
    } else {
        Ok(wishes)
    }
}

fn session_name(name: String) -> Result<Box<str>, ApiError> {
    if is_session_name(&name) { Ok(name.into()) } else { Err(ApiError::invalid("session")) }
}

/// The header wins: a browser's own is newer than what stands in the URL.
fn resume(headers: &HeaderMap, query: Option<&str>) -> Result<Resume, ApiError> {
    let header = headers.get("last-event-id");
    if header.is_some_and(|value| value.len() > CURSOR_BYTES_MAX) || query.is_some_and(|q| q.len() > CURSOR_BYTES_MAX) {
        return Err(ApiError::invalid("last_event_id"));
    }
    Ok(match header {
        Some(value) => value.to_str().map_or(Resume::Garbage, |text| Resume::parse(Some(text))),
        None => Resume::parse(query),
    })
}

/// `*/*` and silence mean a stream; `application/json` asks first; anything else can't be had.
fn wanted(headers: &HeaderMap) -> Result<Wanted, ApiError> {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Wanted::Stream);
    }
    let ranges = accept.iter().flat_map(|value| value.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        let refused =
            parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0)));
        (!refused).then_some(kind)
    });
    let ranges: Vec<String> = ranges.collect();
    let has = |kind: &str| ranges.iter().any(|range| range == kind);
    if has("text/event-stream") {
        Ok(Wanted::Stream)
    } else if has("application/json") {
        Ok(Wanted::DryRun)
    } else if has("*/*") || has("text/*") {
        Ok(Wanted::Stream)
    } else {
        Err(ApiError::malformed(406, "This route answers text/event-stream or application/json."))
    }
}

/// The current state of a job, for its owner.
#[utoipa::path(
    get, path = "/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "The data of job:update", content_type = "application/json", body = String),
        (status = 401, body = answer::ErrorBody, description = "No valid credential"),
        (status = 403, body = answer::ErrorBody, description = "Not yours, or no such job"),
        (status = 404, body = answer::ErrorBody, description = "Nothing is known of it yet"),
    ),
    security(("token" = [])),
)]
pub(super) async fn job(
    State(shared): State<AppState>,
    uri: Uri,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let query = parse_query(&uri)?;
    let principal = reader(&shared, &uri, &headers, query.credentials()).await?;
    let id = Id::parse(&id).map_err(|_| ApiError::not_found())?;
    let state = shared.sessions.job(&principal, &id).await?;
    Ok(answer::json(StatusCode::OK, state.to_string()))
}
