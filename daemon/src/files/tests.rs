//! With the real watcher, on real folders.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

/// What a daemon does: covers, reads, and waits for the next change.
struct Following {
    files: Files,
    watch: FolderWatch,
}

impl Following {
    fn new(paths: Vec<PathBuf>) -> Self {
        let mut following = Self { files: Files::new(paths), watch: FolderWatch::new().unwrap() };
        following.read();
        following
    }

    fn read(&mut self) {
        loop {
            self.cover();
            self.files.read();
            if !self.cover() {
                return;
            }
        }
    }

    fn cover(&mut self) -> bool {
        self.watch
            .cover(self.files.config_paths(), self.files.entries().iter().map(|entry| entry.path.as_path()))
            .unwrap()
    }

    async fn next(&mut self) {
        self.watch.changed().await.unwrap();
        self.read();
    }

    /// Per file: its name, the namespace served from it, whether it has an error.
    fn state(&self) -> Vec<(String, Option<&str>, bool)> {
        let of = |entry: &'_ ConfigFile| entry.path.file_name().unwrap().to_string_lossy().into_owned();
        self.files
            .entries()
            .iter()
            .map(|entry| {
                let namespace = entry.good.as_ref().map(|good| good.says.namespace.as_str());
                (of(entry), namespace, entry.error.is_some())
            })
            .collect()
    }

    fn error(&self, file: &str) -> String {
        let entry = self.files.entries().iter().find(|entry| entry.path.ends_with(file)).unwrap();
        entry.error.as_ref().expect("no error").to_string()
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn good(name: &str, namespace: &'static str) -> (String, Option<&'static str>, bool) {
    (name.to_owned(), Some(namespace), false)
}

#[tokio::test]
async fn a_broken_change_is_reported_and_the_last_good_one_kept() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "demo.yaml", "namespace: demo\nscaleInterval: 7s\n");
    let mut following = Following::new(vec![folder.path().to_owned()]);
    assert_eq!(following.state(), [good("demo.yaml", "demo")]);

    write(folder.path(), "demo.yaml", "namespace: demo\nscaleInterval: soon\n");
    following.next().await;
    assert_eq!(following.state(), [("demo.yaml".to_owned(), Some("demo"), true)]);
    let error = following.error("demo.yaml");
    assert!(error.contains("demo.yaml:2:16: \"soon\" is not a duration: expected"), "{error}");
    let kept = following.files.entries()[0].good.clone().unwrap();
    assert_eq!(kept.says.settings.scale_interval, Some(std::time::Duration::from_secs(7)));

    write(folder.path(), "demo.yaml", "namespace: demo\nscaleInterval: 8s\n");
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo")]);
}

#[tokio::test]
async fn an_editors_rename_a_new_file_and_one_that_leaves() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "demo.yaml", "namespace: demo\n");
    let mut following = Following::new(vec![folder.path().to_owned()]);

    // As vim does: the old one away, the new one written, the old one removed.
    fs::rename(folder.path().join("demo.yaml"), folder.path().join("demo.yaml~")).unwrap();
    write(folder.path(), "demo.yaml", "namespace: demo2\n");
    fs::remove_file(folder.path().join("demo.yaml~")).unwrap();
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo2")]);

    // As others do: another name first, then a rename over it. The hidden name is no namespace file.
    write(folder.path(), ".demo.yaml", "namespace: demo3\n");
    fs::rename(folder.path().join(".demo.yaml"), folder.path().join("demo.yaml")).unwrap();
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo3")]);

    write(folder.path(), "a.yml", "namespace: a\n");
    write(folder.path(), "notes.txt", "namespace: notes\n");
    following.next().await;
    assert_eq!(following.state(), [good("a.yml", "a"), good("demo.yaml", "demo3")]);

    fs::remove_file(folder.path().join("demo.yaml")).unwrap();
    following.next().await;
    assert_eq!(following.state(), [good("a.yml", "a")]);
}

#[tokio::test]
async fn a_named_file_that_is_removed_keeps_its_namespace_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.yaml");
    write(folder.path(), "demo.yaml", "namespace: demo\n");
    let mut following = Following::new(vec![path.clone()]);

    fs::remove_file(&path).unwrap();
    following.next().await;
    assert_eq!(following.state(), [("demo.yaml".to_owned(), Some("demo"), true)]);
    assert!(following.error("demo.yaml").contains("No such file"), "{}", following.error("demo.yaml"));

    write(folder.path(), "demo.yaml", "namespace: demo2\n");
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo2")]);
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_followed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("config");
    fs::create_dir(&folder).unwrap();
    write(&folder, "demo.yaml", "namespace: demo\n");
    let mut following = Following::new(vec![folder.clone()]);

    fs::rename(&folder, parent.path().join("old")).unwrap();
    following.next().await;
    // Gone as a whole: that is no wish to stop everything.
    assert_eq!(following.state()[0], good("demo.yaml", "demo"));
    assert!(following.error("config").contains("No such file"), "{}", following.error("config"));

    fs::create_dir(&folder).unwrap();
    write(&folder, "demo.yaml", "namespace: demo2\n");
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo2")]);
    write(&folder, "demo.yaml", "namespace: demo3\n");
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo3")]);
}

