//! What a cluster costs: `cargo xtask bench --only cluster`.

use std::{fs, time::Duration};

use devcluster::{
    Cluster, Filter, Options,
    node::{Node, NodeOptions},
};
use e2e::{
    admin::{self, Metrics},
    binaries,
    kubernetes::{Names, Setting, manifests, needs_devcluster, run, shop},
    until,
    wait::pause,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

/// How many Deployments the daemons look after.
const DEPLOYMENTS: usize = 10_000;
/// For how long it is watched, in cycles of a second each.
const CYCLES: f64 = 20.0;

/// The autoscaler's CPU and calls of the API per cycle, with 10,000 Deployments that are awake. Nothing runs in them: no
/// controller is there, and the daemons are pods of their own. Prints one line of JSON.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_deployments() {
    if needs_devcluster("counts what one user asks of the API, and the CPU of a pod's process") {
        return;
    }
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let programs = shop::programs(folder.path(), binaries::folder());
        let cluster = Cluster::start(Options::default()).unwrap();
        let client = cluster.client().unwrap();
        let setting = Setting {
            file: "namespace: shop\nscaleInterval: 1s\n".to_owned(),
            autoscalers: 1,
            dlxs: 1,
            ..Setting::default()
        };
        let mut options = NodeOptions::new(&programs, cluster.url());
        options.folder = Some(folder.path().join("node"));
        let node = Node::start(client.clone(), options).await.unwrap();

        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        let (daemons, others): (Vec<Value>, Vec<Value>) = manifests::objects(&setting, &Names::default())
            .into_iter()
            .partition(|object| object["kind"] == "Deployment");
        for object in std::iter::once(&namespace).chain(&others) {
            e2e::kubernetes::create(&client, object).await;
        }
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
        let made = futures_util::stream::iter(0..DEPLOYMENTS).map(|number| {
            let (deployments, object) = (deployments.clone(), deployment(number));
            async move { deployments.create(&PostParams::default(), &object).await.map(drop) }
        });
        made.buffer_unordered(64).try_collect::<Vec<()>>().await.expect("creating the Deployments");
        for daemon in &daemons {
            e2e::kubernetes::create(&client, &pod_of(daemon)).await;
        }

        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        let address = until("the autoscaler to have listed them", || async {
            let pod = pods.get("scaler-autoscaler").await.map_err(|error| error.to_string())?;
            let address: std::net::IpAddr = pod
                .status
                .and_then(|status| status.pod_ip?.parse().ok())
                .ok_or_else(|| "no address yet".to_owned())?;
            let listed = admin::get((address, 8092).into(), "/api/v1/resources").await?.json();
            let count = listed["resources"].as_array().map_or(0, Vec::len);
            if count == DEPLOYMENTS { Ok(address) } else { Err(format!("{count} listed")) }
        })
        .await;
        let cycles = || async {
            let answer = admin::get((address, 8092).into(), "/metrics").await.expect("its metrics");
            Metrics::parse(&answer.text()).sum("scaler_cycles_total", &[])
        };
        let process = node.process("shop", "scaler-autoscaler").expect("the autoscaler's process");
        let user = shop::Part::Autoscaler.user();
        let calls = || cluster.requests().of(&Filter::any().user(&user));
        let (began, cpu_before, calls_before) = (cycles().await, cpu(process), calls());
        while cycles().await < began + CYCLES {
            pause(Duration::from_millis(200)).await;
        }
        let done = cycles().await - began;
        let spent = (cpu(process) - cpu_before).as_secs_f64() * 1e3 / done;
        let leases = cluster.requests().of(&Filter::any().user(&user).resource("leases"));
        println!(
            "{}",
            json!({
                "deployments": DEPLOYMENTS, "cycles": done, "cpu_ms_per_cycle": spent,
                "api_calls_per_cycle": (calls() - calls_before) as f64 / done, "calls_for_leases_in_all": leases,
            })
        );
    });
}

fn deployment(number: usize) -> Deployment {
    let name = format!("web-{number}");
    let labels = json!({"app": name});
    let object = json!({
        "metadata": {"name": name, "annotations": {"scaler.dev/scale-to-zero": "10m"}},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "devcluster/service"}]}},
        },
    });
    serde_json::from_value(object).expect("a Deployment")
}

/// A pod as a Deployment would make it, named after it.
fn pod_of(deployment: &Value) -> Value {
    let template = &deployment["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    metadata["name"] = deployment["metadata"]["name"].clone();
    metadata["namespace"] = deployment["metadata"]["namespace"].clone();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// User and kernel time of a process's threads so far.
fn cpu(process: u32) -> Duration {
    let of = |task: fs::DirEntry| {
        let spent = fs::read_to_string(task.path().join("schedstat")).ok()?;
        spent.split(' ').next()?.parse::<u64>().ok()
    };
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process's threads");
    Duration::from_nanos(tasks.flatten().filter_map(of).sum())
}
