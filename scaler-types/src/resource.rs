//! A resource: how its requests arrive, where it listens, and its scale.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Interception, Record, ResourceId, Rollout, ScaleEvent, Scaling, Version, duration, tolerant};

/// Anything that can be scaled, as a plugin describes it in [`get_resources`](crate::ResourceScaler::get_resources).
///
/// Build one with [`Resource::new`] and set what differs: new fields get a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Namespace and name.
    #[serde(flatten)]
    pub id: ResourceId,
    /// How requests reach it.
    #[serde(default, deserialize_with = "TrafficMode::deserialize_any")]
    pub traffic_mode: TrafficMode,
    /// The metrics by which it counts as idle. Empty: the namespace file's defaults apply.
    #[serde(default)]
    pub scale_resources: Vec<ScaleResource>,
    /// The last thing that happened to its scale.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub last_scale_event: Option<ScaleEvent>,
    /// The time of that event, in RFC 3339 by the clock of the process that wrote it. Shown; never compared with another clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_event_time: Option<String>,
    /// Host names under which HTTP requests for it arrive, without port. Lower case.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Ports of the DLX that belong to this resource alone: a request on one of them is for this resource.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// The interception of its requests, where its plugin can intercept them; none: its users point clients at the DLX themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interception: Option<Interception>,
    /// The sleep protocol's record, as stored with the resource.
    #[serde(default, deserialize_with = "Record::deserialize_listed")]
    pub record: Record,
    /// The version of record and scale together: it changes whenever either does. Opaque to the daemons.
    #[serde(default)]
    pub version: Version,
    /// The leader must write `record` again, as it is: an older one is stored in its place, or a write was interrupted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_repair: bool,
    /// Its desired replicas now; 0 is asleep, whatever the record says. A replica that is being stopped does not count.
    #[serde(default)]
    pub replicas: u32,
    /// Where it listens, or will listen. Never the address of a replica that is being stopped.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// What the plugin knows beyond the record ("exited with status 1").
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// While it wakes: its progress as the plugin observes it. None if the plugin does not know it or nothing is starting.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Why it must not be scaled to zero now: its users paused it, another autoscaler manages it. Empty: it may be. Requests wake it
    /// in any case.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keep_awake: String,
    /// Its users request that it is scaled to zero without waiting for its windows. Requests in flight still keep it awake.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sleep_now: bool,
    /// How long one request for it is held; none: as the namespace file says.
    #[serde(default, with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub hold_timeout: Option<Duration>,
    /// How long a wake of it may take; none: as the namespace file says.
    #[serde(default, with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub resource_readiness_timeout: Option<Duration>,
    /// For how long it stays awake at least after a wake; none: its windows alone decide.
    #[serde(default, with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub min_awake: Option<Duration>,
    /// The rollout of its current revision; none: its plugin does not know it. It is not scaled to zero before the
    /// rollout is complete or overdue, and its windows begin no earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// How many replicas it gets while it is awake; none: others decide that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Why its users or its plugin ask that it is woken now, without a request. Empty: they do not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wake_now: String,
}

/// The steps of a wake that only the plugin observes; the DLX times its cold starts by when it reads them. The other steps (decided,
/// written, ready, first byte) it observes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// A node was found for the first of its pods.
    Scheduled,
    /// The containers of the first of its pods have started. An endpoint that is listed without any progress counts as this.
    Started,
}

/// How requests reach a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficMode {
    /// Every request passes a DLX, awake or asleep: nothing is ever lost by scaling.
    #[default]
    Always,
    /// Requests pass a DLX only while the resource is asleep.
    WhenAsleep,
    /// Another controller switches the traffic; the resource is not drained, and that controller is responsible for its requests.
    External,
    /// A value of a later version. The resource is not scaled to zero.
    #[serde(other)]
    Unknown,
}

