//! Following the resources of a plugin.

use std::{sync::Arc, time::Duration};

use scaler_types::{Changes, backoff::Backoff};
use tokio::time::{Instant, sleep_until};

use crate::{
    CallError, Listed, RunningPlugin,
    pace::{self, Pace},
};

/// After a plugin that could not say what changed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// How often a plugin is asked that lists everything each time, and may not wait until something has changed.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

/// How often a plugin is asked that answers what changed, and may not wait until something has.
const CHANGE_INTERVAL: Duration = Duration::from_millis(10);

/// The resources of a plugin as a stream: all of them first, then what changes. After a failure all of them again, since what
/// was missed meanwhile is not known.
#[derive(Debug)]
pub struct ChangeStream {
    plugin: Arc<dyn RunningPlugin>,
    /// Where the last answer ended; 0 has everything listed.
    cursor: u64,
    backoff: Backoff,
    /// The end of the pause after a failure.
    paused_until: Option<Instant>,
    /// Of the answers to another cursor than 0.
    pace: Pace,
    /// The failure that was logged last, if it lasts.
    logged: Option<CallError>,
}

// === impl ChangeStream ===

impl ChangeStream {
    /// The stream of `plugin`, from its beginning.
    pub fn new(plugin: Arc<dyn RunningPlugin>) -> Self {
        Self { plugin, cursor: 0, backoff: BACKOFF, paused_until: None, pace: Pace::new(), logged: None }
    }

    /// Whether the next answer lists all resources as they are after the question.
    pub fn lists_all(&self) -> bool {
        self.cursor == 0
    }

    /// Has the next answer list all resources.
    pub fn relist(&mut self) {
        self.cursor = 0;
    }

