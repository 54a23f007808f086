//! The files of the demo's page, as they are in the binary: plain HTML, CSS and modules, no build step.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use crate::http;
use crate::http::AppState;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Nothing but what this server serves; in no frame. `'self'` covers the WebSocket of the same host and port.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Path, kind and text.
const FILES: [(&str, &str, &str); 21] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/base.css", CSS, include_str!("page/base.css")),
    ("/parts.css", CSS, include_str!("page/parts.css")),
    ("/slide.css", CSS, include_str!("page/slide.css")),
    ("/app.js", JAVASCRIPT, include_str!("page/app.js")),
    ("/state.js", JAVASCRIPT, include_str!("page/state.js")),
    ("/stream.js", JAVASCRIPT, include_str!("page/stream.js")),
    ("/sse.js", JAVASCRIPT, include_str!("page/sse.js")),
    ("/ws.js", JAVASCRIPT, include_str!("page/ws.js")),
    ("/poll.js", JAVASCRIPT, include_str!("page/poll.js")),
    ("/dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("/cards.js", JAVASCRIPT, include_str!("page/cards.js")),
    ("/panels.js", JAVASCRIPT, include_str!("page/panels.js")),
    ("/log.js", JAVASCRIPT, include_str!("page/log.js")),
    ("/tabs.js", JAVASCRIPT, include_str!("page/tabs.js")),
    ("/here.js", JAVASCRIPT, include_str!("page/here.js")),
    ("/people.js", JAVASCRIPT, include_str!("page/people.js")),
    ("/say.js", JAVASCRIPT, include_str!("page/say.js")),
    ("/slide.js", JAVASCRIPT, include_str!("page/slide.js")),
    ("/cursors.js", JAVASCRIPT, include_str!("page/cursors.js")),
    ("/who.js", JAVASCRIPT, include_str!("page/who.js")),
];

pub(super) fn routes() -> Router<AppState> {
    let router = Router::new().route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
    FILES.into_iter().fold(router, |router, (path, kind, text)| {
        router.route(path, get(async move || http::file(kind, text, (POLICY, "no-cache"))))
    })
}
