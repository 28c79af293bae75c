//! The program for people with kubectl.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::site::{Site, deployment, get, is_ready, only_dev};

#[test]
fn it_runs_pods_and_leaves_none_behind_when_it_is_killed() {
    only_dev(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_devcluster"));
        program.arg("--kubeconfig-dir").arg(folder.path());
        // A relative folder: what pods start in is another.
        let programs = Path::new(env!("CARGO_BIN_EXE_sample")).parent().unwrap();
        program.current_dir(programs).args(["--programs", "."]).stdout(Stdio::piped());
        let mut program = program.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let file = line.trim().rsplit(' ').next().unwrap();
        let options = KubeConfigOptions::default();
        let config =
            kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(file).unwrap(), &options).await;
        let site = Site::of(kube::Client::try_from(config.unwrap()).unwrap());
        site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
        let pod = site.pod("a ready pod", "app=web", is_ready).await;
        let process = get(&pod, "/").await.parse().unwrap();
        let process = pidfd_open(Pid::from_raw(process).unwrap(), PidfdFlags::empty()).unwrap();
        program.kill().unwrap();
        program.wait().unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap() == 1
        });
        assert!(ended.await.unwrap(), "the pod's process outlived the program");
    });
}
