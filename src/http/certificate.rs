//! A certificate and its key from PEM files: read, and checked to be a pair.

use std::io;

use rustls::Error;
use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use time::Date;
use time::Month;
use tokio::io::AsyncReadExt as _;

use crate::config::Config;

/// Bytes of one file at most: a chain of certificates has a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Tags of DER (X.690 §8) that a certificate has before its dates.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Why two files are no pair: a line that names the setting.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message is its documentation")]
pub enum CertificateError {
    #[error("{setting}: can't read {path}: {source}")]
    Unreadable { setting: &'static str, path: String, source: io::Error },
    #[error("TLS_CERT_FILE: no certificate in {0}; it has to be PEM, the server's own certificate first")]
    NoCertificate(String),
    #[error("TLS_CERT_FILE: a certificate in {0} can't be read")]
    BadCertificate(String),
    #[error("TLS_KEY_FILE: no private key in {0}; it has to be PEM and not encrypted")]
    NoKey(String),
    #[error("TLS_KEY_FILE: the key in {key} does not fit the first certificate in {cert}")]
    Mismatch { cert: String, key: String },
    #[error("TLS_KEY_FILE: the key in {path} can't be used: {source}")]
    Unusable { path: String, source: Error },
}

/// Where the two files are.
#[derive(Debug, Clone)]
pub(super) struct Files {
    cert: String,
    key: String,
}

/// What the two files say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    /// Those of the settings, if TLS is asked for.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let (cert, key) = (config.tls_cert_file.clone(), config.tls_key_file.clone());
        (!cert.is_empty()).then_some(Self { cert, key })
    }

    pub(super) async fn read(&self) -> Result<Contents, CertificateError> {
        let (cert, key) = (read("TLS_CERT_FILE", &self.cert).await?, read("TLS_KEY_FILE", &self.key).await?);
        Ok(Contents { cert, key })
    }

    /// The pair, if it is one.
    pub(super) fn pair(&self, contents: &Contents) -> Result<CertifiedKey, CertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents.cert).collect();
        let chain = chain.map_err(|_| CertificateError::BadCertificate(self.cert.clone()))?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate(self.cert.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|_| CertificateError::NoKey(self.key.clone()))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| self.unfit(error))
    }

    fn unfit(&self, error: Error) -> CertificateError {
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CertificateError::Mismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            Error::InvalidCertificate(_) => CertificateError::BadCertificate(self.cert.clone()),
            source => CertificateError::Unusable { path: self.key.clone(), source },
        }
    }
}

async fn read(setting: &'static str, path: &str) -> Result<Vec<u8>, CertificateError> {
    let reading = async {
        let mut bytes = Vec::new();
        tokio::fs::File::open(path).await?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    reading.await.map_err(|source| CertificateError::Unreadable { setting, path: path.to_owned(), source })
}

/// When a certificate ends, in seconds since the Unix epoch.
pub(super) fn ends_at(certificate: &[u8]) -> Option<i64> {
    // Certificate → TBSCertificate → validity → notAfter (RFC 5280 §4.1).
    let (_, certificate, _) = element(certificate)?;
    let (_, signed, _) = element(certificate)?;
    let (tag, _, after) = element(signed)?;
    let before_serial = if tag == VERSION { after } else { signed };
    // Serial number, algorithm and issuer are passed over.
    let after_issuer = (0..3).try_fold(before_serial, |rest, _| element(rest).map(|(_, _, after)| after))?;
    let (tag, validity, _) = element(after_issuer)?;
    let (_, _, after_begin) = element(validity).filter(|_| tag == SEQUENCE)?;
    let (tag, text, _) = element(after_begin)?;
    seconds(tag, std::str::from_utf8(text).ok()?)
}

/// The first element: its tag, what is in it, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        short @ ..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7F)).filter(|(d, _)| d.len() <= 4)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, text: &str) -> Option<i64> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i32 = text.get(..2)?.parse().ok()?;
            // RFC 5280 §4.1.2.5.1
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let pair = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(pair(0)?).ok()?, pair(2)?).ok()?;
    Some(date.with_hms(pair(4)?, pair(6)?, pair(8)?).ok()?.assume_utc().unix_timestamp())
}
