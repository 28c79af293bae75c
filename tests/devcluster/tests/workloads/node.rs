//! What only the node's own side shows: processes, signals, files, faults.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use devcluster::node::NodeFaults;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::ResourceExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::site::{Site, deployment, dev_only, get, is_ready, lives};

type Pods = BTreeMap<String, Pod>;

async fn one_pod(site: &Site) -> Pod {
    site.pod("a ready pod", "app=web", is_ready).await
}

fn process(site: &Site, pod: &Pod) -> u32 {
    site.node().process(&site.namespace, &pod.name_any()).expect("a process")
}

fn signal(process: u32, signal: Signal) {
    let pid = Pid::from_raw(process.try_into().expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("sending a signal");
}

fn runs(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let status = &pod.status.as_ref()?.container_statuses.as_ref()?[0];
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

#[test]
fn a_killed_process_is_started_again_in_its_pod() {
    dev_only(
        |_| {},
        |site| async move {
            site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
            let pod = one_pod(&site).await;
            let first = process(&site, &pod);
            assert_eq!(get(&pod, "/").await, first.to_string());
            signal(first, Signal::KILL);
            let again = site
                .pod("the same pod, ready again", "app=web", |pod| restarts(pod) == 1 && is_ready(pod))
                .await;
            assert_eq!((again.uid(), exit_code(&again)), (pod.uid(), Some(137)));
            assert_eq!(again.status.as_ref().unwrap().pod_ip, pod.status.as_ref().unwrap().pod_ip);
            assert_ne!(process(&site, &again), first);
            assert!(!runs(first));
        },
    );
}

#[test]
fn a_process_that_hangs_fails_its_liveness_probe_and_is_started_again() {
    dev_only(
        |_| {},
        |site| async move {
            let mut web = deployment(&site, "web", 1, &[]);
            let spec = &mut web["spec"]["template"]["spec"];
            spec["terminationGracePeriodSeconds"] = json!(1);
            spec["containers"][0]["livenessProbe"] =
                json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
            site.create::<Deployment>(web).await;
            let pod = one_pod(&site).await;
            // It takes no SIGTERM either.
            signal(process(&site, &pod), Signal::STOP);
            let again = site
                .pod("the same pod, ready again", "app=web", |pod| restarts(pod) == 1 && is_ready(pod))
                .await;
            assert_eq!((again.uid(), exit_code(&again)), (pod.uid(), Some(137)));
        },
    );
}

#[test]
fn a_pod_goes_once_its_process_has_ended() {
    dev_only(
        |_| {},
        |site| async move {
            site.create::<Deployment>(deployment(&site, "web", 1, &["--drain-delay", "500"])).await;
            let pod = one_pod(&site).await;
            let running = process(&site, &pod);
            let began = Instant::now();
            site.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
            let ends = Cell::new(false);
            site.until_all("no pod", "app=web", |pods: &Pods| {
                if let Some(pod) = pods.values().next() {
                    ends.set(ends.get() || !lives(pod));
                }
                pods.is_empty()
            })
            .await;
            assert!(ends.get() && !runs(running), "the pod went before its process");
            assert!(began.elapsed() >= Duration::from_millis(500), "it was not left the time it takes");
        },
    );
}

#[test]
fn a_process_that_does_not_end_is_killed_when_its_time_is_over() {
    dev_only(
        |_| {},
        |site| async move {
            let mut web = deployment(&site, "web", 1, &["--drain-delay", "60000"]);
            web["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
            site.create::<Deployment>(web).await;
            let pod = one_pod(&site).await;
            let running = process(&site, &pod);
            let began = Instant::now();
            site.delete::<Pod>(&pod.name_any()).await;
            site.until_all("its end", "app=web", |pods: &Pods| !pods.contains_key(&pod.name_any())).await;
            assert!(!runs(running));
            assert!(began.elapsed() >= Duration::from_secs(1), "killed after {:?}", began.elapsed());
        },
    );
}

#[test]
fn the_process_of_a_pod_deleted_by_force_still_has_its_time() {
    dev_only(
        |_| {},
        |site| async move {
            site.create::<Deployment>(deployment(&site, "web", 1, &["--drain-delay", "300"])).await;
            let pod = one_pod(&site).await;
            let running = process(&site, &pod);
            let force = kube::api::DeleteParams::default().grace_period(0);
            site.api::<Pod>().delete(&pod.name_any(), &force).await.unwrap();
            site.until_all("another pod", "app=web", |pods: &Pods| !pods.contains_key(&pod.name_any())).await;
            assert!(runs(running), "the API forgets at once, the process ends in its own time");
            let ended = tokio::task::spawn_blocking(move || {
                let pid = Pid::from_raw(running.try_into().unwrap()).unwrap();
                let Ok(descriptor) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                else {
                    return true;
                };
                let mut ended = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
                let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
                rustix::event::poll(&mut ended, Some(&patience)).unwrap() == 1
            });
            assert!(ended.await.unwrap());
        },
    );
}

#[test]
fn nothing_is_left_when_the_node_goes() {
    let processes = Cell::new([0; 2]);
    dev_only(
        |_| {},
        |site| {
            let processes = &processes;
            async move {
                let mut web = deployment(&site, "web", 1, &[]);
                // A process that starts another one, which only it knows.
                let script = "sleep 1000 & echo $! >$POD_FILE; exec sleep 1000";
                let file = tempfile::NamedTempFile::new().unwrap();
                let container = &mut web["spec"]["template"]["spec"]["containers"][0];
                container["command"] = json!(["/bin/sh", "-c", script]);
                container["args"] = json!([]);
                container["env"] = json!([{"name": "POD_FILE", "value": file.path()}]);
                container["readinessProbe"] =
                    json!({"exec": {"command": ["/bin/sh", "-c", "test -s $POD_FILE"]}, "periodSeconds": 1});
                site.create::<Deployment>(web).await;
                let pod = one_pod(&site).await;
                let child = fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
                processes.set([process(&site, &pod), child]);
                assert!(processes.get().into_iter().all(runs));
                drop(site);
                let left = |process| {
                    fs::read_to_string(format!("/proc/{process}/stat"))
                        .is_ok_and(|stat| !stat.contains(") Z "))
                };
                // Killed is not gone yet.
                let gone = async {
                    while processes.get().into_iter().any(left) {
                        tokio::task::yield_now().await;
                    }
                };
                let gone = tokio::time::timeout(Duration::from_secs(30), gone).await;
                assert!(gone.is_ok(), "left: {:?}", processes.get());
            }
        },
    );
}

#[test]
fn mount_paths_lead_to_what_config_maps_say_also_when_they_change() {
    dev_only(
        |_| {},
        |site| async move {
            let settings =
                json!({"metadata": {"name": "settings"}, "data": {"colour": "blue", "shape": "round"}});
            site.create::<ConfigMap>(settings).await;
            let mut web = deployment(&site, "web", 1, &["--show", "--config=/etc/settings/colour"]);
            let spec = &mut web["spec"]["template"]["spec"];
            spec["volumes"] = json!([
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "scratch", "emptyDir": {}},
            ]);
            let container = &mut spec["containers"][0];
            container["volumeMounts"] = json!([
                {"name": "settings", "mountPath": "/etc/settings"},
                {"name": "scratch", "mountPath": "/var/scratch"},
            ]);
            let more = json!([
                {"name": "SCRATCH", "value": "/var/scratch/here"},
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                {"name": "ACCOUNT", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "JOINED", "value": "$(LABEL).$(NAMESPACE)"},
            ]);
            container["env"].as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
            site.create::<Deployment>(web).await;
            let pod = one_pod(&site).await;
            let variable = async |name: &str| get(&pod, &format!("/env/{name}")).await;
            assert_eq!(variable("COLOUR").await, "blue");
            assert_eq!(variable("JOINED").await, "web.default");
            assert_eq!(variable("ACCOUNT").await, "default");
            assert_eq!(variable("HOSTNAME").await, pod.name_any());
            assert_eq!(Some(variable("POD_IP").await), pod.status.as_ref().unwrap().pod_ip);
            let scratch = variable("SCRATCH").await;
            assert!(Path::new(&scratch).parent().unwrap().is_dir(), "{scratch}");
            let arguments = get(&pod, "/args").await;
            let file = arguments.split("--config=").nth(1).unwrap().to_owned();
            assert_eq!(get(&pod, &format!("/file{file}")).await, "blue");
            // The token in the kubeconfig is the pod's own.
            let kubeconfig = fs::read_to_string(variable("KUBECONFIG").await).unwrap();
            assert!(kubeconfig.contains(&site.cluster().token("default", "default")));
            // All of it changes at once.
            let changes = next_version(&file);
            site.patch::<ConfigMap>("settings", json!({"data": {"colour": "red", "shape": null}})).await;
            tokio::task::spawn_blocking(changes).await.unwrap();
            assert_eq!(get(&pod, &format!("/file{file}")).await, "red");
            assert!(!Path::new(&file).with_file_name("shape").exists());
        },
    );
}

/// Waits until the volume of a file has another version.
fn next_version(file: &str) -> impl FnOnce() + Send + 'static {
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    let folder = Path::new(file).parent().unwrap().to_owned();
    let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
    // The old version's folder is removed last.
    inotify::add_watch(&watch, &folder, WatchFlags::DELETE).unwrap();
    move || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        loop {
            let event = reader.next().unwrap();
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            assert!(event.events().contains(ReadFlags::DELETE));
            if name.starts_with("..") && name != "..data" {
                return;
            }
        }
    }
}

