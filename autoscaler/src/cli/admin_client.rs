//! Asking a daemon's admin port.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;

use super::output::Format;
use crate::http::{Http, Roots, roots, shown};

/// Which autoscaler is asked, and how its answer is shown.
#[derive(clap::Args, Clone, Debug)]
pub struct Asking {
    /// The autoscaler's admin address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8092", value_parser = daemon::listen::parse_address)]
    pub admin_address: SocketAddr,

    /// The same as a URL, for one behind a proxy or a port-forward (http or https)
    #[arg(long, value_name = "URL", conflicts_with = "admin_address")]
    pub url: Option<String>,

    /// A file with the token that writes on the admin ports must carry
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Text for people, or the JSON that was answered
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub output: Format,
}

/// A daemon's admin port.
pub struct Port {
    url: String,
    http: Http,
    token: Option<String>,
}

/// How long a daemon may take to tell something.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer that is read: ten thousand resources take some 10 MB.
const LONGEST: usize = 256 << 20;

// === impl Asking ===

impl Asking {
    /// The autoscaler's port.
    pub fn autoscaler(&self) -> anyhow::Result<Port> {
        match &self.url {
            Some(url) => self.port(url.trim_end_matches('/').to_owned()),
            None => self.at(self.admin_address),
        }
    }

    /// A daemon's port at this address.
    pub fn at(&self, mut address: SocketAddr) -> anyhow::Result<Port> {
        if address.ip().is_unspecified() {
            // As the daemon's own flag has it: all addresses, of which one is asked.
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        self.port(format!("http://{address}"))
    }

    fn port(&self, url: String) -> anyhow::Result<Port> {
        let token = match &self.admin_token_file {
            Some(file) => {
                let token = fs::read_to_string(file)
                    .with_context(|| format!("reading --admin-token-file {}", file.display()))?;
                Some(token.trim().to_owned())
            }
            None => None,
        };
        let roots: Roots = roots(&url, None);
        let http = Http::new(&roots).map_err(|error| anyhow::anyhow!("asking {url}: {error}"))?;
        Ok(Port { url, http, token })
    }
}

// === impl Port ===

impl Port {
    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What is at `path`; `None`: nothing is (404).
    ///
    /// # Errors
    ///
    /// No answer, or another status than 200 and 404.
    pub async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.send(Method::GET, path, Bytes::new(), PATIENCE).await? {
            (StatusCode::OK, body) => Ok(Some(
                serde_json::from_slice(&body)
                    .with_context(|| format!("reading what {}{path} answered", self.url))?,
            )),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => bail!("{}{path} answered {status}: {}", self.url, shown(&body)),
        }
    }

    /// Sends `body` to `path`; gives the answer whatever its status is.
    ///
    /// # Errors
    ///
    /// No answer within `patience`, or one that is no JSON.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let (status, body) = self.send(Method::POST, path, body.to_string().into(), patience).await?;
        let answer = serde_json::from_slice(&body).with_context(|| {
            format!("reading what {}{path} answered ({status}): {}", self.url, shown(&body))
        })?;
        Ok((status, answer))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).with_context(|| {
            format!("asking {}: --url is http://HOST:PORT, as in http://127.0.0.1:8092", self.url)
        })?;
        self.http.send(request, LONGEST, patience).await.map_err(|error| {
            anyhow::anyhow!(
                "asking {}{path}: {error}; does it run there? See --admin-address and --url",
                self.url
            )
        })
    }
}
