//! Every plugin at work for every namespace file, kept as the files change.
#![allow(missing_docs, unused_variables, clippy::todo)] // the bodies come
use crate::{
    flags::CommonFlags,
    settings::{FlagSettings, Settings},
};
use plugin_host::{Instance, Rejected};
use scaler_types::Role;
use std::sync::Arc;
use tokio::sync::watch;
/// One plugin at work for one namespace file.
#[derive(Clone)]
pub struct Served {
    pub instance: Instance,
    pub namespace: String,
    pub settings: Arc<Settings>,
}
pub struct Fleet {
    served: watch::Receiver<Arc<[Served]>>,
}
impl Fleet {
    /// Loads the plugins, reads the files, starts an instance of each plugin for each file, and follows the files from then on
    /// (a task, until `draining`). `Err`: the message to end with, exit status 78.
    pub async fn start(
        flags: &CommonFlags,
        settings: FlagSettings,
        role: Role,
        draining: tokio_util::sync::CancellationToken,
    ) -> anyhow::Result<Self> {
        todo!()
    }
    pub fn served(&self) -> watch::Receiver<Arc<[Served]>> {
        self.served.clone()
    }
    pub fn rejected(&self) -> &[Rejected] {
        todo!()
    }
}
