//! A container's command as a process of this machine.
//!
//! There is no container and no file system of its own: wherever a mount path stands in the command, its arguments or the
//! values of the environment, the real folder takes its place (`--config=/etc/scaler/a.yaml` becomes
//! `--config=/tmp/.../volumes/config/a.yaml`). The process listens on its pod's address, which is in `POD_IP`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod};

use super::config::{Config, Missing};

/// What a process is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All of its environment.
    pub environment: BTreeMap<String, String>,
    /// Where it starts.
    pub directory: PathBuf,
}

/// Where mount paths really are, the longest first.
#[derive(Clone, Debug, Default)]
pub struct Mounts(Vec<(String, String)>);

/// The pod as its processes may know it.
pub struct Place<'a> {
    pub pod: &'a Pod,
    pub addresses: &'a [String],
    pub node: &'a str,
    /// Its service account's.
    pub token: &'a str,
    pub programs: &'a Path,
    /// The programs of images with other names.
    pub images: &'a BTreeMap<String, String>,
    /// What every process gets.
    pub base: BTreeMap<String, String>,
}

// === impl Mounts ===

impl Mounts {
    pub fn new(container: &Container, volumes: &Path) -> Self {
        let mounts = container.volume_mounts.iter().flatten().filter(|mount| mount.mount_path != "/");
        let mut paths: Vec<_> = mounts
            .map(|mount| {
                let mut real = volumes.join(&mount.name);
                if let Some(below) = mount.sub_path.as_ref().filter(|path| !path.is_empty()) {
                    real = real.join(below);
                }
                (mount.mount_path.trim_end_matches('/').to_owned(), real.to_string_lossy().into_owned())
            })
            .collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self(paths)
    }

    /// Puts real folders in the place of mount paths, where they begin and end as paths do.
    pub fn translate(&self, text: &str) -> String {
        let part_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        let mut translated = String::new();
        let mut rest = text;
        let mut before = None;
        'text: while let Some(next) = rest.chars().next() {
            if !before.is_some_and(part_of_name) {
                for (path, real) in &self.0 {
                    let Some(after) = rest.strip_prefix(path.as_str()) else { continue };
                    if after.bytes().next().is_none_or(|byte| byte == b'/' || !part_of_name(byte)) {
                        translated.push_str(real);
                        before = path.bytes().last();
                        rest = after;
                        continue 'text;
                    }
                }
            }
            translated.push(next);
            before = rest[..next.len_utf8()].bytes().last();
            rest = &rest[next.len_utf8()..];
        }
        translated
    }
}

impl Launch {
    /// What `container` runs. `Err`: something that its environment is made from is not there.
    pub fn new(
        container: &Container,
        place: &Place<'_>,
        mounts: &Mounts,
        config: &Config,
    ) -> Result<Self, Missing> {
        let environment = environment(container, place, mounts, config)?;
        let word = |word: &String| mounts.translate(&expand(word, &environment));
        let mut words = container.command.iter().flatten().map(word);
        let image =
            program_of(container.image.as_deref().unwrap_or_default(), place.images).unwrap_or_default();
        let program = words.next().unwrap_or(image);
        let own = place.programs.join(&program);
        let program = if own.is_file() { own } else { PathBuf::from(program) };
        let mut arguments: Vec<String> = words.collect();
        arguments.extend(container.args.iter().flatten().map(word));
        let directory = match container.working_dir.as_deref().filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(mounts.translate(folder)),
            None => place.programs.to_owned(),
        };
        Ok(Self { program, arguments, environment, directory })
    }

    /// Another program in the same surroundings: an exec probe or a preStop hook.
    pub fn instead(&self, command: &[String], programs: &Path, mounts: &Mounts) -> Self {
        let mut words = command.iter().map(|word| mounts.translate(word));
        let program = words.next().unwrap_or_default();
        let own = programs.join(&program);
        let program = if own.is_file() { own } else { PathBuf::from(program) };
        Self { program, arguments: words.collect(), ..self.clone() }
    }
}

