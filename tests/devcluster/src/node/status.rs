//! A pod's status, as the kubelet derives it from its containers'.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP,
        PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::HOST_ADDRESS;

/// What the kubelet knows of a pod.
#[derive(Clone)]
pub struct Known {
    pub started_at: Time,
    /// Once its sandbox is made.
    pub addresses: Vec<String>,
    pub init: Vec<ContainerStatus>,
    pub containers: Vec<ContainerStatus>,
    /// Whether all init containers have ended well.
    pub initialized: bool,
    conditions: Vec<PodCondition>,
}

/// Now, to the second as the API has it.
pub fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}

// === impl Known ===

impl Known {
    /// A pod that has just come to the node.
    pub fn new(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        let reason = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let before = |name: &str| {
            let known = pod.status.as_ref()?.container_statuses.as_ref()?;
            known.iter().find(|status| status.name == name).map(|status| status.restart_count + 1)
        };
        let waiting = |container: &Container| ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            started: Some(false),
            // It ran on this node before the node was started anew.
            restart_count: before(&container.name).unwrap_or_default(),
            state: Some(ContainerState {
                waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message: None }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self {
            started_at: now(),
            addresses: Vec::new(),
            initialized: init.is_empty(),
            init: init.iter().map(waiting).collect(),
            containers: spec.containers.iter().map(waiting).collect(),
            conditions: pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default(),
        }
    }

    /// The status as it is to be reported.
    pub fn status(&mut self, pod: &Pod) -> PodStatus {
        let phase = self.phase(pod);
        let unready: Vec<&str> =
            self.containers.iter().filter(|one| !one.ready).map(|one| one.name.as_str()).collect();
        let ready = match phase {
            "Succeeded" => Err(("PodCompleted", None)),
            "Failed" => Err(("PodFailed", None)),
            _ if !unready.is_empty() => {
                let names = unready.join(" ");
                Err(("ContainersNotReady", Some(format!("containers with unready status: [{names}]"))))
            }
            _ => Ok(()),
        };
        let initialized = if self.initialized {
            Ok(())
        } else {
            let left: Vec<&str> =
                self.init.iter().filter(|one| !one.ready).map(|one| one.name.as_str()).collect();
            let message = format!("containers with incomplete status: [{}]", left.join(" "));
            Err(("ContainersNotInitialized", Some(message)))
        };
        self.set(
            "PodReadyToStartContainers",
            if self.addresses.is_empty() { Err(("", None)) } else { Ok(()) },
        );
        self.set("Initialized", initialized);
        self.set("Ready", ready.clone());
        self.set("ContainersReady", ready);
        self.set("PodScheduled", Ok(()));
        PodStatus {
            phase: Some(phase.to_owned()),
            conditions: Some(self.conditions.clone()),
            host_ip: Some(HOST_ADDRESS.to_owned()),
            host_ips: Some(vec![HostIP { ip: HOST_ADDRESS.to_owned() }]),
            pod_ip: self.addresses.first().cloned(),
            pod_ips: Some(self.addresses.iter().map(|ip| PodIP { ip: ip.clone() }).collect())
                .filter(|all: &Vec<_>| !all.is_empty()),
            start_time: Some(self.started_at.clone()),
            init_container_statuses: Some(self.init.clone()).filter(|all| !all.is_empty()),
            container_statuses: Some(self.containers.clone()),
            qos_class: Some("BestEffort".into()),
            ..Default::default()
        }
    }

    /// Pending until every container has run; then it depends on how they ended, and whether they start again.
    fn phase(&self, pod: &Pod) -> &'static str {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        let code = |status: &ContainerStatus| {
            let state = status.state.as_ref()?;
            state.terminated.as_ref().map(|terminated| terminated.exit_code)
        };
        if !self.initialized {
            let failed = self.init.iter().any(|one| code(one).is_some_and(|code| code != 0));
            return if failed && policy == "Never" { "Failed" } else { "Pending" };
        }
        let waits_for_its_first_run = |status: &ContainerStatus| {
            let waiting = status.state.as_ref().is_none_or(|state| state.waiting.is_some());
            waiting && status.last_state.as_ref().is_none_or(|state| state.terminated.is_none())
        };
        if self.containers.iter().any(waits_for_its_first_run) {
            return "Pending";
        }
        let codes: Vec<_> = self.containers.iter().map(code).collect();
        let deleted = pod.metadata.deletion_timestamp.is_some();
        if codes.iter().any(Option::is_none) || policy == "Always" && !deleted {
            "Running"
        } else if codes.iter().all(|code| *code == Some(0)) {
            "Succeeded"
        } else if policy == "OnFailure" && !deleted {
            "Running"
        } else {
            "Failed"
        }
    }

    /// Sets a condition; the time of its transition is that of a change of its status.
    fn set(&mut self, kind: &str, status: Result<(), (&str, Option<String>)>) {
        let word = if status.is_ok() { "True" } else { "False" };
        let (reason, message) = status.err().unzip();
        let at = self.conditions.iter().position(|condition| condition.type_ == kind).unwrap_or_else(|| {
            self.conditions.push(PodCondition { type_: kind.to_owned(), ..Default::default() });
            self.conditions.len() - 1
        });
        let condition = &mut self.conditions[at];
        if condition.status != word {
            condition.status = word.to_owned();
            condition.last_transition_time = Some(now());
        }
        condition.reason = reason.filter(|reason| !reason.is_empty()).map(str::to_owned);
        condition.message = message.flatten();
    }
}

/// Adds or changes one condition of a list that others write, too.
pub fn with_condition(mut conditions: Vec<PodCondition>, condition: PodCondition) -> Vec<PodCondition> {
    conditions.retain(|known| known.type_ != condition.type_);
    conditions.push(condition);
    conditions
}
