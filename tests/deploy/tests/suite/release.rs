//! The release workflow: the chart that it publishes, and what it lets its jobs do.

use std::{fs, process::Command};

use deploy::{chart, helm, root};
use serde_json::Value;

fn workflow() -> Value {
    let text = fs::read_to_string(root().join(".github/workflows/release.yml")).expect("the workflow");
    serde_yaml::from_str(&text).expect("YAML")
}

fn steps(job: &Value) -> &[Value] {
    job["steps"].as_array().expect("steps")
}

/// Runs the workflow's own step on a copy of the chart.
#[test]
fn the_published_chart_names_the_published_images() {
    let workflow = workflow();
    let mut steps = steps(&workflow["jobs"]["publish"]).iter();
    let step = steps.find(|step| step["run"].as_str().is_some_and(|run| run.contains("helm package")));
    let script = step.expect("the step that packages the chart")["run"].as_str().expect("a script");
    let checkout = tempfile::tempdir().expect("a folder");
    let copy = checkout.path().join("deploy/helm");
    fs::create_dir_all(&copy).expect("a folder");
    let copied = Command::new("cp").arg("-r").arg(chart()).arg(&copy).status().expect("starting cp");
    assert!(copied.success());
    let version = env!("CARGO_PKG_VERSION");
    let helm = helm();
    let helm_folder = std::path::Path::new(helm.get_program()).parent().expect("a folder");
    let path = format!("{}:{}", helm_folder.display(), std::env::var("PATH").expect("PATH"));
    // As the forge runs it (`shell: bash`).
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]).current_dir(checkout.path());
    bash.env("REGISTRY", "registry.example.com/scaler").env("VERSION", version).env("PATH", path);
    let output = bash.output().expect("starting bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let package = checkout.path().join(format!("dist/scaler-{version}.tgz"));
    let rendered = deploy::helm().args(["template", "scaler"]).arg(package).output().expect("starting helm");
    let rendered = String::from_utf8(rendered.stdout).expect("UTF-8");
    let mut images: Vec<_> =
        rendered.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    images.sort_unstable();
    images.dedup();
    let expected =
        ["autoscaler", "dlx"].map(|name| format!("\"registry.example.com/scaler/{name}:{version}\""));
    assert_eq!(images, expected);
}

#[test]
fn what_may_sign_builds_nothing_and_no_job_keeps_the_forges_token() {
    let workflow = workflow();
    let jobs = workflow["jobs"].as_object().expect("jobs");
    let mut checkouts = 0;
    for (name, job) in jobs {
        let may_write =
            job["permissions"].as_object().is_some_and(|all| all.values().any(|one| one == "write"));
        let text = job.to_string();
        assert!(!may_write || !text.contains("cargo "), "{name} has rights, and builds");
        // Its secrets are those of the environment, whose jobs a person approves.
        assert_eq!(text.contains("secrets."), job["environment"] == "release", "{name}");
        for step in steps(job) {
            if step["uses"].as_str().is_some_and(|action| action.starts_with("actions/checkout@")) {
                assert_eq!(step["with"]["persist-credentials"], false, "{name}");
                checkouts += 1;
            }
        }
    }
    assert_eq!(checkouts, 5);
}
