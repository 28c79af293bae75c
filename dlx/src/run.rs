//! The daemon: starts, serves, drains and ends.

use std::{
    future::pending,
    net::TcpListener,
    sync::{Arc, atomic::Ordering},
    thread::available_parallelism,
    time::Duration,
};

use anyhow::Context as _;
use daemon::{
    coordination::Coordinator, exit::Misconfigured, listen::InheritedSockets, members::Registration,
    plugin_manager::PluginManager, shutdown::Shutdown, token::Token,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scaler_types::{Role, duration, protocol::Rules};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    admin::{self, StartupStatus},
    answer::ErrorResponse,
    final_report,
    flags::DlxFlags,
    identify::TrustedProxies,
    listen::{ListenerKind, ServiceListeners, Workers},
    stages::{DlxConfig, Stages},
    state::{HoldLimits, Rejection},
};

/// How long the start waits for the plugins' first lists. A plugin that takes longer is asked again when a request names
/// a host that is unknown so far.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last error responses may take when the grace period is over.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Descriptors that are reserved for the admin port, the plugins and the log, where there are many more.
const RESERVED_DESCRIPTORS: usize = 128;
/// With fewer connections than this the DLX does not start.
const MIN_CONNECTIONS: usize = 64;

/// Runs the daemon until a signal ends it. `rules`: the protocol's rules; tests leave one out.
///
/// Call it before the process has a second thread.
///
/// # Errors
///
/// It cannot start: a [`Misconfigured`](daemon::exit::Misconfigured), or a port, signal or file is not available.
pub fn run(flags: DlxFlags, rules: Rules) -> anyhow::Result<()> {
    let handed = InheritedSockets::take().context("taking over the listening sockets of LISTEN_FDS")?;
    // For wakes, probes, watches and the admin server; requests have their own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(serve(flags, rules, handed));
    // A hanging file system must not delay the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(flags: DlxFlags, rules: Rules, handed: InheritedSockets) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals(flags.common.shutdown_grace).context("following signals")?;
    flags.common.follow_parent().context("following the parent process (--stop-with-parent)")?;
    let token = flags.common.admin_token()?;
    let bind = |address| handed.bind(address).with_context(|| format!("listening on {address}"));
    let listener = bind(flags.listen_address)?;
    let admin = bind(flags.admin_address)?;
    let max_connections =
        max_connections(&flags, [("--listen-address", &listener), ("--admin-address", &admin)])?;
    let coordination = tokio::select! {
        () = shutdown.draining.cancelled() => return Ok(()),
        coordination = Coordinator::from_flags(&flags.common, Role::Dlx) => coordination?,
    };
    let status = StartupStatus::begin(&flags, &admin, &coordination)?;
    let ready = tokio::select! {
        () = shutdown.draining.cancelled() => return Ok(()),
        ready = prepare(&flags, &listener, &admin, &handed, &coordination, &status) => ready?,
    };
    let (service, registration) = ready;
    status.end().await;
    let sockets = Sockets { handed, listener, admin, service, max_connections };
    let served = serve_as(registration.name(), &flags, rules, sockets, token, &shutdown).await;
    // Registered until here: requests in flight are done, or end with this process.
    registration.leave().await;
    served
}

/// The listening sockets.
struct Sockets {
    handed: InheritedSockets,
    listener: TcpListener,
    admin: TcpListener,
    service: Option<ServiceListeners>,
    /// How many clients may be connected at once.
    max_connections: usize,
}

/// The steps before the first request: this DLX binds its ports before it registers, and registers before its first list,
/// so that every drain attempt after that list asks it, too.
async fn prepare(
    flags: &DlxFlags,
    listener: &TcpListener,
    admin: &TcpListener,
    handed: &InheritedSockets,
    coordination: &Coordinator,
    status: &StartupStatus,
) -> anyhow::Result<(Option<ServiceListeners>, Registration)> {
    let ip = listener.local_addr()?.ip();
    let service = match flags.common.service_ports {
        Some(ports) => Some(ServiceListeners::bind(ports, ip, handed, |why| status.set_reason(why)).await),
        None => None,
    };
    status.set_reason("this DLX is not registered yet".to_owned());
    let (admin, listen) = (admin.local_addr()?, listener.local_addr()?);
    let registration = coordination.register(admin, listen, |why| status.set_reason(why)).await?;
    Ok((service, registration))
}

