//! The plugins that are followed, each for a namespace file.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderName;
use tokio::runtime::Handle;

use crate::{
    metrics::DlxMetrics,
    plugin::PluginSource,
    state::{Interceptions, NameHeader, PathHeader, Resources, SharedState},
};

/// After a list that did not bring the host that was asked for, unknown hosts are answered without another one for
/// this long: a client that asks for hosts at random must not keep the plugins busy.
pub(crate) const UNKNOWN_HOST_DELAY: Duration = Duration::from_secs(1);

/// The plugins that are followed.
#[derive(Debug)]
pub(crate) struct FollowedPlugins {
    pub(super) handle: Handle,
    pub(super) resources: Arc<Resources>,
    /// The state that the resources share.
    pub(super) shared: Arc<SharedState>,
    /// Routes that name this DLX.
    pub(super) routes: Arc<Interceptions>,
    /// This DLX, as routes name it.
    pub(super) member: String,
    pub(super) metrics: Arc<DlxMetrics>,
    pub(super) sources: Mutex<Vec<Arc<PluginSource>>>,
    /// Flags that name headers, for all namespaces: the resource's, and the path's.
    headers: (Option<String>, Option<String>),
    missed: Arc<tokio::sync::Mutex<Option<Listing>>>,
}

/// The last time the plugins were asked on behalf of a request for an unknown host.
#[derive(Clone, Copy, Debug)]
struct Listing {
    begun: Instant,
    ended: Instant,
}

/// Why requests cannot be served for want of a plugin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginsNotReady {
    #[error("no plugin is running yet")]
    NoneRunning,
    #[error("plugin {kind} has not listed its resources in {namespace} yet")]
    NotListed { kind: Arc<str>, namespace: String },
}

// === impl FollowedPlugins ===

impl FollowedPlugins {
    /// None yet. `headers`: flags that name headers, the resource's and the path's.
    pub(crate) fn new(
        handle: Handle,
        resources: Arc<Resources>,
        shared: Arc<SharedState>,
        routes: Arc<Interceptions>,
        member: &str,
        metrics: Arc<DlxMetrics>,
        headers: (Option<String>, Option<String>),
    ) -> Arc<Self> {
        let member = member.to_owned();
        let (sources, missed) = (Mutex::default(), Arc::default());
        Arc::new(Self { handle, resources, shared, routes, member, metrics, sources, headers, missed })
    }

    pub(super) fn sources(&self) -> Vec<Arc<PluginSource>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces those that are followed.
    pub(crate) fn set_sources(&self, sources: Vec<Arc<PluginSource>>) {
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = sources;
        self.rebuild_table();
    }

    /// Makes the table of hosts and ports anew from what the resources are now.
    pub(crate) fn rebuild_table(&self) {
        self.resources.rebuild_table(|| self.name_headers());
    }

    /// The headers that name resources, the first before the others.
    fn name_headers(&self) -> Vec<NameHeader> {
        let mut headers = vec![NameHeader {
            name: HeaderName::from_static("x-resource-name"),
            path: Some(PathHeader::Whole(HeaderName::from_static("x-original-uri"))),
        }];
        let settings = self.sources().into_iter().map(|source| source.settings.load_full());
        let pairs = settings.map(|own| (own.target_name_header.clone(), own.target_path_header.clone()));
        for (name, path) in pairs.chain([self.headers.clone()]) {
            let Some(Ok(name)) = name.map(HeaderName::try_from) else { continue };
            let path = path.and_then(|path| HeaderName::try_from(path).ok()).map(PathHeader::Prefix);
            let header = NameHeader { name, path };
            if !headers.contains(&header) {
                // Before the built-in one: a configured header takes precedence.
                headers.insert(0, header);
            }
        }
        headers
    }

    /// Asks all plugins once more, on behalf of a request for an unknown host or port: one list however many such
    /// requests there are, and none right after one that brought nothing. Returns whether one was begun since `came`.
    pub(crate) async fn ask_again(&self, came: Instant) -> bool {
        let mut missed = self.missed.clone().lock_owned().await;
        match *missed {
            // While this one waited for its turn, perhaps.
            Some(Listing { begun, .. }) if begun >= came => return true,
            Some(Listing { ended, .. }) if ended.elapsed() < UNKNOWN_HOST_DELAY => return false,
            _ => {}
        }
        let (begun, listing) = (Instant::now(), self.refresh());
        // The caller may be gone before the list ends; the callers waiting for their turn must not begin another one then.
        let listed = self.handle.spawn(async move {
            listing.await;
            *missed = Some(Listing { begun, ended: Instant::now() });
        });
        // An error: the runtime ends.
        let _ = listed.await;
        true
    }

    /// Has all plugins list everything, after this call and not before; the future waits for it, but not longer than a few
    /// seconds.
    pub(crate) fn refresh(&self) -> impl Future<Output = ()> + Send + use<> {
        let refreshes: Vec<_> = self
            .sources()
            .into_iter()
            .map(|source| self.handle.spawn(async move { source.refresh().await }))
            .collect();
        async move {
            for refresh in refreshes {
                // An error: the runtime ends.
                let _ = refresh.await;
            }
        }
    }

    /// Why requests cannot be served for want of a plugin, if they cannot. `serving`: they are already.
    pub(crate) fn ready(&self, serving: bool) -> Result<(), PluginsNotReady> {
        let sources = self.sources();
        if sources.is_empty() {
            return Err(PluginsNotReady::NoneRunning);
        }
        // A plugin that cannot list takes its own resources away, not everybody's.
        match sources.iter().find(|source| !serving && !source.has_listed()) {
            Some(source) => Err(PluginsNotReady::NotListed {
                kind: source.kind.clone(),
                namespace: source.namespace.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Returns when every plugin has listed its resources once.
    pub(crate) async fn listed(&self) {
        loop {
            let mut replaced = std::pin::pin!(self.resources.replaced());
            // From here on a list is not missed.
            replaced.as_mut().enable();
            let sources = self.sources();
            if !sources.is_empty() {
                for source in sources {
                    source.first_list().await;
                }
                return;
            }
            replaced.await;
        }
    }
}