/// One metric by which a resource counts as idle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleResource {
    /// The metric's name, e.g. `requests`.
    #[serde(alias = "metricName")]
    pub metric_name: String,
    /// How far back the metric counts. In JSON a Go duration (`10m`, `1m30s`) or nanoseconds.
    #[serde(rename = "windows_size", alias = "window_size", alias = "windowSize", with = "duration::go")]
    pub window_size: Duration,
    /// Idle while the value is not above this, in the metric's own unit.
    #[serde(default)]
    pub threshold: f64,
}

/// A port of the DLX that belongs to one resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// The port the DLX listens on.
    pub listen: u16,
    /// The resource's own port behind it; none: the endpoint's address as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u16>,
    /// Its protocol.
    #[serde(default, deserialize_with = "tolerant::or_default")]
    pub protocol: Protocol,
    /// The protocol is not declared but guessed, from the port's name for instance. On such a port of [`Protocol::Http`] a connection
    /// whose first bytes cannot be HTTP is forwarded as TCP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guessed: bool,
}

/// The protocol of a [`Port`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2 in clear text.
    Http,
    /// Not known to be HTTP, or a value of a later version: bytes are forwarded as they are.
    #[default]
    #[serde(other)]
    Tcp,
}

/// An address at which a resource listens, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// `ip:port` or `host:port`.
    pub address: String,
    /// Whose address it is.
    #[serde(default, deserialize_with = "tolerant::or_default")]
    pub address_of: AddressOf,
    /// Which incarnation this is (a pod's uid, a process's run): another one at the same address is another
    /// endpoint, and no connection to the earlier one is used for it.
    #[serde(default)]
    pub incarnation: String,
    /// How the DLX checks that it is ready; a probe of a later version is read as the default.
    #[serde(default, deserialize_with = "tolerant::or_default")]
    pub probe: Probe,
    /// Where it is probed, if not at `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_address: Option<String>,
}

/// Whether an endpoint's address is the replica's own, or one behind which a DLX may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressOf {
    /// The pod or the process itself. Requests sent there carry no `Via`.
    Instance,
    /// A name, or the address of a Service or load balancer: a DLX may be behind it. Requests sent there carry an entry for the
    /// resource in `Via`, by which a loop is found. The result of
    /// [`resolve_service_name`](crate::ResourceScaler::resolve_service_name) is one of these; so is a value of a later version.
    #[default]
    #[serde(other)]
    Service,
}

/// How the DLX checks that an endpoint is ready to take requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// The port accepts a connection.
    #[default]
    Tcp,
    /// `GET` answers 2xx or 3xx.
    Http {
        /// The path to ask for, beginning with `/`.
        path: String,
        /// Headers to send besides the usual ones; a `Host` among them replaces the address.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// The standard health service (`grpc.health.v1.Health/Check`, in clear text) answers SERVING.
    Grpc {
        /// The service to ask about; empty is the whole server.
        #[serde(default)]
        service: String,
    },
    /// No probe: it is ready as soon as the plugin lists it.
    Listed,
}

// === impl TrafficMode ===

impl TrafficMode {
    fn deserialize_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(tolerant::option(deserializer)?.unwrap_or(Self::Unknown))
    }
}

// === impl Resource ===

impl Resource {
    /// A resource with nothing but an identity: traffic mode `always`, active, no replicas.
    pub fn new(id: ResourceId) -> Self {
        Self {
            id,
            traffic_mode: TrafficMode::default(),
            scale_resources: Vec::new(),
            last_scale_event: None,
            last_scale_event_time: None,
            hosts: Vec::new(),
            ports: Vec::new(),
            interception: None,
            record: Record::default(),
            version: Version::default(),
            needs_repair: false,
            replicas: 0,
            endpoints: Vec::new(),
            status: String::new(),
            progress: None,
            keep_awake: String::new(),
            sleep_now: false,
            hold_timeout: None,
            resource_readiness_timeout: None,
            min_awake: None,
            rollout: None,
            scaling: None,
            wake_now: String::new(),
        }
    }

