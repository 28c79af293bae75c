//! What sleeps and wakes: the test service as a Deployment or StatefulSet, and its Service.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Shop, journals::Journals};
use crate::journal::Journal;

/// The port the service listens on.
pub const PORT: u16 = 8080;

/// The port its lines are taken on.
const LINES_PORT: u16 = 9090;

/// A workload that the daemons look after.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name, and its Service's.
    pub name: String,
    /// Where all its pods write down starts and requests.
    journals: Journals,
    namespace: String,
    kind: &'static str,
    image: String,
    replicas: u32,
    arguments: Vec<String>,
    annotations: Vec<(String, String)>,
    /// Instead of the test service.
    program: Option<Value>,
    /// Its Service's ports.
    ports: Value,
    /// The families of its Service's addresses; null: what the cluster gives.
    families: Value,
}

// === impl Workload ===

impl Workload {
    /// A Deployment with one replica that sleeps after a second without a request. An Ingress sends its requests to the DLX, and its
    /// Service stays as it is.
    pub fn new(shop: &Shop, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            journals: shop.journals(),
            namespace: shop.names().namespace.clone(),
            kind: "Deployment",
            image: shop.names().service.clone(),
            replicas: 1,
            arguments: Vec::new(),
            annotations: [("scale-to-zero", "1s"), ("intercept", "manual")]
                .map(|(name, value)| (format!("scaler.dev/{name}"), value.to_owned()))
                .to_vec(),
            program: None,
            ports: json!([{"name": "http", "port": 80, "targetPort": "http"}]),
            families: Value::Null,
        }
    }

    /// A StatefulSet instead.
    #[must_use]
    pub fn stateful(mut self) -> Self {
        self.kind = "StatefulSet";
        self
    }

    /// From another image.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        self.image = image.to_owned();
        self
    }

    /// With so many replicas.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// More arguments for the service.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// An annotation `scaler.dev/NAME`.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        let name = format!("scaler.dev/{name}");
        self.annotations.retain(|(known, _)| *known != name);
        self.annotations.push((name, value.to_owned()));
        self
    }

    /// Nobody's business: without any annotation of ours.
    #[must_use]
    pub fn unmanaged(mut self) -> Self {
        self.annotations.clear();
        self
    }

    /// An application that continues for a while after SIGTERM, and ends once it has answered; without this it ends
    /// at once, whatever it was doing.
    #[must_use]
    pub fn drains(self, time: Duration) -> Self {
        self.arguments(&["--drain", &time.as_millis().to_string()])
    }

    /// It speaks the line protocol, too, at the port 81 of its Service.
    #[must_use]
    pub fn lines(self) -> Self {
        let (mut ports, port) = (self.ports.clone(), LINES_PORT.to_string());
        if let Some(ports) = ports.as_array_mut() {
            ports.push(json!({"name": "lines", "port": 81, "targetPort": LINES_PORT}));
        }
        self.arguments(&["--lines-port", &port]).ports(ports)
    }

    /// These ports of its Service instead of `http`, the port 80.
    #[must_use]
    pub fn ports(mut self, ports: Value) -> Self {
        self.ports = ports;
        self
    }

    /// With a Service that has addresses of these families.
    #[must_use]
    pub fn families(mut self, families: &[&str]) -> Self {
        self.families = json!(families);
        self
    }

    /// Another program: a container without a name.
    #[must_use]
    pub fn program(mut self, container: Value) -> Self {
        self.program = Some(container);
        self
    }

    /// Where its requests are sent to.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    /// What the daemons call it.
    pub fn id(&self) -> String {
        match self.kind {
            "Deployment" => self.name.clone(),
            kind => format!("{}/{}", kind.to_lowercase(), self.name),
        }
    }

    /// What it has written down so far.
    pub fn read(&self) -> Journal {
        self.journals.read(&self.name)
    }

    /// The pods' only container, from an image.
    pub fn container(&self, image: &str) -> Value {
        if let Some(program) = &self.program {
            let mut container = program.clone();
            container["name"] = json!("program");
            container["image"] = json!(image);
            return container;
        }
        let (port, journal) = (PORT.to_string(), self.journals.of(&self.name));
        let own = ["--address", "$(POD_IPS)", "--port", &port, "--name", &self.name, "--journal", &journal];
        let mut arguments = own.map(str::to_owned).to_vec();
        arguments.extend(self.arguments.iter().cloned());
        json!({
            "name": "service", "image": image, "imagePullPolicy": "IfNotPresent", "args": arguments,
            "env": [{"name": "POD_IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}],
            "ports": [{"name": "http", "containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        })
    }

    /// The workload's object.
    pub fn object(&self) -> Value {
        let labels = json!({"app": self.name});
        let annotations: serde_json::Map<String, Value> =
            self.annotations.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace, "annotations": annotations},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "containers": [self.container(&self.image)],
                    },
                },
            },
        });
        if self.kind == "StatefulSet" {
            object["spec"]["serviceName"] = json!(self.name);
        }
        object
    }

    /// The Ingress that sends its requests to the DLX, where its Service is not intercepted.
    pub fn ingress(&self) -> Option<Value> {
        self.annotations.iter().find(|(name, value)| name == "scaler.dev/intercept" && value == "manual")?;
        let backend = json!({"service": {"name": "scaler-dlx", "port": {"number": 80}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        Some(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"rules": [{"host": self.host(), "http": {"paths": paths}}]},
        }))
    }

    /// Its Service.
    pub fn service(&self) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"selector": {"app": self.name}, "ports": self.ports},
        });
        if let Some(families) = self.families.as_array() {
            let policy = if families.len() > 1 { "PreferDualStack" } else { "SingleStack" };
            service["spec"]["ipFamilies"] = self.families.clone();
            service["spec"]["ipFamilyPolicy"] = json!(policy);
        }
        service
    }
}
