//! The cluster's API, for the parts of a daemon that need one. A daemon that uses only files never makes a client.

mod own_namespace;

use std::{env, path::Path};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use scaler_types::Role;

pub use own_namespace::OwnNamespace;
pub(crate) use own_namespace::{ApiError, OwnPod};

use crate::exit::Misconfigured;

/// Set by the kubelet in every pod.
pub(crate) const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// A client of the cluster of the kubeconfig, without one of the cluster that this process runs in. Makes no connection yet.
///
/// It retries nothing and waits for ever: what a failed call means and how long one may take is its caller's business.
///
/// # Errors
///
/// A [`Misconfigured`]: there is no such file or it is no kubeconfig, or none was given outside a pod.
pub async fn client(kubeconfig: Option<&Path>, role: Role) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => in_cluster()?,
    };
    // By default kube waits up to 1000 s, fifteen times: a renewal of a Lease must not.
    config.default_retry = false;
    // Up to the slash it is whose the fields are that are written.
    let agent = format!("{}/{}", role.field_manager(), env!("CARGO_PKG_VERSION"));
    config.headers.push((http::header::USER_AGENT, agent.parse()?));
    let url = config.cluster_url.clone();
    Client::try_from(config).map_err(|error| {
        Misconfigured(format!("cannot set up a client of the cluster at {url}: {}", causes(&error))).into()
    })
}

async fn from_file(given: &Path) -> anyhow::Result<Config> {
    let bad = |error: &dyn std::error::Error| {
        Misconfigured(format!(
            "--kubeconfig-path (KUBECONFIG) {}: {}; give the kubeconfig of the cluster, or none where the daemon runs \
             in a pod of it",
            given.display(),
            causes(error)
        ))
    };
    // As with kubectl: several files, separated by colons, are taken together.
    let mut all = Kubeconfig::default();
    for path in env::split_paths(given) {
        let read = tokio::task::spawn_blocking(move || Kubeconfig::read_from(path)).await?;
        all = read.and_then(|one| all.merge(one)).map_err(|error| bad(&error))?;
    }
    Ok(Config::from_custom_kubeconfig(all, &KubeConfigOptions::default())
        .await
        .map_err(|error| bad(&error))?)
}

fn in_cluster() -> anyhow::Result<Config> {
    if env::var_os(IN_A_POD).is_none() {
        return Err(Misconfigured(format!(
            "a cluster is needed and none is known: no --kubeconfig-path (KUBECONFIG) was given, and this is no pod \
             ({IN_A_POD} is not set); give --kubeconfig-path"
        ))
        .into());
    }
    Config::incluster().map_err(|error| {
        Misconfigured(format!(
            "the cluster this pod runs in cannot be used: {}; is the service account's token mounted \
             (automountServiceAccountToken)? Else give --kubeconfig-path",
            causes(&error)
        ))
        .into()
    })
}

/// An error with its causes, each said once: kube's own text sometimes includes them and sometimes does not, hyper's
/// alone says little.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let one = error.to_string();
        if !text.contains(&one) {
            text += &format!(": {one}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    /// An https server's: whether a crypto provider is there shows when the client is made.
    #[tokio::test]
    async fn a_kubeconfig_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = "{apiVersion: v1, kind: Config, current-context: c, \
            clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}], \
            users: [{name: u, user: {token: secret}}], \
            contexts: [{name: c, context: {cluster: k, user: u, namespace: shop}}]}";
        std::fs::write(&file, text).unwrap();
        assert_eq!(client(Some(&file), Role::Dlx).await.unwrap().default_namespace(), "shop");
    }

    #[tokio::test]
    async fn a_client_calls_itself_by_its_daemons_role_whatever_the_program_is_called() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             clusters: [{{name: k, cluster: {{server: 'http://{}'}}}}], users: [{{name: u, user: {{}}}}], \
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]}}",
            server.local_addr().unwrap()
        );
        std::fs::write(&file, text).unwrap();
        for (role, agent) in [(Role::Autoscaler, "scaler-autoscaler/"), (Role::Dlx, "scaler-dlx/")] {
            let client = client(Some(&file), role).await.unwrap();
            let asking = tokio::spawn(async move { client.apiserver_version().await });
            let (mut connection, _) = server.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.contains(&format!("user-agent: {agent}")), "{head}");
            asking.abort();
        }
    }

    #[tokio::test]
    async fn an_unusable_kubeconfig_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        for text in [None, Some("{"), Some("{apiVersion: v1, kind: Config, current-context: nowhere}")] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = client(Some(&file), Role::Dlx).await.err().unwrap();
            assert!(error.is::<Misconfigured>(), "{error}");
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        }
    }
}
