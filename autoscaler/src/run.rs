//! The daemon's life: start, lead, follow the namespace files, end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use daemon::{
    admin::Admin,
    coordination::Coordinator,
    leader::{Leader, Leadership, Timing},
    listen::InheritedSockets,
    plugin_manager::{PluginManager, Served},
    reports::Dropped,
    shutdown::Shutdown,
    telemetry::registry,
    wakes::Wakes,
};
use http::Method;
use scaler_types::{Role, duration, protocol::Rules};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AutoscalerFlags,
    admin::{AdminView, CycleKey, CycleView, ResourceSeries},
    cycle::{Cycle, CycleContext, states::ResourceStates},
    interception::{self, InterceptionTable, Interceptor, ServingDlxs},
    observe::{
        kubernetes::ClusterClient,
        members::{MemberTimeouts, Members},
    },
    plugin::ActivePlugin,
    scaling::{ReplicaScaler, ScalerContext, ScalingTable},
    telemetry::AutoscalerMetrics,
};

/// How long running attempts may take to be reverted after leadership is lost. The next leader has begun by then, and resumes
/// from the records of those that are abandoned.
const LOST_LEADERSHIP_TIMEOUT: Duration = Duration::from_secs(10);

/// The capacity of a cycle's queue of sleep requests.
const MAX_QUEUED_SLEEP_REQUESTS: usize = 16;

/// Runs the daemon until a signal ends it. `rules`: all of the protocol's; a test leaves one out.
///
/// To be called before the process has a second thread.
///
/// # Errors
///
/// It cannot start: a [`Misconfigured`](daemon::exit::Misconfigured), or a port, signal or file that cannot be had.
pub fn run(flags: AutoscalerFlags, rules: Rules) -> anyhow::Result<()> {
    let handed = InheritedSockets::take().context("taking over the listening sockets of LISTEN_FDS")?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(serve(flags, rules, handed));
    // A file that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Given up only when nothing of this process writes any more.
    result.map(drop)
}

async fn serve(
    flags: AutoscalerFlags,
    rules: Rules,
    handed: InheritedSockets,
) -> anyhow::Result<Option<Leadership>> {
    let shutdown = Shutdown::on_signals(flags.common.shutdown_grace).context("following signals")?;
    flags.common.follow_parent().context("following the parent process (--stop-with-parent)")?;
    let token = flags.common.admin_token()?;
    let start = async {
        let coordination = Coordinator::from_flags(&flags.common, Role::Autoscaler).await?;
        let draining = shutdown.draining.clone();
        let plugin_manager =
            PluginManager::start(&flags.common, flags.settings(), Role::Autoscaler, draining).await?;
        anyhow::Ok((coordination, plugin_manager))
    };
    let (coordination, plugin_manager) = tokio::select! {
        () = shutdown.draining.cancelled() => return Ok(None),
        started = start => started?,
    };

    let mut registry = registry("autoscaler");
    let metrics = AutoscalerMetrics::new(&mut registry);
    let dropped = Dropped::default();
    dropped.register(&mut registry);
    plugin_manager.register(&mut registry);
    let leader = Leader::new(&coordination, Timing::default());
    let members =
        Members::new(coordination.clone(), token.clone(), MemberTimeouts::default(), metrics.clone());
    let view = AdminView::default();
    let resources = flags.common.resource_metrics;
    registry.register_collector(Box::new(ResourceSeries { view: view.clone(), resources }));
    let listener =
        handed.bind(flags.admin_address).with_context(|| format!("listening on {}", flags.admin_address))?;
    let (draining, status) = (shutdown.draining.clone(), leader.status());
    let admin = Admin::new(registry, token)
        .route(Method::GET, "/api/v1/resources", view.resources())
        .route(Method::GET, "/api/v1/explain", view.explain())
        .route(Method::GET, "/api/v1/list", view.list(members.clone()))
        .route(Method::POST, "/api/v1/sleep", view.sleep())
        .route(Method::GET, "/api/v1/leader", view.leader(leader.status(), members.clone()))
        .ready_when(
            "autoscaler",
            Arc::new(move || match status().error {
                _ if draining.is_cancelled() => Err("stopping".to_owned()),
                // Standing by is being ready: it takes over when the leader ends.
                None => Ok(()),
                Some(error) => Err(error),
            }),
        );
    let admin = plugin_manager.routes(admin);
    tracing::info!(admin = %listener.local_addr()?, "started; waiting for leader election");
    tokio::spawn(async move {
        if let Err(error) = admin.serve(listener).await {
            tracing::error!(%error, "admin server failed; resources are still managed");
        }
    });

    let cluster = ClusterClient::for_flags(flags.common.clone());
    let wakes = Wakes::new(flags.common.max_concurrent_wakes);
    let (propagation_delay, unavailable_timeout) =
        (flags.common.endpoint_propagation_delay, flags.dlx_unavailable_timeout);
    loop {
        let leadership = tokio::select! {
            () = shutdown.draining.cancelled() => return Ok(None),
            leadership = leader.lead() => leadership?,
        };
        let stop = leadership.lost().child_token();
        let serving = coordination.serving();
        let context = CycleContext {
            members: members.clone(),
            metrics: metrics.clone(),
            cluster: cluster.clone(),
            dropped: dropped.clone(),
            dlxs: ServingDlxs { serving: serving.known(), propagation_delay, unavailable_timeout },
            rules,
            stop: stop.clone(),
        };
        let last_reports = members.clone().follow_last_reports(serving.registered());
        tokio::spawn(stop.clone().run_until_cancelled_owned(last_reports));
        let interceptor_context = interception::InterceptorContext {
            metrics: metrics.clone(),
            dropped: dropped.clone(),
            dlxs: context.dlxs.clone(),
            wakes: wakes.clone(),
            stop: stop.clone(),
        };
        let scaler_context = ScalerContext {
            members: members.clone(),
            metrics: metrics.clone(),
            cluster: cluster.clone(),
            dropped: dropped.clone(),
            wakes: wakes.clone(),
            stop: stop.clone(),
        };
        let mut cycles = LeaderTasks::begin(context, interceptor_context, scaler_context, view.clone());
        tokio::select! {
            biased;
            () = shutdown.draining.cancelled() => {}
            () = stop.cancelled() => {}
            () = cycles.follow(plugin_manager.served()) => {}
        }
        // From here on no try begins, and one that is not committed is reverted.
        stop.cancel();
        if !shutdown.draining.is_cancelled() {
            tracing::warn!("lost leadership; now standby");
            cycles.end(LOST_LEADERSHIP_TIMEOUT).await;
            continue;
        }
        let end = async {
            cycles.tasks.close();
            cycles.tasks.wait().await;
            tracing::info!("finished or reverted all drain attempts");
            plugin_manager.stop().await;
        };
        tokio::select! {
            () = end => {}
            () = shutdown.grace_over() => {
                tracing::warn!(grace = %duration::short(shutdown.grace()), "shutdown grace exceeded; abandoned drain attempts, the next leader resumes from the records");
                return Ok(Some(leadership));
            }
        }
        leadership.release().await;
        return Ok(None);
    }
}

