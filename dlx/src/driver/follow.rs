//! Following the plugins' streams.

use std::{collections::HashSet, sync::Arc};

use daemon::plugin_manager::Served;
use plugin_host::{ChangeStream, Listed};
use scaler_types::Changes;
use tokio::{sync::watch, task::JoinHandle};

use super::FollowedPlugins;
use crate::{
    plugin::PluginSource,
    state::{ResourceHandle, ResourceKey},
};

/// One instance that is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    /// What the resources see of it.
    pub(crate) source: Arc<PluginSource>,
    task: JoinHandle<()>,
}

// === impl FollowedPlugins ===

impl FollowedPlugins {
    /// Follows every instance of the plugin manager, as the plugin manager changes; returns when the plugin manager ends.
    pub(crate) async fn follow_fleet(self: Arc<Self>, served: watch::Receiver<Arc<[Served]>>) {
        follow_fleet(self, served).await;
    }

    /// Follows one source.
    pub(crate) fn follow_source(self: &Arc<Self>, source: Arc<PluginSource>) -> Followed {
        let task = self.handle.spawn(stream(self.clone(), source.clone()));
        Followed { source, task }
    }
}

async fn follow_fleet(plugins: Arc<FollowedPlugins>, mut served: watch::Receiver<Arc<[Served]>>) {
    let mut following: Vec<(Served, Followed)> = Vec::new();
    loop {
        let now = served.borrow_and_update().clone();
        let mut before = std::mem::take(&mut following);
        for one in now.iter() {
            let kept = before.iter().position(|(old, _)| *old.instance == *one.instance);
            let followed = match kept {
                Some(at) => before.swap_remove(at).1,
                None => {
                    // The old instance's stream ends before the new one's begins: the order stands.
                    let old = before.iter().position(|(old, _)| same_place(old, one));
                    if let Some(at) = old {
                        stop(before.swap_remove(at).1).await;
                    }
                    follow(&plugins, one)
                }
            };
            if followed.source.settings.load_full() != one.settings {
                followed.source.settings.store(one.settings.clone());
                for resource in plugins.resources.all() {
                    resource.update(|view| view.snapshot_changed = true);
                }
            }
            following.push((one.clone(), followed));
        }
        for (_, followed) in before {
            let source = followed.source.clone();
            stop(followed).await;
            forget(&plugins, &source, |_| false);
        }
        let sources = following.iter().map(|(_, followed)| followed.source.clone()).collect();
        plugins.set_sources(sources);
        if served.changed().await.is_err() {
            // The plugin manager does not change any more; its streams go on.
            return std::future::pending().await;
        }
    }
}

fn same_place(a: &Served, b: &Served) -> bool {
    a.instance.kind() == b.instance.kind() && a.namespace == b.namespace
}

async fn stop(followed: Followed) {
    followed.task.abort();
    // An error: it was cancelled.
    let _ = followed.task.await;
}

fn follow(plugins: &Arc<FollowedPlugins>, served: &Served) -> Followed {
    let source = PluginSource::new(
        served.instance.clone(),
        served.settings.clone(),
        plugins.metrics.reports_dropped.clone(),
    );
    plugins.follow_source(source)
}

/// Applies all resources, then what changes; all again when a list is requested.
async fn stream(plugins: Arc<FollowedPlugins>, source: Arc<PluginSource>) {
    let mut requests = source.list_requests();
    let mut stream = ChangeStream::new(source.calls.clone());
    loop {
        // A request is answered only by a list that begins after it.
        stream.pause().await;
        let requested = stream.lists_all().then(|| *requests.borrow_and_update());
        let changes = tokio::select! {
            changes = stream.next() => changes,
            // A plugin that waits is left waiting: the answer to 0 is not older than its question.
            _ = requests.changed(), if requested.is_none() => { stream.relist(); continue }
        };
        let listed = changes.is_ok();
        if let Ok(changes) = changes {
            if requested.is_none() {
                source.set_tells_changes(!changes.readable.complete);
            }
            apply(&plugins, &source, changes);
        }
        if let Some(requested) = requested {
            source.answer(requested, listed);
        }
    }
}

