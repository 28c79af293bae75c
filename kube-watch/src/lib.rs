//! Follows the objects of a Kubernetes cluster: a consistent list, then a watch from where it ended, resumed when it ends.
//!
//! As `kube::runtime::watcher`, with what its users here need and that one does not give:
//!
//! - the revision of a list. A list older than what a process has read or written itself must not remove that;
//! - limits: a list or watch that is not answered fails, so what a stalled connection hides is hidden for a bounded time;
//! - a pause before a watch is resumed that ended as soon as it began;
//! - a new list where the server refuses a watch because its version is too old (status 410, not an event of the watch), after a pause;
//! - a watch that begins at a version its user has read.

#[cfg(test)]
mod tests;

use std::{fmt::Debug, future::pending, mem, slice, time::Duration};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use scaler_types::{backoff::Backoff, duration};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

/// The objects in a page of a list.
const PAGE_SIZE: u32 = 500;

/// How long the server keeps a watch open, in seconds. The end of a connection that died silently is missed after that, so
/// this bounds how old the view of a stalled watch can be; to resume one costs little.
const WATCH_SECONDS: u32 = 60;

/// The longest time without an event: the server ends a watch earlier.
const STALL_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);

/// How long a page of a list, or the head of a watch, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Follows objects for as long as it is polled; never ends.
pub struct Watch<K>(BoxStream<'static, Result<Event<K>, WatchError>>);

/// A change of the objects.
#[derive(Debug)]
pub enum Event<K> {
    /// A list begins: what happened since the last event is not known.
    Init,
    /// The next objects of the list.
    Page {
        /// In their state at the list's revision.
        objects: Vec<K>,
        /// `Some`: these are the last, and what was not listed did not exist at this revision (0: it is not a number).
        complete_at: Option<u64>,
    },
    /// Added or changed.
    Apply(K),
    /// Deleted; its last state.
    Delete(K),
    /// Nothing else happened up to now.
    Bookmark,
}

/// Nothing is known of the objects until a later event. The next attempt follows a pause.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A list failed, and begins again with [`Event::Init`].
    #[error("list failed")]
    List(#[source] kube::Error),
    /// The watch could not be started.
    #[error("watch failed to start")]
    Start(#[source] kube::Error),
    /// The watch failed after its start.
    #[error("watch failed")]
    Broken(#[source] kube::Error),
}

/// Why following failed last, so that a lasting reason is logged once.
#[derive(Debug, Default)]
pub struct LastFailure(Option<String>);

struct Follower<K> {
    api: Api<K>,
    selection: ListParams,
    state: State<K>,
    /// Of calls that failed.
    backoff: Backoff,
    /// Of versions that the server no longer had, until a watch worked.
    relist_backoff: Backoff,
    paused_until: Option<Instant>,
}

/// The next step.
enum State<K> {
    Init,
    /// List the next page: that of the token.
    List(Option<String>),
    /// Start a watch from this version.
    Start(String),
    Watching {
        version: String,
        since: Instant,
        events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
    },
}

type Step<K> = (State<K>, Option<Result<Event<K>, WatchError>>);

/// Waits for an answer no longer than `limit`.
///
/// # Errors
///
/// The call's own, or that it took too long: it may have taken effect all the same.
pub async fn with_timeout<T>(
    limit: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        Err(kube::Error::Service(format!("no answer within {}", duration::short(limit)).into()))
    })
}

// === impl Watch ===

impl<K: Resource + Clone + DeserializeOwned + Debug + Send + 'static> Watch<K> {
    /// Lists the objects that `selection` has labels and fields of, and watches them from there.
    pub fn new(api: Api<K>, selection: ListParams) -> Self {
        Self::from_state(api, selection, State::Init)
    }

    /// Watches from a version; where the server no longer has it, from a list.
    pub fn resume(api: Api<K>, selection: ListParams, version: String) -> Self {
        Self::from_state(api, selection, State::Start(version))
    }

    fn from_state(api: Api<K>, selection: ListParams, state: State<K>) -> Self {
        let selection = ListParams { limit: Some(PAGE_SIZE), ..selection };
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let follower =
            Follower { api, selection, state, backoff, relist_backoff: backoff, paused_until: None };
        Self(
            stream::unfold(follower, |mut follower| async { Some((follower.next().await, follower)) })
                .boxed(),
        )
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    ///
    /// A [`WatchError`]; the event after it is that of the next attempt.
    pub async fn next(&mut self) -> Result<Event<K>, WatchError> {
        match self.0.next().await {
            Some(event) => event,
            None => pending().await,
        }
    }
}

// === impl Event ===

impl<K> Event<K> {
    /// The objects that exist in the state given here.
    pub fn objects(&self) -> &[K] {
        match self {
            Self::Page { objects, .. } => objects,
            Self::Apply(object) => slice::from_ref(object),
            Self::Init | Self::Delete(_) | Self::Bookmark => &[],
        }
    }
}

// === impl WatchError ===

impl WatchError {
    /// The verb that failed, as a Role names it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::List(_) => "list",
            Self::Start(_) | Self::Broken(_) => "watch",
        }
    }

    /// The API's error.
    pub fn into_inner(self) -> kube::Error {
        match self {
            Self::List(error) | Self::Start(error) | Self::Broken(error) => error,
        }
    }
}

