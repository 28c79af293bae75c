//! What the examples say, held against what the programs say.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    build::Built,
    http::get_json,
    scene::{Scene, Script},
    steps::pause,
    workspace::root,
};

/// Every file of examples/config must be taken by the autoscaler and by the plugins it names: each `- name:` in it is
/// listed as a resource.
///
/// # Errors
///
/// The first file that is not, with what the autoscaler logged.
pub fn examples(built: &Built) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = root().join("examples/config");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .context("reading examples/config")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    ensure!(!files.is_empty(), "{} holds no file", folder.display());
    for file in files {
        let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        let text = fs::read_to_string(&file).with_context(|| format!("reading {name}"))?;
        let wanted = text.lines().filter(|line| line.trim_start().starts_with("- name:")).count();
        ensure!(wanted > 0, "{name} names no resource");
        runtime.block_on(example(built, text, wanted)).with_context(|| name)?;
    }
    Ok(())
}

async fn example(built: &Built, namespace_file: String, wanted: usize) -> Result<()> {
    let scene = Scene::start(built, &Script { namespace_file, dlx: None, autoscaler: true }).await?;
    let started = Instant::now();
    loop {
        let listed = get_json(scene.addresses.autoscaler, "/api/v1/resources").await?;
        if listed["resources"].as_array().is_some_and(|resources| resources.len() == wanted) {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(10) {
            bail!(
                "{wanted} resources expected, listed: {listed}; the log ends with:\n{}",
                scene.log_tail("autoscaler")
            );
        }
        pause(Duration::from_millis(50)).await;
    }
}
