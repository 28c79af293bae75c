//! The cluster's API: how it is reached, and what its errors say.

pub(crate) mod field_owners;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
    discovery,
};
use kube_watch::with_timeout;
use scaler_types::{Result, Role, ScaleError};
use tokio::sync::Semaphore;

use crate::objects::{Kind, Workload};

/// How long one answer may take. A wake does not wait for a server that has hung: it tries again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many calls are under way at once, watches left out. A call takes some milliseconds, so these are thousands in a
/// second: as much as an API server takes from one client.
const MAX_CONCURRENT: usize = 64;

/// How long to wait before trying again, where the server does not say.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The API, and the part of it that is managed.
#[derive(Clone)]
pub(crate) struct ClusterApi {
    pub(crate) client: Client,
    /// Calls under way: each is a connection of its own.
    calls: Arc<Semaphore>,
    /// The namespace; none: all of them.
    pub(crate) namespace: Option<String>,
    /// Where the daemons keep what all of them share.
    pub(crate) home: String,
}

// === impl ClusterApi ===

impl ClusterApi {
    /// By the kubeconfig given, else as a pod of the cluster.
    ///
    /// # Errors
    ///
    /// The file cannot be used, or there is none and this is no pod.
    pub(crate) async fn connect(
        kubeconfig: Option<&Path>,
        namespace: Option<String>,
        home: Option<String>,
        role: Role,
    ) -> Result<Self> {
        let mut config = match kubeconfig {
            Some(path) => {
                let reading = || format!("reading the kubeconfig {}", path.display());
                // As with kubectl: several files, separated by colons, are taken together.
                let mut file = Kubeconfig::default();
                for path in std::env::split_paths(path) {
                    file = file
                        .merge(Kubeconfig::read_from(path).with_context(reading)?)
                        .with_context(reading)?;
                }
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .with_context(reading)?
            }
            None => Config::incluster().context(
                "no cluster is configured: this is not a pod with a service account; set \
                 --kubeconfig-path or KUBECONFIG",
            )?,
        };
        // This plugin decides which calls to retry, and when.
        config.default_retry = false;
        config.connect_timeout = Some(CALL_TIMEOUT);
        // The part before the slash becomes the field manager of what is written.
        let agent = format!("{}/{}", role.field_manager(), env!("CARGO_PKG_VERSION"));
        config.headers.push(("user-agent".parse()?, agent.parse()?));
        let client = Client::try_from(config).context("setting up the client of the Kubernetes API")?;
        // A pod's own, or the kubeconfig's.
        let home = home.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Self { client, calls: Arc::new(Semaphore::new(MAX_CONCURRENT)), namespace, home })
    }

    /// Makes a call when there is a place for it, and gives up on an answer that does not come.
    ///
    /// # Errors
    ///
    /// As [`with_timeout`].
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        // An error: never, it is not closed.
        let _place = self.calls.acquire().await.ok();
        with_timeout(CALL_TIMEOUT, call).await
    }

    /// Objects of a type that is in namespaces.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Objects of a type known by name.
    pub(crate) fn dynamic(&self, resource: &ApiResource) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Objects of a type in one namespace.
    pub(crate) fn in_namespace<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of one workload.
    pub(crate) fn workload_api(&self, workload: &Workload) -> Api<DynamicObject> {
        self.kind_api(&workload.kind, &workload.meta.namespace)
    }

    /// The API of a kind in one namespace.
    pub(crate) fn kind_api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.api)
    }

    /// A type by name; `None` where the cluster does not have it.
    ///
    /// # Errors
    ///
    /// The API gave no answer.
    pub(crate) async fn find(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Result<Option<ApiResource>, kube::Error> {
        let wanted = GroupVersionKind::gvk(group, version, kind);
        match with_timeout(CALL_TIMEOUT, discovery::pinned_kind(&self.client, &wanted)).await {
            Ok((resource, _)) => Ok(Some(resource)),
            Err(kube::Error::Discovery(_)) => Ok(None),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(crate) fn select_labels(query: &str) -> ListParams {
    ListParams::default().labels(query)
}

/// An error in one line, in the server's own words where there are any.
pub(crate) fn describe_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => {
            format!("the API server answered {} {}", status.code, status.reason)
        }
        kube::Error::Api(status) => status.message.clone(),
        // The causes, which kube's own text leaves out in part.
        error => format!("the Kubernetes API is not available: {:#}", Causes(error)),
    }
}

struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// A right is missing.
pub(crate) fn is_forbidden(error: &kube::Error) -> bool {
    code(error) == 403
}

/// There is no such object or type.
pub(crate) fn is_missing(error: &kube::Error) -> bool {
    code(error) == 404
}

/// The object would be invalid; a failed `test` of a patch is also reported so.
pub(crate) fn is_invalid(error: &kube::Error) -> bool {
    code(error) == 422
}

/// Another writer wrote at the same time.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    code(error) == 409
}

