//! A running API and the ways to it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use kube::Client;
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};

use crate::{
    access::{Tokens, User},
    bootstrap,
    collect::collect,
    custom_metrics::CustomMetrics,
    faults::Faults,
    http::listen,
    options::Options,
    registry::Registry,
    requests::Requests,
    server::Server,
    store::Store,
};

/// A running API. Dropping it ends it, and every connection to it.
#[derive(Debug)]
pub struct Cluster {
    server: Arc<Server>,
    address: SocketAddr,
    /// Its own, so that a test that blocks its thread does not stop the API.
    runtime: Option<Runtime>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts an API with the namespaces that every cluster has. Its threads are in the network namespace of the thread that calls this.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub fn start(options: Options) -> Result<Self> {
        let listener = listen::bind(options.address)?;
        let address = listener.local_addr().context("reading the port that the API listens on")?;
        let (orphan, orphans) = mpsc::unbounded_channel();
        let server = Arc::new(Server {
            store: Store::new(options.log_capacity, orphan),
            registry: Registry::new(),
            tokens: Tokens::new(),
            faults: Faults::new(),
            requests: Arc::default(),
            custom_metrics: Arc::default(),
            options,
        });
        bootstrap::namespaces(&server);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("devcluster")
            .enable_all()
            .build()
            .context("starting the API's threads")?;
        runtime.spawn(collect(Arc::clone(&server), orphans));
        let serving = Arc::clone(&server);
        runtime.spawn(async move {
            if let Err(error) = listen::serve(serving, listener, address).await {
                tracing::error!(error = format!("{error:#}"), "the API serves no longer");
            }
        });
        Ok(Self { server, address, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client that may do everything. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// It cannot be set up.
    pub fn client(&self) -> Result<Client> {
        self.client_of(&User::Admin)
    }

    /// A client of some user. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// It cannot be set up.
    pub fn client_of(&self, user: &User) -> Result<Client> {
        let url = self.url().parse().context("the API's own address as a URL")?;
        let mut config = kube::Config::new(url);
        config.auth_info.token = Some(self.server.tokens.token(user).into());
        Client::try_from(config).context("setting up a client of the API")
    }

    /// A kubeconfig file for a user, in `folder`.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn kubeconfig(&self, folder: &Path, user: &User) -> Result<PathBuf> {
        let name = user.to_string();
        let file = folder.join(format!("{}.kubeconfig", name.replace(':', "_")));
        let text = kubeconfig(&self.url(), &name, &self.server.tokens.token(user));
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// The bearer token of a service account, which need not exist.
    pub fn token(&self, namespace: &str, service_account: &str) -> String {
        self.server.tokens.token(&User::service_account(namespace, service_account))
    }

    /// The bearer token of who may do everything.
    pub fn admin_token(&self) -> String {
        self.server.tokens.token(&User::Admin)
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.server.faults
    }

    /// All versions of objects before now are forgotten: watches and lists of them get 410.
    pub fn compact(&self) {
        self.server.store.lock().compact();
    }

    /// What was asked so far.
    pub fn requests(&self) -> &Requests {
        &self.server.requests
    }

    /// The values that the custom metrics API answers.
    pub fn custom_metrics(&self) -> &CustomMetrics {
        &self.server.custom_metrics
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Its tasks are dropped where they wait; a test's own runtime may be the one that drops this.
            runtime.shutdown_background();
        }
    }
}

/// A kubeconfig for an API, a user and his token. The token is in the URL, too: kubectl sends none over plain HTTP.
pub fn kubeconfig(url: &str, user: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "devcluster", "cluster": {"server": format!("{url}/token/{token}")}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": user}}],
        "current-context": "devcluster",
    })
    .to_string()
}
