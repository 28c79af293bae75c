//! The autoscaler over 10,000 Deployments, and over 2,000 intercepted Services, of a cluster of the tests' own.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use super::report::{Cycle, Interception};
use crate::{
    build::Built,
    install,
    steps::{line, show_progress},
    workspace::cargo,
};

/// The measurements are tests of the end-to-end tests, which have the cluster.
const CYCLE: &str = "footprint::ten_thousand_deployments";
const INTERCEPTION: &str = "footprint::two_thousand_intercepted_services";

/// A cycle over many Deployments.
///
/// # Errors
///
/// It cannot be built, or it fails.
pub fn measure(built: &Built) -> Result<Cycle> {
    figures(built, CYCLE)
}

/// Many intercepted Services.
///
/// # Errors
///
/// As [`measure`].
pub fn measure_interception(built: &Built) -> Result<Interception> {
    figures(built, INTERCEPTION)
}

fn figures<T: DeserializeOwned>(built: &Built, of: &str) -> Result<T> {
    install::apt("ip", "iproute2")?;
    install::apt("unshare", "util-linux")?;
    let mut test = cargo();
    show_progress(test.arg("test")).args(["--release", "--package", "e2e", "--test", "kubernetes", "--"]);
    test.args([of, "--exact", "--ignored", "--nocapture"]);
    test.env("SCALER_E2E_BIN", &built.programs).stderr(Stdio::inherit());
    let what = line(&test);
    let output = test.output().with_context(|| format!("starting `{what}`"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "`{what}` ended with {}:\n{text}", output.status);
    let figures = text.lines().find(|line| line.starts_with('{'));
    let figures = figures.with_context(|| format!("`{what}` printed no figures:\n{text}"))?;
    serde_json::from_str(figures).with_context(|| format!("`{what}` printed {figures}"))
}