    /// Waits for the end of the pause after a failure.
    #[expect(
        clippy::disallowed_methods,
        reason = "a plugin that failed is asked again after a growing pause"
    )]
    pub async fn pause(&mut self) {
        if let Some(until) = self.paused_until {
            sleep_until(until).await;
            self.paused_until = None;
        }
    }

    /// Waits for the [pause](Self::pause), then for what changed. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// The plugin could not say. Logged, once as long as it stays the same.
    pub async fn next(&mut self) -> Result<Listed<Changes>, CallError> {
        self.pause().await;
        let lists_all = self.lists_all();
        if !lists_all {
            // No part of the pause: a list that is requested meanwhile is not delayed.
            self.pace.wait().await;
        }
        match self.plugin.changes(self.cursor).await {
            Ok(changes) => {
                let nameless = changes.unreadable.iter().any(|one| one.id.is_none());
                let lists = changes.readable.complete || nameless;
                let interval = if lists { LIST_INTERVAL } else { CHANGE_INTERVAL };
                if !lists_all && self.pace.count_answer(interval) {
                    pace::report(self.plugin.kind(), self.plugin.namespace());
                }
                (self.cursor, self.backoff, self.logged) = (changes.readable.cursor, BACKOFF, None);
                if !changes.readable.complete && nameless {
                    // Which one changed is known when all the others are listed.
                    self.relist();
                }
                Ok(changes)
            }
            Err(error) => {
                if self.logged.as_ref() != Some(&error) {
                    let (kind, namespace) = (self.plugin.kind(), self.plugin.namespace());
                    tracing::warn!(kind, namespace, %error, "failed to list the plugin's resources; keeping the last known ones");
                    self.logged = Some(error.clone());
                }
                self.cursor = 0;
                self.paused_until = Some(Instant::now() + self.backoff.next_pause());
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use scaler_types::{
        Record, Resource, ResourceId, ScaleError, ScaleRequest, Version, backoff::seed_jitter,
    };

    use super::*;
    use crate::{CallFuture, UnreadableResource};

    /// Answers `changes` from a script, and keeps the cursors of the calls.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<VecDeque<Result<Listed<Changes>, CallError>>>,
        cursors: Mutex<Vec<u64>>,
    }

    impl RunningPlugin for Scripted {
        fn kind(&self) -> &str {
            "scripted"
        }

        fn namespace(&self) -> &str {
            "demo"
        }

        fn changes(&self, cursor: u64) -> CallFuture<'_, Result<Listed<Changes>, CallError>> {
            self.cursors.lock().unwrap().push(cursor);
            let answer = self.answers.lock().unwrap().pop_front().unwrap();
            Box::pin(async { answer })
        }

        fn get_resources(&self) -> CallFuture<'_, Result<Listed<Vec<Resource>>, CallError>> {
            panic!("not called")
        }

        fn set_scale<'a>(&'a self, _: &'a ScaleRequest) -> CallFuture<'a, Result<(), ScaleError>> {
            panic!("not called")
        }

        fn compare_and_set<'a>(
            &'a self,
            _: &'a ResourceId,
            _: &'a Version,
            _: &'a Record,
        ) -> CallFuture<'a, Result<Version, ScaleError>> {
            panic!("not called")
        }

        fn resolve_service_name<'a>(
            &'a self,
            _: &'a ResourceId,
        ) -> CallFuture<'a, Result<String, CallError>> {
            panic!("not called")
        }
    }

    fn changes(cursor: u64) -> Listed<Changes> {
        Changes { cursor, ..Changes::default() }.into()
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_listed_after_a_failure_and_a_growing_pause() {
        seed_jitter(0);
        let away = || Err(CallError::Plugin("the API is away".to_owned()));
        let plugin = Arc::new(Scripted::default());
        *plugin.answers.lock().unwrap() =
            [Ok(3), Ok(5), away(), away(), Ok(7), Ok(8), away(), Ok(9)].map(|one| one.map(changes)).into();
        let (mut stream, began) = (ChangeStream::new(plugin.clone()), Instant::now());
        for expected in [Ok(3), Ok(5), away(), away(), Ok(7)] {
            assert_eq!(stream.next().await.map(|listed| listed.readable.cursor), expected);
        }
        assert_eq!(began.elapsed(), Duration::from_millis(100 + 200));
        stream.relist();
        assert!(stream.lists_all());
        for expected in [Ok(8), away(), Ok(9)] {
            assert_eq!(stream.next().await.map(|listed| listed.readable.cursor), expected);
        }
        assert_eq!(*plugin.cursors.lock().unwrap(), [0, 3, 5, 0, 0, 0, 8, 0]);
        // The pause begins again where one succeeded.
        assert_eq!(began.elapsed(), Duration::from_millis(100 + 200 + 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_lists_everything_at_once_each_time_is_asked_once_a_second() {
        let mut listed = changes(7);
        listed.readable.complete = true;
        let plugin = Arc::new(Scripted::default());
        *plugin.answers.lock().unwrap() = std::iter::repeat_n(Ok(listed), 20).collect();
        let (mut stream, began) = (ChangeStream::new(plugin), Instant::now());
        // The first answers 0; ten more may come at once.
        for _ in 0..12 {
            stream.next().await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..3 {
            stream.next().await.unwrap();
        }
        assert_eq!(began.elapsed(), 3 * LIST_INTERVAL);
        stream.relist();
        stream.next().await.unwrap();
        assert_eq!(began.elapsed(), 3 * LIST_INTERVAL, "a list that is requested is not delayed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_answers_at_once_without_a_change_is_asked_a_hundred_times_a_second() {
        let plugin = Arc::new(Scripted::default());
        *plugin.answers.lock().unwrap() = std::iter::repeat_n(Ok(changes(7)), 1_302).collect();
        let (mut stream, began) = (ChangeStream::new(plugin), Instant::now());
        for _ in 0..1_302 {
            stream.next().await.unwrap();
        }
        assert_eq!(
            began.elapsed(),
            300 * CHANGE_INTERVAL,
            "the first lists all, a burst of 1,000 comes at once"
        );
    }

    #[tokio::test]
    async fn everything_is_listed_once_where_one_that_changed_has_no_readable_name() {
        let unreadable = |id: Option<&str>| {
            let id = id.map(|name| ResourceId::new("demo", name));
            vec![UnreadableResource { id, error: "field name".to_owned() }]
        };
        let (mut named, mut nameless, mut listed) = (changes(3), changes(4), changes(5));
        (named.unreadable, nameless.unreadable) = (unreadable(Some("web")), unreadable(None));
        (listed.unreadable, listed.readable.complete) = (unreadable(None), true);
        let plugin = Arc::new(Scripted::default());
        *plugin.answers.lock().unwrap() = [named, nameless, listed, changes(6)].map(Ok).into();
        let mut stream = ChangeStream::new(plugin.clone());
        for _ in 0..4 {
            stream.next().await.unwrap();
        }
        assert_eq!(*plugin.cursors.lock().unwrap(), [0, 3, 0, 5]);
    }
}
