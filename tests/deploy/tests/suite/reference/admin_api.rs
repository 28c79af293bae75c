//! The admin ports' paths: the page is written by hand, and names those that the daemons have.

use std::{collections::BTreeSet, fs, path::Path};

use deploy::root;

/// The routes in the sources under a folder: `GET /api/v1/leader`.
fn routes(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path()) {
        if entry.is_dir() {
            routes(&entry, found);
        } else {
            let text = fs::read_to_string(&entry).expect("a source file");
            for route in text.split(".route(Method::").skip(1) {
                let (method, rest) = route.split_once(", \"").expect("a method and a path");
                let (path, _) = rest.split_once('"').expect("a path");
                found.insert(format!("{method} {path}"));
            }
        }
    }
}

#[test]
fn the_page_of_the_admin_api_names_every_path() {
    let mut there = BTreeSet::from(["/healthz", "/readyz", "/metrics"].map(|path| format!("GET {path}")));
    for daemon in ["daemon", "autoscaler", "dlx"] {
        routes(&root().join(daemon).join("src"), &mut there);
    }
    let page = fs::read_to_string(root().join("docs/reference/admin-api.md")).expect("the page");
    let named = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '?']).next());
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), there);
}
