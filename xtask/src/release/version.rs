//! One version everywhere: tag, workspace, chart, changelog.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::root;

/// The version of a tag, if all files have it.
///
/// # Errors
///
/// The tag is not `v` and a version, or the first file that has another one.
pub fn check(tag: &str) -> Result<String> {
    let chart = read("deploy/helm/scaler/Chart.yaml")?;
    let changelog = read("CHANGELOG.md")?;
    check_files(tag, env!("CARGO_PKG_VERSION"), &chart, &changelog)
}

/// The changelog's section of a version, without its heading.
///
/// # Errors
///
/// There is none, or it is empty.
pub fn notes(version: &str) -> Result<String> {
    section(&read("CHANGELOG.md")?, version).map(str::to_owned)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("reading {path}"))
}

fn check_files(tag: &str, workspace: &str, chart: &str, changelog: &str) -> Result<String> {
    let version = tag.strip_prefix('v').filter(|version| is_version(version));
    let version = version
        .with_context(|| format!("the tag {tag} is not v and a version, as in v1.2.3 or v1.2.3-rc.1"))?;
    ensure!(workspace == version, "the tag is {tag}, Cargo.toml has version = {workspace:?}");
    for key in ["version", "appVersion"] {
        let value = chart.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let value = value.with_context(|| format!("Chart.yaml has no {key}"))?.trim_matches('"');
        ensure!(value == version, "the tag is {tag}, Chart.yaml has {key}: {value}");
    }
    section(changelog, version)?;
    Ok(version.to_owned())
}

/// A semantic version without build metadata, which no tag of an image may have.
fn is_version(text: &str) -> bool {
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let identifier = |part: &str| {
        let all_digits = part.bytes().all(|byte| byte.is_ascii_digit());
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && (!all_digits || number(part))
    };
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(identifier))
}

/// Of `## 1.2.3 - 2026-12-24` or `## [1.2.3] - 2026-12-24`, up to the next heading of that level.
fn section<'a>(changelog: &'a str, version: &str) -> Result<&'a str> {
    let mut sections = changelog.split("\n## ").skip(1);
    let of_version = |section: &&str| {
        let heading = section.split_whitespace().next().unwrap_or_default();
        heading.trim_matches(['[', ']']) == version
    };
    let Some(section) = sections.find(of_version) else {
        bail!("CHANGELOG.md has no section `## {version} - DATE`: rename `## Unreleased`");
    };
    let (_, text) = section.split_once('\n').unwrap_or((section, ""));
    ensure!(!text.trim().is_empty(), "CHANGELOG.md: the section of {version} is empty");
    Ok(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHART: &str = "name: scaler\nversion: 1.2.3\nappVersion: \"1.2.3\"\n";
    const CHANGELOG: &str = "# Changelog\n\n## Unreleased\n\n- Next.\n\n## 1.2.3 - 2026-12-24\n\n### Added\n\n- A thing.\n\n## [1.2.2] - 2026-12-01\n\n- Old.\n\n## 1.2.1\n\n";

    #[test]
    fn one_version_is_taken_and_any_difference_refused() {
        assert_eq!(check_files("v1.2.3", "1.2.3", CHART, CHANGELOG).unwrap(), "1.2.3");
        let other = |key: &str| CHART.replace(&format!("{key}: "), &format!("{key}: 9."));
        for (tag, workspace, chart, expected) in [
            ("1.2.3", "1.2.3", CHART.to_owned(), "the tag 1.2.3 is not v and a version"),
            ("v1.2.3", "1.2.4", CHART.to_owned(), "Cargo.toml has version = \"1.2.4\""),
            ("v1.2.3", "1.2.3", other("\nversion"), "Chart.yaml has version: 9.1.2.3"),
            ("v1.2.3", "1.2.3", CHART.replace("\"1.2.3\"", "\"1.2\""), "Chart.yaml has appVersion: 1.2"),
            ("v2.0.0", "2.0.0", CHART.replace("1.2.3", "2.0.0"), "no section `## 2.0.0 - DATE`"),
            ("v1.2.1", "1.2.1", CHART.replace("1.2.3", "1.2.1"), "the section of 1.2.1 is empty"),
        ] {
            let error = check_files(tag, workspace, &chart, CHANGELOG).unwrap_err().to_string();
            assert!(error.contains(expected), "{tag}: {error}");
        }
    }

    #[test]
    fn versions_are_semantic() {
        for right in ["0.1.0", "1.20.300", "1.2.3-rc.1", "1.0.0-alpha-2.x"] {
            assert!(is_version(right), "{right}");
        }
        for wrong in
            ["1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+build", "1.2.x", "1.2.3-a_b", ""]
        {
            assert!(!is_version(wrong), "{wrong}");
        }
    }

    #[test]
    fn notes_are_the_section_alone() {
        assert_eq!(section(CHANGELOG, "1.2.3").unwrap(), "### Added\n\n- A thing.");
        assert_eq!(section(CHANGELOG, "1.2.2").unwrap(), "- Old.");
        assert!(section(CHANGELOG, "1.2").is_err());
    }

    /// The next release begins with these files.
    #[test]
    fn the_workspace_and_the_chart_have_one_version_and_the_changelog_takes_the_next() {
        let [chart, changelog] =
            ["deploy/helm/scaler/Chart.yaml", "CHANGELOG.md"].map(|path| read(path).unwrap());
        let version = env!("CARGO_PKG_VERSION");
        let released = changelog.replace("\n## Unreleased\n", &format!("\n## {version} - 2026-12-24\n"));
        assert_ne!(released, changelog, "CHANGELOG.md has no section `## Unreleased`");
        check_files(&format!("v{version}"), version, &chart, &released).unwrap();
    }
}
