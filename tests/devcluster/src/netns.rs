//! A network namespace for each test: all addresses of pods and Services are its own, and no other process's ports are in its way.
//!
//! ```no_run
//! #[test]
//! fn pods_have_addresses_of_their_own() {
//!     devcluster::netns::run(async {
//!         tokio::net::TcpListener::bind("10.244.3.4:80").await.unwrap();
//!     });
//! }
//! ```
//!
//! The test is started once more, as a process of its own in new namespaces (network and mount; as another user than root
//! also a user namespace, where the kernel allows it). That process dies with the one that started it.

use std::{
    env,
    ffi::OsString,
    fs,
    future::Future,
    io::Write as _,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// The addresses that pods get: all of them are local in a test's namespace.
pub const POD_NETWORK: &str = "10.244.0.0/16";
/// The addresses by which Services are reached, for each node of a [`crate::proxy::ServiceProxy`] a sixteenth.
pub const SERVICE_NETWORK: &str = "10.96.0.0/12";
/// Those of IPv6, of pods (`fd00:10:244::`) and of Services (`fd00:10:96::` to `fd00:10:a5::`), where the kernel has IPv6.
pub const NETWORK_V6: &str = "fd00:10::/32";

/// There if the kernel has IPv6. Set, addresses of a local network can be listened on that no device has, as in IPv4.
const NONLOCAL_BIND: &str = "/proc/sys/net/ipv6/ip_nonlocal_bind";

/// Set in the process inside: a file to write into, so that a test that was not found is no test that passed.
const INSIDE: &str = "DEVCLUSTER_NETNS";

/// Runs `test` in network and mount namespaces of its own, on a multi-threaded tokio runtime.
///
/// # Panics
///
/// The test fails there; or the namespaces cannot be made: the message says what to do.
pub fn run<T: Future<Output = ()>>(test: T) {
    run_blocking(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("making a tokio runtime");
        runtime.block_on(test);
    });
}

/// As [`run`], for a test that makes its own runtimes or needs none.
///
/// # Panics
///
/// As [`run`].
pub fn run_blocking(test: impl FnOnce()) {
    match env::var_os(INSIDE) {
        Some(mark) => {
            fs::write(&mark, "entered").expect("telling the process outside that the test was found");
            bring_up();
            test();
        }
        None => start_again(),
    }
}

/// Maps host names to addresses, for this process and its children, as a cluster's DNS does. Call it inside the namespace; `file`
/// must exist as long as the names are used.
///
/// # Panics
///
/// The file cannot be written, or cannot take the place of `/etc/hosts`.
pub fn set_host_names(file: &Path, names: &[(IpAddr, &str)]) {
    assert!(inside(), "only a test in a network namespace of its own has names of its own");
    let lines = names.iter().map(|(address, name)| format!("{address} {name}\n"));
    let text =
        ["127.0.0.1 localhost\n::1 localhost\n".to_owned()].into_iter().chain(lines).collect::<String>();
    fs::write(file, text).expect("writing the names");
    let mounted = Command::new(tool("mount")).arg("--bind").arg(file).arg("/etc/hosts").status();
    let mounted = mounted.expect("starting mount: apt-get install mount");
    assert!(
        mounted.success(),
        "mount could not put {} in the place of /etc/hosts: {mounted}",
        file.display()
    );
}

/// Whether this process is the one inside.
pub fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

fn start_again() {
    let name = test_name();
    let program = env::current_exe().expect("this test program's path");
    let mark = tempfile::NamedTempFile::new().expect("making a temporary file");
    let mut command = Command::new(tool("unshare"));
    command.args(["--net", "--mount"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    // After unshare: a change of user clears the death signal.
    command.arg(tool("setpriv")).args(["--pdeathsig", "KILL"]);
    command.arg(program).args([&name, "--exact", "--nocapture", "--include-ignored"]);
    command.env(INSIDE, mark.path());
    let status = command.status().unwrap_or_else(|error| {
        panic!("cannot start unshare: {error}; it is in util-linux (apt-get install util-linux)")
    });
    let entered = fs::read_to_string(mark.path()).is_ok_and(|text| text == "entered");
    assert!(
        entered || status.success(),
        "no namespace for {name}: unshare ended with {status}; run as root, or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    );
    assert!(entered, "{name}, started again by that name, was not found among the tests of this program");
    assert!(status.success(), "{name}, in a network namespace of its own, ended with {status}");
}

/// The test's name as the harness knows it: each test has a thread of that name.
fn test_name() -> String {
    let thread = thread::current();
    if let Some(name) = thread.name().filter(|name| *name != "main") {
        return name.to_owned();
    }
    let mut words = env::args().skip(1);
    let exact = env::args().any(|word| word == "--exact");
    words
        .find(|word| exact && !word.starts_with('-'))
        .expect("call netns::run from the test's own thread: its name is the test's")
}

fn bring_up() {
    let mut ip = Command::new(tool("ip"))
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start ip: {error}; apt-get install iproute2"));
    let mut batch = format!(
        "link set lo up\nroute add local {POD_NETWORK} dev lo\nroute add local {SERVICE_NETWORK} dev lo\n"
    );
    if fs::write(NONLOCAL_BIND, "1").is_ok() {
        batch.push_str(&format!("route add local {NETWORK_V6} dev lo\n"));
    }
    // Closed by the end of the statement: ip reads to its end.
    ip.stdin.take().expect("a piped stdin").write_all(batch.as_bytes()).expect("talking to ip");
    let status = ip.wait().expect("waiting for ip");
    assert!(status.success(), "ip could not set up the namespace's network: {status}");
}

/// A system program, also where a user's path lacks the folders they lie in.
fn tool(name: &str) -> OsString {
    let more = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(more.map(Path::to_path_buf))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .map_or_else(|| name.into(), Into::into)
}
