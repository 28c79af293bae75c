//! One cycle without a terminal: for scripts, and to see that a machine can run it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{script, service};
use crate::{
    build::Built,
    http,
    scene::Scene,
    steps::pause,
    view::{View, views},
};

/// After how long without a request the service goes to sleep here.
const WINDOW: &str = "3s";

/// How long each step may take; together they stay under a minute.
const LIMIT: Duration = Duration::from_secs(20);

/// Prints what happens with the time since the start.
struct Clock(Instant);

impl Clock {
    fn say(&self, what: &str) {
        println!("{:7.2} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Runs the cycle.
///
/// # Errors
///
/// The first thing that does not happen, with the ends of the daemons' logs; their folder is kept.
pub async fn run(built: &Built) -> Result<()> {
    let clock = Clock(Instant::now());
    let hello = service(built, "hello", 9000, "300ms")?;
    let port = hello.port;
    let mut scene = Scene::start(built, &script(WINDOW, &[hello])).await?;
    clock.say("both daemons are ready");
    let done = cycle(&clock, &mut scene, port).await;
    if done.is_err() {
        eprintln!(
            "\nthe autoscaler's log ends with:\n{}\n\nthe DLX's log ends with:\n{}",
            scene.log_tail("autoscaler"),
            scene.log_tail("dlx")
        );
        eprintln!("\nall of it is in {}", scene.keep().display());
    }
    drop(scene);
    if done.is_ok() {
        clock.say("everything is stopped");
    }
    done
}

async fn cycle(clock: &Clock, scene: &mut Scene, port: u16) -> Result<()> {
    let entry = scene.addresses.entry;
    let view = until(scene, "asleep").await.context("before the first request")?;
    ensure!(!listens(port), "hello is said to be asleep, but something listens on port {port}");
    clock.say(&format!("hello is asleep ({}); no process listens on its port {port}", view.why));

    let asked = Instant::now();
    clock.say(&format!("GET http://hello.localhost:{}/", entry.port()));
    let answer = http::get(entry, "hello.localhost", "/", LIMIT)
        .await
        .context("the request that should wake hello")?;
    ensure!(answer.status == 200, "the request was answered {} {}", answer.status, answer.body);
    let timing = answer.header("server-timing").unwrap_or("none");
    clock.say(&format!(
        "200 after {:.0} ms: {:?} (Server-Timing: {timing})",
        asked.elapsed().as_secs_f64() * 1e3,
        answer.body.trim()
    ));

    let view = until(scene, "active").await.context("after the answer")?;
    clock.say(&format!("hello is active; requests {}, last cold start {}", view.requests, view.cold_start));
    let asked = Instant::now();
    let answer =
        http::get(entry, "hello.localhost", "/", LIMIT).await.context("a request while hello is awake")?;
    ensure!(answer.status == 200, "the second request was answered {} {}", answer.status, answer.body);
    clock.say(&format!("200 again, after {:.1} ms: hello is warm", asked.elapsed().as_secs_f64() * 1e3));

    let view = until(scene, "asleep").await.with_context(|| format!("after {WINDOW} without a request"))?;
    // It sleeps from the moment that is written; its process may take a little longer to end.
    let slept = Instant::now();
    while listens(port) {
        ensure!(slept.elapsed() < LIMIT, "hello is asleep again, but something listens on port {port}");
        pause(Duration::from_millis(10)).await;
    }
    clock.say(&format!("hello is asleep again ({}); its process is gone", view.why));
    Ok(())
}

/// Waits until hello is in this state.
async fn until(scene: &mut Scene, state: &str) -> Result<View> {
    let started = Instant::now();
    let mut last = None;
    loop {
        scene.alive()?;
        let hello = views(scene.addresses).await?.into_iter().find(|view| view.name == "hello");
        match hello {
            Some(view) if view.state == state => return Ok(view),
            other => last = other.or(last),
        }
        if started.elapsed() > LIMIT {
            match last {
                Some(view) => bail!(
                    "hello is not {state} after {LIMIT:?}: it is {} ({}), in flight {}, held {}",
                    view.state,
                    view.why,
                    view.in_flight,
                    view.held
                ),
                None => bail!("the DLX knows no resource hello after {LIMIT:?}"),
            }
        }
        pause(Duration::from_millis(50)).await;
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(1)).is_ok()
}
