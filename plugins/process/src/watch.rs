//! Sees to processes in the background: their end, and what a crash left undone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use scaler_types::{ResourceId, records::Records};
use tokio::task::JoinHandle;

use crate::{Process, finish_leaving, replicas::Replicas, run::Run};

/// The background tasks of an instance, at most one per run and purpose.
#[derive(Default)]
pub struct Watches(Mutex<HashMap<ResourceId, Vec<Task>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Watch,
    Stop,
    Finish,
}

struct Task {
    purpose: Purpose,
    run: String,
    handle: JoinHandle<()>,
}

// === impl Watches ===

impl Watches {
    /// Takes a run out of its record when it has ended by itself; the write notifies every daemon.
    pub fn watch(&self, process: &Arc<Process>, run: &Run, records: &Records<Replicas>) {
        let (process, records, watched) = (Arc::clone(process), records.clone(), run.clone());
        self.once(Arc::clone(&process), Purpose::Watch, run, async move {
            match process.folder.gone(&watched).await {
                Ok(()) => process.ended(&records, &watched).await,
                Err(error) => tracing::error!(resource = %process.id, error = format!("{error:#}"), "failed to watch the process; its end will go unnoticed"),
            }
        });
    }

    /// Stops a run that a step down took away, and takes it out of the record when it has ended. Every daemon may: it is asked to end
    /// once.
    pub fn stop(&self, process: &Arc<Process>, run: &Run, records: &Records<Replicas>) {
        let (process, records, stopped) = (Arc::clone(process), records.clone(), run.clone());
        self.once(Arc::clone(&process), Purpose::Stop, run, async move {
            let result = async {
                process.folder.stop(&stopped, process.spec.stop_grace_period).await?;
                process.forget(&records, &stopped).await
            };
            match result.await {
                Ok(true) => process.log_stopped(&stopped),
                Ok(false) => {}
                Err(error) => tracing::error!(resource = %process.id, run = stopped.id, %error, "failed to stop a replica; the next listing stops it again"),
            }
        });
    }

    /// Finishes stopping the runs, unless another holds the turn: then that one finishes it, and the next list checks again.
    pub fn finish(&self, process: &Arc<Process>, leaving: &Replicas, records: &Records<Replicas>) {
        let Some(run) = leaving.all().next() else { return };
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
        for (_, tasks) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            tasks.iter().for_each(|task| task.handle.abort());
        }
    }

    fn once(
        &self,
        process: Arc<Process>,
        purpose: Purpose,
        run: &Run,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = all.entry(process.id.clone()).or_default();
        // Of a run that is over: it has ended, or ends by itself.
        tasks.retain(|task| !task.handle.is_finished());
        if !tasks.iter().any(|task| task.purpose == purpose && task.run == run.id) {
            tasks.push(Task { purpose, run: run.id.clone(), handle: tokio::spawn(task) });
        }
    }
}
