//! The daemon's life: start, lead, follow the namespace files, end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use daemon::{
    admin::Admin,
    fleet::{Fleet, Served},
    leader::{self, Leadership},
    listen::Handed,
    shutdown::Shutdown,
    telemetry::registry,
};
use http::Method;
use plugin_host::Instance;
use scaler_types::{Role, duration, protocol::Rules};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    Flags,
    api::{Key, View},
    cycle::{Context, Cycle, Given},
    members::{Members, Patience},
    memory::Memory,
    telemetry::Metrics,
};

/// Runs the daemon until a signal ends it. `rules`: all of the protocol's; a test leaves one out.
///
/// To be called before the process has a second thread.
///
/// # Errors
///
/// It cannot start: a [`Misconfigured`](daemon::exit::Misconfigured), or a port, signal or file that cannot be had.
pub fn run(flags: Flags, rules: Rules) -> anyhow::Result<()> {
    let handed = Handed::take().context("taking over the listening sockets of LISTEN_FDS")?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(serve(flags, rules, handed));
    // A file that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Given up only when nothing of this process writes any more.
    result.map(drop)
}

async fn serve(flags: Flags, rules: Rules, handed: Handed) -> anyhow::Result<Option<Leadership>> {
    let shutdown = Shutdown::on_signals(flags.common.shutdown_grace).context("following signals")?;
    let token = flags.common.admin_token()?;
    if flags.metrics_resource_kind.is_some() || flags.metrics_resource_group.is_some() {
        tracing::warn!(
            "--metrics-resource-kind and --metrics-resource-group have no effect: the metric source is dlx"
        );
    }
    let fleet =
        Fleet::start(&flags.common, flags.settings(), Role::Autoscaler, shutdown.draining.clone()).await?;

    let mut registry = registry("autoscaler");
    let metrics = Metrics::new(&mut registry);
    fleet.register(&mut registry);
    let members =
        Members::new(flags.common.state_dir.clone(), token.as_deref(), Patience::default(), metrics.clone())?;
    let view = View::default();
    let listener =
        handed.bind(flags.admin_address).with_context(|| format!("listening on {}", flags.admin_address))?;
    let draining = shutdown.draining.clone();
    let admin = Admin::new(registry, token)
        .route(Method::GET, "/api/v1/resources", view.resources())
        .route(Method::GET, "/api/v1/explain", view.explain())
        .ready_when(Arc::new(
            move || if draining.is_cancelled() { Err("stopping".to_owned()) } else { Ok(()) },
        ));
    let admin = fleet.routes(admin);
    tracing::info!(admin = %listener.local_addr()?, "waiting to lead");
    tokio::spawn(async move {
        if let Err(error) = admin.serve(listener).await {
            tracing::error!(%error, "the admin server ended: nothing can be asked any more, resources are looked after as before");
        }
    });

    let leads = tokio::select! {
        () = shutdown.draining.cancelled() => return Ok(None),
        leads = leader::acquire(&flags.common.state_dir) => leads?,
    };
    tracing::info!("leading");
    metrics.leader.set(1);
    view.lead();

    let context = Context { members, metrics, rules, stop: shutdown.draining.clone() };
    let mut cycles = Cycles { context, view, running: BTreeMap::new(), tasks: TaskTracker::new() };
    let mut served = fleet.served();
    loop {
        cycles.follow(&served.borrow_and_update().clone());
        tokio::select! {
            biased;
            () = shutdown.draining.cancelled() => break,
            // The fleet ends with the draining.
            changed = served.changed() => if changed.is_err() { shutdown.draining.cancelled().await },
        }
    }
    cycles.tasks.close();
    let end = async {
        cycles.tasks.wait().await;
        tracing::info!("every try is finished or reverted");
        fleet.stop().await;
    };
    tokio::select! {
        () = end => {}
        () = shutdown.grace_over() => {
            tracing::warn!(grace = %duration::short(shutdown.grace()), "given up what is not finished: the next leader goes on from the rows");
        }
    }
    Ok(Some(leads))
}

/// A cycle for each plugin and namespace file.
struct Cycles {
    context: Context,
    view: View,
    running: BTreeMap<Key, watch::Sender<Given<Instance>>>,
    tasks: TaskTracker,
}

// === impl Cycles ===

impl Cycles {
    /// Starts, changes and ends cycles as `served` says. What a cycle remembers outlives a change of its file.
    fn follow(&mut self, served: &[Served]) {
        let key = |one: &Served| (one.instance.kind().to_owned(), one.namespace.clone());
        let wanted: BTreeMap<_, _> = served.iter().map(|one| (key(one), one)).collect();
        let view = &self.view;
        self.running.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                view.show(key.clone(), None);
            }
            stays
        });
        for (key, one) in wanted {
            let given = Given { plugin: one.instance.clone(), settings: one.settings.clone() };
            match self.running.get(&key) {
                Some(now) => {
                    now.send_if_modified(|now| {
                        let differs = *now != given;
                        *now = given;
                        differs
                    });
                }
                None => {
                    let (give, given) = watch::channel(given);
                    let memory = Arc::new(Mutex::new(Memory::default()));
                    self.view.show(key.clone(), Some(memory.clone()));
                    self.tasks.spawn(Cycle::new(given, &key.1, self.context.clone(), memory).run());
                    self.running.insert(key, give);
                }
            }
        }
    }
}