/// A cycle, an interceptor and a scaler for each plugin and namespace file, as long as this process is the leader.
struct LeaderTasks {
    context: CycleContext,
    interceptor_context: interception::InterceptorContext,
    scaler_context: ScalerContext,
    view: AdminView,
    running: BTreeMap<CycleKey, watch::Sender<ActivePlugin>>,
    tasks: TaskTracker,
    /// Ends what would not end.
    abort: CancellationToken,
}

// === impl LeaderTasks ===

impl LeaderTasks {
    /// Begins the tasks of the leader.
    fn begin(
        context: CycleContext,
        interceptor_context: interception::InterceptorContext,
        scaler_context: ScalerContext,
        view: AdminView,
    ) -> Self {
        tracing::info!("elected as leader");
        context.metrics.leader.set(1);
        view.set_leader(true);
        Self {
            context,
            interceptor_context,
            scaler_context,
            view,
            running: BTreeMap::new(),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Ends them. `limit`: how long what is in progress may take.
    async fn end(mut self, limit: Duration) {
        self.context.metrics.leader.set(0);
        self.view.set_leader(false);
        self.set(&[]);
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(limit = %duration::short(limit), "timed out reverting drain attempts; the new leader resumes from the records");
            self.abort.cancel();
            self.tasks.wait().await;
        }
        self.context.metrics.attempts_in_progress.set(0);
        self.context.members.forget_all();
    }

    /// Follows the running plugins; never returns.
    async fn follow(&mut self, mut served: watch::Receiver<Arc<[Served]>>) {
        loop {
            self.set(&served.borrow_and_update().clone());
            if served.changed().await.is_err() {
                // The plugin manager ends with the draining.
                return std::future::pending().await;
            }
        }
    }

    /// Starts, changes and ends cycles for `served`. A cycle's resource states outlive a change of its file.
    fn set(&mut self, served: &[Served]) {
        let key = |one: &Served| (one.instance.kind().to_owned(), one.namespace.clone());
        let wanted: BTreeMap<_, _> = served.iter().map(|one| (key(one), one)).collect();
        let view = &self.view;
        self.running.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                view.set_cycle(key.clone(), None);
            }
            stays
        });
        for (key, one) in wanted {
            let active = ActivePlugin { plugin: one.instance.clone(), settings: one.settings.clone() };
            match self.running.get(&key) {
                Some(now) => {
                    now.send_if_modified(|now| {
                        let differs = *now != active;
                        *now = active;
                        differs
                    });
                }
                None => {
                    let (set_active, active) = watch::channel(active);
                    let states = Arc::new(Mutex::new(ResourceStates::default()));
                    let (request_sleep, sleep_requests) = mpsc::channel(MAX_QUEUED_SLEEP_REQUESTS);
                    let (interceptions, context) = (InterceptionTable::default(), self.context.clone());
                    let scaling = ScalingTable::default();
                    let shown = CycleView {
                        states: states.clone(),
                        interceptions: interceptions.clone(),
                        scaling: scaling.clone(),
                        dlxs: context.dlxs.clone(),
                        request_sleep,
                        active: active.clone(),
                    };
                    self.view.set_cycle(key.clone(), Some(shown));
                    let interceptor = Interceptor::new(
                        active.clone(),
                        &key.1,
                        self.interceptor_context.clone(),
                        interceptions.clone(),
                    )
                    .run();
                    let scaler = ReplicaScaler::new(
                        active.clone(),
                        &key.1,
                        one.metric_sources.clone(),
                        self.scaler_context.clone(),
                        scaling.clone(),
                    )
                    .run();
                    let cycle =
                        Cycle::new(active, &key.1, context, states, interceptions, scaling, sleep_requests)
                            .run();
                    self.tasks.spawn(self.abort.clone().run_until_cancelled_owned(scaler));
                    self.tasks.spawn(self.abort.clone().run_until_cancelled_owned(interceptor));
                    self.tasks.spawn(self.abort.clone().run_until_cancelled_owned(cycle));
                    self.running.insert(key, set_active);
                }
            }
        }
    }
}
