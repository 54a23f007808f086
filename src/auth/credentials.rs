//! Where a request says who it is: gathered first, judged as a whole, so that no two places can disagree unnoticed.

use axum::http::HeaderMap;
use axum::http::header;

use crate::auth::AuthFailure;
use crate::config::Config;

/// Everything in a request that could say who is asking. `Debug` is left out on purpose: it holds secrets.
#[derive(Clone, Default)]
#[expect(missing_debug_implementations, reason = "it holds secrets")]
pub struct Credentials<'a> {
    authorization: Vec<&'a [u8]>,
    query_tokens: Vec<&'a str>,
    tickets: Vec<&'a str>,
    protocol_tokens: Vec<&'a str>,
    cookies: Vec<&'a [u8]>,
    origins: Vec<&'a [u8]>,
    fetch_site: Option<&'a [u8]>,
    host: Option<&'a str>,
}

/// The one credential that counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen<'a> {
    Token(&'a str),
    ApiKey(&'a str),
    Ticket(&'a str),
}

impl<'a> Credentials<'a> {
    /// Of the headers and every value of `?token=` in a request. `query_tokens` is an `Option`, a `Vec`, or any iterator.
    pub fn from_request(headers: &'a HeaderMap, query_tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let all =
            |name: header::HeaderName| headers.get_all(name).iter().map(axum::http::HeaderValue::as_bytes).collect();
        Self {
            authorization: all(header::AUTHORIZATION),
            query_tokens: query_tokens.into_iter().collect(),
            tickets: Vec::new(),
            protocol_tokens: Vec::new(),
            cookies: all(header::COOKIE),
            origins: all(header::ORIGIN),
            fetch_site: headers.get("sec-fetch-site").map(axum::http::HeaderValue::as_bytes),
            host: headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        }
    }

    /// Every value of `?ticket=`.
    #[must_use]
    pub fn with_tickets(mut self, tickets: impl IntoIterator<Item = &'a str>) -> Self {
        self.tickets = tickets.into_iter().collect();
        self
    }

    /// Every token among the sub-protocols of a WebSocket, where a page can put one.
    #[must_use]
    pub fn with_protocol_tokens(mut self, tokens: impl IntoIterator<Item = &'a str>) -> Self {
        self.protocol_tokens = tokens.into_iter().collect();
        self
    }

    /// The authority of the request's URI, which HTTP/2 has in place of the header `Host`.
    #[must_use]
    pub fn with_authority(mut self, authority: Option<&'a str>) -> Self {
        self.host = authority.or(self.host);
        self
    }

    /// The credential that counts: an explicit one, or else the cookie, if the request comes from where it may.
    pub(super) fn choose(&self, config: &Config) -> Result<Chosen<'a>, AuthFailure> {
        let headers = self.authorization.iter().map(|value| explicit(value));
        let protocols = self.protocol_tokens.iter().map(|token| Ok(Chosen::Token(token)));
        let tickets = self.tickets.iter().map(|ticket| Ok(Chosen::Ticket(ticket)));
        let queries = self.query_tokens.iter().map(|token| Ok(Chosen::Token(token)));
        let mut all = headers.chain(protocols).chain(tickets).chain(queries);
        let Some(first) = all.next() else { return self.cookie(config) };
        // Also when one of them is malformed or not allowed: which one somebody else would have believed is not known.
        if all.any(|other| other != first) {
            return Err(AuthFailure::Conflict);
        }
        if !self.query_tokens.is_empty() && !config.allow_query_token {
            return Err(AuthFailure::QueryTokenRefused);
        }
        first
    }

    fn cookie(&self, config: &Config) -> Result<Chosen<'a>, AuthFailure> {
        if config.auth_cookie.is_empty() || !self.cookie_counts(config) {
            return Err(AuthFailure::Missing);
        }
        self.cookie_named(&config.auth_cookie)?.map(Chosen::Token).ok_or(AuthFailure::Missing)
    }

    /// The only cookie of that name.
    pub(super) fn cookie_named(&self, name: &str) -> Result<Option<&'a str>, AuthFailure> {
        let pairs =
            self.cookies.iter().filter_map(|line| std::str::from_utf8(line).ok()).flat_map(|line| line.split(';'));
        let ours = |pair: &'a str| pair.trim().split_once('=').filter(|(other, _)| *other == name);
        let mut values = pairs.filter_map(ours).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            // Cookie tossing: a sub-domain can set one of the same name, and which comes first is not ours to say.
            (_, Some(_)) => Err(AuthFailure::Conflict),
        }
    }

    /// The page that the browser says the request is from. Several are none that anybody would have sent.
    pub(super) fn origin(&self) -> Option<&'a [u8]> {
        self.origins.first().copied()
    }

    /// A browser sends cookies whoever's page asks. So the page must be an allowed one, ours, or of our site.
    fn cookie_counts(&self, config: &Config) -> bool {
        match self.origins.as_slice() {
            [] => self.fetch_site.is_none_or(|site| [b"same-origin".as_slice(), b"same-site", b"none"].contains(&site)),
            [origin] => {
                let origin = std::str::from_utf8(origin).unwrap_or_default();
                config.cors_origins.iter().any(|allowed| allowed == origin) || self.is_own(origin)
            }
            _ => false,
        }
    }

    fn is_own(&self, origin: &str) -> bool {
        let authority = ["https://", "http://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
        authority.is_some_and(|own| !own.is_empty() && Some(own) == self.host)
    }
}

/// `Bearer <token>` or `ApiKey <key>`: the scheme in any case, exactly one space, no list (RFC 9110 §11.4).
fn explicit(value: &[u8]) -> Result<Chosen<'_>, AuthFailure> {
    let text = std::str::from_utf8(value).map_err(|_| AuthFailure::Malformed)?;
    let (scheme, secret) = text.split_once(' ').ok_or(AuthFailure::Malformed)?;
    let plain = !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    match plain {
        true if scheme.eq_ignore_ascii_case("bearer") => Ok(Chosen::Token(secret)),
        true if scheme.eq_ignore_ascii_case("apikey") => Ok(Chosen::ApiKey(secret)),
        _ => Err(AuthFailure::Malformed),
    }
}
