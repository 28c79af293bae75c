//! Asking a daemon's admin port.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;

use crate::load::{self, Response};

/// A daemon's metrics at one moment: each sample by its name and labels as they are written.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

/// Asks for `path`.
///
/// # Errors
///
/// No answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    load::once(address, request.as_bytes()).await.map_err(|lost| lost.to_string())
}

/// Sends JSON to `path`.
///
/// # Errors
///
/// No answer.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Response, String> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    load::once(address, request.as_bytes()).await.map_err(|lost| lost.to_string())
}

// === impl Metrics ===

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The sum of a metric's samples whose labels have all of these `name="value"` parts.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples(name, labels).map(|(_, value)| value).sum()
    }

    /// A metric's samples whose labels have all of these parts, with their names as written.
    pub fn samples<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [&'a str],
    ) -> impl Iterator<Item = (&'a str, f64)> {
        self.0
            .iter()
            .filter(move |(sample, _)| {
                sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label))
            })
            .map(|(sample, value)| (sample.as_str(), *value))
    }
}
