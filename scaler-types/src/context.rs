//! The context a plugin starts with, and the defaults it may have for its kind.

use std::{fmt, marker::PhantomData, path::PathBuf, sync::Arc, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

use crate::{ScaleResource, ServicePorts, duration, yaml};

/// The context a plugin's instance starts with; there is one instance per namespace file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginContext {
    /// The namespace whose resources it manages; `*` is all.
    pub namespace: String,
    /// Which daemon loads the plugin.
    pub role: Role,
    /// The folder for records, members and locks where no cluster keeps them; all daemons of a host share it.
    pub state_dir: PathBuf,
    /// The folder of the plugin's own library, for files that it is shipped with.
    pub plugin_dir: PathBuf,
    /// The kubeconfig, where one was given.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// How the daemons find each other. A plugin whose resources are reached from several hosts refuses `Files`.
    #[serde(default)]
    pub coordination: Coordination,
    /// The namespace that the daemons themselves run in, where it is known: their Leases and the ConfigMap of ports are there.
    #[serde(default)]
    pub daemon_namespace: Option<String>,
    /// The ports that every DLX has bound for intercepted Services; none: nothing is intercepted.
    #[serde(default)]
    pub service_ports: Option<ServicePorts>,
    /// The pod that the daemon itself runs in, in `daemon_namespace`; none: it runs in no pod.
    #[serde(default)]
    pub daemon_pod: Option<String>,
    /// The Service in `daemon_namespace` that selects the DLXs.
    #[serde(default)]
    pub dlx_service: String,
    /// The URLs of the metric sources of all namespace files.
    #[serde(default)]
    pub metrics_urls: Vec<String>,
    /// The plugin's kind, the key of its configuration in the namespace file.
    pub kind: String,
    /// The namespace file's path, for messages; empty without a file.
    #[serde(default)]
    pub namespace_file: String,
    /// The namespace file's whole text; empty without a file.
    #[serde(default)]
    pub namespace_file_text: Arc<str>,
}

/// How the daemons find each other: the DLXs, and the autoscaler that is the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coordination {
    /// By locked files in the state folder: all daemons are on one host.
    #[default]
    Files,
    /// By Leases in a cluster.
    Leases,
}

/// Which daemon a plugin runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Scales idle resources to zero.
    Autoscaler,
    /// Wakes them.
    Dlx,
}

/// A plugin's defaults for its kind. The namespace file and flags take precedence over them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceScalerConfig {
    /// How often the autoscaler decides.
    #[serde(with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub scale_interval: Option<Duration>,
    /// How long a wake may take.
    #[serde(with = "duration::go_option", skip_serializing_if = "Option::is_none")]
    pub resource_readiness_timeout: Option<Duration>,
    /// The resource's port, where `resolve_service_name` gives a host alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// The header that names a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_name_header: Option<String>,
    /// The header that carries a path to put before the request's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_path_header: Option<String>,
    /// Metrics for resources that have none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scale_resources: Vec<ScaleResource>,
    /// Faults in the daemon's own setup, and mistakes in the configuration that do not prevent its use (begin those with
    /// `file:line:column: `), with what to do about them: logged, and shown by `/readyz`, `plan` and `check`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

// === impl Role ===

impl Role {
    /// The daemon's name in a cluster's API: the manager of the fields that it writes.
    pub fn field_manager(self) -> &'static str {
        match self {
            Self::Autoscaler => "scaler-autoscaler",
            Self::Dlx => "scaler-dlx",
        }
    }
}

// === impl PluginContext ===

impl PluginContext {
    /// Whether the namespace file has `plugins.<kind>`: reads the file up to there. A file that cannot be read counts as one
    /// that has: reading it reports why.
    pub fn has_section(&self) -> bool {
        !matches!(self.section::<Found>(), Ok(None))
    }

    /// The plugin's own configuration in the namespace file, `plugins.<kind>`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The configuration does not fit `T`: the message names the file's line and what was expected.
    pub fn section<T: DeserializeOwned>(&self) -> crate::Result<Option<T>> {
        section(&self.namespace_file, &self.namespace_file_text, "plugins", &self.kind)
    }
}

/// The configuration of the plugin of this kind in a namespace file's `text`: `<key>.<kind>`.
pub(crate) fn section<T: DeserializeOwned>(
    file: &str,
    text: &str,
    key: &'static str,
    kind: &str,
) -> crate::Result<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_yaml::with_deserializer_from_str_with_options(text, yaml::options(), |deserializer| {
        Section { key, kind, depth: Depth::File, value: PhantomData::<T> }.deserialize(deserializer)
    })
    .map_err(|error| anyhow::anyhow!(yaml::explain(file, &error)))
}

