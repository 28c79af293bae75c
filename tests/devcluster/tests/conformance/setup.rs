//! An API and a namespace in it.

use std::{env, future::Future, path::Path, time::Duration};

use devcluster::{Cluster, Options};
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, ServiceAccount},
    },
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, PostParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Which guarantee devcluster is started without: `conflict`, `gone` or `rbac`.
pub const WITHOUT: &str = "DEVCLUSTER_WITHOUT";

/// An API and a namespace in it.
#[derive(Clone)]
pub struct Setup {
    /// May do everything.
    pub client: Client,
    /// The test's own.
    pub namespace: String,
    config: Config,
}

/// Runs a test in a namespace of its own.
pub fn run<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Setup) -> F) {
    run_with(Options::default(), test);
}

/// [`run`], where devcluster is started so; a real cluster is as it is.
pub fn run_with<F: Future<Output = ()> + Send + 'static>(
    mut options: Options,
    test: impl FnOnce(Setup) -> F,
) {
    match env::var(WITHOUT).unwrap_or_default().as_str() {
        "conflict" => options.no_conflict = true,
        "gone" => options.no_gone = true,
        "rbac" => options.no_rbac = true,
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = None;
        let mut config = match env::var("SCALER_E2E_KUBECONFIG").ok().filter(|path| !path.is_empty()) {
            Some(path) => {
                let kubeconfig =
                    Kubeconfig::read_from(Path::new(&path)).expect("reading SCALER_E2E_KUBECONFIG");
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
            }
            None => {
                let started = cluster.insert(Cluster::start(options).unwrap());
                let mut config = Config::new(started.url().parse().unwrap());
                config.auth_info.token = Some(started.admin_token().into());
                config
            }
        };
        // Every answer is to be seen, not its retry.
        config.default_retry = false;
        let client = Client::try_from(config.clone()).unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let wanted = json!({"metadata": {"generateName": "conformance-"}});
        let wanted = serde_json::from_value(wanted).unwrap();
        let namespace =
            namespaces.create(&PostParams::default(), &wanted).await.unwrap().metadata.name.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        // A real cluster's controller makes it a little later, and pods need it.
        while accounts.get_opt("default").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let setup = Setup { client, namespace: namespace.clone(), config };
        let outcome = tokio::spawn(test(setup)).await;
        namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
        drop(cluster);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic.into_panic());
        }
    });
}

/// What comes of `future`; a test whose event does not come fails.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(30), future).await.expect("it did not happen within 30 s")
}

/// A Deployment as JSON.
pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "devcluster/hello"}]},
            },
        },
    })
}

/// A ConfigMap as JSON.
pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

// === impl Setup ===

impl Setup {
    /// A typed API in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `deployments` of `apps/v1` for instance: the path of the collection in the namespace.
    pub fn path(&self, group_version: &str, plural: &str) -> String {
        let root = if group_version == "v1" { "api" } else { "apis" };
        format!("/{root}/{group_version}/namespaces/{}/{plural}", self.namespace)
    }

    /// A request and its answer, whatever that is.
    pub async fn send(&self, method: Method, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        send(&self.client, method, path, content_type, body).await
    }

    /// A request whose body is written letter by letter, and its answer.
    pub async fn send_text(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> (u16, Value) {
        send_text(&self.client, method, path, content_type, body).await
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, "", &Value::Null).await
    }

    /// A POST.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, path, "application/json", body).await
    }

    /// A POST that must do.
    pub async fn create(&self, path: &str, body: &Value) -> Value {
        let (status, created) = self.post(path, body).await;
        assert_eq!(status, 201, "{created}");
        created
    }

    /// A PUT.
    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PUT, path, "application/json", body).await
    }

    /// A PATCH; `kind` is `json`, `merge` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PATCH, path, &format!("application/{kind}-patch+json"), body).await
    }

    /// A DELETE with options.
    pub async fn delete(&self, path: &str, options: &Value) -> (u16, Value) {
        self.send(Method::DELETE, path, "application/json", options).await
    }

    /// A client of a service account of the namespace, which is made.
    pub async fn account(&self, name: &str) -> Client {
        let accounts: Api<ServiceAccount> = self.api();
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let token = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
        self.client_with(&token.status.unwrap().token)
    }

    /// The same with a name that its client calls itself.
    pub fn calling_itself(&self, agent: &str) -> Self {
        let mut config = self.config.clone();
        config.headers.push((http::header::USER_AGENT, agent.parse().unwrap()));
        Self { client: Client::try_from(config.clone()).unwrap(), config, ..self.clone() }
    }

    /// A client with that token.
    pub fn client_with(&self, token: &str) -> Client {
        let mut config = self.config.clone();
        config.auth_info = kube::config::AuthInfo::default();
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    }
}

/// A request of some client and its answer, whatever that is.
pub async fn send(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> (u16, Value) {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    send_text(client, method, path, content_type, bytes).await
}

async fn send_text(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    bytes: Vec<u8>,
) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let answer = soon(client.send(request.body(Body::from(bytes)).unwrap())).await.unwrap();
    let status = answer.status().as_u16();
    let text = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    let value = serde_json::from_slice(&text)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&text).into_owned()));
    (status, value)
}
