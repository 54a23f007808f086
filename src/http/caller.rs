//! Who sent a request, and whether it is their turn: the same questions on every route.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::Response;
use axum::http::Uri;
use axum::http::header;
use axum::http::uri::Authority;

use crate::auth::Admitted;
use crate::auth::Caller;
use crate::auth::Credentials;
use crate::auth::Principal;
use crate::clock;
use crate::error::ApiError;
use crate::http::AppState;

/// What a request for a stream says in its query of who is asking.
#[derive(Debug, Clone, Copy)]
pub(super) struct InQuery<'a> {
    /// Every `?token=`.
    pub(super) tokens: &'a [String],
    /// Every `?ticket=`.
    pub(super) tickets: &'a [String],
    /// Every token among the sub-protocols of a WebSocket.
    pub(super) protocols: &'a [&'a str],
}

impl<'a> InQuery<'a> {
    fn credentials(self, uri: &'a Uri, headers: &'a HeaderMap) -> Credentials<'a> {
        Credentials::from_request(headers, self.tokens.iter().map(String::as_str))
            .with_tickets(self.tickets.iter().map(String::as_str))
            .with_protocol_tokens(self.protocols.iter().copied())
            .with_authority(uri.authority().map(Authority::as_str))
    }
}

/// The cookie that the answer has to set, whatever the answer is.
#[derive(Debug, Default)]
pub(super) struct SetCookie(Option<HeaderValue>);

impl SetCookie {
    pub(super) fn on(self, mut response: Response<Body>) -> Response<Body> {
        if let Some(cookie) = self.0 {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }
}

/// Of headers and cookies, without the query.
pub(super) fn credentials<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Credentials<'a> {
    Credentials::from_request(headers, []).with_authority(uri.authority().map(Authority::as_str))
}

/// Who posts something.
pub(super) async fn caller(shared: &AppState, uri: &Uri, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let caller = shared.authenticator.authenticate(&credentials(uri, headers), clock::now_s()).await;
    caller.map_err(|failure| failure.to_api_error())
}

/// The user who asks for a stream, perhaps by ticket: an API key has no channels.
pub(super) async fn streamer(
    shared: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
    query: InQuery<'_>,
    set_cookie: &mut SetCookie,
) -> Result<Principal, ApiError> {
    let credentials = query.credentials(uri, headers);
    let admitted = shared.authenticator.admit(&credentials, clock::now_s()).await;
    let Admitted { caller, set_cookie: cookie } = admitted.map_err(|failure| failure.to_api_error())?;
    set_cookie.0 = cookie;
    user(caller)
}

/// The user who asks for something else; a ticket won't do.
pub(super) async fn reader(
    shared: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
    query: InQuery<'_>,
) -> Result<Principal, ApiError> {
    let caller = shared.authenticator.authenticate(&query.credentials(uri, headers), clock::now_s()).await;
    user(caller.map_err(|failure| failure.to_api_error())?)
}

fn user(caller: Caller) -> Result<Principal, ApiError> {
    match caller {
        Caller::User(principal) => Ok(principal),
        Caller::Service => Err(ApiError::denied()),
    }
}

/// Takes so much of the caller's budget, or says when there will be as much.
pub(super) fn within_rate(shared: &AppState, caller: &Caller, cost: usize) -> Result<(), ApiError> {
    let taken = match caller {
        Caller::User(principal) => shared.limits.take(&principal.user.id, cost),
        Caller::Service => shared.limits.take_service(cost),
    };
    taken.map_err(|later| {
        shared.metrics.reject("http", "rate");
        if let Some(principal) = caller.principal() {
            shared.sessions.inspector().note(|ledger| ledger.limited(&principal.user.id, "rate"));
        }
        later.into()
    })
}
