//! ConfigMaps, Secrets and volumes, as files and as environment.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, ObjectFieldSelector, Pod, Secret, Volume};
use tokio::sync::watch;

use super::environment::{Place, field_of};
use crate::cache::{Cache, Key};

/// Something a container needs is not there (yet); in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub String);

/// What the node knows of ConfigMaps and Secrets.
pub struct Config {
    pub config_maps: Cache<ConfigMap>,
    pub secrets: Cache<Secret>,
    /// Changes with each change of one.
    pub changed: watch::Sender<u64>,
}

/// The files of one volume: by path below it.
type Files = BTreeMap<String, Vec<u8>>;

// === impl Config ===

impl Config {
    /// The data of a ConfigMap; nothing if it is optional and not there.
    pub fn config_map(
        &self,
        namespace: &str,
        name: &str,
        optional: Option<bool>,
    ) -> Result<BTreeMap<String, Vec<u8>>, Missing> {
        let Some(map) = self.config_maps.get(&key(namespace, name)) else {
            return absent(optional, format!("configmap \"{name}\" not found"));
        };
        let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let bytes = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        Ok(text.chain(bytes).collect())
    }

    /// The data of a Secret; nothing if it is optional and not there.
    pub fn secret(
        &self,
        namespace: &str,
        name: &str,
        optional: Option<bool>,
    ) -> Result<BTreeMap<String, Vec<u8>>, Missing> {
        match self.secrets.get(&key(namespace, name)) {
            Some(secret) => {
                Ok(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
            }
            None => absent(optional, format!("secret \"{name}\" not found")),
        }
    }

    /// Makes the pod's volumes below `folder`, and brings them up to date.
    pub fn volumes(&self, pod: &Pod, folder: &Path, place: &Place<'_>) -> Result<(), Missing> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let folder = folder.join(&volume.name);
            let failed = |error: io::Error| {
                Missing(format!("MountVolume.SetUp failed for volume \"{}\": {error}", volume.name))
            };
            fs::create_dir_all(&folder).map_err(failed)?;
            if let Some(files) = self.files(volume, place)? {
                write(&folder, &files).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// What is in a volume; `None`: what its pod writes there.
    fn files(&self, volume: &Volume, place: &Place<'_>) -> Result<Option<Files>, Missing> {
        let namespace = place.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut files = Files::new();
        if volume.empty_dir.is_some() {
            return Ok(None);
        } else if let Some(source) = &volume.config_map {
            let data = self.config_map(namespace, &source.name, source.optional)?;
            choose(&mut files, data, source.items.as_deref())?;
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            choose(&mut files, self.secret(namespace, name, source.optional)?, source.items.as_deref())?;
        } else if let Some(source) = &volume.downward_api {
            for item in source.items.iter().flatten() {
                put_field(&mut files, place, &item.path, item.field_ref.as_ref())?;
            }
        } else if let Some(projected) = &volume.projected {
            for source in projected.sources.iter().flatten() {
                if let Some(source) = &source.config_map {
                    let data = self.config_map(namespace, &source.name, source.optional)?;
                    choose(&mut files, data, source.items.as_deref())?;
                } else if let Some(source) = &source.secret {
                    let data = self.secret(namespace, &source.name, source.optional)?;
                    choose(&mut files, data, source.items.as_deref())?;
                } else if let Some(token) = &source.service_account_token {
                    files.insert(token.path.clone(), place.token.to_owned().into_bytes());
                } else if let Some(source) = &source.downward_api {
                    for item in source.items.iter().flatten() {
                        put_field(&mut files, place, &item.path, item.field_ref.as_ref())?;
                    }
                }
            }
        } else {
            return Err(Missing(format!("this node knows no volumes of the kind of \"{}\"", volume.name)));
        }
        Ok(Some(files))
    }
}

/// The service account a pod runs as.
pub fn account_of(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.service_account_name.clone())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".into())
}

fn key(namespace: &str, name: &str) -> Key {
    Key { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn absent(optional: Option<bool>, why: String) -> Result<Files, Missing> {
    if optional == Some(true) { Ok(Files::new()) } else { Err(Missing(why)) }
}

fn choose(files: &mut Files, mut data: Files, items: Option<&[KeyToPath]>) -> Result<(), Missing> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(data);
        return Ok(());
    };
    for item in items {
        let value = data
            .remove(&item.key)
            .ok_or_else(|| Missing(format!("references non-existent key: {}", item.key)))?;
        files.insert(item.path.clone(), value);
    }
    Ok(())
}

fn put_field(
    files: &mut Files,
    place: &Place<'_>,
    path: &str,
    field: Option<&ObjectFieldSelector>,
) -> Result<(), Missing> {
    let field = field.ok_or_else(|| Missing("this node knows no resourceFieldRef".into()))?;
    files.insert(path.to_owned(), field_of(place, field)?.into_bytes());
    Ok(())
}

/// All files change at once, as the kubelet does it: names are links through `..data` into a folder of one version.
fn write(folder: &Path, files: &Files) -> io::Result<()> {
    let data = folder.join("..data");
    let old = fs::read_link(&data).ok();
    let current = |name: &String| old.as_ref().and_then(|old| fs::read(folder.join(old).join(name)).ok());
    if old.is_some()
        && count(folder)? == roots(files).len()
        && files.iter().all(|(name, text)| current(name).as_ref() == Some(text))
    {
        return Ok(());
    }
    let number: u64 = old
        .as_ref()
        .and_then(|old| old.to_str()?.strip_prefix("..")?.parse().ok())
        .map_or(1, |number: u64| number + 1);
    let version = PathBuf::from(format!("..{number}"));
    for (name, text) in files {
        let path = folder.join(&version).join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)?;
    }
    fs::create_dir_all(folder.join(&version))?;
    let next = folder.join("..data_tmp");
    let _ = fs::remove_file(&next);
    std::os::unix::fs::symlink(&version, &next)?;
    fs::rename(&next, &data)?;
    let roots = roots(files);
    for root in &roots {
        let link = folder.join(root);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(root), link)?;
        }
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !roots.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        let _ = fs::remove_dir_all(folder.join(old));
    }
    Ok(())
}

/// The names that lie in the volume itself.
fn roots(files: &Files) -> std::collections::BTreeSet<String> {
    files.keys().filter_map(|path| path.split('/').next().map(str::to_owned)).collect()
}

fn count(folder: &Path) -> io::Result<usize> {
    let names = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| !name.to_string_lossy().starts_with("..")).count())
}
