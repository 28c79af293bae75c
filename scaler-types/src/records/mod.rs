//! Records in files, for kinds of resource that no cluster keeps.
//!
//! Every daemon of a host shares one folder, `<state-dir>/records/<kind>/<namespace>/`, with one small file per resource:
//! its [`Record`], a version that grows with every change, and what the plugin wants to know of the running resource (`up`:
//! the process's run, an address, whatever `U` is). A plugin needs four calls:
//!
//! ```no_run
//! # use scaler_types::{records::Records, *};
//! # async fn start() -> Result<String> { Ok(String::new()) }
//! # async fn stop(_: &str) -> Result<()> { Ok(()) }
//! async fn set_scale(records: &Records<String>, request: &ScaleRequest) -> Result<(), ScaleError> {
//!     let mut turn = records.begin(request).await?; // the record is written; from here on nobody else scales it
//!     if let Some(old) = turn.leaving() {
//!         stop(old).await?; // a scale to zero took it down, this one or an earlier one that did not get to its end
//!         turn.stopped().await?;
//!     }
//!     if request.target != Target::Zero && turn.up().is_none() {
//!         turn.started(start().await?).await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! and [`Records::read`] for `get_resources`, [`Records::compare_and_set`], [`Records::changed`] for `changes`.
//!
//! # Why nothing is lost and nothing runs twice
//!
//! - A record and its `up` are one file, replaced by rename under a lock: readers see the old or the new one, never half.
//!   A scale to zero moves `up` to `leaving` in the write that says `asleep`, so what is being stopped is never listed.
//! - Only the holder of a resource's *turn*, a second lock, starts or stops anything. Both locks are the kernel's
//!   (`flock`): they end with their process.
//! - A wake that overtakes a sleep finds `leaving` once it has the turn, or finds it gone; the sleep that was overtaken
//!   finds another record and answers `Conflict`. A sleep cut short by a crash leaves `leaving` for the next turn.
//!
//! Nothing is forced to the disk: what ran before the host went down does not run after it.

mod file;
mod watch;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use self::{file::StoredRecord, watch::Watch};
use crate::{PluginContext, Record, ResourceId, Result, ScaleError, ScaleRequest, Target, Version};
pub use file::{encode_name, hold, try_hold};
pub use watch::{Changed, register};

/// Waits for another process's turn, each of which takes a thread for as long as a stop takes: few enough to leave the pool's
/// other threads (tokio has 512) to shorter work.
static WAITS: Semaphore = Semaphore::const_new(64);

/// The records of one kind in one namespace. Cheap to clone.
pub struct Records<U> {
    shared: Arc<Shared>,
    up: std::marker::PhantomData<fn() -> U>,
}

