//! What a request has to pass before anybody is asked who sent it: the limits that go by address.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::extract::State;
use axum::http::Extensions;
use axum::http::HeaderMap;
use axum::http::Request;
use axum::http::Response;
use axum::http::StatusCode;
use axum::middleware::Next;

use crate::error::ApiError;
use crate::http::AppState;
use crate::http::events;
use crate::limits;
use crate::limits::Address;
use crate::limits::Place;

const FORWARDED: &str = "x-forwarded-for";

/// Who has presented too many credentials that were refused is not asked for another one.
pub(super) async fn guard(State(shared): State<AppState>, mut request: Request<Body>, next: Next) -> Response<Body> {
    let address = address(&shared, request.extensions(), request.headers());
    if let Err(later) = shared.limits.may_try(address) {
        shared.metrics.reject("auth", "too_many");
        hint(&shared, request.headers());
        return events::refuse_unread(&later.into(), request.uri().path(), request.headers());
    }
    request.extensions_mut().insert(address);
    let response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED {
        shared.limits.failed(address);
    }
    response
}

fn address(shared: &AppState, extensions: &Extensions, headers: &HeaderMap) -> Address {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let fields = headers.get_all(FORWARDED).iter().map(|value| value.to_str().unwrap_or("unreadable"));
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    Address::of(limits::client(peer.unwrap_or(unknown), shared.connections.trusted(), fields))
}

/// Says that a limit by address may have been hit by a proxy, for all who come through it.
fn hint(shared: &AppState, headers: &HeaderMap) {
    if headers.contains_key(FORWARDED) && shared.connections.may_hint() {
        tracing::warn!(
            "an address is at its limit, and its requests name others in X-Forwarded-For: if it is a proxy of yours, name it in \
             TRUSTED_PROXIES"
        );
    }
}

/// Whether this instance takes anybody new.
///
/// # Errors
/// 503: it sends away those whom it has.
pub(super) fn stays(shared: &AppState) -> Result<(), ApiError> {
    if shared.is_draining() { Err(ApiError::unavailable("draining")) } else { Ok(()) }
}

/// The place of one more stream. `is_new`: its client does not go on from a poll a moment ago.
///
/// # Errors
/// 429: its address has as many as it may. 503: this instance has, or is leaving, or too many come at the same time.
pub(super) fn admit(
    shared: &AppState,
    extensions: &Extensions,
    headers: &HeaderMap,
    is_new: bool,
) -> Result<Place, ApiError> {
    stays(shared)?;
    let address = extensions.get::<Address>().copied();
    let address = address.unwrap_or_else(|| self::address(shared, extensions, headers));
    let place = shared.connections.stream(address).map_err(|full| {
        shared.metrics.reject("stream", full.as_str());
        match full {
            limits::Full::Address => {
                hint(shared, headers);
                ApiError::too_many("connections_of_address")
            }
            limits::Full::Instance => ApiError::unavailable("overloaded"),
        }
    })?;
    if is_new {
        shared.admission.enter().map_err(|later| {
            shared.metrics.reject("stream", "admission");
            ApiError::overloaded(later.0)
        })?;
    }
    Ok(place)
}
