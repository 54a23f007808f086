//! Requests as nobody else would send them, and ordinary ones.

use std::net::SocketAddr;

use crate::support::wire::ANSWER_MAX;
use crate::support::wire::BODY_MAX;
use crate::support::wire::Head;
use crate::support::wire::NoAnswer;
use crate::support::wire::Wire;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// `200`
    pub status: u16,
    /// Names in lower case, in their order, repeated ones too.
    pub headers: Vec<(String, String)>,
    /// What there was, up to a bound.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is something else.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{} {:?}: {e}", self.status, self.text()))
    }

    /// `code` of the error object, or nothing.
    pub fn code(&self) -> String {
        let body: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        body.and_then(|body| body["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Sends exactly these bytes and reads one answer.
pub async fn try_raw(addr: SocketAddr, bytes: &[u8]) -> Result<Response, NoAnswer> {
    let exchange = async {
        let mut wire = Wire::connect(addr).await?;
        wire.send_listening(bytes).await;
        let method = String::from_utf8_lossy(bytes.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
        response(&mut wire, &method).await
    };
    tokio::time::timeout(ANSWER_MAX, exchange).await.unwrap_or(Err(NoAnswer::Timeout))
}

/// The same where an answer must come.
///
/// # Panics
/// When none does.
pub async fn raw(addr: SocketAddr, bytes: &[u8]) -> Response {
    let answer = try_raw(addr, bytes).await;
    answer.unwrap_or_else(|e| panic!("no answer to {:?}…: {e}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)])))
}

/// One answer from a connection that may serve more.
pub async fn response(wire: &mut Wire, method: &str) -> Result<Response, NoAnswer> {
    let head = wire.head().await?;
    body(wire, head, method).await
}

/// The rest of an answer of which the head has been read.
pub async fn body(wire: &mut Wire, head: Head, method: &str) -> Result<Response, NoAnswer> {
    let mut framing = head.framing(method);
    let mut body = Vec::new();
    while body.len() < BODY_MAX
        && let Some(piece) = wire.piece(&mut framing).await?
    {
        body.extend_from_slice(&piece);
    }
    Ok(Response { status: head.status, headers: head.headers, body })
}

/// An ordinary request on a connection of its own. Says `Host` and `Content-Length` unless `headers` do.
///
/// # Panics
/// When no answer comes.
pub async fn request(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    raw(addr, &bytes_of(addr, method, path, headers, body)).await
}

/// `GET` with a bearer token.
pub async fn get(addr: SocketAddr, path: &str, token: &str) -> Response {
    request(addr, "GET", path, &[("Authorization", &format!("Bearer {token}"))], b"").await
}

/// `POST` of JSON with an `Authorization` of any scheme.
pub async fn post(addr: SocketAddr, path: &str, authorization: &str, body: &serde_json::Value) -> Response {
    let headers = [("Authorization", authorization), ("Content-Type", "application/json")];
    request(addr, "POST", path, &headers, body.to_string().as_bytes()).await
}

/// A request as bytes.
pub fn bytes_of(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !given("host") {
        text.push_str(&format!("Host: {addr}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !given("content-length") && !given("transfer-encoding") && (!body.is_empty() || method != "GET") {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    if !given("connection") {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