struct Shared {
    namespace: String,
    folder: PathBuf,
    watch: Watch,
    /// One waiter of this instance at a time in front of a resource's turn: the others cost no thread.
    queues: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The stored state of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<U> {
    /// Its record; the default one if it was never written.
    pub record: Record,
    /// Changes whenever `record` or `up` do.
    pub version: Version,
    /// The running instance, or one about to run.
    pub up: Option<U>,
    /// The instance that a scale to zero took down and that is not reported stopped yet. It counts as gone.
    pub leaving: Option<U>,
}

/// The right to start and stop one resource. Held until it is dropped; ends with the process.
pub struct Turn<U> {
    records: Records<U>,
    name: String,
    /// The record this turn was begun with; none for a turn that cleans up.
    record: Option<Record>,
    up: Option<U>,
    leaving: Option<U>,
    _lock: File,
    _queue: OwnedMutexGuard<()>,
}

// === impl Records ===

impl<U: Clone + PartialEq + Serialize + DeserializeOwned> Records<U> {
    /// Opens the folder of `context`'s kind and namespace, and begins to watch it. Wants a tokio runtime.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or not be watched.
    pub fn open(context: &PluginContext) -> Result<Self> {
        let folder = std::path::absolute(&context.state_dir)?
            .join("records")
            .join(encode_name(&context.kind)?)
            .join(encode_name(&context.namespace)?);
        fs::create_dir_all(&folder)
            .with_context(|| format!("making the folder of records {}", folder.display()))?;
        let watch = Watch::start(&folder).with_context(|| {
            format!("watching {} (one of fs.inotify.max_user_instances)", folder.display())
        })?;
        let shared = Shared { namespace: context.namespace.clone(), folder, watch, queues: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), up: std::marker::PhantomData })
    }

    /// The stored state of a resource now.
    ///
    /// # Errors
    ///
    /// Its file cannot be read, or is not ours to understand.
    pub fn read(&self, id: &ResourceId) -> Result<Stored<U>> {
        Ok(file::load(&self.path(&self.name(id)?, ".json"))?.into())
    }

    /// Writes a record if the version is still `expected`.
    ///
    /// # Errors
    ///
    /// `Conflict` if it is another by now; `Retry` if the file cannot be written.
    pub async fn compare_and_set(
        &self,
        id: &ResourceId,
        expected: &Version,
        record: &Record,
    ) -> Result<Version, ScaleError> {
        self.edit(&self.name(id)?, |stored| {
            stored.write(expected, record)?;
            Ok(stored.version())
        })
        .await
    }

    /// Begins a scale: writes `request.record` if `request.version` still stands, for zero moving `up` to `leaving` in the
    /// same write, then waits for the resource's turn.
    ///
    /// # Errors
    ///
    /// `Conflict`, with nothing written, if the version is another by now; `Conflict` too if another write changed the
    /// record, or another scale began, while this waited for its turn: the next step is that writer's.
    pub async fn begin(&self, request: &ScaleRequest) -> Result<Turn<U>, ScaleError> {
        let name = self.name(&request.id)?;
        let scale = self
            .edit(&name, |stored| {
                stored.write(&request.version, &request.record)?;
                if request.target == Target::Zero && stored.up.is_some() {
                    stored.leaving = stored.up.take();
                }
                stored.scale = stored.version;
                Ok(stored.scale)
            })
            .await?;
        let queue = self.queue(&name).lock_owned().await;
        let lock = self.wait_for_turn(&name).await?;
        let turn = self.turn(name, Some((request.record.clone(), scale)), queue, lock)?;
        turn.ok_or(ScaleError::Conflict)
    }

    /// The resource's turn without a scale, if it is free: to finish what a crash left.
    ///
    /// # Errors
    ///
    /// Its files cannot be read.
    pub fn try_turn(&self, id: &ResourceId) -> Result<Option<Turn<U>>> {
        let name = self.name(id)?;
        let Ok(queue) = self.queue(&name).try_lock_owned() else { return Ok(None) };
        let Some(lock) = try_hold(&self.path(&name, ".turn"))? else { return Ok(None) };
        self.turn(name, None, queue, lock)
    }

    /// Takes `up` away if it is still `ended`: it ended by itself. Says whether it was.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub async fn ended(&self, id: &ResourceId, ended: &U) -> Result<bool, ScaleError> {
        self.replace(id, ended, None).await
    }

    /// Replaces `up` if it is still `seen`: a part of it ended by itself. Says whether it was.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub async fn replace(&self, id: &ResourceId, seen: &U, now: Option<U>) -> Result<bool, ScaleError> {
        let name = self.name(id)?;
        let result = self
            .edit(&name, |stored| {
                if stored.up.as_ref() != Some(seen) {
                    return Err(ScaleError::Conflict);
                }
                stored.up = now;
                stored.advance();
                Ok(())
            })
            .await;
        match result {
            Ok(()) => Ok(true),
            Err(ScaleError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until something changed after `cursor`, and returns the changes and the next cursor. Cursor 0 returns at once.
    /// Nothing is missed as long as what is listed is read after this has returned.
    pub async fn changed(&self, cursor: u64) -> Changed {
        self.shared.watch.changed(cursor).await
    }

    /// Stops watching: [`changed`](Self::changed) reports nothing new from now on.
    pub fn close(&self) {
        self.shared.watch.close();
    }

    fn turn(
        &self,
        name: String,
        begun: Option<(Record, u64)>,
        queue: OwnedMutexGuard<()>,
        lock: File,
    ) -> Result<Option<Turn<U>>> {
        let StoredRecord { record: now, up, leaving, scale, .. } = file::load(&self.path(&name, ".json"))?;
        let ours = begun.as_ref().is_none_or(|(record, begun)| (record, *begun) == (&now, scale));
        let record = begun.map(|(record, _)| record);
        let turn = Turn { records: self.clone(), name, record, up, leaving, _lock: lock, _queue: queue };
        Ok(ours.then_some(turn))
    }

    async fn wait_for_turn(&self, name: &str) -> Result<File> {
        let path = self.path(name, ".turn");
        if let Some(lock) = try_hold(&path)? {
            return Ok(lock);
        }
        let _thread = WAITS.acquire().await.context("waiting for a turn")?;
        hold(path).await
    }

    /// One change of a resource's file. Not cancelled between reading and writing: there is no `await`.
    async fn edit<R>(
        &self,
        name: &str,
        change: impl FnOnce(&mut StoredRecord<U>) -> Result<R, ScaleError>,
    ) -> Result<R, ScaleError> {
        let _lock = hold(self.path(name, ".lock")).await?;
        let path = self.path(name, ".json");
        let mut stored = file::load(&path)?;
        let result = change(&mut stored)?;
        file::store(&path, &self.path(name, ".tmp"), &stored)?;
        Ok(result)
    }

    fn name(&self, id: &ResourceId) -> Result<String> {
        anyhow::ensure!(
            id.namespace == self.shared.namespace,
            "{id} is not in the namespace {} of these records",
            self.shared.namespace
        );
        encode_name(&id.name)
    }

    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.shared.folder.join(format!("{name}{suffix}"))
    }

    fn queue(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(name.to_owned()).or_default())
    }
}