/// `devcluster/hello:v2` is the program `hello`, and `images` names the programs of others; anything else is no image that this node
/// could have.
pub fn program_of(image: &str, images: &BTreeMap<String, String>) -> Option<String> {
    if let Some(program) = images.get(image) {
        return Some(program.clone());
    }
    let name = image.strip_prefix("devcluster/")?;
    let name = name.split(['@', ':']).next()?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

fn environment(
    container: &Container,
    place: &Place<'_>,
    mounts: &Mounts,
    config: &Config,
) -> Result<BTreeMap<String, String>, Missing> {
    let namespace = place.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut all = place.base.clone();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut data = BTreeMap::new();
        if let Some(from) = &source.config_map_ref {
            data = config.config_map(namespace, &from.name, from.optional)?;
        } else if let Some(from) = &source.secret_ref {
            data = config.secret(namespace, &from.name, from.optional)?;
        }
        for (name, value) in data {
            let value = mounts.translate(&String::from_utf8_lossy(&value));
            all.insert(format!("{prefix}{name}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => from_source(source, namespace, place, config)?,
            (Some(value), None) => Some(expand(value, &all)),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            all.insert(variable.name.clone(), mounts.translate(&value));
        }
    }
    Ok(all)
}

fn from_source(
    source: &EnvVarSource,
    namespace: &str,
    place: &Place<'_>,
    config: &Config,
) -> Result<Option<String>, Missing> {
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    if let Some(field) = &source.field_ref {
        field_of(place, field).map(Some)
    } else if let Some(from) = &source.config_map_key_ref {
        let mut data = config.config_map(namespace, &from.name, from.optional)?;
        match data.remove(&from.key) {
            None if from.optional != Some(true) => {
                Err(Missing(format!("couldn't find key {} in ConfigMap {namespace}/{}", from.key, from.name)))
            }
            value => Ok(value.map(text)),
        }
    } else if let Some(from) = &source.secret_key_ref {
        let mut data = config.secret(namespace, &from.name, from.optional)?;
        match data.remove(&from.key) {
            None if from.optional != Some(true) => {
                Err(Missing(format!("couldn't find key {} in Secret {namespace}/{}", from.key, from.name)))
            }
            value => Ok(value.map(text)),
        }
    } else {
        Err(Missing("this node knows no such source of an environment variable".into()))
    }
}

/// The downward API.
pub fn field_of(place: &Place<'_>, field: &ObjectFieldSelector) -> Result<String, Missing> {
    let meta = &place.pod.metadata;
    let spec = place.pod.spec.as_ref();
    let keyed = |name: &str| {
        field.field_path.strip_prefix(name)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned)
    };
    if let Some(key) = keyed("metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|all| all.get(&key).cloned()).unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|all| all.get(&key).cloned()).unwrap_or_default());
    }
    Ok(match field.field_path.as_str() {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "spec.nodeName" => place.node.to_owned(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".into())
        }
        "status.podIP" => place.addresses.first().cloned().unwrap_or_default(),
        "status.podIPs" => place.addresses.join(","),
        "status.hostIP" | "status.hostIPs" => super::HOST_ADDRESS.to_owned(),
        other => return Err(Missing(format!("unsupported fieldPath: {other}"))),
    })
}

/// `$(NAME)` of what is known; what is not stays as it stands, and `$$` is a dollar sign.
fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match known.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_paths_are_replaced_where_paths_begin_and_end() {
        let mounts = Mounts(vec![
            ("/etc/scaler/tls".into(), "/real/tls".into()),
            ("/etc/scaler".into(), "/real/config".into()),
        ]);
        assert_eq!(mounts.translate("--config=/etc/scaler/a.yaml"), "--config=/real/config/a.yaml");
        assert_eq!(mounts.translate("/etc/scaler"), "/real/config");
        assert_eq!(mounts.translate("/etc/scaler/tls/key,/etc/scaler"), "/real/tls/key,/real/config");
        assert_eq!(mounts.translate("/etc/scalers /opt/etc/scaler"), "/etc/scalers /opt/etc/scaler");
    }

    #[test]
    fn variables_are_expanded_as_the_kubelet_does() {
        let known = BTreeMap::from([("POD_IP".to_owned(), "10.244.0.2".to_owned())]);
        assert_eq!(expand("http://$(POD_IP):80", &known), "http://10.244.0.2:80");
        assert_eq!(expand("$(NOBODY) $$(POD_IP) $5", &known), "$(NOBODY) $(POD_IP) $5");
    }

    #[test]
    fn images_are_programs() {
        let others = BTreeMap::from([("web:1.2".to_owned(), "hello".to_owned())]);
        assert_eq!(program_of("web:1.2", &others).as_deref(), Some("hello"));
        assert_eq!(program_of("web:1.3", &others), None);
        assert_eq!(program_of("devcluster/hello", &others).as_deref(), Some("hello"));
        assert_eq!(program_of("devcluster/hello:v2", &others).as_deref(), Some("hello"));
        assert_eq!(program_of("nginx", &others), None);
        assert_eq!(program_of("devcluster/../etc/passwd", &others), None);
    }
}