/// A ConfigMap's volume: `demo.yaml -> ..data/demo.yaml`, `..data -> ..1`, and a change swaps `..data`.
#[tokio::test]
async fn a_config_maps_swap_is_seen_by_folder_and_by_file() {
    for by_file in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let version = |number: u32| {
            let name = format!("..{number}");
            fs::create_dir(folder.path().join(&name)).unwrap();
            write(&folder.path().join(&name), "demo.yaml", &format!("namespace: demo{number}\n"));
            symlink(name, folder.path().join("..data_tmp")).unwrap();
            fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        };
        version(1);
        symlink("..data/demo.yaml", folder.path().join("demo.yaml")).unwrap();
        let path = if by_file { folder.path().join("demo.yaml") } else { folder.path().to_owned() };
        let mut following = Following::new(vec![path]);
        assert_eq!(following.state(), [good("demo.yaml", "demo1")]);
        version(2);
        following.next().await;
        assert_eq!(following.state(), [good("demo.yaml", "demo2")]);
    }
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_is_followed_where_it_leads() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(elsewhere.path(), "real.yaml", "namespace: demo\n");
    symlink(elsewhere.path().join("real.yaml"), folder.path().join("demo.yaml")).unwrap();
    let mut following = Following::new(vec![folder.path().to_owned()]);
    write(elsewhere.path(), "real.yaml", "namespace: demo2\n");
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo2")]);
}

#[test]
fn two_files_for_one_namespace_are_both_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", "namespace: demo\n");
    write(folder.path(), "b.yaml", "namespace: demo\n");
    let mut files = Files::new(vec![folder.path().to_owned()]);
    files.read();
    let [first, second] = files.entries() else { panic!("two files") };
    assert!(first.good.is_some() && first.error.is_none() && second.good.is_none());
    let error = second.error.as_ref().unwrap().to_string();
    assert!(error.contains("a.yaml") && error.contains("b.yaml") && error.contains("\"demo\""), "{error}");

    // All of them is also this one; who has a namespace keeps it.
    write(folder.path(), "a0.yaml", "namespace: '*'\n");
    files.read();
    let error = files.entries()[1].error.as_ref().unwrap().to_string();
    assert!(error.contains("a0.yaml") && error.contains("a.yaml"), "{error}");
}

#[test]
fn two_files_may_change_places() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", "namespace: a\n");
    write(folder.path(), "b.yaml", "namespace: b\n");
    let mut files = Files::new(vec![folder.path().to_owned()]);
    files.read();
    write(folder.path(), "a.yaml", "namespace: b\n");
    files.read();
    // Not before the other one lets go of it.
    assert_eq!(files.entries()[0].good.as_ref().unwrap().says.namespace, "a");
    assert!(files.entries()[0].error.is_some());
    write(folder.path(), "b.yaml", "namespace: a\n");
    files.read();
    for (entry, namespace) in files.entries().iter().zip(["b", "a"]) {
        assert_eq!(entry.good.as_ref().unwrap().says.namespace, namespace);
        assert!(entry.error.is_none(), "{:?}", entry.error);
    }
}

/// The daemon has more to do than to wait for changes.
#[tokio::test(start_paused = true)]
async fn a_change_is_not_lost_when_the_wait_for_it_was_given_up() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "demo.yaml", "namespace: demo\n");
    let mut following = Following::new(vec![folder.path().to_owned()]);
    write(folder.path(), "demo.yaml", "namespace: demo2\n");
    // Longer than it takes to see the change, shorter than it may take to be finished.
    tokio::time::timeout(std::time::Duration::from_millis(100), following.watch.changed()).await.unwrap_err();
    following.next().await;
    assert_eq!(following.state(), [good("demo.yaml", "demo2")]);
}

/// Larger than any namespace, without an end, or nobody writes it: each is refused in one line, and none is read whole.
#[test]
fn a_file_that_is_none_or_too_large_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a-sparse.yaml"), "").unwrap();
    File::options().write(true).open(at("a-sparse.yaml")).unwrap().set_len(1 << 40).unwrap();
    let list = format!("namespace: many\nplugins: {{process: {{resources: [{}]}}}}", "1,".repeat(3_000_000));
    fs::write(at("b-list.yaml"), list).unwrap();
    symlink("/dev/zero", at("c-endless.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("d-pipe.yaml")).status().unwrap().success());
    fs::write(at("e-good.yaml"), "namespace: good\n").unwrap();
    let mut files = Files::new(vec![folder.path().to_owned()]);
    files.read();
    let error: Vec<_> = files
        .entries()
        .iter()
        .map(|entry| entry.error.as_ref().map(ToString::to_string).unwrap_or_default())
        .collect();
    for (error, (name, why)) in error.iter().zip([
        ("a-sparse.yaml:1:1: ", "too large, expected 8 MiB at most"),
        ("b-list.yaml:2:", "too many values, expected 500000 at most in one file"),
        ("c-endless.yaml: ", "not a file, expected a namespace file"),
        ("d-pipe.yaml: ", "not a file, expected a namespace file"),
        ("", ""),
    ]) {
        assert!(error.contains(name) && error.contains(why), "{name}{why}: {error}");
    }
    assert_eq!(files.entries()[4].good.as_ref().unwrap().says.namespace, "good");
}
