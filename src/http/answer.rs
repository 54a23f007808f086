//! Errors and JSON as HTTP answers.

use std::any::Any;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;

use crate::clock;
use crate::error::ApiError;

/// The object of protocol §8. For the document only: `ApiError` writes it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "the shape is what counts")]
pub(super) struct ErrorBody {
    /// One of six
    code: String,
    /// A constant sentence
    message: String,
    /// `recoverable`, and where it helps `reason`, `field`, `retryAfterMs`
    #[schema(value_type = Object)]
    details: String,
    /// RFC 3339
    timestamp: String,
}

/// A file of a page, compiled in: what it may do, and for how long it may be kept.
#[must_use]
pub fn file(kind: &'static str, text: &'static str, (policy, kept): (&'static str, &'static str)) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, kept),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A JSON answer that nobody may cache or sniff.
#[must_use]
pub fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, self.to_json(&clock::rfc3339(clock::now_us())));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidings\""));
        }
        if matches!(self.status, 408 | 413 | 431) {
            // What is left of the request is not worth reading.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

pub(super) async fn no_route() -> ApiError {
    ApiError::not_found()
}

pub(super) async fn no_method() -> ApiError {
    ApiError::malformed(405, "This route has other methods.")
}

/// A fault of ours: the panic hook has logged it; the client learns nothing of it.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response<Body> {
    ApiError::internal().into_response()
}
