//! What a namespace file of a test says.

use std::{fmt::Write as _, path::PathBuf};

use crate::{Site, workers::Workers};

/// One namespace file.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    interval: String,
    window: String,
    dlx: Vec<String>,
    services: Vec<Service>,
    workers: Vec<Workers>,
    queues: String,
    more: String,
}

/// One resource: a process of the test service, unless it is given another command.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Host names, without port.
    pub hosts: Vec<String>,
    /// Its own HTTP port.
    pub port: u16,
    /// Where it writes down starts and requests.
    pub journal: PathBuf,
    /// The port of the DLX for its line protocol, and its own.
    pub lines: Option<(u16, u16)>,
    command: Option<Vec<String>>,
    arguments: Vec<String>,
}

// === impl Namespace ===

impl Namespace {
    /// A namespace that decides every 200 ms and sleeps after 1 s without a request.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            interval: "200ms".to_owned(),
            window: "1s".to_owned(),
            dlx: Vec::new(),
            services: Vec::new(),
            workers: Vec::new(),
            queues: String::new(),
            more: String::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long a resource is idle before it sleeps.
    #[must_use]
    pub fn window(mut self, window: &str) -> Self {
        self.window = window.to_owned();
        self
    }

    /// How often it decides.
    #[must_use]
    pub fn interval(mut self, interval: &str) -> Self {
        self.interval = interval.to_owned();
        self
    }

    /// Adds workers of a queue.
    #[must_use]
    pub fn workers(mut self, workers: &Workers) -> Self {
        self.workers.push(workers.clone());
        self
    }

    /// What `metricSources.queues` is, e.g. `{allowedHosts: [...]}`.
    #[must_use]
    pub fn queues(mut self, section: &str) -> Self {
        self.queues = section.to_owned();
        self
    }

    /// A line of the `dlx` section, e.g. `holdTimeout: 1s`.
    #[must_use]
    pub fn dlx(mut self, line: &str) -> Self {
        self.dlx.push(line.to_owned());
        self
    }

    /// Adds a resource.
    #[must_use]
    pub fn with(mut self, service: &Service) -> Self {
        self.services.push(service.clone());
        self
    }

    /// Adds lines to the `plugins` section, indented by two blanks.
    #[must_use]
    pub fn plugin(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let Self { name, interval, window, .. } = self;
        let mut text = format!(
            "namespace: {name}\nscaleInterval: {interval}\ndefaults:\n  scaleResources: \
             [{{metricName: requests, windowSize: {window}, threshold: 0}}]\n"
        );
        if !self.dlx.is_empty() {
            text.push_str("dlx:\n");
            for line in &self.dlx {
                let _ = writeln!(text, "  {line}");
            }
        }
        if !self.queues.is_empty() {
            let _ = writeln!(text, "metricSources:\n  queues: {}", self.queues);
        }
        text.push_str("plugins:\n");
        text.push_str(&self.more);
        if !(self.services.is_empty() && self.workers.is_empty()) {
            text.push_str("  process:\n    resources:\n");
        }
        for service in &self.services {
            service.write(&mut text);
        }
        text.extend(self.workers.iter().map(Workers::text));
        text
    }
}

// === impl Service ===

impl Service {
    /// A test service with a port and a journal of its own, under the host `<name>.localhost`.
    pub fn new(site: &Site, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hosts: vec![format!("{name}.localhost")],
            port: site.port(),
            journal: site.folder().join(format!("{name}-{}.journal", site.count())),
            lines: None,
            command: None,
            arguments: Vec::new(),
        }
    }

    /// Under this host instead.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.hosts = vec![host.to_owned()];
        self
    }

    /// It also speaks the line protocol, behind the port `listen` of the DLX.
    #[must_use]
    pub fn lines(mut self, site: &Site, listen: u16) -> Self {
        self.lines = Some((listen, site.port()));
        self
    }

    /// Another command than the test service.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = Some(command.iter().map(|&part| part.to_owned()).collect());
        self
    }

    /// More arguments for the test service.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Its first host.
    pub fn host_name(&self) -> &str {
        &self.hosts[0]
    }

    fn write(&self, text: &mut String) {
        let mut command = self.command.clone().unwrap_or_else(|| {
            let program = crate::binaries::own("service");
            let journal = self.journal.display().to_string();
            let port = self.port.to_string();
            let mut command: Vec<String> = vec![program.display().to_string()];
            command.extend(["--port", &port, "--name", &self.name, "--journal", &journal].map(str::to_owned));
            if let Some((_, port)) = self.lines {
                command.extend(["--lines-port".to_owned(), port.to_string()]);
            }
            command
        });
        command.extend(self.arguments.iter().cloned());
        let command = serde_json::to_string(&command).unwrap_or_default();
        let hosts = serde_json::to_string(&self.hosts).unwrap_or_default();
        let _ = writeln!(text, "      - name: {}\n        command: {command}", self.name);
        let _ = writeln!(text, "        port: {}\n        hosts: {hosts}", self.port);
        if let Some((listen, target)) = self.lines {
            let _ =
                writeln!(text, "        tcpPorts: [{{listen: {listen}, target: {target}, protocol: tcp}}]");
        }
    }
}