#[test]
fn a_full_node_has_room_again_when_a_pod_goes() {
    dev_only(
        |options| options.capacity = 1,
        |site| async move {
            site.create::<Deployment>(deployment(&site, "one", 1, &[])).await;
            site.pod("a ready pod", "app=one", is_ready).await;
            site.create::<Deployment>(deployment(&site, "two", 1, &[])).await;
            site.pod("a pod without room", "app=two", |pod| {
                let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
                conditions.into_iter().flatten().any(|condition| {
                    condition.reason.as_deref() == Some("Unschedulable")
                        && condition.message.as_deref().is_some_and(|why| why.contains("1 Too many pods"))
                })
            })
            .await;
            site.patch::<Deployment>("one", json!({"spec": {"replicas": 0}})).await;
            site.pod("a ready pod", "app=two", is_ready).await;
            // And when the node grows.
            site.patch::<Deployment>("one", json!({"spec": {"replicas": 1}})).await;
            site.pod("a pod without room", "app=one", lives).await;
            site.node().set_capacity(2);
            site.pod("a ready pod", "app=one", is_ready).await;
        },
    );
}

#[test]
fn ordered_delays_are_seen_where_they_happen() {
    dev_only(
        |_| {},
        |site| async move {
            let pull = Duration::from_millis(400);
            site.node().set_faults(NodeFaults { image_pull: pull, ..Default::default() });
            let began = Instant::now();
            site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
            site.pod("a container that is made", "app=web", |pod| {
                crate::site::waiting(pod).is_some_and(|(reason, _)| reason == "ContainerCreating")
            })
            .await;
            one_pod(&site).await;
            assert!(began.elapsed() >= pull);
            // What was pulled is there; a slow kubelet reports late what is already so.
            let late = Duration::from_millis(700);
            site.node().set_faults(NodeFaults { status: late, ..Default::default() });
            let began = Instant::now();
            site.create::<Deployment>(deployment(&site, "late", 1, &[])).await;
            let pod = site.pod("a scheduled pod", "app=late", |pod| {
                pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
            });
            let pod = pod.await;
            site.pod("a ready pod", "app=late", is_ready).await;
            assert!(began.elapsed() >= late);
            assert!(site.node().process("default", &pod.name_any()).is_some());
        },
    );
}

