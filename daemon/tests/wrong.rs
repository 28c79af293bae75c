//! Wrong namespace files, each with the one line by which it is refused beside it (`NAME.expected`).

use std::{fs, path::Path};

use daemon::namespace_file::NamespaceFile;

#[test]
fn each_wrong_file_is_refused_with_its_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_string_lossy();
        let told = match NamespaceFile::parse(&name, &fs::read(&path).unwrap()) {
            Ok(file) => format!("accepted: {file:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains("expected") || told.contains(": use "), "does not say what to do: {told}");
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
        if told != expected.trim_end_matches('\n') {
            wrong.push(format!("{told}\n    instead of\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 50, "only {count} files");
}
