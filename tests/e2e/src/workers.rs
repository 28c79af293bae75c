//! Workers of a queue, as a resource of a namespace file.

use std::fmt::Write as _;

/// A process without a port that is scaled by a queue: two messages for each replica, five replicas at most.
#[derive(Clone, Debug)]
pub struct Workers {
    /// The name of the resource.
    pub name: String,
    queue: String,
    command: Vec<String>,
    more: String,
}

// === impl Workers ===

impl Workers {
    /// Workers that take nothing from the queue with this URI: what waits in it is what the test put there.
    pub fn new(name: &str, queue: &str) -> Self {
        let command = ["sleep", "infinity"].map(str::to_owned).into();
        Self { name: name.to_owned(), queue: queue.to_owned(), command, more: String::new() }
    }

    /// Another command.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// One more key, or another value, e.g. `maxReplicas: 9`.
    #[must_use]
    pub fn set(mut self, line: &str) -> Self {
        let _ = writeln!(self.more, "        {line}");
        self
    }

    /// Its text in a namespace file.
    pub(crate) fn text(&self) -> String {
        let Self { name, queue, more, .. } = self;
        let command = serde_json::to_string(&self.command).unwrap_or_default();
        let mut text =
            format!("      - name: {name}\n        command: {command}\n        queue: \"{queue}\"\n");
        for (key, default) in [("messagesPerReplica", 2), ("maxReplicas", 5)] {
            if !more.contains(key) {
                let _ = writeln!(text, "        {key}: {default}");
            }
        }
        text + more
    }
}
