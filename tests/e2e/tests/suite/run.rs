//! `autoscaler run`: both daemons in the foreground.

use std::{
    fs::{self, File},
    io::Read as _,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use e2e::{
    Namespace, Service, Site, binaries,
    load::{get, once},
    processes, until,
};
use rustix::process::Signal;

/// A running `autoscaler run`. Killed when dropped.
struct Run {
    child: Child,
    folder: PathBuf,
}

// === impl Run ===

impl Run {
    /// On the site's file `demo.yaml`. Its current folder, and what is its home, are empty.
    fn start(site: &Site) -> Self {
        let folder = site.folder().join(format!("run-{}", site.count()));
        fs::create_dir(&folder).unwrap();
        let create = |name: &str| File::create(folder.with_extension(name)).unwrap();
        let mut command = command(site, &binaries::folder().join("autoscaler"));
        command.current_dir(&folder).stdout(create("out")).stderr(create("log"));
        Self { child: command.spawn().expect("starting the autoscaler"), folder }
    }

    fn output(&self) -> String {
        read(&self.folder.with_extension("out"))
    }

    fn log(&self) -> String {
        read(&self.folder.with_extension("log"))
    }

    /// Waits until it prints how to stop it.
    async fn ready(mut self) -> Self {
        until("the addresses to be printed", || {
            let ended = self.child.try_wait().unwrap();
            let (output, log) = (self.output(), self.log());
            async move {
                assert_eq!(ended, None, "{output}{log}");
                if output.contains("Ctrl-C") { Ok(()) } else { Err(log) }
            }
        })
        .await;
        self
    }

    /// An address that it printed.
    fn address(&self, name: &str) -> SocketAddr {
        let output = self.output();
        let line = output.lines().find(|line| line.trim_start().starts_with(name)).expect(&output);
        let (_, address) = line.split_once("http://").expect(line);
        address.split(' ').next().unwrap().parse().expect(line)
    }

    fn signal(&self, signal: Signal) {
        processes::signal(self.child.id() as i32, signal);
    }

    async fn ended(&mut self) -> ExitStatus {
        until("the command to end", || {
            let ended = self.child.try_wait().unwrap();
            async move { ended.ok_or_else(|| "it runs".to_owned()) }
        })
        .await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- output\n{}---- log\n{}", self.output(), self.log());
        }
    }
}

