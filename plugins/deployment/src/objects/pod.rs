//! Pods.

use k8s_openapi::{
    api::core::v1::{self as core, ContainerStatus},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Labels, Meta};

/// The fields kept of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodObject {
    pub(crate) meta: Meta,
    pub(crate) labels: Labels,
    pub(crate) deleting: bool,
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub(crate) phase: String,
    /// Its address, once it has one.
    pub(crate) ip: Option<String>,
    /// That address is its node's.
    pub(crate) host_network: bool,
    /// A node was found for it.
    pub(crate) scheduled: bool,
    /// Why no node was found for it, if so.
    pub(crate) unschedulable: Option<String>,
    /// The kubelet says it is ready.
    pub(crate) ready: bool,
    /// It was ready once, as far as this process saw.
    pub(crate) was_ready: bool,
    /// Whether something outside its containers has a say in whether it is ready.
    pub(crate) gated: bool,
    /// Its containers, those that run at its start first.
    pub(crate) containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Container {
    pub(crate) name: String,
    /// It runs before the others, and ends.
    pub(crate) init: bool,
    /// Its ports: name and number.
    pub(crate) ports: Vec<(String, u16)>,
    /// The probe that decides its readiness.
    pub(crate) probe: Option<ContainerProbe>,
    pub(crate) started: bool,
    /// Why it does not run, if so.
    pub(crate) waiting: Option<WaitingReason>,
    /// How often it was started anew.
    pub(crate) restarts: i32,
    /// How it ended the last time.
    pub(crate) ended: Option<String>,
}

/// Why a container does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitingReason {
    /// In one word: `ImagePullBackOff`.
    pub(crate) reason: String,
    /// The kubelet's own words.
    pub(crate) message: String,
}

/// A container's own check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerProbe {
    /// `GET` over clear text.
    Http {
        port: PortRef,
        /// At this host instead of the pod.
        host: Option<String>,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        port: PortRef,
        /// At this host instead of the pod.
        host: Option<String>,
    },
    /// The standard health service.
    Grpc { port: u16, service: String },
    /// Something only the kubelet can do: a command, TLS, several successes in a row.
    Kubelet,
}

/// A port by number or by its container's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

// === impl PodObject ===

impl PodObject {
    /// Whether something of it runs or will: neither on its way out nor at its end.
    pub(crate) fn alive(&self) -> bool {
        !self.deleting && !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The port a container of it calls so, with the container.
    pub(crate) fn port_named(&self, name: &str) -> Option<(u16, &Container)> {
        self.serving().find_map(|container| {
            let found = container.ports.iter().find(|(port, _)| port == name);
            found.map(|(_, number)| (*number, container))
        })
    }

    /// Its containers but those that only run at its start.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| !container.init)
    }
}

impl From<core::Pod> for PodObject {
    fn from(pod: core::Pod) -> Self {
        let meta = Meta::from(&pod.metadata);
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let condition = |name: &str| status.conditions.iter().flatten().find(|one| one.type_ == name);
        let holds = |name: &str| condition(name).is_some_and(|one| one.status == "True");
        let unschedulable = condition("PodScheduled")
            .filter(|one| one.status == "False" && one.reason.as_deref() == Some("Unschedulable"))
            .map(|one| one.message.clone().unwrap_or_else(|| "no node takes it".to_owned()));
        let states = |name: &str, list: &Option<Vec<ContainerStatus>>| {
            list.iter().flatten().find(|one| one.name == name).cloned()
        };
        let init = spec.init_containers.into_iter().flatten().map(|container| {
            let status = states(&container.name, &status.init_container_statuses);
            // One that goes on running beside the others is one of them.
            let init = container.restart_policy.as_deref() != Some("Always");
            Container::new(container, status, init)
        });
        let rest = spec.containers.into_iter().map(|container| {
            let status = states(&container.name, &status.container_statuses);
            Container::new(container, status, false)
        });
        let containers = init.chain(rest).collect();
        let ready = holds("Ready");
        Self {
            meta,
            labels: pod.metadata.labels.unwrap_or_default(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            host_network: spec.host_network == Some(true),
            scheduled: spec.node_name.is_some() || holds("PodScheduled"),
            unschedulable,
            ready,
            was_ready: ready,
            gated: spec.readiness_gates.is_some_and(|gates| !gates.is_empty()),
            containers,
            phase: status.phase.unwrap_or_default(),
            ip: status.pod_ip.filter(|ip| !ip.is_empty()),
        }
    }
}

// === impl Container ===

impl Container {
    fn new(container: core::Container, status: Option<ContainerStatus>, init: bool) -> Self {
        let ports = container.ports.into_iter().flatten().filter_map(|port| {
            Some((port.name.unwrap_or_default(), u16::try_from(port.container_port).ok()?))
        });
        let probe = container.readiness_probe.or(container.startup_probe);
        let mut new = Self {
            ports: ports.collect(),
            probe: probe.map(ContainerProbe::from),
            name: container.name,
            init,
            ..Self::default()
        };
        let Some(status) = status else { return new };
        let state = status.state.unwrap_or_default();
        let last = status.last_state.unwrap_or_default();
        new.started = state.running.is_some();
        new.waiting = state.waiting.map(|waiting| WaitingReason {
            reason: waiting.reason.unwrap_or_default(),
            message: waiting.message.unwrap_or_default(),
        });
        new.restarts = status.restart_count;
        new.ended = state.terminated.or(last.terminated).map(|end| {
            let how = match end.signal {
                Some(signal) if signal > 0 => format!("was ended by signal {signal}"),
                _ => format!("exited with status {}", end.exit_code),
            };
            let why = end.reason.filter(|reason| !matches!(reason.as_str(), "" | "Error" | "Completed"));
            let message = end.message.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
            [Some(how), why.map(|why| format!(" ({why})")), message.map(|message| format!(": {message}"))]
                .into_iter()
                .flatten()
                .collect()
        });
        new
    }
}

// === impl ContainerProbe ===

impl From<core::Probe> for ContainerProbe {
    fn from(probe: core::Probe) -> Self {
        if probe.success_threshold.is_some_and(|times| times > 1) {
            return Self::Kubelet;
        }
        match (probe.http_get, probe.tcp_socket, probe.grpc) {
            (Some(get), _, _) if get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP") => {
                let path = get.path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
                let headers = get.http_headers.into_iter().flatten();
                Self::Http {
                    port: get.port.into(),
                    host: get.host.filter(|host| !host.is_empty()),
                    path: if path.starts_with('/') { path } else { format!("/{path}") },
                    headers: headers.map(|header| (header.name, header.value)).collect(),
                }
            }
            (None, Some(tcp), _) => {
                Self::Tcp { port: tcp.port.into(), host: tcp.host.filter(|host| !host.is_empty()) }
            }
            (None, None, Some(grpc)) => match u16::try_from(grpc.port) {
                Ok(port) => Self::Grpc { port, service: grpc.service.unwrap_or_default() },
                Err(_) => Self::Kubelet,
            },
            _ => Self::Kubelet,
        }
    }
}

// === impl PortRef ===

impl From<IntOrString> for PortRef {
    fn from(port: IntOrString) -> Self {
        match port {
            // A number that is no port is no port's name either.
            IntOrString::Int(number) => {
                u16::try_from(number).map_or_else(|_| Self::Name(number.to_string()), Self::Number)
            }
            IntOrString::String(name) => match name.parse() {
                Ok(number) => Self::Number(number),
                Err(_) => Self::Name(name),
            },
        }
    }
}
