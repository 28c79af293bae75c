//! Debian's PostgreSQL and Redis as pods, and their own clients. Devcluster only: they are programs of this machine.
//!
//! Their data lie outside of the pods, as on a volume: what was written before they slept is there when they wake.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Shop, Workload};

/// Where Debian has the versions of PostgreSQL.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Runs in the pod as root; the server itself refuses to. SIGTERM would have it wait for every client: images of it are ended by
/// SIGINT, which is a fast shutdown. It leaves the pod's process group, and dies with the pod's process all the same.
const SCRIPT: &str = r#"
set -e
cd /
as() { exec setpriv --reuid=postgres --regid=postgres --clear-groups --pdeathsig=KILL -- "$@"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    chown postgres:postgres "$PGDATA"
    (as "$BIN/initdb" --pgdata="$PGDATA" --username=postgres --auth=trust --no-sync --no-locale --encoding=UTF8)
    echo 'host all all all trust' >>"$PGDATA/pg_hba.conf"
fi
(as "$BIN/postgres" -D "$PGDATA" -p 5432 -c listen_addresses="$POD_IP" -c unix_socket_directories= -c fsync=off) &
trap 'kill -INT $!' TERM
wait $! || true
wait $!
"#;

/// A database that is a pod.
#[derive(Debug)]
pub struct Database {
    /// A Deployment, and a Service with one port: 5432 or 6379.
    pub workload: Workload,
    _data: TempDir,
}

/// The newest PostgreSQL of this machine.
///
/// # Errors
///
/// There is none, or it cannot be started as another user than root; the words say which.
pub fn postgres() -> Result<PathBuf, String> {
    let versions =
        fs::read_dir(POSTGRES).map_err(|_| "no PostgreSQL: apt-get install postgresql".to_owned())?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.flatten().map(|entry| entry.path()).max_by_key(number);
    let newest = newest.ok_or("no PostgreSQL: apt-get install postgresql")?.join("bin");
    // In a user's own namespace there is no other user.
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if users.split_whitespace().last().is_some_and(|count| count == "1")
        || !rustix::process::geteuid().is_root()
    {
        return Err("PostgreSQL is started as its own user, which only root can do".to_owned());
    }
    Ok(newest)
}

// === impl Database ===

impl Database {
    /// PostgreSQL that takes the user `postgres` without a password. Ready when it says so itself, by an exec probe.
    ///
    /// # Panics
    ///
    /// There is none to be had: see [`postgres`].
    pub fn postgres(shop: &Shop, name: &str) -> Self {
        let programs = postgres().unwrap_or_else(|why| panic!("{why}"));
        let data = folder();
        let ready = format!("exec {}/pg_isready --quiet --host=$POD_IP --port=5432", programs.display());
        let workload = Workload::new(shop, name)
            .program(json!({
                "command": ["/bin/sh", "-c", SCRIPT],
                "env": [
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "PGDATA", "value": data.path().join("data")},
                    {"name": "BIN", "value": programs},
                ],
                "ports": [{"name": "postgres", "containerPort": 5432}],
                "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", ready]}, "periodSeconds": 1},
            }))
            .ports(json!([{"name": "postgres", "port": 5432, "targetPort": "postgres"}]));
        fs::create_dir(data.path().join("data")).expect("creating the data's folder");
        Self { workload, _data: data }
    }

    /// Redis. Ready when it answers, by an exec probe: it accepts before it has read its data, and says so when asked.
    pub fn redis(shop: &Shop, name: &str) -> Self {
        let data = folder();
        let ready = "exec redis-cli -e -h $POD_IP -p 6379 ping";
        let workload = Workload::new(shop, name)
            .program(json!({
                "command": [
                    "redis-server", "--bind", "$(POD_IP)", "--port", "6379", "--protected-mode", "no",
                    "--save", "", "--appendonly", "yes", "--dir", data.path(),
                ],
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "ports": [{"name": "redis", "containerPort": 6379}],
                "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", ready]}, "periodSeconds": 1},
            }))
            .ports(json!([{"name": "redis", "port": 6379, "targetPort": "redis"}]));
        Self { workload, _data: data }
    }

    /// With other words on the workload, such as annotations.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Workload) -> Workload) -> Self {
        Self { workload: change(self.workload), ..self }
    }
}

/// Where a database's data are: readable by all, as its user needs. Not in the shop's folder, which only its user may read.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("creating a folder for the data");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
        .expect("opening the folder of the data");
    folder
}

/// What `psql` prints of a query, without headings.
///
/// # Errors
///
/// What it complained of.
pub async fn psql(address: SocketAddr, query: &str) -> Result<String, String> {
    let programs = postgres()?;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let arguments = ["--host", &host, "--port", &port, "--username=postgres", "--no-psqlrc", "-qAtc", query];
    run_client(&programs.join("psql"), &arguments).await
}

/// What `redis-cli` prints of a command's answer.
///
/// # Errors
///
/// What it complained of, an error that was answered included.
pub async fn redis(address: SocketAddr, command: &[&str]) -> Result<String, String> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let arguments: Vec<&str> =
        ["-e", "-h", &host, "-p", &port].into_iter().chain(command.iter().copied()).collect();
    run_client(Path::new("redis-cli"), &arguments).await
}

async fn run_client(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let failed = |error: io::Error| format!("starting {}: {error}", program.display());
    let output = Command::new(program).args(arguments).kill_on_drop(true).output().await.map_err(failed)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
