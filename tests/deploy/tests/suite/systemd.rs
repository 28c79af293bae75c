//! The systemd units: taken by systemd, and in accordance with the daemons' flags.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, process::Command};

use clap::{CommandFactory, Parser};
use daemon::listen::parse_address;
use deploy::root;

const UNITS: [&str; 3] = ["scaler-autoscaler.service", "scaler-dlx.service", "scaler-dlx.socket"];
/// Where the units expect the release.
const RELEASE: &str = "/opt/scaler";

fn unit(name: &str) -> String {
    let path = root().join("deploy/systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// Each value of a key.
fn values<'a>(unit: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

/// The daemon's command line.
fn command(name: &str) -> Vec<String> {
    let text = unit(name);
    let line = values(&text, "ExecStart").next().expect("ExecStart");
    line.split(' ').map(str::to_owned).collect()
}

/// Writes the units with the release in another folder.
fn write_units(folder: &Path, change: impl Fn(String) -> String) {
    for name in UNITS {
        let text = unit(name).replace(&format!("={RELEASE}"), &format!("={}", folder.display()));
        fs::write(folder.join(name), change(text)).expect("writing a unit");
    }
}

/// What systemd says against the units; it says so with status 0, too.
fn verify(folder: &Path) -> String {
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args(UNITS.map(|name| folder.join(name)));
    let output = verify.output().expect("starting systemd-analyze: `apt-get install systemd`");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn systemd_says_nothing_against_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    for daemon in ["autoscaler", "dlx"] {
        // It has to be there; it is not started.
        fs::copy("/bin/true", bin.join(daemon)).expect("copying a program");
    }
    write_units(folder.path(), |text| text);
    assert_eq!(verify(folder.path()), "");
    write_units(folder.path(), |text| text.replace("KillMode=process", "KilMode=process"));
    assert!(verify(folder.path()).contains("KilMode"), "an unknown key is reported");
}

#[test]
fn the_daemons_take_the_units_flags_and_share_folders() {
    let autoscaler = autoscaler::AutoscalerFlags::try_parse_from(command("scaler-autoscaler.service"));
    let dlx = dlx::DlxFlags::try_parse_from(command("scaler-dlx.service"));
    let (autoscaler, dlx) = (autoscaler.expect("flags").common, dlx.expect("flags").common);
    assert_eq!(autoscaler.state_dir, dlx.state_dir);
    assert_eq!(autoscaler.plugins_dir, dlx.plugins_dir);
    assert_eq!(autoscaler.config, dlx.config);
    assert!(autoscaler.plugins_dir.starts_with(RELEASE));
    for (name, flags) in [("scaler-autoscaler.service", &autoscaler), ("scaler-dlx.service", &dlx)] {
        let text = unit(name);
        let state = values(&text, "StateDirectory").next().expect("StateDirectory");
        assert_eq!(Path::new("/var/lib").join(state), flags.state_dir, "{name}");
        let stop: u64 =
            values(&text, "TimeoutStopSec").next().expect("TimeoutStopSec").parse().expect("seconds");
        // The daemon gives up by itself 15 s after its grace period.
        assert!(stop > flags.shutdown_grace.as_secs() + 15, "{name}: {stop}");
        assert_eq!(
            values(&text, "KillMode").next(),
            Some("process"),
            "{name}: the processes outlive the daemon"
        );
    }
}

/// A socket that the daemon does not recognise as its own is never accepted from, and it fails to bind the same address.
#[test]
fn the_socket_unit_has_the_address_that_the_dlx_listens_on() {
    let socket = unit("scaler-dlx.socket");
    let handed: BTreeSet<SocketAddr> =
        values(&socket, "ListenStream").map(|address| parse_address(address).expect("an address")).collect();
    let flags = dlx::DlxFlags::command().get_matches_from(command("scaler-dlx.service"));
    // Not the admin port: the autoscaler's polls would start a DLX that a person stopped.
    assert_eq!(handed, BTreeSet::from([*flags.get_one::<SocketAddr>("listen_address").expect("an address")]));
}
