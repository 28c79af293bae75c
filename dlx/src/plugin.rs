//! A plugin running for one namespace file, as the resources see it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use daemon::{
    reports::{Dropped, Reporter},
    settings::Settings,
};
use plugin_host::RunningPlugin;
use tokio::{sync::watch, time::timeout};

/// How long a requested list is waited for. If the plugin takes longer, the last known resources are used.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// A plugin running for one namespace file, and the state of its lists.
pub(crate) struct PluginSource {
    /// The plugin.
    pub(crate) calls: Arc<dyn RunningPlugin>,
    /// Its kind.
    pub(crate) kind: Arc<str>,
    /// The namespace file's namespace.
    pub(crate) namespace: String,
    /// Publishes events to its resources' users.
    pub(crate) reports: Reporter,
    /// What holds for its resources.
    pub(crate) settings: ArcSwap<Settings>,
    /// How many lists were requested so far.
    requested: watch::Sender<u64>,
    /// The number of the last answered request, and whether that list succeeded.
    answered: watch::Sender<(u64, bool)>,
    /// It has listed everything at least once.
    listed: AtomicBool,
    /// It says what changed; others list everything each time.
    tells_changes: AtomicBool,
}

// === impl PluginSource ===

impl PluginSource {
    /// Not listed yet. To be made on a tokio runtime. `dropped` counts the events that the plugin had no time for.
    pub(crate) fn new(calls: Arc<dyn RunningPlugin>, settings: Arc<Settings>, dropped: Dropped) -> Arc<Self> {
        Arc::new(Self {
            reports: Reporter::to(calls.clone(), dropped),
            kind: calls.kind().into(),
            namespace: calls.namespace().to_owned(),
            calls,
            settings: ArcSwap::new(settings),
            requested: watch::Sender::new(0),
            answered: watch::Sender::new((0, false)),
            listed: AtomicBool::new(false),
            tells_changes: AtomicBool::new(false),
        })
    }

    /// Has the plugin list everything, after this call and not before; however many callers there are, it lists once or twice.
    /// Whether that succeeded. Does not wait longer than a few seconds.
    pub(crate) async fn refresh(&self) -> bool {
        let mut answered = self.answered.subscribe();
        let mut number = 0;
        self.requested.send_modify(|requested| {
            *requested += 1;
            number = *requested;
        });
        let done = timeout(LIST_TIMEOUT, answered.wait_for(|(until, _)| *until >= number)).await;
        matches!(done, Ok(Ok(answer)) if answer.1)
    }

    /// Returns when the plugin has listed everything once.
    pub(crate) async fn first_list(&self) {
        // An error: never, its sender is held.
        let _ = self.answered.subscribe().wait_for(|_| self.has_listed()).await;
    }

    /// The number of the last requested list, for its watcher.
    pub(crate) fn list_requests(&self) -> watch::Receiver<u64> {
        self.requested.subscribe()
    }

    /// All list requests up to `until` are answered; said by its watcher.
    pub(crate) fn answer(&self, until: u64, succeeded: bool) {
        if succeeded {
            self.listed.store(true, Ordering::Release);
        }
        self.answered.send_replace((until, succeeded));
    }

    /// Whether its last answer that was not requested said what changed; said by its watcher.
    pub(crate) fn set_tells_changes(&self, tells: bool) {
        self.tells_changes.store(tells, Ordering::Relaxed);
    }

    /// Whether a change is told soon without a list of everything.
    pub(crate) fn tells_changes(&self) -> bool {
        self.tells_changes.load(Ordering::Relaxed)
    }

    /// Whether it has listed everything at least once.
    pub(crate) fn has_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for PluginSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginSource")
            .field("kind", &self.kind)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
