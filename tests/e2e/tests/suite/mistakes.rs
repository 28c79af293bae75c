//! Typical mistakes of new users: each file (or folder of files) of `mistakes/` with what `autoscaler check` says of it beside
//! it (`NAME.expected`).

use std::{fs, path::Path, process::Command, thread};

use e2e::{Site, binaries};

/// As many commands at once.
const THREADS: usize = 4;

#[test]
fn each_mistake_is_reported_with_its_place_and_what_to_do() {
    let site = Site::new("mistakes-");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/mistakes");
    let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> =
        entries.filter(|path| path.extension().is_none_or(|extension| extension == "yaml")).collect();
    cases.sort();
    assert!(cases.len() >= 40, "only {} mistakes", cases.len());
    let wrong: Vec<_> = thread::scope(|scope| {
        let groups: Vec<_> = cases
            .chunks(cases.len().div_ceil(THREADS))
            .map(|cases| {
                scope
                    .spawn(|| cases.iter().filter_map(|case| wrong(&site, &folder, case)).collect::<Vec<_>>())
            })
            .collect();
        groups.into_iter().flat_map(|group| group.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is said of a mistake, if it is not as expected.
fn wrong(site: &Site, folder: &Path, case: &Path) -> Option<String> {
    let expected = fs::read_to_string(case.with_extension("expected")).unwrap_or_default();
    let reported = report(&site.folder().join("plugins"), folder, case);
    let name = case.file_name().unwrap_or_default().display();
    (reported != expected).then(|| format!("{name}:\n{reported}    instead of\n{expected}"))
}

/// Output and exit status, without what depends on this host.
fn report(plugins: &Path, folder: &Path, case: &Path) -> String {
    let output = Command::new(binaries::folder().join("autoscaler"))
        .args([Path::new("check"), Path::new(case.file_name().unwrap()), Path::new("--plugins-dir"), plugins])
        .current_dir(folder)
        .env("HOME", "/home/you")
        .env("PATH", "/usr/bin:/bin")
        .env_remove("RUST_LOG")
        .env_remove("KUBECONFIG")
        .output()
        .expect("starting the autoscaler");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range = range.split_whitespace().collect::<Vec<_>>().join("-");
    let text = text.replace(&plugins.display().to_string(), "$PLUGINS").replace(&range, "$RANGE");
    format!("{text}exit status {}\n", output.status.code().unwrap_or(-1))
}