    /// How long a wake of it may take: its own timeout, or the namespace file's (`default`), and never less than its rollout may go
    /// without progress.
    pub fn wake_timeout(&self, default: Duration) -> Duration {
        let deadline = self.rollout.as_ref().and_then(|rollout| rollout.deadline);
        self.resource_readiness_timeout.unwrap_or(default).max(deadline.unwrap_or_default())
    }

    /// Whether it works on queues or metrics, and has no host, port or Service by which requests would arrive. (Without such work it
    /// may be one that requests name by a header alone.)
    pub fn takes_no_requests(&self) -> bool {
        self.scaling.as_ref().is_some_and(Scaling::has_work)
            && self.hosts.is_empty()
            && self.ports.is_empty()
            && self.interception.is_none()
            && self.traffic_mode == TrafficMode::Always
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// An endpoint that is ready when its port accepts, by the address of a [`Service`](AddressOf::Service). Build one so and set what differs: new fields get a default.
    pub fn new(address: impl Into<String>, incarnation: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            address_of: AddressOf::Service,
            incarnation: incarnation.into(),
            probe: Probe::Tcp,
            probe_address: None,
        }
    }
}

// === impl ScaleResource ===

impl ScaleResource {
    /// The metric's name on the wire: `<metric_name>_per_<window>`, the window in Go's short form.
    ///
    /// ```
    /// # use {scaler_types::ScaleResource, std::time::Duration};
    /// let minute = ScaleResource { metric_name: "requests".into(), window_size: Duration::from_secs(60), threshold: 0.0 };
    /// assert_eq!(minute.wire_name(), "requests_per_1m");
    /// ```
    pub fn wire_name(&self) -> String {
        format!("{}_per_{}", self.metric_name, duration::short(self.window_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    #[test]
    fn a_resource_as_v3io_scaler_writes_it_is_read() {
        let json = r#"{
            "name": "function", "namespace": "nuclio",
            "scale_resources": [
                {"metric_name": "requests", "windows_size": "10m", "threshold": 0},
                {"metric_name": "gpu", "window_size": "1h0m0s", "threshold": 2},
                {"metric_name": "cpu", "windows_size": 90000000000, "threshold": 1}
            ],
            "last_scale_event": "scaleFromZeroStarted", "last_scale_event_time": "2025-09-01T12:00:00Z"
        }"#;
        let resource: Resource = serde_json::from_str(json).unwrap();
        assert_eq!(resource.id, ResourceId::new("nuclio", "function"));
        let names: Vec<String> = resource.scale_resources.iter().map(ScaleResource::wire_name).collect();
        assert_eq!(names, ["requests_per_10m", "gpu_per_1h", "cpu_per_1m30s"]);
        assert_eq!(resource.last_scale_event, Some(ScaleEvent::ScaleFromZeroStarted));
        assert_eq!(
            (resource.traffic_mode, resource.record.phase, resource.replicas),
            (TrafficMode::Always, Phase::Active, 0)
        );
    }

    #[test]
    fn names_on_the_wire_are_its_own() {
        let mut resource = Resource::new(ResourceId::new("demo", "hello"));
        resource.scale_resources.push(ScaleResource {
            metric_name: "requests".to_owned(),
            window_size: Duration::from_secs(600),
            threshold: 0.0,
        });
        resource.last_scale_event = Some(ScaleEvent::ResourceUpdated);
        let json = serde_json::to_value(&resource).unwrap();
        assert_eq!((&json["name"], &json["namespace"]), (&"hello".into(), &"demo".into()));
        let window = &json["scale_resources"][0];
        assert_eq!((&window["metric_name"], &window["windows_size"]), (&"requests".into(), &"10m".into()));
        assert_eq!(json["last_scale_event"], "resourceUpdated");
    }

    #[test]
    fn what_is_written_is_read_back_and_more_is_ignored() {
        let mut resource = Resource::new(ResourceId::new("demo", "hello"));
        resource.traffic_mode = TrafficMode::External;
        resource.hosts = vec!["hello.localhost".to_owned()];
        resource.ports =
            vec![Port { listen: 9100, target: Some(22), protocol: Protocol::Tcp, guessed: false }];
        resource.record = Record { phase: Phase::Draining, nonce: crate::Nonce(0xbeef), ..Record::default() };
        resource.version = Version("7".to_owned());
        resource.replicas = 2;
        let probe = Probe::Http { path: "/ready".to_owned(), headers: Vec::new() };
        let address_of = AddressOf::Instance;
        resource.endpoints = vec![Endpoint { probe, address_of, ..Endpoint::new("127.0.0.1:9000", "run-1") }];
        resource.status = "exited with status 1".to_owned();
        resource.progress = Some(Progress::Scheduled);
        let mut json = serde_json::to_value(&resource).unwrap();
        for place in ["", "/record", "/endpoints/0", "/ports/0"] {
            json.pointer_mut(place).unwrap()["of_a_later_version"] = serde_json::json!({"anything": [1, 2]});
        }
        assert_eq!(serde_json::from_value::<Resource>(json).unwrap(), resource);
    }

    /// One value that this build does not know does not make a whole listing unreadable.
    #[test]
    fn values_of_a_later_version_are_read_as_what_is_safe() {
        let json = r#"{
            "namespace": "demo", "name": "hello", "traffic_mode": {"mirrored": "to"}, "last_scale_event": "scaleToZeroStarted",
            "interception": {"backend": {"gateway": "a"}}, "progress": "unpacked", "rollout": {"revision": "f", "phase": {"paused": 1}},
            "record": {"phase": "hibernating", "nonce": {"of": "another kind"}, "format": 2},
            "ports": [{"listen": 1, "protocol": {"quic": 1}}],
            "endpoints": [{"address": "a:1", "address_of": {"gateway": "b"}, "probe": {"script": {"run": ["a"]}}}]
        }"#;
        let resource: Resource = serde_json::from_str(json).unwrap();
        assert_eq!(resource.traffic_mode, TrafficMode::Unknown);
        assert_eq!((resource.last_scale_event, resource.progress), (None, None));
        assert_eq!(resource.interception.unwrap().backend, crate::Backend::Unknown);
        assert_eq!(resource.rollout.unwrap().phase, crate::RolloutPhase::Progressing);
        assert_eq!((resource.record.phase, resource.record.format), (Phase::Active, 2));
        assert_eq!(resource.ports[0].protocol, Protocol::Tcp);
        let endpoint = &resource.endpoints[0];
        assert_eq!((endpoint.address_of, &endpoint.probe), (AddressOf::Service, &Probe::Tcp));
        // The format was forgotten: its phase is not one of this format, so it is a later one all the same.
        let read = |record: &str| {
            let json = format!(r#"{{"namespace": "demo", "name": "hello", "record": {record}}}"#);
            serde_json::from_str::<Resource>(&json).unwrap().record
        };
        assert!(read(r#"{"phase": "hibernating"}"#).format > Record::FORMAT);
        let asleep = read(r#"{"phase": "asleep", "nonce": 7, "format": 3}"#);
        assert_eq!((asleep.phase, asleep.format), (Phase::Asleep, 3));
        let asleep = read(r#"{"phase": "asleep", "nonce": 7, "format": "2.1"}"#);
        assert_eq!((asleep.phase, asleep.format), (Phase::Asleep, u32::MAX));
        for unreadable in ["null", "[]", "{}", r#"{"phase": 7}"#] {
            assert!(read(unreadable).format > Record::FORMAT, "{unreadable}");
        }
    }

    #[test]
    fn a_name_and_a_namespace_are_enough_and_due() {
        let bare: Resource = serde_json::from_str(r#"{"namespace": "demo", "name": "hello"}"#).unwrap();
        assert_eq!(bare, Resource::new(ResourceId::new("demo", "hello")));
        for missing in [r#"{"namespace": "demo"}"#, r#"{"name": "hello"}"#] {
            assert!(serde_json::from_str::<Resource>(missing).is_err(), "{missing}");
        }
        let negative = r#"{"metric_name": "requests", "windows_size": -1, "threshold": 0}"#;
        assert!(serde_json::from_str::<ScaleResource>(negative).is_err());
    }
}