fn read(path: &Path) -> String {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

fn command(site: &Site, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg(site.folder().join("config/demo.yaml"))
        .arg("--plugins-dir")
        .arg(site.folder().join("plugins"))
        .env(processes::SITE, site.folder())
        .env(processes::OWNER, std::process::id().to_string())
        .env("HOME", site.folder().join("home"))
        .env_remove("XDG_STATE_HOME")
        .env_remove("LISTEN_FDS")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// The processes of the site whose program has this name.
fn running(site: &Site, program: &str) -> Vec<i32> {
    let is_it = |process: &processes::Process| {
        let first = process.command.split(' ').next().unwrap_or_default();
        Path::new(first).file_name().is_some_and(|name| name == program) && !process.command.contains(" run ")
    };
    site.processes().into_iter().filter(is_it).map(|process| process.pid).collect()
}

fn configured(name: &str) -> Site {
    let site = Site::new(name);
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("1h").with(&service));
    site
}

async fn ask(run: &Run) -> u16 {
    once(run.address("requests"), &get("hello.localhost", "/", "1")).await.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_runs_both_daemons_and_stops_all_it_started() {
    let site = configured("run-");
    // The folder has other plugins, too.
    fs::write(site.folder().join("plugins/broken.so"), "no library").unwrap();
    site.install(&binaries::folder().join("libdeployment.so"), "deployment.so");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut run = Run::start(&site).ready().await;
        let output = run.output();
        let port = run.address("requests").port();
        assert!(output.contains(&format!("demo/hello  curl http://hello.localhost:{port}/\n")), "{output}");
        let state = site.folder().join("home/.local/state/scaler/demo-");
        assert!(output.contains(&state.display().to_string()), "{output}");
        for name in ["requests", "admin port of the DLX", "admin port of the autoscaler"] {
            assert!(run.address(name).ip().is_loopback(), "{output}");
        }
        assert_eq!(ask(&run).await, 200);
        assert_eq!(running(&site, "service").len(), 1);
        let log = run.log();
        run.signal(signal);
        assert_eq!(run.ended().await.code(), Some(0), "{signal:?}");
        assert!(run.output().ends_with("scaled to zero: demo/hello\n"), "{}", run.output());
        site.nothing_runs().await;
        assert_eq!(fs::read_dir(&run.folder).unwrap().count(), 0, "it left files in the current folder");
        for daemon in ["dlx        | ", "autoscaler | "] {
            assert!(log.lines().any(|line| line.starts_with(daemon)), "{log}");
        }
        for word in [" WARN", " ERROR", "broken.so", "deployment.so"] {
            assert!(!log.contains(word), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_one_daemon_ends_by_itself_the_other_is_stopped_too() {
    let site = configured("run-ended-");
    for program in ["dlx", "autoscaler"] {
        let mut run = Run::start(&site).ready().await;
        assert_eq!(ask(&run).await, 200);
        let [pid] = running(&site, program)[..] else { panic!("{:?}", site.processes()) };
        processes::signal(pid, Signal::KILL);
        assert_eq!(run.ended().await.code(), Some(1));
        let log = run.log();
        assert!(log.contains(&format!("error: {program} ended by itself (signal: 9 (SIGKILL))")), "{log}");
        site.nothing_runs().await;
    }
}

/// Nothing can stop the services then: the next run has them again.
#[tokio::test(flavor = "multi_thread")]
async fn if_the_command_is_killed_both_daemons_stop() {
    let site = configured("run-killed-");
    let mut run = Run::start(&site).ready().await;
    assert_eq!(ask(&run).await, 200);
    run.signal(Signal::KILL);
    assert_eq!(run.ended().await.signal(), Some(9));
    until("both daemons to end", || async {
        let left = [running(&site, "dlx"), running(&site, "autoscaler")].concat();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let service = running(&site, "service");
    assert_eq!(service.len(), 1);
    let mut next = Run::start(&site).ready().await;
    assert_eq!(ask(&next).await, 200);
    assert_eq!(running(&site, "service"), service, "the same process");
    next.signal(Signal::INT);
    assert_eq!(next.ended().await.code(), Some(0));
    site.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_with_what_to_do() {
    let site = configured("run-refused-");
    let refuse = |program: PathBuf| {
        let mut command = command(&site, &program);
        command.current_dir(site.folder()).env("PATH", "/nowhere");
        async move {
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        }
    };
    let program = || binaries::folder().join("autoscaler");
    let mut first = Run::start(&site).ready().await;
    let (status, error) = refuse(program()).await;
    assert!(status == Some(1) && error.contains("another autoscaler run has the state folder"), "{error}");
    first.signal(Signal::TERM);
    first.ended().await;

    let alone = site.folder().join("autoscaler");
    fs::hard_link(program(), &alone).or_else(|_| fs::copy(program(), &alone).map(drop)).unwrap();
    let (status, error) = refuse(alone).await;
    let beside = site.folder().join("dlx").display().to_string();
    assert!(
        status == Some(78) && error.contains(&format!("the program dlx is neither at {beside}")),
        "{error}"
    );

    for (text, expected) in [
        ("namespace: demo\nsurprise: 1\n", "demo.yaml:2:1: unknown key \"surprise\""),
        ("namespace: demo\n", "configure no plugin that"),
        ("namespace: demo\nplugins:\n  docker: {}\n", "no plugin in "),
    ] {
        site.configure_raw("demo.yaml", text.as_bytes());
        let (status, error) = refuse(program()).await;
        assert!(status == Some(78) && error.contains(expected), "{error}");
    }
    site.nothing_runs().await;
}

/// The folders of a release: `bin` and `plugins`.
#[tokio::test]
async fn the_plugins_beside_the_programs_folder_are_found() {
    let site = configured("run-release-");
    let program = site.folder().join("bin/autoscaler");
    let elsewhere = site.folder().join("elsewhere");
    fs::create_dir(site.folder().join("bin")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let built = binaries::folder().join("autoscaler");
    fs::hard_link(&built, &program).or_else(|_| fs::copy(&built, &program).map(drop)).unwrap();
    let mut plugins = Command::new(program);
    plugins.arg("plugins").current_dir(elsewhere);
    let output = tokio::task::spawn_blocking(move || plugins.output()).await.unwrap().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("process"), "{out}{error}");
}
