//! The plain manifests: the chart, rendered for one namespace.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{install, steps::line, workspace::root};

/// Renders deploy/manifests from the chart deploy/helm/scaler
///
/// The chart and deploy/manifests/values.yaml are what is edited; `cargo xtask test` fails while the manifests are not what
/// they render to. helm is installed under target/tools if it is not there yet.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask manifests             after a change of the chart
  cargo xtask manifests --check     changes nothing; exits 1 if a manifest is out of date")]
pub struct Manifests {
    /// Write nothing; exit 1 if a manifest is not what the chart renders to
    #[arg(long)]
    check: bool,
}

/// The namespace of the checked-in manifests.
const NAMESPACE: &str = "shop";
/// Objects that belong to no namespace are in a file of their own: a user that may write only in a namespace passes it on.
const CLUSTER: [&str; 4] =
    ["ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
/// They are in a file of their own, which clusters before Kubernetes 1.36 do not take; there helm leaves them out.
const SELECTOR_KEY: [&str; 2] = ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"];
/// What helm creates before it uninstalls lies apart, too: without helm a person applies it then, and not before.
const HOOK: &str = "helm.sh/hook: pre-delete";

/// One file of deploy/manifests.
struct Manifest {
    path: PathBuf,
    text: String,
}

// === impl Manifests ===

impl Manifests {
    /// Renders, and writes or compares.
    ///
    /// # Errors
    ///
    /// helm cannot be had, does not take the chart, or (`--check`) a file differs.
    pub fn run(&self) -> Result<()> {
        if self.check {
            return check();
        }
        for manifest in render()? {
            fs::write(&manifest.path, &manifest.text)
                .with_context(|| format!("writing {}", manifest.path.display()))?;
            println!("{}", manifest.path.display());
        }
        Ok(())
    }
}

/// The checked-in manifests are what the chart renders to.
///
/// # Errors
///
/// The first line that differs.
pub fn check() -> Result<()> {
    for Manifest { path, text } in render()? {
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let there = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        if there != text {
            let at = there.lines().zip(text.lines()).take_while(|(there, text)| there == text).count();
            bail!(
                "{name}:{}: {:?}, the chart renders {:?}: run `cargo xtask manifests`",
                at + 1,
                there.lines().nth(at).unwrap_or("the end"),
                text.lines().nth(at).unwrap_or("the end"),
            );
        }
    }
    Ok(())
}

fn render() -> Result<[Manifest; 4]> {
    let folder = root().join("deploy/manifests");
    let mut helm = Command::new(install::helm()?);
    helm.args(["template", "scaler"]).arg(root().join("deploy/helm/scaler"));
    helm.args(["--namespace", NAMESPACE, "--values"]).arg(folder.join("values.yaml"));
    helm.args(["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"]);
    let output = helm.output().with_context(|| format!("starting `{}`", line(&helm)))?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}:\n{}",
        line(&helm),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let rendered = String::from_utf8(output.stdout).context("reading what helm rendered")?;
    let texts = split(&rendered);
    let head = "# Rendered by `cargo xtask manifests` from deploy/helm/scaler; deploy/manifests/README.md says how to use it.\n";
    let mut names = ["scaler.yaml", "cluster.yaml", "selector-key.yaml", "restore.yaml"].into_iter();
    Ok(texts.map(|text| {
        let name = names.next().expect("as many names as texts");
        Manifest { path: folder.join(name), text: format!("{head}{text}") }
    }))
}

/// The objects of namespaces, those of none, the policy of the selector key, and the hook's. What only helm's own objects carry is
/// left out.
fn split(rendered: &str) -> [String; 4] {
    let mut files = [const { String::new() }; 4];
    for document in rendered.split("---\n").filter(|document| document.contains("kind:")) {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default();
        let hook = document.contains(HOOK);
        let file = match kind {
            _ if hook => 3,
            kind if SELECTOR_KEY.contains(&kind) => 2,
            kind => usize::from(CLUSTER.contains(&kind)),
        };
        let file = &mut files[file];
        file.push_str("---\n");
        for line in document.lines() {
            let of_helm =
                line.starts_with("# Source: ") || line.trim() == "app.kubernetes.io/managed-by: Helm";
            // The hook's objects have no other annotations.
            let of_hook = hook && (line == "  annotations:" || line.trim_start().starts_with("helm.sh/"));
            if !of_helm && !of_hook {
                file.push_str(line);
                file.push('\n');
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_objects_and_the_hook_lie_apart_and_nothing_of_helm_is_left() {
        let rendered = "---\n# Source: scaler/a.yaml\nkind: Role\nmetadata:\n  labels:\n    app.kubernetes.io/managed-by: Helm\n\
                        ---\n# Source: scaler/b.yaml\n# Why.\nkind: ClusterRole\n---\n# Source: scaler/empty.yaml\n\
                        ---\n# Source: scaler/d.yaml\nkind: MutatingAdmissionPolicy\n\
                        ---\n# Source: scaler/c.yaml\nkind: Job\nmetadata:\n  annotations:\n    helm.sh/hook: pre-delete\nspec:\n";
        assert_eq!(
            split(rendered),
            [
                "---\nkind: Role\nmetadata:\n  labels:\n".to_owned(),
                "---\n# Why.\nkind: ClusterRole\n".to_owned(),
                "---\nkind: MutatingAdmissionPolicy\n".to_owned(),
                "---\nkind: Job\nmetadata:\nspec:\n".to_owned()
            ]
        );
    }
}
