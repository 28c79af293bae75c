//! The real DLX and a cluster's API that is away when it starts.

use std::{
    io::Read as _,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use devcluster::{Cluster, Options, User};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::ListParams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Ends the process with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn readyz(admin: SocketAddr) -> String {
    let Ok(mut socket) = TcpStream::connect(admin).await else { return String::new() };
    let mut answer = String::new();
    let exchange = async {
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: dlx\r\n\r\n").await?;
        // The server that says so closes after each answer.
        socket.read_to_string(&mut answer).await
    };
    let _ = timeout(Duration::from_secs(10), exchange).await;
    answer
}

fn start(cluster: &Cluster, folder: &tempfile::TempDir, admin: SocketAddr) -> Started {
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let kubeconfig = cluster.kubeconfig(folder.path(), &User::Admin).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_dlx"))
        .current_dir(folder.path())
        .args(["--coordinate-by", "leases", "--listen-address", "127.0.0.1:0", "--admin-address"])
        .arg(admin.to_string())
        .arg("--kubeconfig-path")
        .arg(kubeconfig)
        .env_remove("POD_NAME")
        .stderr(Stdio::piped())
        .spawn();
    Started(child.unwrap())
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_the_api_says_so_and_leaves_when_it_has_nothing_to_serve() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let (folder, admin) = (tempfile::tempdir().unwrap(), free());
    let outage = cluster.faults().outage();
    let mut dlx = start(&cluster, &folder, admin);
    let why = loop {
        let answer = readyz(admin).await;
        if answer.contains("this DLX is not registered yet: cannot") {
            break answer;
        }
        assert!(dlx.0.try_wait().unwrap().is_none(), "it ended");
        tokio::task::yield_now().await;
    };
    assert!(why.starts_with("HTTP/1.1 503"), "{why}");
    assert!(why.contains("cannot get leases in namespace default"), "{why}");
    outage.end();

    // Its folder of plugins is empty, which it finds only now.
    let ended = tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        dlx.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (dlx.0.wait().unwrap().code(), log)
    });
    let (status, log) = timeout(Duration::from_secs(60), ended).await.expect("it goes on").unwrap();
    assert_eq!(status, Some(78), "{log}");
    assert!(log.contains("registered this DLX"), "{log}");
    let leases: Api<Lease> = Api::namespaced(cluster.client().unwrap(), "default");
    assert!(leases.list(&ListParams::default()).await.unwrap().items.is_empty(), "{log}");
}
