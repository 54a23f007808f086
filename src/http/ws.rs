//! `GET /v1/ws`: the handshake (RFC 6455 §4.2). After `101` the connection is the stream's.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Request;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Version;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use http_body::Body as _;
use tungstenite::handshake::derive_accept_key;

use crate::error::ApiError;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller::SetCookie;
use crate::http::commands::Commander;
use crate::http::events;
use crate::http::guard;
use crate::http::takeover::Switch;
use crate::session::Session;
use crate::session::Transport;
use crate::transport::ws::Commands;

/// The only version (RFC 6455 §4.4).
const VERSION: &str = "13";
/// The sub-protocol of docs/protocol.md.
const PROTOCOL: &str = "tidings.v1";
/// Before a token in the list of sub-protocols, the only header that a page can set.
const TOKEN: &str = "access_token.";

/// What the client offers.
struct Offer<'a> {
    key: &'a str,
    protocols: Vec<&'a str>,
}

/// Opens a WebSocket.
#[utoipa::path(
    get, path = "/v1/ws",
    params(
        ("channels" = Option<String>, Query, description = "Names separated by commas; more can be subscribed to later"),
        ("last_event_id" = Option<String>, Query, description = "A cursor"),
        ("session" = Option<String>, Query, description = "Names this stream across reconnects: [A-Za-z0-9_-]{8,64}"),
        ("until" = Option<String>, Query, description = "`done`: the stream ends with its jobs"),
        ("token" = Option<String>, Query, description = "A token, where ALLOW_QUERY_TOKEN allows it"),
        ("ticket" = Option<String>, Query, description = "A ticket of POST /v1/tickets"),
        ("Sec-WebSocket-Protocol" = Option<String>, Header, description = "`tidings.v1`, and `access_token.<jwt>` from a page"),
    ),
    responses(
        (status = 101, description = "The stream follows, as text frames"),
        (status = 204, description = "until=done, and every job's end is known"),
        (status = 400, description = "Malformed", body = answer::ErrorBody),
        (status = 401, description = "No valid credential", body = answer::ErrorBody),
        (status = 403, description = "Nothing of it may be seen, or a cookie from a foreign page", body = answer::ErrorBody),
        (status = 426, description = "No WebSocket of version 13", body = answer::ErrorBody),
        (status = 503, description = "Try again later", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn open(State(shared): State<AppState>, request: Request<Body>) -> Response<Body> {
    let commands = Arc::new(Commander::new(Arc::clone(&shared)));
    open_with(shared, request, commands).await
}

/// The same where somebody else does what the client asks for: `tests/it/rfc6455/echo.rs` says it again.
pub async fn open_with(shared: AppState, request: Request<Body>, commands: Arc<dyn Commands>) -> Response<Body> {
    let mut set_cookie = SetCookie::default();
    let (head, body) = request.into_parts();
    let result = accept(&shared, &head, body.is_end_stream(), commands, &mut set_cookie).await;
    let status = match &result {
        Ok(_) => "accepted",
        Err(error) => error.outcome(),
    };
    shared.metrics.connections.with_label_values(&[Transport::Ws.as_str(), status]).inc();
    set_cookie.on(result.unwrap_or_else(refusal))
}

fn refusal(error: ApiError) -> Response<Body> {
    let upgrade = error.status == 426;
    let mut response = error.into_response();
    if upgrade {
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    }
    response
}

async fn accept(
    shared: &AppState,
    head: &Parts,
    is_empty: bool,
    commands: Arc<dyn Commands>,
    set_cookie: &mut SetCookie,
) -> Result<Response<Body>, ApiError> {
    let offer = read_offer(head, is_empty)?;
    let Some(switch) = head.extensions.get::<Switch>() else {
        return Err(ApiError::malformed(426, "This route is a WebSocket over HTTP/1.1."));
    };
    let place = guard::admit(shared, &head.extensions, &head.headers, true)?;
    let tokens: Vec<&str> = offer.protocols.iter().filter_map(|protocol| protocol.strip_prefix(TOKEN)).collect();
    let by_cookie = head.headers.contains_key(header::COOKIE) && !is_explicit(head, &tokens);
    if by_cookie && !head.headers.contains_key(header::ORIGIN) {
        return Err(ApiError::denied()); // browsers say where a page is from; whoever does not is none, or hides it
    }
    match events::open_socket(shared, &head.uri, &head.headers, &tokens, place, set_cookie).await {
        Ok(Some(session)) => Ok(switch_protocols(switch, &offer, *session, commands)),
        Ok(None) => Ok(StatusCode::NO_CONTENT.into_response()),
        // A foreign page's request with our cookie: no other credential would change that.
        Err(error) if error.status == 401 && by_cookie => Err(ApiError::denied()),
        Err(error) => Err(error),
    }
}

/// Whether the request itself, and not the browser's cookies, says who asks.
fn is_explicit(head: &Parts, tokens: &[&str]) -> bool {
    let query = head.uri.query().unwrap_or_default();
    let in_query = query.split('&').any(|pair| pair.starts_with("token=") || pair.starts_with("ticket="));
    in_query || !tokens.is_empty() || head.headers.contains_key(header::AUTHORIZATION)
}

fn switch_protocols(
    switch: &Switch,
    offer: &Offer<'_>,
    session: Session,
    commands: Arc<dyn Commands>,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(offer.key.as_bytes()));
    accept.into_iter().for_each(|accept| drop(headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept)));
    // A browser that offers some fails the connection when none is chosen.
    let chosen = offer.protocols.iter().find(|protocol| **protocol == PROTOCOL).or(offer.protocols.first());
    let chosen = chosen.and_then(|protocol| HeaderValue::from_str(protocol).ok());
    chosen.into_iter().for_each(|chosen| drop(headers.insert(header::SEC_WEBSOCKET_PROTOCOL, chosen)));
    switch.claim(session, commands);
    response
}

fn read_offer(head: &Parts, is_empty: bool) -> Result<Offer<'_>, ApiError> {
    let headers = &head.headers;
    let upgrade = || ApiError::malformed(426, "This route is a WebSocket, version 13.");
    let is_websocket = lists(headers, &header::UPGRADE).any(|name| name.eq_ignore_ascii_case("websocket"));
    let is_upgrade = lists(headers, &header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    if head.version != Version::HTTP_11 || !is_websocket || !is_upgrade {
        return Err(upgrade());
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(upgrade());
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
    let key = key.ok_or(ApiError::invalid("Sec-WebSocket-Key"))?;
    if !is_empty {
        return Err(ApiError::invalid("body"));
    }
    let protocols = lists(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    Ok(Offer { key, protocols })
}

/// Sixteen bytes in base64.
fn is_key(key: &str) -> bool {
    let digits = key.strip_suffix("==").unwrap_or("");
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    digits.len() == 22 && digits.bytes().all(base64)
}

/// The members of a header that is a list, over all its lines.
fn lists<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// The value of a header that may come once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}
