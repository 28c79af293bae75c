//! A tool that applies an intercepted Service by server-side apply, again and again, as Flux, Argo CD and Helm 4 do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use e2e::{
    admin,
    kubernetes::{Setting, Shop, Workload, hook::Hook, needs_devcluster, run, shop::Part},
    until,
};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::watcher::{self, Event, watcher},
};
use scaler_types::Backend;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const KEY: &str = "scaler.dev/intercepted";
/// How many applies there are at least.
const APPLIES: u32 = 1_000;
/// Every so many applies something else of the manifest is another.
const CHANGES: u32 = 100;
/// Far more than it takes.
const LONG: Duration = Duration::from_secs(50);

/// Every state of a Service.
type Seen = JoinHandle<Vec<Service>>;

fn services(shop: &Shop) -> Api<Service> {
    Api::namespaced(shop.client.clone(), &shop.names().namespace)
}

fn key(service: &Service) -> Option<String> {
    service.spec.as_ref()?.selector.as_ref()?.get(KEY).cloned()
}

fn managers(service: &Service) -> Vec<&str> {
    service.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref()).collect()
}

/// By server-side apply; `revision` is an annotation of the manifest.
async fn apply(api: &Api<Service>, manifest: &Value, revision: u32, force: bool) -> Service {
    let mut manifest = manifest.clone();
    manifest["metadata"]["annotations"] = json!({"example.com/revision": revision.to_string()});
    let params = PatchParams { force, ..PatchParams::apply("flux") };
    let name = manifest["metadata"]["name"].as_str().expect("its name");
    let applied = api.patch(name, &params, &Patch::Apply(&manifest)).await;
    applied.unwrap_or_else(|error| panic!("applying revision {revision}: {error}"))
}

/// A cluster whose nodes follow at once, and in it an intercepted workload whose Service is flux's.
async fn open(policy: bool) -> (Shop, Workload) {
    let mut setting = Setting::intercepting();
    setting.flags.retain(|flag| !flag.starts_with("--endpoint-propagation-delay"));
    setting.flags.push("--endpoint-propagation-delay=1s".to_owned());
    let shop = Shop::open_with(setting).await;
    shop.nodes_hear_at_once();
    if policy {
        for object in deploy::file("deploy/manifests/selector-key.yaml") {
            shop.create(&serde_json::to_value(object).expect("an object")).await;
        }
    }
    let mut web = Workload::new(&shop, "web").annotation("intercept", "always");
    if !policy {
        // It stays awake: the Service of one that is asleep is restored only when it wakes.
        web = web.annotation("scale-to-zero", "10m");
    }
    apply(&services(&shop), &web.service(), 0, false).await;
    shop.create(&web.object()).await;
    shop.listed(&web).await;
    shop.until_intercepted(&web).await;
    (shop, web)
}

/// Records every state of the Service from now on, until it is deleted.
fn record(shop: &Shop, web: &Workload) -> Seen {
    let by_name = watcher::Config::default().fields(&format!("metadata.name={}", web.name));
    let mut events = watcher(services(shop), by_name).boxed();
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            match event.expect("a watch that lasts") {
                Event::Apply(service) | Event::InitApply(service) => seen.push(service),
                Event::Delete(_) => break,
                Event::Init | Event::InitDone => {}
            }
        }
        seen
    })
}

/// What `explain` says about the Service's key.
async fn note(shop: &Shop) -> String {
    until("the leader to say who keeps the key", || async {
        for (_, address) in shop.admins(Part::Autoscaler).await {
            let answer = admin::get(address, "/api/v1/resources").await?;
            let answer: Value = serde_json::from_str(&answer.text()).map_err(|error| error.to_string())?;
            if let Some(note) = answer["resources"][0]["interception"]["note"].as_str() {
                return Ok(note.to_owned());
            }
        }
        Err(shop.logs("autoscaler", 5))
    })
    .await
}

#[test]
fn a_thousand_applies_never_remove_the_key_and_never_conflict() {
    if needs_devcluster("installs a policy of its own namespace") {
        return;
    }
    run(async {
        let (shop, web) = open(true).await;
        assert!(note(&shop).await.contains("a MutatingAdmissionPolicy keeps Scaler's key"));
        let seen = record(&shop, &web);
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let applying = tokio::spawn({
            let (api, manifest) = (services(&shop), web.service());
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let applied = apply(&api, &manifest, number / CHANGES, number.is_multiple_of(2)).await;
                    assert!(key(&applied).is_some(), "{applied:?}");
                }
            }
        });
        let address = shop.service(&web, 80).await[0];
        for cycle in ["one", "two"] {
            shop.asleep(&web).await;
            shop.served_at(address, &web, cycle).await;
        }
        until("all applies", || async {
            let count = count.load(Ordering::Relaxed);
            if count >= APPLIES || applying.is_finished() { Ok(()) } else { Err(format!("{count}")) }
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        applying.await.expect("the applies");

        // As helm uninstalls.
        let last = services(&shop).get(&web.name).await.expect("the Service");
        let hook = Hook::render(&shop, LONG);
        hook.create(&shop).await;
        let ended = hook.run(&shop, 1).await;
        assert_eq!(ended.status, 0, "{}", ended.said);
        shop.until_restored(&web).await;
        let restored = services(&shop).get(&web.name).await.expect("the Service");
        assert_eq!((key(&restored), managers(&restored)), (None, vec!["flux"]));

        shop.remove(&web.service()).await;
        let seen = seen.await.expect("the watch");
        let version = last.metadata.resource_version;
        let at = seen.iter().position(|service| service.metadata.resource_version == version);
        let (applied, _) = seen.split_at(at.expect("the last state before the uninstall") + 1);
        let keys: Vec<_> = applied.iter().map(key).collect();
        assert!(keys.iter().all(Option::is_some), "{keys:?}");
        assert!(applied.iter().all(|service| managers(service) == ["flux"]), "{applied:#?}");
        // Whatever was written changed the key or the annotation: the same manifest writes nothing.
        let of = |service: &Service| (key(service), service.metadata.annotations.clone());
        assert!(applied.windows(2).all(|two| of(&two[0]) != of(&two[1])), "{keys:?}");
        let distinct: std::collections::BTreeSet<_> = keys.into_iter().flatten().collect();
        // The first may have been written over by a commit before the first state that was seen.
        assert!(distinct.len() >= 2, "the keys of two commits: {distinct:?}");
        println!(
            "{} applies, {} states, {} keys",
            count.load(Ordering::Relaxed),
            applied.len(),
            distinct.len()
        );
    });
}

#[test]
fn without_the_policy_the_autoscaler_adds_the_key_again_until_it_was_removed_three_times() {
    if needs_devcluster("has a cluster without the policy") {
        return;
    }
    run(async {
        let (shop, web) = open(false).await;
        assert!(note(&shop).await.contains("no MutatingAdmissionPolicy for it is in force"));
        let api = services(&shop);
        for number in 1..=3 {
            let applied = apply(&api, &web.service(), 0, false).await;
            assert_eq!(key(&applied), None, "{number}");
            if number < 3 {
                shop.until_intercepted(&web).await;
            }
        }
        shop.event(&web, "InterceptionRefused: ").await;
        shop.until_seen(&web, "it to be restored", |seen| seen.backend() == Backend::Workload).await;
        until("flux to own all of the Service", || async {
            let service = api.get(&web.name).await.map_err(|error| error.to_string())?;
            match (key(&service), managers(&service)) {
                (None, managers) if managers == ["flux"] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    });
}
