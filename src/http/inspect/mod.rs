//! The inspector: what operators ask, on the metrics port only, and a page that asks it. Only `GET`, no credential, no CORS.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::routing::get;
use serde::Deserialize;
use serde::Serialize;

use crate::error::ApiError;
use crate::event::Channel;
use crate::event::Id;
use crate::http::AppState;
use crate::http::answer;
use crate::inspect::Account;
use crate::session::Sought;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Nothing but what this port serves; in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Entries of the log that are told, unless another number is asked for, and at most.
const ENTRIES: usize = 50;
const ENTRIES_MAX: usize = 500;

/// Path, kind and text.
const FILES: [(&str, &str, &str); 4] = [
    ("/inspect", HTML, include_str!("page/index.html")),
    ("/inspect/page.css", CSS, include_str!("page/page.css")),
    ("/inspect/page.js", JAVASCRIPT, include_str!("page/page.js")),
    ("/inspect/tables.js", JAVASCRIPT, include_str!("page/tables.js")),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    user: Option<String>,
    channel: Option<String>,
    event: Option<String>,
    max: Option<usize>,
    recent: Option<String>,
}

/// What all nodes know of a user's streams.
#[derive(Debug, Serialize)]
struct Streams {
    user: String,
    instances: Vec<Account>,
    complete: bool,
}

/// The routes, for the metrics port.
pub(super) fn routes() -> Router<AppState> {
    let routes = Router::new()
        .route("/inspect/instances", get(instances))
        .route("/inspect/streams", get(streams))
        .route("/inspect/log", get(log))
        .route("/inspect/explain", get(explain));
    FILES.into_iter().fold(routes, |routes, (path, kind, text)| {
        routes.route(path, get(async move || answer::file(kind, text, (POLICY, "no-store"))))
    })
}

fn json(value: &impl Serialize) -> Response<Body> {
    answer::json(StatusCode::OK, serde_json::to_string(value).unwrap_or_default())
}

/// Parameters that are given twice are refused.
fn query(uri: &Uri) -> Result<Query, ApiError> {
    let parsed = axum_extra::extract::Query::try_from_uri(uri);
    parsed.map(|axum_extra::extract::Query(query)| query).map_err(|_| ApiError::invalid("query"))
}

impl Query {
    fn user(&self) -> Result<Id, ApiError> {
        Id::parse(self.user.as_deref().unwrap_or_default()).map_err(|_| ApiError::invalid("user"))
    }

    fn channel(&self) -> Result<Option<Channel>, ApiError> {
        let given = self.channel.as_deref().filter(|text| !text.is_empty());
        given.map(Channel::parse).transpose().map_err(|_| ApiError::invalid("channel"))
    }

    fn event(&self) -> Result<Option<Sought>, ApiError> {
        let given = self.event.as_deref().filter(|text| !text.is_empty());
        given.map(|text| Sought::parse(text).ok_or(ApiError::invalid("event"))).transpose()
    }
}

/// Every node at a glance; with `?recent=1`, what happened there of late.
async fn instances(State(shared): State<AppState>, uri: Uri) -> Result<Response<Body>, ApiError> {
    let recent = query(&uri)?.recent.as_deref() == Some("1");
    Ok(json(&shared.sessions.instances(recent).await))
}

async fn streams(State(shared): State<AppState>, uri: Uri) -> Result<Response<Body>, ApiError> {
    let user = query(&uri)?.user()?;
    let (instances, complete) = shared.sessions.accounts(&user, None, &[]).await;
    Ok(json(&Streams { user: user.to_string(), instances, complete }))
}

async fn log(State(shared): State<AppState>, uri: Uri) -> Result<Response<Body>, ApiError> {
    let query = query(&uri)?;
    let (channel, max) = (query.channel()?, query.max.unwrap_or(ENTRIES).min(ENTRIES_MAX));
    Ok(json(&shared.sessions.log_tail(channel.as_ref(), max)))
}

async fn explain(State(shared): State<AppState>, uri: Uri) -> Result<Response<Body>, ApiError> {
    let query = query(&uri)?;
    let (user, event) = (query.user()?, query.event()?);
    let channel = query.channel()?.ok_or(ApiError::invalid("channel"))?;
    Ok(json(&shared.sessions.explain(&user, &channel, event).await))
}
