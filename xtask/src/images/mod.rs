//! Images: one of each daemon with all plugins, and one of each daemon per resource-scaler. Those of the autoscaler have all metric
//! sources, too.

pub mod check;
pub mod tree;

use std::{
    path::{Path, PathBuf},
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

/// What selects the images with all plugins.
const ALL: &str = "all";

/// Builds the images: autoscaler and dlx with all plugins, and autoscaler-KIND and dlx-KIND with one
///
/// Every image of the autoscaler has all metric sources, too.
/// /// With docker, podman or buildah, whichever is there, from deploy/docker/Dockerfile, which builds the workspace inside.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask images                                                          all kinds
  cargo xtask images deployment --registry registry.example.com/scaler        of one kind, with a prefix")]
pub struct Images {
    /// Which images: `all` for those with all plugins, or the kind of one plugin; without any: all images
    kinds: Vec<String>,
    /// What stands before the images' names, e.g. registry.example.com/scaler
    #[arg(long, value_name = "PREFIX")]
    registry: Option<String>,
    /// What stands behind them
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Push each image to the registry once all are built
    #[arg(long, requires = "registry")]
    push: bool,
    /// Build no image; put each image's file tree into DIR, from a release build on this machine. (The Dockerfile does so)
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    tree: Option<PathBuf>,
    /// Build no image; check with a debug build that each daemon starts from its file tree and finds its plugins there
    #[arg(long)]
    check: bool,
}

/// The plugins of an image of each daemon.
struct Variant {
    /// The one resource-scaler's kind; none: all of them.
    kind: Option<String>,
    /// The metric sources included.
    plugins: Vec<Plugin>,
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
        let mut chosen = variants()?;
        let known: Vec<_> = chosen.iter().map(|variant| variant.name().to_owned()).collect();
        if let Some(unknown) = self.kinds.iter().find(|kind| !known.contains(kind)) {
            bail!("there is no image of kind {unknown}, expected one of {}", known.join(", "));
        }
        chosen
            .retain(|variant| self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == variant.name()));
        match &self.tree {
            Some(folder) => trees(&chosen, folder),
            None => self.images(&chosen),
        }
    }

    fn images(&self, variants: &[Variant]) -> Result<()> {
        let builder = builder()?;
        let mut made = Vec::new();
        for variant in variants {
            for daemon in DAEMONS {
                let prefix =
                    self.registry.as_ref().map(|prefix| format!("{}/", prefix.trim_end_matches('/')));
                let name = format!("{}{}:{}", prefix.unwrap_or_default(), variant.image(daemon), self.tag);
                let mut build = Command::new(&builder);
                build.args(["build", "--file", "deploy/docker/Dockerfile", "--target", daemon]);
                if let Some(kind) = &variant.kind {
                    build.args(["--build-arg", &format!("KIND={kind}")]);
                }
                run(build.args(["--tag", &name, "."]).current_dir(root()))?;
                made.push(name);
            }
        }
        if !self.push {
            println!("\nbuilt, and pushed nowhere:\n  {}", made.join("\n  "));
            return Ok(());
        }
        made.iter().try_for_each(|name| run(Command::new(&builder).args(["push", name])))
    }
}

// === impl Variant ===

impl Variant {
    /// How it is named on the command line.
    fn name(&self) -> &str {
        self.kind.as_deref().unwrap_or(ALL)
    }

    /// The name of a daemon's image, and of its tree.
    fn image(&self, daemon: &str) -> String {
        self.kind.as_ref().map_or_else(|| daemon.to_owned(), |kind| format!("{daemon}-{kind}"))
    }
}

/// All images: first those with all plugins.
fn variants() -> Result<Vec<Variant>> {
    let plugins = plugins()?;
    let (sources, scalers): (Vec<_>, Vec<_>) = plugins.iter().partition(|plugin| plugin.is_metric_source);
    let single = scalers.into_iter().map(|plugin| Variant {
        kind: Some(plugin.library.clone()),
        plugins: std::iter::once(plugin).chain(sources.iter().copied()).cloned().collect(),
    });
    let single: Vec<_> = single.collect();
    Ok(std::iter::once(Variant { kind: None, plugins }).chain(single).collect())
}

/// The images' names: what the release workflow joins from those of each processor.
#[cfg(test)]
pub fn names() -> Result<Vec<String>> {
    let of = |variant: &Variant| DAEMONS.map(|daemon| variant.image(daemon));
    Ok(variants()?.iter().flat_map(of).collect())
}

/// Each daemon's tree of each variant, as `DIR/dlx` and `DIR/dlx-deployment`.
fn trees(variants: &[Variant], folder: &Path) -> Result<()> {
    let built = build(Profile::Release)?;
    for variant in variants {
        for daemon in DAEMONS {
            let tree = folder.join(variant.image(daemon));
            tree::assemble(&built, daemon, &variant.plugins, &tree)?;
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
