//! The few routes that only the demo has: who visits, and what a visitor may break.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::header;
use axum::routing::get;
use axum::routing::post;
use axum::routing::put;
use serde::Deserialize;
use serde_json::json;

use crate::auth;
use crate::cli::demo::files;
use crate::cli::demo::sample;
use crate::clock;
use crate::config::Config;
use crate::config::Secret;
use crate::error::ApiError;
use crate::event::Id;
use crate::http;
use crate::http::AppState;
use crate::hub::ConnectionId;
use crate::store::Role;
use crate::store::StoreError;

pub(super) const COOKIE: &str = "tidings_demo";
/// How long a visitor's token is good, in seconds.
const TOKEN_TTL_S: u64 = 12 * 3600;

/// What the demo's routes know.
#[derive(Debug)]
pub(super) struct Demo {
    secret: Secret,
    base: String,
    key: String,
    program: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wish {
    user: Option<String>,
    connection_id: Option<String>,
}

impl Demo {
    pub(super) fn new(config: &Config, base: &str, key: &str) -> Self {
        let program = std::env::args().next().unwrap_or_else(|| "tidings".to_owned());
        Self { secret: config.jwt_secret.clone(), base: base.to_owned(), key: key.to_owned(), program }
    }

    /// With placeholders that the page fills in, shell-quoted.
    fn publish(&self) -> String {
        let (program, base, key) = (&self.program, &self.base, &self.key);
        format!(
            "{program} publish {{jobId}} --status {{status}} --progress {{progress}} --message {{message}} --url {base} --api-key {key}"
        )
    }

    fn curl(&self) -> String {
        let (base, key) = (&self.base, &self.key);
        format!(
            "curl -X POST {base}/v1/jobs/{{jobId}}/updates -H 'Authorization: ApiKey {key}' -H 'Content-Type: application/json' -d {{update}}"
        )
    }

    /// As copied from the terminal. A new number each time, because the same bytes twice in a row are one update.
    pub(super) fn example_publish(&self) -> String {
        let (program, base, key, job) = (&self.program, &self.base, &self.key, sample::YOURS);
        format!(
            "{program} publish {job} --status running --progress $((RANDOM % 100)) --message 'Hello from a shell' --url {base} --api-key {key}"
        )
    }

    pub(super) fn example_curl(&self) -> String {
        let (base, key, job) = (&self.base, &self.key, sample::YOURS);
        let update = "'{\"status\":\"running\",\"message\":\"Hello from curl\",\"progress\":'$((RANDOM % 100))'}'";
        format!(
            "curl -X POST {base}/v1/jobs/{job}/updates -H 'Authorization: ApiKey {key}' -H 'Content-Type: application/json' -d {update}"
        )
    }
}

pub(super) fn routes(demo: &Arc<Demo>) -> Router<AppState> {
    let (for_session, for_commands) = (Arc::clone(demo), Arc::clone(demo));
    Router::new()
        .merge(files::routes())
        .route("/demo/session", post(async move |body: Bytes| session(&for_session, &body)))
        .route("/demo/commands", get(async move || commands(&for_commands)))
        .route("/demo/cut", post(cut))
        .route("/demo/role", put(give_role).delete(take_role))
}

fn wish(body: &[u8]) -> Result<Wish, ApiError> {
    if body.is_empty() {
        return Ok(Wish::default());
    }
    serde_json::from_slice(body).map_err(|_| ApiError::invalid("body"))
}

/// Signs a visitor in as one of the sample people: a cookie that only this page's own requests carry.
fn session(demo: &Demo, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let wished = wish(body)?.user.unwrap_or_else(|| "ada".to_owned());
    let (id, name) = sample::USERS.into_iter().find(|(id, _)| *id == wished).ok_or(ApiError::invalid("user"))?;
    let user = Id::parse(id).map_err(|_| ApiError::invalid("user"))?;
    let token = auth::mint(&demo.secret, &user, auth::Scopes::default(), clock::now_s(), TOKEN_TTL_S);
    let users: Vec<_> = sample::USERS.iter().map(|(id, name)| json!({ "id": id, "name": name })).collect();
    let jobs: Vec<_> = std::iter::once(sample::YOURS).chain(sample::JOBS.iter().map(|job| job.id)).collect();
    let (shared, title) = sample::SHARED;
    let answer = json!({
        "user": { "id": id, "name": name }, "users": users, "jobs": jobs, "documents": [sample::DOCUMENT, shared],
        "shared": { "id": shared, "title": title },
    });
    let mut response = http::json(StatusCode::OK, answer.to_string());
    let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age={TOKEN_TTL_S}");
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| ApiError::internal())?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

fn commands(demo: &Demo) -> Response<Body> {
    http::json(StatusCode::OK, json!({ "publish": demo.publish(), "curl": demo.curl() }).to_string())
}

/// Cuts a stream's TCP connection, as a network would. Whoever knows the connection's 64 random bits may.
async fn cut(State(shared): State<AppState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let id = wish(&body)?.connection_id.ok_or(ApiError::invalid("connectionId"))?;
    let id = u64::from_str_radix(&id, 16).map_err(|_| ApiError::invalid("connectionId"))?;
    shared.sessions.hub.cut(ConnectionId(id)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the visitor an editor of the shared document: a row of the database, as an application would write it.
async fn give_role(State(shared): State<AppState>, headers: HeaderMap) -> Result<StatusCode, ApiError> {
    let visitor = visitor(&shared, &headers).await?;
    let document = Id::parse(sample::SHARED.0).map_err(|_| ApiError::internal())?;
    let put = shared.sessions.store.put_role(&document, &visitor, Role::Editor).await;
    put.map(|()| StatusCode::NO_CONTENT).map_err(|error| away(&error))
}

/// Deletes that row, and nothing else: that open streams lose the channel is the service's own doing.
async fn take_role(State(shared): State<AppState>, headers: HeaderMap) -> Result<StatusCode, ApiError> {
    let visitor = visitor(&shared, &headers).await?;
    let document = Id::parse(sample::SHARED.0).map_err(|_| ApiError::internal())?;
    let removed = shared.sessions.store.remove_role(&document, &visitor).await;
    removed.map(|()| StatusCode::NO_CONTENT).map_err(|error| away(&error))
}

/// The cookie of this page's own requests says who visits; one from a foreign page doesn't count.
async fn visitor(shared: &AppState, headers: &HeaderMap) -> Result<Id, ApiError> {
    let credentials = auth::Credentials::from_request(headers, []);
    let caller = shared.authenticator.authenticate(&credentials, clock::now_s()).await;
    match caller.map_err(|failure| failure.to_api_error())? {
        auth::Caller::User(principal) => Ok(principal.user.id.clone()),
        auth::Caller::Service => Err(ApiError::denied()),
    }
}

fn away(error: &StoreError) -> ApiError {
    tracing::warn!(%error, "the demo's database did not take a role");
    ApiError::unavailable("database")
}