#[test]
fn probes_by_tcp_exec_and_grpc_and_a_startup_probe_before_them() {
    dev_only(
        |_| {},
        |site| async move {
            for (name, probe) in [
                ("tcp", json!({"tcpSocket": {"port": "http"}})),
                ("exec", json!({"exec": {"command": ["/bin/sh", "-c", "test -n \"$POD_IP\""]}})),
                ("grpc", json!({"grpc": {"port": 9090, "service": "web"}})),
            ] {
                let mut web = deployment(&site, name, 1, &["--start-delay", "50"]);
                let container = &mut web["spec"]["template"]["spec"]["containers"][0];
                container["startupProbe"] = container["readinessProbe"].clone();
                container["readinessProbe"] = probe;
                site.create::<Deployment>(web).await;
                let labels = format!("app={name}");
                if name == "grpc" {
                    let pod = site.pod("a started pod", &labels, |pod| {
                        let statuses =
                            pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
                        statuses.is_some_and(|statuses| statuses[0].started == Some(true))
                    });
                    let pod = pod.await;
                    assert!(!is_ready(&pod), "its readiness probe is not answered yet");
                    let address = pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap();
                    serve_health(address, "web").await;
                }
                site.pod("a ready pod", &labels, is_ready).await;
            }
        },
    );
}

/// Answers grpc.health.v1.Health/Check for one service.
async fn serve_health(address: Ipv4Addr, service: &'static str) {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let listener = tokio::net::TcpListener::bind((address, 9090)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let body = request.into_body().collect().await?.to_bytes();
                    assert_eq!(&body[7..], service.as_bytes());
                    Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from_static(&[
                        0, 0, 0, 0, 2, 8, 1,
                    ]))))
                });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        }
    });
}

#[test]
fn the_api_going_away_for_a_while_stops_no_process() {
    dev_only(
        |_| {},
        |site| async move {
            site.create::<Deployment>(deployment(&site, "web", 1, &[])).await;
            let pod = one_pod(&site).await;
            let first = process(&site, &pod);
            let outage = site.cluster().faults().outage();
            signal(first, Signal::KILL);
            // The node restarts it without asking anybody.
            let deadline = Instant::now() + Duration::from_secs(20);
            while site.node().process("default", &pod.name_any()).is_none_or(|process| process == first) {
                assert!(Instant::now() < deadline, "no new process");
                tokio::task::yield_now().await;
            }
            outage.end();
            site.pod("the news of it", "app=web", |pod| restarts(pod) == 1 && is_ready(pod)).await;
            // And what was wanted meanwhile is done.
            site.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
            site.until_all("no pod", "app=web", |pods: &Pods| pods.is_empty()).await;
        },
    );
}
