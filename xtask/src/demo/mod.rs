//! The whole product on this machine, to look at.

mod once;
mod table;

use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    build::{Built, build},
    http,
    scene::{Scene, Script, Service, free_port, process_section},
    steps::{Steps, pause},
    view::{View, views},
    workspace::Profile,
};

/// Starts both daemons and three small HTTP services, and shows them fall asleep and wake up
///
/// Builds what it needs, then shows a table that updates in place: each resource with its state and why, the requests
/// so far, those in flight and held, and what its last cold start took. Ask a service with the curl line it prints and
/// see it wake; leave it alone and see it go to sleep. One of them, `visited`, the demo asks itself now and then.
/// Ctrl-C stops everything the demo started. When the output is no terminal, a line is printed for each change.
#[derive(clap::Args)]
pub struct Demo {
    /// One cycle and its times, no terminal needed: asleep, woken by a request, idle, asleep again. Exits 0, or 1 saying what failed
    #[arg(long)]
    once: bool,
}

/// After how long without a request a service of the demo goes to sleep: long enough to see it awake.
const WINDOW: &str = "8s";

/// How often the demo asks `visited`: it sleeps in between.
const VISIT: Duration = Duration::from_secs(20);

/// The table's frames.
const FRAME: Duration = Duration::from_millis(250);

impl Demo {
    /// Builds and shows.
    ///
    /// # Errors
    ///
    /// The build's, and whatever does not come up or, with `--once`, does not happen in time.
    pub fn run(&self) -> Result<()> {
        let built = Steps::new(1)
            .step("building the daemons, the plugins and the example service", || build(Profile::Debug))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if self.once { runtime.block_on(once::run(&built)) } else { runtime.block_on(show(&built)) }
    }
}

/// The example service under a name of its own.
fn service(built: &Built, name: &'static str, from_port: u16, start_delay: &str) -> Result<Service> {
    let port = free_port(from_port)?;
    let program = built.program("hello").to_string_lossy().into_owned();
    let command =
        vec![program, "--port".into(), port.to_string(), "--start-delay".into(), start_delay.into()];
    Ok(Service { name, command, port })
}

fn script(window: &str, services: &[Service]) -> Script {
    let namespace_file = format!(
        "namespace: demo\nscaleInterval: 1s\nmetrics:\n  source: dlx\ndefaults:\n  scaleResources: [{{metricName: requests, windowSize: {window}, threshold: 0}}]\n{}",
        process_section(services)
    );
    Script { namespace_file, dlx: Some(Vec::new()), autoscaler: true }
}

async fn show(built: &Built) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let services = [
        service(built, "hello", 9000, "0ms")?,
        service(built, "slow", 9100, "2s")?,
        service(built, "visited", 9200, "300ms")?,
    ];
    let script = script(WINDOW, &services);
    let mut scene = tokio::select! {
        scene = Scene::start(built, &script) => scene?,
        _ = interrupted.recv() => return Ok(()),
        _ = terminated.recv() => return Ok(()),
    };
    let entry = scene.addresses.entry;
    println!();
    println!(
        "  Two daemons: autoscaler (admin http://{}) and dlx (requests http://{entry}, admin http://{}).",
        scene.addresses.autoscaler, scene.addresses.dlx
    );
    println!("  Idle for {WINDOW}, a service goes to sleep: its process is gone. Ask it, and it comes back:");
    println!();
    println!("    curl http://hello.localhost:{}/", entry.port());
    println!("    curl http://slow.localhost:{}/        (takes 2 s to start)", entry.port());
    println!();
    println!("  (a curl that does not know *.localhost: curl -H 'Host: hello.localhost' http://{entry}/)");
    println!(
        "  `visited` is asked by this demo every {} s. Logs: {}",
        VISIT.as_secs(),
        scene.folder().display()
    );
    println!("  Ctrl-C stops everything.");
    println!();

    let mut table = table::Table::new();
    let visits = async {
        loop {
            let _ = http::get(entry, "visited.localhost", "/", Duration::from_secs(60)).await;
            pause(VISIT).await;
        }
    };
    let addresses = scene.addresses;
    let frames = async {
        loop {
            scene.alive()?;
            let seen: Vec<View> = views(addresses).await?;
            table.show(&seen)?;
            pause(FRAME).await;
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = frames => ended,
        () = visits => Ok(()),
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    };
    println!("\n  stopping the daemons and the services");
    drop(scene);
    ended
}
