//! Real files that are no plugins, or bad ones: each is told in one line, and keeps no other from being loaded.

mod common;

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use common::{built, context, misbehaving};
use plugin_host::{CallError, Interface, LOAD_TIMEOUT, load_dir};

/// Makes a library of C source.
fn compile(source: &str, library: &Path) {
    let c = library.with_extension("c");
    fs::write(&c, source).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([library, &c]).status().expect("cc runs");
    assert!(status.success(), "cc {}: {status}", c.display());
}

#[test]
fn each_bad_file_is_reported_in_one_line_and_the_good_one_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let good = misbehaving();
    let foreign =
        |name: &str| built(&["--package", "foreign", "--examples"], &format!("examples/lib{name}.so"));
    let whole = fs::read(&good).unwrap();
    let root = abi_stable::library::ROOT_MODULE_LOADER_NAME;

    fs::write(at("empty.so"), "").unwrap();
    fs::write(at("text.so"), "#!/bin/sh\nexit 0\n").unwrap();
    // Without its end the section table is missing; the first half still begins like a library.
    fs::write(at("half.so"), &whole[..whole.len() / 2]).unwrap();
    fs::write(at("last-byte-missing.so"), &whole[..whole.len() - 1]).unwrap();
    // Its sections are all there, but what is to be mapped is not: the first loaded segment (type 1) claims 1 GiB.
    let mut segment = whole.clone();
    let header = (64..).step_by(56).find(|header| segment[*header..header + 4] == [1, 0, 0, 0]).unwrap();
    segment[header + 32..header + 40].copy_from_slice(&(1_u64 << 30).to_le_bytes());
    fs::write(at("segment.so"), segment).unwrap();
    let mut foreign_machine = whole.clone();
    foreign_machine[18] = 0xf3; // e_machine: RISC-V
    fs::write(at("machine.so"), foreign_machine).unwrap();
    compile("int answer(void) { return 42; }", &at("c.so"));
    compile(
        &format!("extern int nowhere(void); int {root} = 1; int f(void) {{ return nowhere(); }}"),
        &at("unresolved.so"),
    );
    compile(&format!("char {root}[256];"), &at("zeros.so"));
    fs::copy(foreign("other_version"), at("version.so")).unwrap();
    fs::copy(foreign("other_layout"), at("layout.so")).unwrap();
    fs::copy(foreign("constructor_panics"), at("constructor.so")).unwrap();
    fs::copy(&good, at("good.so")).unwrap();
    fs::copy(&good, at("later-copy.so")).unwrap();
    symlink(at("good.so"), at("later-link.so")).unwrap();
    fs::create_dir(at("folder.so")).unwrap();
    symlink(at("nowhere"), at("dangling.so")).unwrap();
    fs::copy(&good, at("anybody.so")).unwrap();
    fs::set_permissions(at("anybody.so"), fs::Permissions::from_mode(0o646)).unwrap();
    fs::write(at("two\nlines.so"), "").unwrap();
    // A library at its beginning, then nothing for 2 GiB, or for ever more.
    for (name, size) in [("sparse.so", (2 << 30) - 1), ("sparse-and-large.so", 1_u64 << 40)] {
        fs::copy(&good, at(name)).unwrap();
        fs::File::options().write(true).open(at(name)).unwrap().set_len(size).unwrap();
    }
    // It claims a table of symbols of almost a gigabyte, in a section table behind its end.
    let (mut claims, mut sections) = (whole.clone(), vec![0; 128]);
    claims[40..48].copy_from_slice(&(1_u64 << 30).to_le_bytes()); // e_shoff
    claims[60..64].copy_from_slice(&[2, 0, 0, 0]); // e_shnum, e_shstrndx
    sections[68] = 11; // SHT_DYNSYM
    sections[96..104].copy_from_slice(&(24 * 40_000_000_u64).to_le_bytes()); // sh_size
    sections[120] = 24; // sh_entsize
    fs::write(at("symbols.so"), claims).unwrap();
    let symbols = fs::File::options().write(true).open(at("symbols.so")).unwrap();
    symbols.write_all_at(&sections, 1 << 30).unwrap();
    // What is not called *.so is nobody's business.
    fs::write(at("notes.txt"), "").unwrap();
    fs::write(at(".so"), "").unwrap();

    let scan = load_dir(dir.path(), Interface::ResourceScaler, LOAD_TIMEOUT, |_| {}).unwrap();

    let loaded: Vec<_> =
        scan.plugins.iter().map(|plugin| (plugin.kind(), plugin.path().to_owned())).collect();
    assert_eq!(loaded, [("misbehaving", at("good.so"))]);
    let lines: Vec<String> = scan.rejected.iter().map(ToString::to_string).collect();
    let expected = [
        ("anybody.so", "everybody may write it (mode 0646); run chmod o-w on it"),
        ("c.so", "a library, but no plugin"),
        ("constructor.so", "it failed while it was loaded"),
        ("dangling.so", "a link to a file that does not exist"),
        ("empty.so", "not an ELF library, or cut short"),
        ("folder.so", "not a file but a folder"),
        ("half.so", "not an ELF library, or cut short"),
        ("last-byte-missing.so", "not an ELF library, or cut short"),
        ("later-copy.so", "kind misbehaving is already served by"),
        ("later-link.so", "kind misbehaving is already served by"),
        ("layout.so", "laid out differently"),
        ("machine.so", "made for another processor"),
        ("segment.so", "a segment ends behind the file's end"),
        ("sparse-and-large.so", "1048576 MiB are too much for a plugin, 2048 MiB at most"),
        ("sparse.so", "kind misbehaving is already served by"),
        ("symbols.so", "not an ELF library, or cut short"),
        ("text.so", "not an ELF library, or cut short"),
        ("two lines.so", "not an ELF library, or cut short"),
        ("unresolved.so", "undefined symbol: nowhere"),
        ("version.so", "made for version 2.0.0 of the plugin interface, this daemon has 1.0.0"),
        ("zeros.so", "laid out differently (by abi_stable 0.0"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (name, wrong)) in lines.iter().zip(expected) {
        assert!(line.starts_with(&at(name).display().to_string()), "{name}: {line}");
        assert!(line.contains(wrong), "{name}: {line}");
        assert!(!line.contains('\n') && line.chars().count() < 500, "{name}: {line}");
    }
}

