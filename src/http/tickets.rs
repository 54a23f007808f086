//! `POST /v1/tickets`: a ticket for the `EventSource` of a page on another origin.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use serde::Deserialize;
use serde::Serialize;

use crate::auth::AuthFailure;
use crate::auth::TICKET_LIFE;
use crate::error::ApiError;
use crate::http::AppState;
use crate::http::answer;
use crate::http::caller;

/// A ticket.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Issued {
    /// For `?ticket=`, once
    ticket: String,
    /// Seconds until it is worth nothing
    expires_in: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    ticket: Vec<String>,
}

/// Issues a ticket: it opens one stream within 30 s, as the user and until the end of the token that is shown here.
#[utoipa::path(
    post, path = "/v1/tickets",
    responses(
        (status = 200, description = "A ticket", body = Issued),
        (status = 401, description = "No valid token or cookie; a ticket is none", body = answer::ErrorBody),
        (status = 403, description = "An API key has no user", body = answer::ErrorBody),
        (status = 429, description = "Too many: Retry-After says when", body = answer::ErrorBody),
        (status = 503, description = "Tickets can't be kept at the moment", body = answer::ErrorBody),
    ),
    security(("token" = [])),
)]
pub(super) async fn issue(
    State(shared): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let query = axum_extra::extract::Query::<Query>::try_from_uri(&uri).map_err(|_| ApiError::invalid("query"))?;
    if !query.ticket.is_empty() {
        shared.metrics.reject("auth", AuthFailure::TicketRefused.as_str());
        return Err(AuthFailure::TicketRefused.to_api_error());
    }
    let caller = caller::caller(&shared, &uri, &headers).await?;
    caller::within_rate(&shared, &caller, 1)?;
    let Some(principal) = caller.principal() else {
        let mut error = ApiError::denied();
        error.reason = Some("api_key_has_no_user");
        return Err(error);
    };
    let ticket = shared.authenticator.issue_ticket(principal, &caller::credentials(&uri, &headers)).await;
    let ticket = ticket.map_err(|failure| failure.to_api_error())?;
    let issued = Issued { ticket, expires_in: TICKET_LIFE.as_secs() };
    Ok(answer::json(StatusCode::OK, serde_json::to_string(&issued).unwrap_or_default()))
}