fn apply(plugins: &Arc<FollowedPlugins>, source: &Arc<PluginSource>, mut answer: Listed<Changes>) {
    let changes = std::mem::take(&mut answer.readable);
    let listing = plugins.resources.next_listing();
    let mut routes_changed = false;
    let mut kept = HashSet::new();
    for mut listed in changes.resources {
        let key = ResourceKey { kind: source.kind.clone(), id: listed.id.clone() };
        for host in &mut listed.hosts {
            crate::state::normalize(host);
        }
        let made = || ResourceHandle::new(key.clone(), listing, source.clone(), plugins.shared.clone());
        let (resource, new) = plugins.resources.get_or(&key, made);
        let other =
            resource.read(|view| (!same_source(&view.source, source)).then(|| view.source.namespace.clone()));
        if let Some(other) = other.filter(|_| !new) {
            tracing::warn!(resource = %key.id, kind = %key.kind, file = %source.namespace, %other, "ignored a resource that another namespace file lists already");
            continue;
        }
        let names_this = listed
            .interception
            .as_ref()
            .is_some_and(|interception| interception.dlxs.contains(&plugins.member));
        let (moved, named_this) = resource.read(|view| {
            let moved = (&view.resource.hosts, &view.resource.ports) != (&listed.hosts, &listed.ports);
            (moved, view.interception_guard.is_some())
        });
        routes_changed |= new || moved;
        resource.observe(source, listed);
        if names_this != named_this {
            let interception_guard = names_this.then(|| plugins.routes.add());
            resource.decide(|view| view.interception_guard = interception_guard);
        }
        kept.insert(key);
    }
    if !changes.complete {
        // Which one has no readable name is known by the list that follows.
        answer.unreadable.retain(|unreadable| unreadable.id.is_some());
    }
    let why_unreadable = answer.why_unreadable();
    // Only then are all resources gone through: there may be many, and each change comes here.
    let all = if answer.unreadable.is_empty() { Vec::new() } else { plugins.resources.all() };
    for resource in all {
        if let Some(why) = why_unreadable(&resource.key.id).filter(|_| !kept.contains(&resource.key))
            && resource.read(|view| same_source(&view.source, source))
        {
            let why = format!("its plugin lists it and it cannot be read, so its state may be old: {why}");
            resource.decide(|view| view.unreadable = Some(why));
        }
    }
    if changes.complete {
        routes_changed |= forget(plugins, source, |key| {
            // An unreadable resource keeps its last readable state. Each write names a version, and changes nothing if
            // the resource has another by now.
            kept.contains(key) || why_unreadable(&key.id).is_some()
        });
    } else if !changes.removed.is_empty() {
        let gone: HashSet<_> = changes.removed.into_iter().collect();
        routes_changed |= forget(plugins, source, |key| !gone.contains(&key.id));
    }
    if routes_changed {
        plugins.rebuild_table();
    }
}

/// A new instance of the same kind for the same file takes its predecessor's resources over.
fn same_source(a: &PluginSource, b: &PluginSource) -> bool {
    a.kind == b.kind && a.namespace == b.namespace
}

/// Forgets the source's resources that are not to be kept; whether there were any.
fn forget(plugins: &FollowedPlugins, source: &PluginSource, keep: impl Fn(&ResourceKey) -> bool) -> bool {
    let mut any = false;
    for resource in plugins.resources.all() {
        let its = resource.read(|view| same_source(&view.source, source));
        if its && !keep(&resource.key) {
            if !resource.read(|view| view.gone) {
                resource.mark_gone();
                any = true;
            }
            // With requests in flight it stays, so that they are counted if it comes back.
            if resource.counts.under_way() == 0 && resource.queue.is_empty() {
                plugins.resources.remove(&resource.key);
            }
        }
    }
    any
}
