//! The tests that docs/design/invariants.md names exist.

use std::fs;

use deploy::root;

#[test]
fn every_test_that_proves_an_invariant_exists() {
    let page = fs::read_to_string(root().join("docs/design/invariants.md")).expect("the page");
    let mut named = 0;
    for line in page.lines().filter_map(|line| line.strip_prefix("- `")) {
        let (path, tests) = line.split_once("`: ").unwrap_or_else(|| panic!("no file and its tests: {line}"));
        let source = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        for name in tests.split(", ").map(|name| name.trim_matches('`')) {
            named += 1;
            // A function; or, in the model, one that a macro makes of `name: the model`.
            let found =
                source.contains(&format!("fn {name}()")) || source.contains(&format!("\n    {name}: "));
            assert!(found, "{path} has no test {name}");
        }
    }
    assert!(named > 60, "{named} tests are named");
    let sections: Vec<_> = page.lines().filter(|line| line.starts_with("## ")).collect();
    assert_eq!(sections.len(), 8, "{sections:?}");
}
