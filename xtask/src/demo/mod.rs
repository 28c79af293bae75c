//! The whole product on this machine, to look at.

mod once;
mod table;
mod workers;

use std::{
    io::{self, Write as _},
    pin::pin,
    time::Duration,
};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    build::{Built, build},
    http,
    scene::{Addresses, Scene, Script, Service, free_port, process_section},
    steps::{Steps, pause},
    view::{View, views},
    workspace::Profile,
};

/// Starts both daemons, three small HTTP services and the workers of a queue, and shows them fall asleep and wake up
///
/// Builds what it needs, then shows a table that updates in place: each resource with its state and why, the requests
/// so far, those held, and what its last cold start took. Ask a service with the curl line it prints and
/// see it wake; leave it alone and see it go to sleep. The demo itself requests one of them, `visited`, now and then, and
/// puts messages into the queue of `mailer`, which then has 5 workers until the messages are done.
/// Ctrl-C or closing the terminal stops everything the demo started. When the output is no terminal, a line is printed for each change.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo                  until Ctrl-C
  cargo xtask demo --once           one cycle, for scripts")]
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
    let port_text = port.to_string();
    let flags = ["--name", name, "--port", &port_text, "--start-delay", start_delay];
    let command = std::iter::once(program).chain(flags.map(str::to_owned)).collect();
    Ok(Service { name, command, port })
}

fn script(window: &str, services: &[Service]) -> Script {
    let namespace_file = format!(
        "namespace: demo\nscaleInterval: 1s\nmetrics:\n  source: dlx\ndefaults:\n  scaleResources: [{{metricName: requests, windowSize: {window}, threshold: 0}}]\n{}",
        process_section(services, None)
    );
    Script { namespace_file, dlx: Some(Vec::new()), autoscaler: true }
}

/// Ctrl-C, a request to end, or the terminal was closed.
fn stop_requested() -> Result<impl Future<Output = ()>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            _ = hung_up.recv() => {}
        }
    })
}

async fn show(built: &Built) -> Result<()> {
    let mut stop = pin!(stop_requested()?);
    let services = [
        service(built, "hello", 9000, "0ms")?,
        service(built, "slow", 9100, "2s")?,
        service(built, "visited", 9200, "300ms")?,
    ];
    let mut script = script(WINDOW, &services);
    script.namespace_file += &workers::section(built);
    let mut scene = tokio::select! {
        scene = Scene::start(built, &script) => scene?,
        () = &mut stop => return Ok(()),
    };
    let queue = workers::Queue::create(&scene)?;
    println!("{}", introduction(&scene));

    let mut table = table::Table::new();
    let addresses = scene.addresses;
    let visits = async {
        loop {
            let _ = http::get(addresses.entry, "visited.localhost", "/", Duration::from_secs(60)).await;
            pause(VISIT).await;
        }
    };
    let frames = async {
        loop {
            scene.alive()?;
            let seen: Vec<View> = views(addresses).await?;
            // A closed terminal, or a reader of the output that has ended.
            if table.show(&seen).is_err() {
                return Ok(());
            }
            pause(FRAME).await;
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = frames => ended,
        () = visits => Ok(()),
        ended = queue.fill() => ended,
        () = &mut stop => Ok(()),
    };
    // The terminal may be gone.
    let _ = writeln!(io::stdout(), "\n  stopping the daemons and the services");
    drop(scene);
    ended
}

/// Where everything is, and what to try.
fn introduction(scene: &Scene) -> String {
    let Addresses { entry, dlx, autoscaler } = scene.addresses;
    let (port, logs) = (entry.port(), scene.folder().display());
    let (visit, fill, messages) = (VISIT.as_secs(), workers::FILL.as_secs(), workers::MESSAGES);
    format!(
        "
  autoscaler   admin port http://{autoscaler}
  dlx          requests http://{entry}, admin port http://{dlx}
  logs         {logs}

  A service that gets no request for {WINDOW} is scaled to zero: its process ends. The
  next request starts it again and is answered. Try it in another terminal:

    curl http://hello.localhost:{port}/
    curl http://slow.localhost:{port}/       (starts in 2 s)

  If your curl does not know *.localhost:
    curl -H 'Host: hello.localhost' http://{entry}/

  The demo itself requests `visited` every {visit} s, and puts {messages} messages into
  the queue of `mailer` every {fill} s: its workers are scaled from 0 to 5, and back
  to 0. Ctrl-C stops everything.
"
    )
}
