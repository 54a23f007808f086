//! A browser origin that may call us: scheme, host and port, compared exactly.

/// A valid origin in the form in which browsers send it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin(String);

impl Origin {
    /// Parses `https://app.example.com` or `http://localhost:3000`; nothing after the port, no wildcard, not `null`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]".contains(&b);
        let good = matches!(scheme, "http" | "https") && !rest.is_empty() && rest.bytes().all(host);
        good.then(|| Self(text.to_owned()))
    }

    /// The origin as a browser sends it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
