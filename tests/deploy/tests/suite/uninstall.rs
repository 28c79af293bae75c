//! The hook that gives everything back before an uninstall.

use std::collections::BTreeMap;

use clap::CommandFactory as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    rbac::v1::{Role, RoleBinding},
};
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use crate::values::{SETS, is_hook, of_kind, rendered};

fn typed<T: DeserializeOwned>(object: &DynamicObject) -> T {
    serde_json::to_value(object).and_then(serde_json::from_value).expect("an object of its kind")
}

fn hooks(objects: &[DynamicObject]) -> Vec<DynamicObject> {
    objects.iter().filter(|object| is_hook(object)).cloned().collect()
}

fn annotation<'a>(object: &'a DynamicObject, name: &str) -> &'a str {
    object.metadata.annotations.as_ref().and_then(|all| all.get(name)).map_or("", String::as_str)
}

fn one<T: DeserializeOwned>(objects: &[DynamicObject], kind: &str) -> T {
    let [object] = &of_kind(objects, kind)[..] else { panic!("one {kind} in {objects:#?}") };
    typed(object)
}

/// The autoscaler as it runs.
fn autoscaler(objects: &[DynamicObject]) -> Deployment {
    let found = of_kind(objects, "Deployment")
        .into_iter()
        .find(|object| object.metadata.name.as_deref().is_some_and(|name| name.ends_with("-autoscaler")));
    typed(found.expect("the autoscaler's Deployment"))
}

#[test]
fn an_uninstall_restores_everything_first_unless_that_is_switched_off() {
    for (name, values) in SETS {
        let hooks = hooks(&rendered(values));
        let mut kinds = BTreeMap::new();
        for hook in &hooks {
            assert_eq!(annotation(hook, "helm.sh/hook"), "pre-delete", "{name}");
            // One that is left from a failed attempt is replaced; the log of one that failed can be read.
            assert_eq!(
                annotation(hook, "helm.sh/hook-delete-policy"),
                "before-hook-creation,hook-succeeded",
                "{name}"
            );
            let weight: i32 = annotation(hook, "helm.sh/hook-weight").parse().expect("a weight");
            kinds.insert(hook.types.as_ref().expect("a kind").kind.clone(), weight);
        }
        if name == "everything off" {
            assert!(hooks.is_empty(), "{name}");
            continue;
        }
        assert_eq!(kinds.len(), 3, "{name}: {kinds:?}");
        assert!(kinds["Role"] < kinds["Job"] && kinds["RoleBinding"] < kinds["Job"], "{name}: {kinds:?}");
    }
}

/// The Job has the autoscaler's account, configuration, image and flags; besides it may stop the autoscaler.
#[test]
fn the_hook_is_the_autoscaler_and_may_stop_it() {
    for (name, values) in SETS.into_iter().filter(|(name, _)| *name != "everything off") {
        let objects = rendered(values);
        let (hooks, deployment) = (hooks(&objects), autoscaler(&objects));
        let called = deployment.metadata.name.unwrap();
        let (job, role): (Job, Role) = (one(&hooks, "Job"), one(&hooks, "Role"));
        let pod = job.spec.as_ref().unwrap().template.spec.clone().unwrap();
        let its = deployment.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.service_account_name, its.service_account_name, "{name}");
        assert_eq!(pod.security_context, its.security_context, "{name}");
        assert_eq!(pod.volumes, its.volumes, "{name}");
        let (restore, daemon) = (&pod.containers[0], &its.containers[0]);
        assert_eq!(restore.image, daemon.image, "{name}");
        assert_eq!(restore.security_context, daemon.security_context, "{name}");
        assert_eq!(restore.volume_mounts, daemon.volume_mounts, "{name}");
        assert_eq!(restore.env, daemon.env, "{name}");

        let args = restore.args.clone().unwrap();
        assert_eq!(args[0], "restore", "{name}");
        assert!(args.contains(&format!("--stop-deployment=scaler/{called}")), "{name}: {args:?}");
        for flag in daemon.args.iter().flatten() {
            let daemons_only = [
                "--admin-address",
                "--shutdown-grace",
                "--scale-interval",
                "--metrics-",
                "--dlx-unavailable-timeout",
                "--state-dir",
            ];
            assert!(
                args.contains(flag) || daemons_only.iter().any(|only| flag.starts_with(only)),
                "{name}: {flag}"
            );
        }
        let timeout = args.iter().find_map(|arg| arg.strip_prefix("--timeout=")?.strip_suffix('s')).unwrap();
        let deadline = job.spec.unwrap().active_deadline_seconds.unwrap();
        assert!(
            timeout.parse::<i64>().unwrap() < deadline,
            "{name}: it can say what failed before it is killed"
        );

        let [rule] = &role.rules.unwrap()[..] else { panic!("{name}: one rule") };
        assert_eq!(rule.api_groups.as_deref(), Some(&["apps".to_owned()][..]), "{name}");
        assert_eq!(rule.resources.as_deref(), Some(&["deployments/scale".to_owned()][..]), "{name}");
        assert_eq!(rule.resource_names, Some(vec![called]), "{name}");
        assert_eq!(rule.verbs, ["patch"], "{name}");
        assert_eq!(role.metadata.namespace.as_deref(), Some("scaler"), "{name}");
        let subjects = one::<RoleBinding>(&hooks, "RoleBinding").subjects.unwrap();
        assert_eq!(subjects.len(), 1, "{name}");
        assert_eq!(Some(&subjects[0].name), pod.service_account_name.as_ref(), "{name}");
    }
}

#[test]
fn the_hook_takes_the_flags_it_is_given() {
    for (name, values) in SETS.into_iter().filter(|(name, _)| *name != "everything off") {
        let job: Job = one(&hooks(&rendered(values)), "Job");
        let container = job.spec.unwrap().template.spec.unwrap().containers.remove(0);
        let line = std::iter::once("autoscaler".to_owned()).chain(container.args.unwrap());
        let taken = autoscaler::AutoscalerFlags::command().try_get_matches_from(line);
        let taken = taken.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(taken.subcommand_name(), Some("restore"), "{name}: it is the command, not the daemon");
    }
}
