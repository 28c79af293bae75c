//! The pages' links have targets, and what they name exists.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use deploy::root;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The pages that link to each other.
fn pages() -> Vec<PathBuf> {
    let mut pages = documentation();
    pages.extend(
        [
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "deploy/manifests/README.md",
            "deploy/helm/scaler/README.md",
            "examples/kubernetes/README.md",
            "plugins/deployment/README.md",
        ]
        .map(|page| root().join(page)),
    );
    pages
}

/// The pages below docs/.
fn documentation() -> Vec<PathBuf> {
    let (mut folders, mut pages) = (vec![root().join("docs")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            match path.extension() {
                None => folders.push(path),
                Some(extension) if extension == "md" => pages.push(path),
                Some(_) => {}
            }
        }
    }
    pages
}

/// What a page links to: the file, and what is behind `#`.
fn links(page: &Path) -> Vec<(PathBuf, Option<String>)> {
    let text = read(page);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let ours = targets.filter(|target| !target.contains("://")).map(|target| {
        let (path, anchor) =
            target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
        let file = match path {
            "" => page.to_owned(),
            _ => page.parent().expect("a folder").join(path),
        };
        (file, anchor.map(str::to_owned))
    });
    ours.collect()
}

/// As the headings of a page are linked to: small letters, blanks as dashes, nothing else.
fn slug(heading: &str) -> String {
    let heading = heading.trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_has_a_target() {
    let mut count = 0;
    for page in pages() {
        for (file, anchor) in links(&page) {
            count += 1;
            assert!(file.exists(), "{}: {} is not there", page.display(), file.display());
            if let Some(anchor) = anchor {
                let there = read(&file);
                let headings = there.lines().filter_map(|line| line.strip_prefix('#'));
                let found =
                    headings.map(|heading| slug(heading.trim_start_matches('#'))).any(|slug| slug == anchor);
                assert!(found, "{}: {}#{anchor}: no such heading", page.display(), file.display());
            }
        }
    }
    assert!(count > 30, "{count} links");
}

#[test]
fn every_page_is_linked_from_another() {
    let pages = pages();
    let real =
        |path: &Path| path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let linked: BTreeSet<PathBuf> = pages
        .iter()
        .flat_map(|page| {
            links(page).into_iter().map(|(file, _)| real(&file)).filter(|file| *file != real(page))
        })
        .collect();
    let orphans: Vec<_> = documentation().into_iter().filter(|page| !linked.contains(&real(page))).collect();
    assert!(orphans.is_empty(), "no page links to {orphans:?}");
}

/// The annotations that a page's tables and examples name.
fn annotations(path: &str) -> BTreeSet<String> {
    let text = read(&root().join(path));
    let names = text.split("scaler.dev/").skip(1);
    let names = names
        .map(|rest| rest.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).next().unwrap_or_default());
    // A hyphen behind one takes it away: `kubectl annotate deployment web scaler.dev/intercept-`.
    names.map(|name| format!("scaler.dev/{}", name.trim_end_matches('-'))).collect()
}

#[test]
fn the_pages_name_the_annotations_that_the_plugin_reads() {
    let known = annotations("plugins/deployment/src/objects/annotations.rs");
    let mut documented = annotations("docs/reference/annotations.md");
    assert!(documented.remove("scaler.dev/state"), "the page says what scaler.dev/state is");
    assert_eq!(documented, known);
    for page in pages() {
        let path = page.strip_prefix(root()).expect("a page").to_str().expect("a path").to_owned();
        for name in annotations(&path) {
            // Not for a workload's users: of Leases, of Services, of an admission policy, and Scaler's own.
            let others = [
                "member",
                "record-format",
                "intercepted",
                "state",
                "dlxs",
                "selector-managed-fields",
                "format",
                "component",
                "force-delete",
                "policy",
            ]
            .map(|name| format!("scaler.dev/{name}"));
            assert!(others.contains(&name) || known.contains(&name), "{path}: {name} is no annotation");
        }
    }
    for (path, objects) in crate::examples::files() {
        let annotated = objects.iter().filter_map(|object| object.metadata.annotations.as_ref());
        for name in annotated.flat_map(|all| all.keys()) {
            assert!(known.contains(name), "{path}: {name} is no annotation");
        }
    }
}