async fn serve_as(
    member: &str,
    flags: &DlxFlags,
    rules: Rules,
    sockets: Sockets,
    token: Option<Token>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let Sockets { handed, listener, admin: admin_listener, service, max_connections } = sockets;
    let settings = flags.settings();
    let dlx = Arc::new(Stages::new(DlxConfig {
        member: member.to_owned(),
        rules,
        held: HoldLimits { requests: flags.max_held_requests, bytes: flags.max_held_bytes },
        wakes: flags.common.max_concurrent_wakes,
        endpoint_propagation_delay: flags.common.endpoint_propagation_delay,
        service_ports: flags.common.service_ports,
        peers: TrustedProxies::new(flags.trusted_proxies.clone()),
        default_namespace: flags.common.namespace.clone(),
        headers: (settings.target_name_header.clone(), settings.target_path_header.clone()),
        max_connections,
        max_unread: flags.max_unread_bytes.try_into().unwrap_or(usize::MAX),
        timeouts: flags.timeouts(),
        relay: true,
        signalled: shutdown.draining.clone(),
    }));
    let grace = shutdown.grace();
    if flags.common.shutdown_grace_is_short() {
        tracing::warn!(
            shutdown_grace = %duration::short(grace), endpoint_propagation_delay = %duration::short(flags.common.endpoint_propagation_delay),
            "--shutdown-grace is too short: when this DLX stops it refuses connections before every node has removed it; set 1.5 times --endpoint-propagation-delay or more"
        );
    }
    let stopping = tokio::spawn({
        let dlx = dlx.clone();
        async move { dlx.stop(grace).await }
    });

    let start = PluginManager::start(&flags.common, settings, Role::Dlx, dlx.server.draining.clone());
    let plugin_manager = tokio::select! {
        // No request was served yet.
        () = shutdown.draining.cancelled() => return Ok(()),
        plugin_manager = start => plugin_manager?,
    };
    tokio::spawn(
        admin::admin(&dlx, &plugin_manager, token, flags.common.resource_metrics).serve(admin_listener),
    );
    tokio::spawn(dlx.plugins.clone().follow_fleet(plugin_manager.served()));
    if timeout(FIRST_LIST_TIMEOUT, dlx.plugins.listed()).await.is_err() {
        tracing::warn!("serving before every plugin has listed its resources");
    }

    let cores = available_parallelism().map_or(1, Into::into);
    let workers = Workers::start(&dlx.server, cores).context("starting the proxy threads")?;
    let address = listener.local_addr()?;
    if let Some(service) = service {
        service.serve(&dlx.server, &workers).context("accepting connections on the service ports")?;
    }
    workers
        .listen(listener, dlx.server.draining.clone(), ListenerKind::Shared)
        .with_context(|| format!("accepting connections on {address}"))?;
    tracing::info!(listen = %address, admin = %flags.admin_address, member = %dlx.member, threads = cores, "serving");
    tokio::spawn({
        let (ports, server, workers) = (dlx.ports.clone(), dlx.server.clone(), workers.clone());
        async move { ports.follow(server, workers, handed, address.ip()).await }
    });
    dlx.serving.store(true, Ordering::Relaxed);

    let signalled = stopping.await?;
    // Nothing is open before it was accepted.
    workers.wait_until_stopped().await;
    if drain(&dlx, signalled, grace).await {
        dlx.last_report
            .deliver(final_report::FINAL_REPORT_TIMEOUT.min(grace.saturating_sub(signalled.elapsed())))
            .await;
    }
    plugin_manager.stop().await;
    Ok(())
}

/// How many clients may be connected at once: half of the descriptors that this process may have, since each client may
/// need another one to its resource; less those of listeners, the admin port, the plugins and the log. The soft limit
/// (1,024 in most shells and service managers) is raised to the hard limit.
///
/// # Errors
///
/// A [`Misconfigured`]: the service ports leave too few descriptors, or one of them is another port of this process.
fn max_connections(flags: &DlxFlags, own: [(&str, &TcpListener); 2]) -> anyhow::Result<usize> {
    let descriptors = getrlimit(Resource::Nofile);
    // On failure there are fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors });
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(usize::MAX);
    let clients = limit - RESERVED_DESCRIPTORS.min(limit / 4);
    let Some(ports) = flags.common.service_ports else { return Ok(clients / 2) };
    let (first, last) = (ports.first, ports.last);
    for (flag, listener) in own {
        let port = listener.local_addr()?.port();
        if ports.contains(port) {
            let why =
                format!("--service-ports {first}-{last}: {port} is {flag}'s; choose a range without it");
            return Err(Misconfigured(why).into());
        }
    }
    // Each port has one more client, which was accepted and waits for its slot.
    let max_connections = clients.saturating_sub(2 * ports.all().count()) / 2;
    if max_connections < MIN_CONNECTIONS {
        let why = format!(
            "--service-ports {first}-{last}: this process may have {limit} descriptors, and each port takes two of them; \
             raise the limit (ulimit -n, LimitNOFILE=) or choose a smaller range"
        );
        return Err(Misconfigured(why).into());
    }
    Ok(max_connections)
}

/// Serves what is open until it has ended, or until `grace` after the first signal. Whether everything was served.
async fn drain(dlx: &Stages, signalled: Instant, grace: Duration) -> bool {
    let end = async {
        match signalled.checked_add(grace) {
            #[expect(clippy::disallowed_methods, reason = "the end of the grace is the event")]
            Some(end) => sleep_until(end).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = dlx.server.slots.wait_until_empty() => {
            tracing::info!("closed every connection");
            return true;
        }
        () = end => {}
    }
    let busy = dlx.busy();
    tracing::warn!(requests = busy, "grace period expired");
    for resource in dlx.resources.all() {
        let refusal = ErrorResponse::shutting_down(&resource.key.id);
        let _ = dlx.shared.refuse_held.set(refusal.clone());
        resource.refuse_held(refusal, Rejection::ShuttingDown);
    }
    if busy > 0 {
        // An error: not all were sent in time.
        let _ = timeout(FLUSH_TIMEOUT, dlx.server.slots.wait_until_empty()).await;
    }
    false
}
