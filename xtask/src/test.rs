//! All tests, in the order in which they fail fastest.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{Built, build, build_all},
    check, earlier, images, install,
    lint::{self, lint},
    manifests,
    steps::{Steps, is_watched, line, run, show_progress},
    workspace::{Package, Profile, cargo, packages},
};

/// The package whose tests start everything. All of it is built as one: single packages want other features of their
/// dependencies, which would be built again.
pub const END_TO_END: &str = "e2e";

/// What the tests of each package start that Debian packages: the package, the program, the Debian package. `ip` and
/// `unshare` give a test a network namespace of its own.
const PROGRAMS: [(&[&str], &str, &str); 14] = [
    (&["devcluster", "e2e"], "ip", "iproute2"),
    (&["devcluster", "e2e"], "unshare", "util-linux"),
    (&["devcluster", "deploy", "e2e"], "kubectl", "kubernetes-client"),
    (&["autoscaler", "e2e"], "prometheus", "prometheus"),
    (&["deploy"], "promtool", "prometheus"),
    (&["deploy"], "systemd-analyze", "systemd"),
    (&["dlx", "e2e"], "postgres", "postgresql"),
    (&["dlx", "e2e", "metric-source-queues"], "openssl", "openssl"),
    (&["dlx"], "curl", "curl"),
    (&["dlx"], "nginx", "nginx-light"),
    (&["dlx"], "haproxy", "haproxy"),
    (&["e2e", "metric-source-queues"], "redis-server", "redis-server"),
    (&["e2e", "metric-source-queues"], "beanstalkd", "beanstalkd"),
    (&["e2e"], "redis-cli", "redis-tools"),
];

/// Runs everything CI runs, what fails early first: formatting, dependencies, module cycles, names, clippy, then the tests
///
/// The end-to-end tests start the real daemons with the real plugins and make 50 cycles to zero and back of each sort
/// (`cargo xtask soak`: 1,000). cargo-nextest and cargo-deny are installed into target/tools if the machine has none. Ends
/// with what each step took and a line `N passed, N failed`; exits 1 if anything failed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                  what CI runs
  cargo xtask test dlx              formatting, clippy and tests of one package
  cargo xtask test dlx hold::       and of its tests only those whose name contains `hold::`")]
pub struct Test {
    /// Only this package: its formatting, clippy and tests. The end-to-end tests (e2e) need everything built
    package: Option<String>,
    /// Of its tests only those with this in their names
    #[arg(requires = "package")]
    filter: Option<String>,
}

/// The runner whose summaries are counted. With `--no-capture` nextest shows those of libtest, too, as each test says them.
#[derive(Clone, Copy, Debug)]
enum Runner {
    Nextest,
    Libtest,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: u64,
    /// Failed, timed out or ended by a signal.
    pub failed: u64,
}

impl Test {
    /// Runs the steps.
    ///
    /// # Errors
    ///
    /// The first step before the tests that fails; or that tests failed, once all have run.
    pub fn run(&self) -> Result<()> {
        let (steps, count) = match &self.package {
            Some(name) => {
                let package = find_package(name)?;
                let filter = self.filter.as_deref();
                if package.name == END_TO_END {
                    test_end_to_end(filter)?
                } else {
                    test_package(&package, filter)?
                }
            }
            None => test_all()?,
        };
        steps.summary();
        count.report()
    }
}

fn test_all() -> Result<(Steps, Count)> {
    let mut steps = Steps::new(lint::STEPS + 8);
    lint(&mut steps)?;
    steps.step("cargo clippy", || clippy(&["--workspace"]))?;
    let built = steps.step("building the workspace, installing the plugins", || build_all(Profile::Debug))?;
    steps.step("the example files are taken", || check::examples(&built))?;
    steps.step("the images' file trees start", || images::check::check(&built))?;
    steps.step("the manifests are what the chart renders", manifests::check)?;
    let earlier = steps.step("building the version that is upgraded from", earlier::build)?;
    let environment: Vec<_> =
        earlier.iter().map(|folder| (earlier::ENVIRONMENT, folder.as_os_str())).collect();
    let count = steps.step("tests", || tests(None, Some(&built), &[], &environment))?;
    let doctests = steps.step("doctests", || doctests("--workspace"))?;
    Ok((steps, count + doctests))
}

fn test_package(package: &Package, filter: Option<&str>) -> Result<(Steps, Count)> {
    let name = package.name.as_str();
    let selection = format!("--package={name}");
    let has_doctests = filter.is_none() && package.targets.iter().any(|target| target["doctest"] == true);
    let (uses_helm, starts_daemons) = (name == "deploy", name == env!("CARGO_PKG_NAME"));
    let mut steps =
        Steps::new(4 + [has_doctests, uses_helm, starts_daemons].map(usize::from).iter().sum::<usize>());
    check_package(&mut steps, &selection)?;
    if uses_helm {
        steps.step("helm", install::helm)?;
    }
    let built =
        starts_daemons.then(|| steps.step("building the daemons", || build(Profile::Debug))).transpose()?;
    steps.step("building the tests", || {
        let mut build = cargo();
        run(show_progress(build.arg("test")).args(["--no-run", &selection]))
    })?;
    let arguments: Vec<&str> = filter.into_iter().collect();
    let count = steps.step("tests", || tests(Some(name), built.as_ref(), &arguments, &[]))?;
    let doctests = has_doctests.then(|| steps.step("doctests", || doctests(&selection))).transpose()?;
    Ok((steps, count + doctests.unwrap_or_default()))
}

