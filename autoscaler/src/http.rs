//! Asking servers over HTTP and HTTPS that are not ours to trust: bounded in time and size, no redirect followed.

use std::time::Duration;

use bytes::Bytes;
use daemon::cluster::causes;
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
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq)]
pub enum Roots {
    /// Nobody's: for `http`.
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
    /// A client that believes these.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be read.
    pub fn new(roots: &Roots) -> Result<Self, String> {
        // kube uses the same one: a process that has two of them would have to choose.
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        let builder = match roots {
            Roots::System => builder
                .with_provider_and_native_roots(provider)
                .map_err(|error| format!("loading the system's certificates failed: {error}; set caFile"))?,
            Roots::None | Roots::Pem(_) => {
                let mut store = RootCertStore::empty();
                if let Roots::Pem(pem) = roots {
                    for certificate in CertificateDer::pem_slice_iter(pem) {
                        let added = certificate.map_err(|error| error.to_string()).and_then(|certificate| {
                            store.add(certificate).map_err(|error| error.to_string())
                        });
                        added.map_err(|error| format!("invalid certificate in caFile: {error}"))?;
                    }
                    if store.is_empty() {
                        return Err("caFile contains no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
                    }
                }
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| error.to_string())?;
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
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        longest: usize,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let exchange = async {
            let (head, body) = self.0.request(request).await.map_err(|error| causes(&error))?.into_parts();
            let body = Limited::new(body, longest).collect().await.map_err(|error| {
                match error.is::<http_body_util::LengthLimitError>() {
                    true => format!("its answer has more than {} MiB", longest >> 20),
                    false => causes(&*error),
                }
            })?;
            Ok((head.status, body.to_bytes()))
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {}", duration::short(limit))))
    }
}

/// What fits a URL: its own certificates, the system's, or none.
pub fn roots_for(url: &str, pem: Option<Vec<u8>>) -> Roots {
    let https = url.parse::<Uri>().is_ok_and(|url| url.scheme_str() == Some("https"));
    match pem {
        _ if !https => Roots::None,
        Some(pem) => Roots::Pem(pem),
        None => Roots::System,
    }
}

/// The beginning of an answer, in one line.
pub fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_EXCERPT_BYTES)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `key=value&...`, as a form is sent.
pub fn encode_form(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key}={}", percent_encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A text as it stands in a query or a form.
pub fn percent_encode(text: &str) -> String {
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
pub fn percent_decode(text: &str) -> Option<String> {
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
            let error = Http::new(&Roots::Pem(pem.into())).err().unwrap();
            assert!(error.contains("caFile"), "{error}");
        }
    }
}
