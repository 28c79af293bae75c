//! Asking servers over HTTP and HTTPS that are not ours to trust: bounded in time and size, no redirect followed.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use scaler_types::duration;
use tokio::time::timeout;

/// A client. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Why there is no client, or no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("loading the system's certificates: {0}; set caFile")]
    SystemRoots(#[source] io::Error),
    #[error("invalid certificate in caFile: {0}")]
    BadCertificate(#[source] Box<dyn Error + Send + Sync>),
    #[error("caFile contains no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Request(#[from] hyper_util::client::legacy::Error),
    #[error(transparent)]
    Body(Box<dyn Error + Send + Sync>),
    /// With the limit, in bytes.
    #[error("its answer has more than {} MiB", .0 >> 20)]
    TooLong(usize),
    #[error("no answer within {}", duration::short(*.0))]
    Timeout(Duration),
}

/// The certificate authorities to trust.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Roots {
    /// None: for `http`.
    None,
    /// Those of the system.
    System,
    /// These, in PEM.
    Pem(Vec<u8>),
}

/// The longest text of an answer that is put into a message.
const MAX_EXCERPT_BYTES: usize = 200;

// === impl Http ===

impl Http {
    /// A client that trusts these roots.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be read.
    pub(crate) fn new(roots: &Roots) -> Result<Self, HttpError> {
        // kube uses the same one: a process that has two of them would have to choose.
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        let builder = match roots {
            Roots::System => {
                builder.with_provider_and_native_roots(provider).map_err(HttpError::SystemRoots)?
            }
            Roots::None | Roots::Pem(_) => {
                let mut store = RootCertStore::empty();
                if let Roots::Pem(pem) = roots {
                    for certificate in CertificateDer::pem_slice_iter(pem) {
                        let certificate =
                            certificate.map_err(|error| HttpError::BadCertificate(error.into()))?;
                        store.add(certificate).map_err(|error| HttpError::BadCertificate(error.into()))?;
                    }
                    if store.is_empty() {
                        return Err(HttpError::NoCertificate);
                    }
                }
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()?;
                builder.with_tls_config(config.with_root_certificates(store).with_no_client_auth())
            }
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Our own admin server closes idle connections after 10 s, others later.
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request and reads the whole answer, of `longest` bytes at most.
    ///
    /// # Errors
    ///
    /// No answer within `limit`, or one that is too long or breaks off.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        longest: usize,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let exchange = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            let body = Limited::new(body, longest).collect().await.map_err(|error| {
                match error.is::<http_body_util::LengthLimitError>() {
                    true => HttpError::TooLong(longest),
                    false => HttpError::Body(error),
                }
            })?;
            Ok((head.status, body.to_bytes()))
        };
        timeout(limit, exchange).await.unwrap_or(Err(HttpError::Timeout(limit)))
    }
}

/// The roots that fit a URL: its own certificates, the system's, or none.
pub(crate) fn roots_for(url: &str, pem: Option<Vec<u8>>) -> Roots {
    let https = url.parse::<Uri>().is_ok_and(|url| url.scheme_str() == Some("https"));
    match pem {
        _ if !https => Roots::None,
        Some(pem) => Roots::Pem(pem),
        None => Roots::System,
    }
}

/// The beginning of an answer, in one line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_EXCERPT_BYTES)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `key=value&...`, as a form is sent.
pub(crate) fn encode_form(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key}={}", percent_encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A text as it stands in a query or a form.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// The text that was [encoded](percent_encode); `None` where it makes no sense.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_keeps_what_it_is_given() {
        assert_eq!(
            encode_form(&[("query", "a{b=\"c d\"}[1m]+é"), ("x", "")]),
            "query=a%7Bb%3D%22c%20d%22%7D%5B1m%5D%2B%C3%A9&x="
        );
        for text in ["", "statefulset/db", "a b+c%20&é="] {
            assert_eq!(percent_decode(&percent_encode(text)).as_deref(), Some(text));
        }
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        for pem in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let error = Http::new(&Roots::Pem(pem.into())).err().unwrap().to_string();
            assert!(error.contains("caFile"), "{error}");
        }
    }
}