/// Whether the same call may work later with nothing changed by anybody.
pub(crate) fn is_transient(error: &kube::Error) -> bool {
    match code(error) {
        0 => {
            !matches!(error, kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::Auth(_))
        }
        429 | 500.. => true,
        _ => false,
    }
}

/// Whether the call may have taken effect.
pub(crate) fn may_have_applied(error: &kube::Error) -> bool {
    matches!(code(error), 0 | 500..)
}

/// A plugin's error for a failed call that has no more specific reason.
pub(crate) fn retry_error(error: &kube::Error, doing: &str) -> ScaleError {
    let after = match error {
        kube::Error::Api(status) => status.details.as_ref().map_or(0, |details| details.retry_after_seconds),
        _ => 0,
    };
    let after = if after > 0 { Duration::from_secs(after.into()) } else { RETRY_DELAY };
    ScaleError::Retry { after, reason: format!("{doing}: {}", describe_error(error)) }
}

/// A plugin's error for a failed write. `strict`: the write named the state it was decided on, so an object it does not
/// fit is another one by now.
pub(crate) fn write_error(error: &kube::Error, doing: &str, strict: bool) -> ScaleError {
    if is_missing(error) || is_conflict(error) || strict && is_invalid(error) {
        ScaleError::Conflict
    } else if is_transient(error) {
        retry_error(error, doing)
    } else {
        terminal_error(error, doing)
    }
}

/// The API server's last word.
pub(crate) fn terminal_error(error: &kube::Error, doing: &str) -> ScaleError {
    let forbidden = if is_forbidden(error) { "forbidden: " } else { "" };
    ScaleError::Terminal { reason: format!("{forbidden}{doing}: {}", describe_error(error)) }
}

#[cfg(test)]
mod tests {
    use kube::core::response::Status;

    use super::*;

    fn answer(status: serde_json::Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value::<Status>(status).unwrap()))
    }

    #[test]
    fn errors_are_classified() {
        let error = |code: u16| answer(serde_json::json!({"code": code, "message": "said", "reason": "Why"}));
        for (code, passes, unknown) in [
            (400, false, false),
            (403, false, false),
            (409, false, false),
            (422, false, false),
            (429, true, false),
            (500, true, true),
            (504, true, true),
        ] {
            assert_eq!(
                (is_transient(&error(code)), may_have_applied(&error(code))),
                (passes, unknown),
                "{code}"
            );
        }
        let silent = kube::Error::Service("no answer within 10s".into());
        assert!(is_transient(&silent) && may_have_applied(&silent), "it may have been written");
        assert!(describe_error(&silent).contains("no answer within 10s"), "{}", describe_error(&silent));
        assert_eq!(describe_error(&error(403)), "said");
    }

    #[test]
    fn the_servers_own_pause_is_kept() {
        let busy = answer(serde_json::json!({
            "code": 429, "message": "too many requests", "details": {"retryAfterSeconds": 7}
        }));
        let ScaleError::Retry { after, reason } = retry_error(&busy, "writing") else { panic!() };
        assert_eq!((after, reason.as_str()), (Duration::from_secs(7), "writing: too many requests"));
    }
}
