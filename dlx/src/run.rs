//! The daemon's life: start, serve, drain, end.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::available_parallelism,
    time::Duration,
};

use anyhow::Context as _;
use daemon::{
    admin::Admin, coordination::Coordination, fleet::Fleet, listen::Handed, members::Registration,
    shutdown::Shutdown, telemetry::registry, token::Token,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scaler_types::{Role, protocol::Rules};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Flags, admin,
    answer::Refusal,
    dlx::Dlx,
    hold::{Limits, Rejected},
    route::Peers,
    serve::{Accepted, Workers, accept},
    shared::Shared,
    tcp, watch,
};

/// How long the start waits for the plugins' first lists. What a plugin that takes longer knows, is asked for when a
/// request comes for it.
const FIRST_LISTS: Duration = Duration::from_secs(10);
/// How long the last refusals may take on their way when the grace period is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the daemon until a signal ends it. `rules`: all of the protocol's; a test leaves one out.
///
/// To be called before the process has a second thread.
///
/// # Errors
///
/// It cannot start: a [`Misconfigured`](daemon::exit::Misconfigured), or a port, signal or file that cannot be had.
pub fn run(flags: Flags, rules: Rules) -> anyhow::Result<()> {
    let handed = Handed::take().context("taking over the listening sockets of LISTEN_FDS")?;
    // For wakes, probes, watches and the admin server; requests have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(serve(flags, rules, handed));
    // A file that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(flags: Flags, rules: Rules, handed: Handed) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals(flags.common.shutdown_grace).context("following signals")?;
    let token = flags.common.admin_token()?;
    let bind = |address| handed.bind(address).with_context(|| format!("listening on {address}"));
    let listener = bind(flags.listen_address)?;
    let admin_listener = bind(flags.admin_address)?;
    let coordination = Coordination::of(&flags.common).await?;
    // Before the first list: whoever fences after it asks this DLX too.
    let Some(registration) = register(&coordination, &admin_listener, &shutdown).await? else {
        return Ok(());
    };
    let sockets = Sockets { handed, listener, admin: admin_listener };
    let served = serve_as(registration.name(), &flags, rules, sockets, token, &shutdown).await;
    // A member until here: what was in flight is done, or ends with this process.
    registration.leave().await;
    served
}

/// What it listens on.
struct Sockets {
    handed: Handed,
    listener: TcpListener,
    admin: TcpListener,
}

async fn serve_as(
    member: &str,
    flags: &Flags,
    rules: Rules,
    sockets: Sockets,
    token: Option<Token>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let Sockets { handed, listener, admin: admin_listener } = sockets;
    let limits = Limits { requests: flags.max_held_requests, bytes: flags.max_held_bytes };
    let shared = Shared::new(rules, Handle::current(), limits);
    let mut dlx = Dlx::new(shared, member, shutdown.draining.clone());
    dlx.peers = Peers::new(flags.trusted_proxies.clone());
    dlx.default_namespace = flags.common.namespace.clone();
    dlx.name_header = flags.target_name_header.clone();
    dlx.path_header = flags.target_path_header.clone();
    dlx.places = Arc::new(Semaphore::new(room_for_connections()));
    let dlx = Arc::new(dlx);

    let fleet = Fleet::start(&flags.common, flags.settings(), Role::Dlx, shutdown.draining.clone()).await?;
    tokio::spawn(admin::admin(&dlx, &fleet, token).serve(admin_listener));
    tokio::spawn(watch::follow_fleet(dlx.clone(), fleet.served()));
    if timeout(FIRST_LISTS, dlx.listed()).await.is_err() {
        tracing::warn!("not every plugin has listed its resources; serving those that are known");
    }

    let cores = available_parallelism().map_or(1, Into::into);
    let workers = Workers::start(&dlx, cores).context("starting the threads that proxy")?;
    let address = listener.local_addr()?;
    tracing::info!(listen = %address, admin = %flags.admin_address, member = %dlx.member, threads = cores, "serving");
    tokio::spawn(tcp::follow(dlx.clone(), workers.clone(), handed, address.ip()));
    dlx.serving.store(true, Ordering::Relaxed);
    accept(listener, shutdown.draining.clone(), dlx.places.clone(), |stream, peer, place| {
        workers.hand(Accepted { stream, peer, identity: None, place });
    })
    .await
    .with_context(|| format!("accepting connections on {address}"))?;

    drain(&dlx, shutdown).await;
    fleet.stop().await;
    Ok(())
}

/// Registers as a member, with an admin server that says why that takes so long; `None`: the process is to end.
async fn register(
    coordination: &Coordination,
    admin: &TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Registration>> {
    let address = admin.local_addr()?;
    let waiting = Arc::new(Mutex::new("not registered as a member yet".to_owned()));
    let why = waiting.clone();
    // By files it takes no time.
    let server = matches!(coordination, Coordination::Leases(_)).then(|| {
        let admin = admin.try_clone()?;
        let preliminary = Admin::new(registry("dlx"), None)
            .closing()
            .ready_when(Arc::new(move || Err(why.lock().unwrap_or_else(PoisonError::into_inner).clone())));
        anyhow::Ok(AbortOnDropHandle::new(tokio::spawn(preliminary.serve(admin))))
    });
    let server = server.transpose()?;
    let registration = tokio::select! {
        () = shutdown.draining.cancelled() => return Ok(None),
        registration = coordination.register(address, |reason| {
            *waiting.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        }) => registration?,
    };
    // What comes from here on waits for the real one.
    if let Some(server) = server {
        server.abort();
        let _ = server.await;
    }
    Ok(Some(registration))
}

/// How many clients may be connected at once: half of the descriptors that this process may have, since each may need
/// another one to its resource. What a shell or a service manager gives at first (1,024) is raised to the most allowed.
fn room_for_connections() -> usize {
    let given = getrlimit(Resource::Nofile);
    // Failing, there is less room.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: given.maximum, ..given });
    let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most / 2).ok());
    most.unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// Serves what came until the first signal, and what still comes on connections that are open.
async fn drain(dlx: &Dlx, shutdown: &Shutdown) {
    tokio::select! {
        () = dlx.quiet() => {
            tracing::info!("every connection is done");
            return;
        }
        () = shutdown.grace_over() => {}
    }
    let busy = dlx.busy();
    tracing::warn!(requests = busy, "the grace period is over");
    for entry in dlx.registry.all() {
        let refusal = Refusal::draining(&entry.key.id);
        let _ = dlx.shared.refuse_held.set(refusal.clone());
        entry.refuse_held(refusal, Rejected::Draining);
    }
    if busy > 0 {
        // An error: not all went in time.
        let _ = timeout(LAST_WORDS, dlx.quiet()).await;
    }
}
