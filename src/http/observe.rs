//! What every request goes through: a request id, one log line, one count, and protection from ambiguous framing.

use axum::body::Body;
use axum::extract::MatchedPath;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::Request;
use axum::http::Response;
use axum::http::Version;
use axum::http::header;
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::error::ApiError;
use crate::event::Trace;
use crate::http::AppState;

const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";

/// The outermost of our own layers.
pub(super) async fn observe(State(shared): State<AppState>, request: Request<Body>, next: Next) -> Response<Body> {
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| route_label(path.as_str()));
    let method = method_label(&request);
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING) && request.version() <= Version::HTTP_11;
    let ambiguous = is_ambiguous(&request);
    let span =
        tracing::info_span!("request", request.id = %id, http.route = route, http.method = method, trace.id = Empty);
    if let Some(trace) = trace(request.headers()) {
        span.record("trace.id", trace.name());
    }
    let begun = tokio::time::Instant::now();
    let answer = async {
        let response = if ambiguous {
            ApiError::malformed(400, "The request's framing is ambiguous.").into_response()
        } else {
            next.run(request).await
        };
        let status = response.status().as_u16();
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(http.status = status, duration_ms, "answered");
        response
    };
    let mut response = answer.instrument(span).await;
    let class = class_label(response.status().as_u16());
    shared.metrics.http_requests.with_label_values(&[route, class]).inc();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if chunked || ambiguous {
        // hyper drops a Content-Length that follows Transfer-Encoding without a word. Whoever framed this message in a
        // second way gets no second request on this connection (RFC 9112 §6.1).
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Of which trace the request says that it is a part (W3C Trace Context). Two of these headers are none.
pub(super) fn trace(headers: &HeaderMap) -> Option<Trace> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let only = given.next().filter(|_| given.next().is_none())?;
    only.to_str().ok().and_then(Trace::parse)
}

fn is_ambiguous(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let both = headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH);
    let hosts = headers.get_all(header::HOST).iter().count();
    let hostless = request.version() == Version::HTTP_11 && hosts == 0;
    both || hosts > 1 || hostless
}

/// The caller's id where it is a plain word, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |text: &&str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    given.filter(plain).map_or_else(|| format!("{:016x}", fastrand::u64(..)), str::to_owned)
}

/// Routes are ours and few; what is not matched is one label.
fn route_label(path: &str) -> &'static str {
    const ROUTES: [&str; 11] = [
        "/v1/events",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/updates",
        "/v1/publish",
        "/v1/publish/batch",
        "/v1/tickets",
        "/health",
        "/health/live",
        "/health/ready",
        "/info",
        "/openapi.json",
    ];
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

fn method_label(request: &Request<Body>) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn class_label(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
