//! A client of a daemon's admin port.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use daemon::cluster::causes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;

use super::output::Format;
use crate::http::{Http, Roots, excerpt, roots_for};

/// Which autoscaler to query, and how to print its answer.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct AutoscalerOptions {
    /// The autoscaler's admin address
    #[arg(long, value_name = "ADDRESS", default_value_t = DEFAULT_ADDRESS, value_parser = daemon::listen::parse_address)]
    pub(crate) admin_address: SocketAddr,

    /// The same as a URL, for one behind a proxy or a port-forward (http or https)
    #[arg(long, value_name = "URL", conflicts_with = "admin_address")]
    pub(crate) url: Option<String>,

    /// A file with the token that writes on the admin ports need
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// Print text, or the JSON that was answered
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// A daemon's admin port.
pub(crate) struct AdminClient {
    url: String,
    http: Http,
    token: Option<String>,
}

/// How long a daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read: ten thousand resources take some 10 MB.
/// The autoscaler's admin address by default.
const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8092);

const MAX_ANSWER_BYTES: usize = 256 << 20;

// === impl AutoscalerOptions ===

impl AutoscalerOptions {
    /// Whether the user named an autoscaler other than the one at the default address.
    pub(crate) fn names_autoscaler(&self) -> bool {
        self.url.is_some() || self.admin_address != DEFAULT_ADDRESS
    }

    /// The autoscaler's port.
    pub(crate) fn autoscaler_client(&self) -> anyhow::Result<AdminClient> {
        match &self.url {
            Some(url) => self.client(url.trim_end_matches('/').to_owned()),
            None => self.client_for(self.admin_address),
        }
    }

    /// A daemon's port at this address.
    pub(crate) fn client_for(&self, mut address: SocketAddr) -> anyhow::Result<AdminClient> {
        if address.ip().is_unspecified() {
            // As the daemon's own flag has it: all addresses, of which one is asked.
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        self.client(format!("http://{address}"))
    }

    fn client(&self, url: String) -> anyhow::Result<AdminClient> {
        let token = match &self.admin_token_file {
            Some(file) => {
                let token = fs::read_to_string(file)
                    .with_context(|| format!("reading --admin-token-file {}", file.display()))?;
                Some(token.trim().to_owned())
            }
            None => None,
        };
        Ok(AdminClient { token, ..AdminClient::new(url)? })
    }
}

// === impl AdminClient ===

impl AdminClient {
    /// The one at this URL, without a token.
    pub(crate) fn new(url: String) -> anyhow::Result<Self> {
        let roots: Roots = roots_for(&url, None);
        let http =
            Http::new(&roots).map_err(|error| anyhow::anyhow!("querying {url}: {}", causes(&error)))?;
        Ok(Self { url, http, token: None })
    }

    /// Whether the daemon is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.send(Method::GET, "/readyz", Bytes::new(), ANSWER_TIMEOUT).await;
        answer.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The JSON at `path`; `None`: 404.
    ///
    /// # Errors
    ///
    /// No answer, or another status than 200 and 404.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.send(Method::GET, path, Bytes::new(), ANSWER_TIMEOUT).await? {
            (StatusCode::OK, body) => Ok(Some(
                serde_json::from_slice(&body)
                    .with_context(|| format!("reading what {}{path} answered", self.url))?,
            )),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => bail!("{}{path} answered {status}: {}", self.url, excerpt(&body)),
        }
    }

    /// Sends `body` to `path`; gives the answer whatever its status is.
    ///
    /// # Errors
    ///
    /// No answer within `timeout`, or one that is no JSON.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: &Value,
        timeout: Duration,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let (status, body) = self.send(Method::POST, path, body.to_string().into(), timeout).await?;
        let answer = serde_json::from_slice(&body).with_context(|| {
            format!("reading what {}{path} answered ({status}): {}", self.url, excerpt(&body))
        })?;
        Ok((status, answer))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).with_context(|| {
            format!("querying {}: --url must be http://HOST:PORT, as in http://127.0.0.1:8092", self.url)
        })?;
        self.http.send(request, MAX_ANSWER_BYTES, timeout).await.map_err(|error| {
            anyhow::anyhow!(
                "querying {}{path}: {}; is it running there? See --admin-address and --url",
                self.url,
                causes(&error)
            )
        })
    }
}