fn test_end_to_end(filter: Option<&str>) -> Result<(Steps, Count)> {
    let upgrades = filter.is_none_or(|filter| filter.contains("upgrade"));
    let mut steps = Steps::new(4 + usize::from(upgrades));
    check_package(&mut steps, "--package=e2e")?;
    let built = steps.step("building the workspace, installing the plugins", || build_all(Profile::Debug))?;
    let earlier = if upgrades {
        steps.step("building the version that is upgraded from", earlier::build)?
    } else {
        println!("    upgrade tests are skipped: `cargo xtask test e2e upgrade` runs them");
        None
    };
    let environment: Vec<_> =
        earlier.iter().map(|folder| (earlier::ENVIRONMENT, folder.as_os_str())).collect();
    let arguments: Vec<&str> = filter.into_iter().collect();
    let count = steps.step("tests", || tests(Some(END_TO_END), Some(&built), &arguments, &environment))?;
    Ok((steps, count))
}

fn check_package(steps: &mut Steps, selection: &str) -> Result<()> {
    steps.step("cargo fmt --check", || run(cargo().args(["fmt", "--check", selection])))?;
    steps.step("cargo clippy", || clippy(&[selection]))
}

/// The member of the workspace with that name or in that folder: `plugins/process`, `process`.
fn find_package(name: &str) -> Result<Package> {
    let packages = packages()?;
    let names = packages.iter().map(|package| package.name.clone()).collect::<Vec<_>>().join(", ");
    let is_it = |package: &Package| package.name == name || package.folder.ends_with(name);
    packages
        .into_iter()
        .find(is_it)
        .with_context(|| format!("no package is called {name}; there are {names}"))
}

fn clippy(packages: &[&str]) -> Result<()> {
    let mut command = cargo();
    show_progress(command.arg("clippy")).arg("--all-targets").args(packages);
    run(command.args(["--", "--deny", "warnings"]))
}

fn doctests(packages: &str) -> Result<Count> {
    tally(Runner::Libtest, cargo().args(["test", "--doc", "--no-fail-fast", packages]))
}

/// Runs the tests of one package, or all, with cargo-nextest, or with `cargo test` where it cannot be had. `built`: what
/// the end-to-end tests start.
///
/// # Errors
///
/// The tests cannot be built or run at all; failed tests are counted, not an error.
pub fn tests(
    package: Option<&str>,
    built: Option<&Built>,
    arguments: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Count> {
    for (packages, program, debian) in PROGRAMS {
        if package.is_none_or(|package| packages.contains(&package)) {
            install::apt(program, debian)?;
        }
    }
    let mut command = cargo();
    let runner = if install::nextest() {
        command.args(["nextest", "run", "--no-fail-fast"]);
        install::with_tools(&mut command);
        match package {
            Some(END_TO_END) => command.args(["--workspace", "-E", "package(e2e)"]),
            Some(package) => command.args(["--package", package]),
            None => command.arg("--workspace"),
        };
        Runner::Nextest
    } else {
        println!("    cargo-nextest cannot be had: cargo test, one test at a time");
        command.args(["test", "--tests", "--no-fail-fast"]).env("RUST_TEST_THREADS", "1");
        match package {
            Some(package) => command.args(["--package", package]),
            None => command.arg("--workspace"),
        };
        Runner::Libtest
    };
    command.args(arguments).envs(environment.iter().copied());
    if let Some(built) = built {
        command.env("SCALER_E2E_BIN", &built.programs);
    }
    tally(runner, &mut command)
}

/// Runs a test command, shows what it prints and counts from its summary lines.
fn tally(runner: Runner, command: &mut Command) -> Result<Count> {
    let what = line(command);
    if is_watched() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    // Both streams into one pipe, so that they are read in the order they were written.
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(Stdio::from(writer))
        .spawn()
        .with_context(|| format!("starting `{what}`"))?;
    // The command holds the pipe's other end, too.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut count = Count::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(more) = Count::parse(runner, &plain(&line)) {
            count = count + more;
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        bail!("`{what}` ended with {status}");
    }
    Ok(count)
}

/// A line without its colours.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

// === impl Count ===

impl Count {
    /// Reads nextest's `Summary [..] 3 tests run: 2 passed, 1 failed, ..` and libtest's `test result: ok. 3 passed; ..`.
    fn parse(runner: Runner, line: &str) -> Option<Self> {
        let counts = match runner {
            Runner::Nextest => line.trim_start().strip_prefix("Summary [")?.split_once("run:")?.1,
            Runner::Libtest => line.strip_prefix("test result:")?,
        };
        let mut count = Self::default();
        for part in counts.split([',', ';', '.', '(']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => count.passed += number,
                "failed" | "timed" | "exec" => count.failed += number,
                _ => {}
            }
        }
        Some(count)
    }

    /// The closing line, and the verdict.
    ///
    /// # Errors
    ///
    /// Something failed, or nothing ran at all.
    pub fn report(self) -> Result<()> {
        println!("\n{} passed, {} failed", self.passed, self.failed);
        match self {
            Self { failed: 0, passed: 1.. } => Ok(()),
            Self { failed: 0, .. } => bail!("no test ran"),
            Self { failed, .. } => bail!("{failed} tests failed"),
        }
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summaries_of_both_runners() {
        let nextest = plain(
            "\x1b[32;1m     Summary\x1b[0m [   0.012s] \x1b[1m5\x1b[0m tests run: 3 passed (1 slow), 1 failed, 1 timed out, 2 skipped",
        );
        assert_eq!(Count::parse(Runner::Nextest, &nextest), Some(Count { passed: 3, failed: 2 }));
        let libtest = "test result: FAILED. 4 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(Count::parse(Runner::Libtest, libtest), Some(Count { passed: 4, failed: 1 }));
        assert_eq!(Count::parse(Runner::Nextest, libtest), None, "what a test says itself");
        for runner in [Runner::Nextest, Runner::Libtest] {
            assert_eq!(Count::parse(runner, "running 3 tests"), None);
        }
    }
}
