//! A cycle of the autoscaler over 10,000 Deployments of a cluster of the tests' own.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::report::Cycle;
use crate::{build::Built, install, steps::line, workspace::cargo};

/// The measurement is a test of the end-to-end tests, which have the cluster.
const TEST: &str = "figures::ten_thousand_deployments";

/// Builds it and runs it.
///
/// # Errors
///
/// It cannot be built, or it fails.
pub fn measure(built: &Built) -> Result<Cycle> {
    install::apt("ip", "iproute2")?;
    install::apt("unshare", "util-linux")?;
    let mut test = cargo();
    test.args(["test", "--quiet", "--release", "--package", "e2e", "--test", "kubernetes", "--"]);
    test.args([TEST, "--exact", "--ignored", "--nocapture"]);
    test.env("SCALER_E2E_BIN", &built.programs).stderr(Stdio::inherit());
    let what = line(&test);
    let output = test.output().with_context(|| format!("starting `{what}`"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "`{what}` ended with {}:\n{text}", output.status);
    let figures = text.lines().find(|line| line.starts_with('{'));
    let figures = figures.with_context(|| format!("`{what}` printed no figures:\n{text}"))?;
    serde_json::from_str(figures).with_context(|| format!("`{what}` printed {figures}"))
}
