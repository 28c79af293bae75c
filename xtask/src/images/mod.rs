//! Images: one of each daemon per kind of resource.

pub mod check;
mod tree;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{Plugin, build, plugins},
    install::find,
    steps::run,
    workspace::{Profile, root},
};

/// Both daemons; an image holds one.
const DAEMONS: [&str; 2] = ["autoscaler", "dlx"];

/// Builds the images: autoscaler-KIND and dlx-KIND for each kind of resource
///
/// With docker, podman or buildah, whichever is there, from deploy/docker/Dockerfile, which builds the workspace inside.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask images                                                          all kinds
  cargo xtask images deployment --registry registry.example.com/scaler        of one kind, with a prefix")]
pub struct Images {
    /// Which kinds; without any: every plugin under plugins/
    kinds: Vec<String>,
    /// What stands before the images' names, e.g. registry.example.com/scaler
    #[arg(long, value_name = "PREFIX")]
    registry: Option<String>,
    /// What stands behind them
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Build no image; put each image's file tree into DIR, from a release build on this machine. (The Dockerfile does so)
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    tree: Option<PathBuf>,
    /// Build no image; check with a debug build that each daemon starts from its file tree and finds its plugin there
    #[arg(long)]
    check: bool,
}

// === impl Images ===

impl Images {
    /// Builds them.
    ///
    /// # Errors
    ///
    /// There is no such kind, nothing to build images with, or the build fails.
    pub fn run(&self) -> Result<()> {
        if self.check {
            return check::check(&build(Profile::Debug)?);
        }
        let mut chosen = plugins()?;
        let known: Vec<_> = chosen.iter().map(|plugin| plugin.library.clone()).collect();
        if let Some(unknown) = self.kinds.iter().find(|kind| !known.contains(kind)) {
            bail!("there is no kind {unknown}: plugins/ has {}", known.join(", "));
        }
        chosen.retain(|plugin| self.kinds.is_empty() || self.kinds.contains(&plugin.library));
        match &self.tree {
            Some(folder) => trees(&chosen, folder.clone()),
            None => self.images(&chosen),
        }
    }

    fn images(&self, kinds: &[Plugin]) -> Result<()> {
        let builder = builder()?;
        let mut made = Vec::new();
        for kind in kinds {
            for daemon in DAEMONS {
                let prefix =
                    self.registry.as_ref().map(|prefix| format!("{}/", prefix.trim_end_matches('/')));
                let name = format!("{}{daemon}-{}:{}", prefix.unwrap_or_default(), kind.library, self.tag);
                let mut build = Command::new(&builder);
                build.args(["build", "--file", "deploy/docker/Dockerfile", "--target", daemon]);
                build.args(["--build-arg", &format!("KIND={}", kind.library), "--tag", &name, "."]);
                run(build.current_dir(root()))?;
                made.push(name);
            }
        }
        println!("\nbuilt, and pushed nowhere:\n  {}", made.join("\n  "));
        Ok(())
    }
}

/// Each daemon's tree with each kind, as `DIR/dlx-deployment`.
fn trees(kinds: &[Plugin], folder: PathBuf) -> Result<()> {
    let built = build(Profile::Release)?;
    for kind in kinds {
        for daemon in DAEMONS {
            let tree = folder.join(format!("{daemon}-{}", kind.library));
            tree::assemble(&built, daemon, kind, &tree)?;
            tree::refuse_newer_glibc(&tree)?;
            println!("{}", tree.display());
        }
    }
    Ok(())
}

/// What builds images here. A docker whose daemon does not answer builds none.
fn builder() -> Result<PathBuf> {
    let works = |program: &PathBuf| {
        let mut info = Command::new(program);
        info.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        info.status().is_ok_and(|status| status.success())
    };
    let found = ["docker", "podman", "buildah"].into_iter().filter_map(find).find(works);
    found.context(
        "images are built with docker, podman or buildah, and none of them works on this machine: \
         `apt-get install podman` or start docker's daemon; `cargo xtask images --tree DIR` makes the images' file trees without",
    )
}
