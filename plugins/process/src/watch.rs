//! Sees to processes in the background: their end, and what a crash left undone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use scaler_types::{ResourceId, records::Records};
use tokio::task::JoinHandle;

use crate::{Process, finish_leaving, run::Run};

/// The background tasks of an instance, at most one per process and purpose.
#[derive(Default)]
pub struct Watches(Mutex<HashMap<(ResourceId, Purpose), Task>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Watch,
    Finish,
}

struct Task {
    run: String,
    handle: JoinHandle<()>,
}

// === impl Watches ===

impl Watches {
    /// Takes a run out of its record when it has ended by itself; the write notifies every daemon.
    pub fn watch(&self, process: &Arc<Process>, run: &Run, records: &Records<Run>) {
        let (process, records, watched) = (Arc::clone(process), records.clone(), run.clone());
        self.once(Arc::clone(&process), Purpose::Watch, run, async move {
            match process.folder.gone(&watched).await {
                Ok(()) => process.ended(&records, &watched).await,
                Err(error) => tracing::error!(resource = %process.id, error = format!("{error:#}"), "failed to watch the process; its end will go unnoticed"),
            }
        });
    }

    /// Finishes stopping the run, unless another holds the turn: then that one finishes it, and the next list checks again.
    pub fn finish(&self, process: &Arc<Process>, run: &Run, records: &Records<Run>) {
        let (process, records) = (Arc::clone(process), records.clone());
        self.once(Arc::clone(&process), Purpose::Finish, run, async move {
            let result = async {
                match records.try_turn(&process.id)? {
                    Some(mut turn) => finish_leaving(&process, &mut turn).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = result.await {
                tracing::error!(resource = %process.id, %error, "cannot finish stopping it");
            }
        });
    }

    /// Ends all tasks.
    pub fn end(&self) {
        for (_, task) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            task.handle.abort();
        }
    }

    fn once(
        &self,
        process: Arc<Process>,
        purpose: Purpose,
        run: &Run,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (process.id.clone(), purpose);
        if tasks.get(&key).is_none_or(|task| task.run != run.id || task.handle.is_finished()) {
            // The task there before watched a run that is over: it ends by itself.
            tasks.insert(key, Task { run: run.id.clone(), handle: tokio::spawn(task) });
        }
    }
}
