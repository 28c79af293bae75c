//! The suite in an existing cluster: here a devcluster that is a process of its own.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use devcluster::netns;
use e2e::{
    binaries,
    kubernetes::{needs_devcluster, shop},
    processes,
};
use rustix::process::Signal;

/// A cluster that exists already.
struct Theirs(Child);

impl Theirs {
    /// Starts it, and waits until its API serves.
    fn start(folder: &Path) -> Self {
        let programs = shop::programs(folder, binaries::folder());
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binaries::folder().join("devcluster"))
            .arg("--programs")
            .arg(programs)
            .arg("--kubeconfig-dir")
            .arg(folder)
            .arg("--service-proxy")
            .stdout(Stdio::piped())
            .spawn();
        let mut theirs = Self(child.expect("starting devcluster"));
        let mut line = String::new();
        let said = theirs.0.stdout.take().expect("its output");
        BufReader::new(said).read_line(&mut line).expect("reading its output");
        assert!(line.contains("serves"), "devcluster said {line:?}");
        theirs
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        processes::signal(self.0.id() as i32, Signal::INT);
        let _ = self.0.wait();
    }
}

/// Runs a test of this program there; what it printed, and whether it passed.
fn there(kubeconfig: &Path, images: &[&str], test: &str) -> (String, bool) {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture"]).env("SCALER_E2E_KUBECONFIG", kubeconfig);
    command.env("SCALER_E2E_ADDRESS", "127.0.0.1");
    for image in images {
        command.env(format!("SCALER_E2E_IMAGE_{}", image.to_uppercase()), format!("devcluster/{image}"));
    }
    let output = command.output().expect("starting this program once more");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(text.contains("running 1 test"), "{test} was not found:\n{text}");
    (text, output.status.success())
}

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> String {
    let output = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(arguments).output();
    let output = output.expect("starting kubectl");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "kubectl {arguments:?}: {text}");
    text
}

#[test]
fn the_suite_runs_in_a_cluster_that_is_there_and_leaves_nothing_in_it() {
    if needs_devcluster("starts a cluster to be run in") {
        return;
    }
    netns::run_blocking(|| {
        let folder = tempfile::tempdir().unwrap();
        let _theirs = Theirs::start(folder.path());
        let kubeconfigs = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
        let kubeconfig = kubeconfigs.into_iter().find(|path| path.is_file()).expect("its kubeconfig");
        let images = ["autoscaler", "dlx", "service"];

        let woken = "waking::a_request_wakes_a_sleeping_deployment_and_idle_it_sleeps_again";
        let (text, passed) = there(&kubeconfig, &images, woken);
        assert!(passed && text.contains("not proved: the NetworkPolicy"), "{text}");

        // Of a Service's way to the DLXs and back, with a Prometheus, and by what a client speaks.
        for test in [
            "restore::opting_out_restores_a_service_that_is_awake_and_one_that_is_asleep",
            "protocols::http_grpc_and_websocket_clients_wake_it",
            "when_asleep::no_pod_is_stopped_that_is_busy_after_the_propagation_delay",
        ] {
            let (text, passed) = there(&kubeconfig, &images, test);
            assert!(passed && !text.contains("not proved: no pod"), "{text}");
        }

        let test = "failed_wakes::an_exceeded_quota_is_reported";
        let (text, passed) = there(&kubeconfig, &images, test);
        assert!(passed, "{text}");

        let outage = "outage::while_the_api_is_away_what_is_awake_is_served_and_what_is_held_gets_an_answer";
        let (text, passed) = there(&kubeconfig, &images, outage);
        let sentence = outage.trim_start_matches("outage::").replace('_', " ");
        assert!(passed && text.contains(&format!("not proved: {sentence}: ")), "{text}");

        let (text, passed) = there(&kubeconfig, &images[..2], woken);
        assert!(!passed && text.contains("SCALER_E2E_IMAGE_SERVICE does not say"), "{text}");

        // Deleted already; gone when their pods are.
        kubectl(
            &kubeconfig,
            &["wait", "--for=delete", "namespace", "-l", "scaler-e2e=true", "--timeout=60s"],
        );
        let left = kubectl(&kubeconfig, &["get", "clusterroles,validatingadmissionpolicies", "-o", "name"]);
        assert!(!left.contains("scaler-e2e"), "left in the cluster: {left}");
    });
}
