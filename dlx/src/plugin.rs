//! One plugin at work for one namespace file, as the resources see it.

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

/// How long somebody waits for a list that he asked for. A plugin that takes longer is answered for with what is known.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// One plugin at work for one namespace file.
pub(crate) struct PluginSource {
    /// The plugin.
    pub(crate) calls: Arc<dyn RunningPlugin>,
    /// Its kind.
    pub(crate) kind: Arc<str>,
    /// The namespace file's namespace.
    pub(crate) namespace: String,
    /// What its resources' owners are told, through it.
    pub(crate) reports: Reporter,
    /// What holds for its resources.
    pub(crate) settings: ArcSwap<Settings>,
    /// Lists asked for so far.
    asked: watch::Sender<u64>,
    /// Up to which ask they were answered, and whether the last one worked.
    answered: watch::Sender<(u64, bool)>,
    /// It has told everything at least once.
    listed: AtomicBool,
}

// === impl PluginSource ===

impl PluginSource {
    /// Not asked yet. To be made on a tokio runtime. `dropped` counts the reports that the plugin had no time for.
    pub(crate) fn new(calls: Arc<dyn RunningPlugin>, settings: Arc<Settings>, dropped: Dropped) -> Arc<Self> {
        Arc::new(Self {
            reports: Reporter::to(calls.clone(), dropped),
            kind: calls.kind().into(),
            namespace: calls.namespace().to_owned(),
            calls,
            settings: ArcSwap::new(settings),
            asked: watch::Sender::new(0),
            answered: watch::Sender::new((0, false)),
            listed: AtomicBool::new(false),
        })
    }

    /// Has the plugin list everything, after this call and not before; however many ask, it lists once or twice.
    /// Whether that worked. Does not wait longer than a few seconds.
    pub(crate) async fn refresh(&self) -> bool {
        let mut answered = self.answered.subscribe();
        let mut mine = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            mine = *asked;
        });
        let done = timeout(LIST_TIMEOUT, answered.wait_for(|(until, _)| *until >= mine)).await;
        matches!(done, Ok(Ok(answer)) if answer.1)
    }

    /// Returns when the plugin has told everything once.
    pub(crate) async fn first_list(&self) {
        // An error: never, its sender is held.
        let _ = self.answered.subscribe().wait_for(|_| self.has_listed()).await;
    }

    /// For its watcher: told when lists are asked for.
    pub(crate) fn asks(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// For its watcher: all asks up to `until` are answered.
    pub(crate) fn answer(&self, until: u64, worked: bool) {
        if worked {
            self.listed.store(true, Ordering::Release);
        }
        self.answered.send_replace((until, worked));
    }

    /// Whether it has told everything at least once.
    pub(crate) fn has_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for PluginSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("kind", &self.kind)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