impl<U> Clone for Records<U> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), up: std::marker::PhantomData }
    }
}

// === impl Turn ===

impl<U: Clone + PartialEq + Serialize + DeserializeOwned> Turn<U> {
    /// What is up.
    pub fn up(&self) -> Option<&U> {
        self.up.as_ref()
    }

    /// The instance that a scale to zero took down and that is still to be stopped, before anything is started.
    pub fn leaving(&self) -> Option<&U> {
        self.leaving.as_ref()
    }

    /// Records that the [leaving](Self::leaving) instance is gone.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub async fn stopped(&mut self) -> Result<(), ScaleError> {
        let Some(gone) = self.leaving.clone() else { return Ok(()) };
        // The version stays: record and scale are what they were, and a wake decided on them still stands.
        self.records
            .edit(&self.name, |stored| {
                stored.leaving.take_if(|leaving| *leaving == gone);
                Ok(())
            })
            .await?;
        self.leaving = None;
        Ok(())
    }

    /// The resource is up, replacing what was: from here on it is listed.
    ///
    /// # Errors
    ///
    /// `Conflict`, with nothing written, if another write changed the record meanwhile: stop what was started.
    pub async fn started(&mut self, up: U) -> Result<(), ScaleError> {
        self.records
            .edit(&self.name, |stored| {
                if self.record.as_ref() != Some(&stored.record) {
                    return Err(ScaleError::Conflict);
                }
                if stored.leaving.is_some() {
                    return Err(anyhow::anyhow!("the previous run has not been stopped yet").into());
                }
                stored.up = Some(up.clone());
                stored.advance();
                Ok(())
            })
            .await?;
        self.up = Some(up);
        Ok(())
    }
}

impl From<io::Error> for ScaleError {
    fn from(error: io::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}