/// Picks `<key>.<kind>` out of a namespace file and skips the rest, so that an error in it carries the file's own line.
#[derive(Clone, Copy)]
struct Section<'a, T> {
    key: &'static str,
    kind: &'a str,
    depth: Depth,
    value: PhantomData<T>,
}

#[derive(Clone, Copy)]
enum Depth {
    File,
    Kinds,
}

/// A value that is there, which ends the reading: as an error.
struct Found;

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("found"))
    }
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Section<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Section<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.depth {
            Depth::File => "a namespace file (a map with the key namespace)",
            Depth::Kinds => "a map from plugin kinds to their configuration",
        })
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match self.depth {
                Depth::File if key == self.key => {
                    found = map.next_value_seed(Section { depth: Depth::Kinds, ..self })?;
                }
                Depth::Kinds if key == self.kind => found = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Own {
        resources: Vec<One>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct One {
        name: String,
        port: u16,
        #[serde(default)]
        command: Vec<String>,
    }

    fn context(text: &str) -> PluginContext {
        PluginContext {
            namespace: "demo".to_owned(),
            role: Role::Dlx,
            state_dir: PathBuf::new(),
            plugin_dir: PathBuf::new(),
            kubeconfig: None,
            coordination: Coordination::Files,
            daemon_namespace: None,
            service_ports: None,
            daemon_pod: None,
            dlx_service: "scaler-dlx".to_owned(),
            metrics_urls: Vec::new(),
            kind: "process".to_owned(),
            namespace_file: "demo.yaml".to_owned(),
            namespace_file_text: text.into(),
        }
    }

    #[test]
    fn a_plugin_gets_its_own_section_and_nothing_else() {
        let text = "namespace: demo\nplugins:\n  other: [1, {a: b}]\n  process:\n    resources:\n      - {name: hello, port: 9000}\n";
        let one = One { name: "hello".to_owned(), port: 9000, command: Vec::new() };
        for there in [text, "plugins: {process: }\n", "plugins: {process: 1}\n", "plugins: [process]\n"] {
            assert!(context(there).has_section(), "{there:?}");
        }
        assert_eq!(context(text).section().unwrap(), Some(Own { resources: vec![one] }));
        for none in [
            "",
            "namespace: demo\n",
            "namespace: demo\nplugins: {other: 1}\n",
            "plugins:\n",
            "dlx: {process: 1}\n",
        ] {
            assert_eq!(context(none).section::<Own>().unwrap(), None, "{none:?}");
            assert!(!context(none).has_section(), "{none:?}");
        }
    }

    /// What stands in the way, and the line it is told on.
    #[test]
    fn an_error_in_a_section_carries_the_files_own_line() {
        let head = "namespace: demo\nplugins:\n  process:\n    resources:\n";
        for (body, told) in [
            (
                "      - {name: hello, prot: 9000}\n",
                "demo.yaml:5:23: unknown key \"prot\", expected one of name, port, command",
            ),
            (
                "      - name: hello\n        port: many\n",
                "demo.yaml:6:15: not a number that fits, expected a whole one from 0 to 65535",
            ),
            (
                "      - name: hello\n        port: 70000\n",
                "demo.yaml:6:15: not a number that fits, expected a whole one from 0 to 65535",
            ),
            ("      - name: hello\n", "demo.yaml:5:9: the key \"port\" is missing, expected it in this map"),
            (
                "      hello: {port: 1}\n",
                "demo.yaml:5:7: not a list, expected [...] or lines that begin with -",
            ),
            (
                "      - {name: [], port: 1}\n",
                "demo.yaml:5:16: not a single value, expected a text or a number",
            ),
            (
                "      - {name: hello, port: 1, port: 2}\n",
                "demo.yaml:5:32: the key \"port\" is there a second time, expected it once",
            ),
            (
                "      - {name: hello, port:}\n",
                "demo.yaml:5:27: not a number that fits, expected a whole one from 0 to 65535",
            ),
        ] {
            let error = context(&format!("{head}{body}")).section::<Own>().unwrap_err();
            assert_eq!(error.to_string(), told, "{body}");
        }
        let error = context("namespace: demo\nplugins:\n- process\n").section::<Own>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "demo.yaml:2:1: sequence is not allowed here, expected a map from plugin kinds to their configuration"
        );
    }

    #[test]
    fn ten_thousand_resources_fit() {
        let mut text = "namespace: demo\nplugins:\n  process:\n    resources:\n".to_owned();
        for number in 0..10_000 {
            let arguments = (0..20).map(|argument| format!("a{argument}")).collect::<Vec<_>>().join(", ");
            text += &format!("      - name: r{number}\n        port: 9000\n        command: [{arguments}]\n");
        }
        let own: Own = context(&text).section().unwrap().unwrap();
        assert_eq!(own.resources.len(), 10_000);
    }
}
