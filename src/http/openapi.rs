//! `GET /openapi.json`, generated from the handlers.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::http::StatusCode;
use bytes::Bytes;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::ApiKey;
use utoipa::openapi::security::ApiKeyValue;
use utoipa::openapi::security::HttpAuthScheme;
use utoipa::openapi::security::HttpBuilder;
use utoipa::openapi::security::SecurityScheme;

use crate::http::AppState;
use crate::http::answer;
use crate::http::events;
use crate::http::health;
use crate::http::ingest;
use crate::http::poll;
use crate::http::presence;
use crate::http::streams;
use crate::http::tickets;
use crate::http::ws;

#[derive(OpenApi)]
#[openapi(
    info(title = "Tidings", description = "Workers publish; every browser that may know it knows it a moment later."),
    paths(
        events::open, ws::open, poll::poll, streams::patch, presence::list, presence::say, presence::leave, events::job, ingest::job_update, ingest::publish, ingest::publish_batch, tickets::issue,
        health::health, health::live,
        health::ready, health::info, document,
    ),
    components(schemas(ingest::Receipt, tickets::Issued, ingest::JobUpdateBody, ingest::PublicationBody, presence::PresenceBody, answer::ErrorBody)),
    modifiers(&Credentials),
)]
struct Api;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let key =
            ApiKey::Header(ApiKeyValue::with_description("authorization", "ApiKey followed by a key of API_KEYS"));
        components.add_security_scheme("apiKey", SecurityScheme::ApiKey(key));
    }
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn document(State(shared): State<AppState>) -> Response<Body> {
    answer::json(StatusCode::OK, shared.document.clone())
}

/// The text of it. Made once: it takes longer than answering a hundred requests.
#[must_use]
pub fn text() -> Bytes {
    Bytes::from(Api::openapi().to_json().unwrap_or_default())
}