// === impl LastFailure ===

impl LastFailure {
    /// Following failed: whether for another reason than before.
    pub fn is_new(&mut self, reason: &str) -> bool {
        self.0.replace(reason.to_owned()).as_deref() != Some(reason)
    }

    /// Following works: whether it failed before. An incomplete list does not count.
    pub fn ends_with<K>(&mut self, event: &Event<K>) -> bool {
        !matches!(event, Event::Init | Event::Page { complete_at: None, .. }) && self.0.take().is_some()
    }
}

// === impl Follower ===

impl<K: Resource + Clone + DeserializeOwned + Debug + Send + 'static> Follower<K> {
    async fn next(&mut self) -> Result<Event<K>, WatchError> {
        loop {
            if let Some(until) = self.paused_until.take() {
                #[expect(clippy::disallowed_methods, reason = "what failed is tried again after a time")]
                sleep_until(until).await;
            }
            let (state, event) = match mem::replace(&mut self.state, State::Init) {
                State::Init => (State::List(None), Some(Ok(Event::Init))),
                State::List(token) => self.list(token).await,
                State::Start(version) => self.start(version).await,
                State::Watching { version, since, events } => self.receive(version, since, events).await,
            };
            self.state = state;
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// A consistent read: no `resourceVersion` is named, and later pages are of the first one's.
    async fn list(&mut self, token: Option<String>) -> Step<K> {
        self.selection.continue_token = token;
        let page = match with_timeout(ANSWER_TIMEOUT, self.api.list(&self.selection)).await {
            Ok(page) => page,
            Err(error) => {
                self.pause();
                return (State::Init, Some(Err(WatchError::List(error))));
            }
        };
        let (state, complete_at) = match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => (State::List(Some(token)), None),
            None => {
                self.backoff.reset();
                let version = page.metadata.resource_version.unwrap_or_default();
                let revision = version.parse().unwrap_or(0);
                (State::Start(version), Some(revision))
            }
        };
        (state, Some(Ok(Event::Page { objects: page.items, complete_at })))
    }

    async fn start(&mut self, version: String) -> Step<K> {
        let params = WatchParams {
            label_selector: self.selection.label_selector.clone(),
            field_selector: self.selection.field_selector.clone(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        match with_timeout(ANSWER_TIMEOUT, self.api.watch(&params, &version)).await {
            Ok(events) => (State::Watching { version, since: Instant::now(), events: events.boxed() }, None),
            Err(kube::Error::Api(status)) if status.code == 410 => self.relist(),
            Err(error) => {
                self.pause();
                (State::Start(version), Some(Err(WatchError::Start(error))))
            }
        }
    }

    async fn receive(
        &mut self,
        version: String,
        since: Instant,
        mut events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
    ) -> Step<K> {
        let (version, event) = match timeout(STALL_LIMIT, events.next()).await {
            Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                (object.resource_version().unwrap_or(version), Event::Apply(object))
            }
            Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                (object.resource_version().unwrap_or(version), Event::Delete(object))
            }
            Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => (mark.metadata.resource_version, Event::Bookmark),
            Ok(Some(Ok(WatchEvent::Error(status)))) if status.code == 410 => return self.relist(),
            Ok(Some(Ok(WatchEvent::Error(status)))) => {
                return self.broken(version, since, kube::Error::Api(status));
            }
            Ok(Some(Err(error))) => return self.broken(version, since, error),
            // A connection that died: what it missed is not known.
            Err(_) => return (State::Start(version), None),
            // No better than one that fails.
            Ok(None) if since.elapsed() <= FIRST_PAUSE => {
                self.pause();
                return (State::Start(version), None);
            }
            Ok(None) => {
                self.backoff.reset();
                self.relist_backoff.reset();
                return (State::Start(version), Some(Ok(Event::Bookmark)));
            }
        };
        self.relist_backoff.reset();
        (State::Watching { version, since, events }, Some(Ok(event)))
    }

    fn broken(&mut self, version: String, since: Instant, error: kube::Error) -> Step<K> {
        if since.elapsed() > LONGEST_PAUSE {
            // It had worked.
            self.backoff.reset();
        }
        self.pause();
        (State::Start(version), Some(Err(WatchError::Broken(error))))
    }

    /// The server no longer has the version: what happened since is not known from now on. The list follows a pause, which grows
    /// where the server has no version at all.
    fn relist(&mut self) -> Step<K> {
        self.paused_until = Some(Instant::now() + self.relist_backoff.next_pause());
        (State::List(None), Some(Ok(Event::Init)))
    }

    fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + self.backoff.next_pause());
    }
}