#[test]
fn a_folder_without_plugins_has_none() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("README"), "plugins go here").unwrap();
    let scan = load_dir(dir.path(), Interface::ResourceScaler, LOAD_TIMEOUT, |_| {}).unwrap();
    assert!(scan.plugins.is_empty() && scan.rejected.is_empty());
}

#[test]
fn a_missing_folder_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("plugins");
    let error = load_dir(&missing, Interface::ResourceScaler, LOAD_TIMEOUT, |_| {}).unwrap_err().to_string();
    assert!(error.starts_with(&missing.display().to_string()), "{error}");
}

/// A configuration that is refused, a constructor that fails and one that panics: an error of that start, told in one
/// line; the same library starts with another configuration.
#[tokio::test]
async fn a_refused_configuration_is_reported_with_its_file_and_line() {
    let dir = common::folder(&misbehaving(), "misbehaving.so");
    let plugin = &common::load(dir.path()).plugins[0];
    for (section, expected) in [
        ("{new: error}", "new fails, as configured"),
        ("{new: panic}", "the plugin panicked: new panics, as configured"),
        ("{colour: red}", "demo.yaml:3:17: "),
        ("{new: perhaps}", "demo.yaml:3:22: "),
    ] {
        let error = plugin.start(context("misbehaving", section, dir.path())).await.unwrap_err();
        let CallError::Plugin(told) = error else { panic!("{section}: {error}") };
        assert!(told.contains(expected) && !told.contains('\n'), "{section}: {told}");
    }
    let instance = plugin.start(context("misbehaving", "{}", dir.path())).await.unwrap();
    assert_eq!(instance.get_resources().await.unwrap().readable.len(), 1);
}
