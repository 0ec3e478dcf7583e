//! Arguments of the commands that manage the store: `image`, `template` and `layer`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use fumehood_engine::Language;

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build the image; does nothing if it is up to date
    Build(ImageBuildArgs),
    /// List the images in the store
    List,
    /// Verify the checksums of all parts of an image
    Verify,
    /// Remove the unfinished work of killed builds, and templates of images that no longer exist
    Prune,
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuildArgs {
    /// Guest agent, a static binary [default: fumehood-agent next to this binary]
    #[arg(long, env = "FUMEHOOD_AGENT", value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
    /// Kernel: fumehood's own small one, compiled on this machine, or Debian's
    #[arg(long, value_enum, default_value_t = KernelArg::Own)]
    pub(crate) kernel: KernelArg,
    /// PEM file with certificates that the guest trusts in addition to the host's bundle
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Upgrade to newer Debian packages even if nothing else has changed
    #[arg(long)]
    pub(crate) refresh: bool,
    /// Do not build warm templates; VMs then boot instead of being restored
    #[arg(long)]
    pub(crate) no_templates: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KernelArg {
    /// Boots fastest; compiling it takes a few minutes, once
    Own,
    /// Needs no compilation
    Debian,
}

#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    pub(crate) command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Build missing templates of the image, and their hot images
    Build(TemplateBuildArgs),
    /// List the templates and the hot images in the store
    List,
    /// Remove damaged and abandoned templates, those of images that no longer exist, and the least recently used ones
    /// beyond a limit; and hot images that are not used any more
    Prune(PruneArgs),
    /// Create a hot image that a run has missed
    #[command(hide = true)]
    BuildMissing(MissingImageArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TemplateBuildArgs {
    /// Build only for this language [default: all]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Option<Language>,
    /// Memory of the VMs; only runs with the same memory use the templates
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Build only for VMs without a network
    #[arg(long)]
    pub(crate) no_network: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MissingImageArgs {
    /// The missing hot images, as JSON
    pub(crate) missing: String,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Maximum disk space to keep [default: 4096 for templates, 8192 for layers]
    #[arg(long, value_name = "MIB", conflicts_with = "all")]
    keep: Option<u64>,
    /// Remove everything
    #[arg(long)]
    pub(crate) all: bool,
}

impl PruneArgs {
    /// Returns the maximum number of bytes to keep; `default` if no option sets it.
    pub(crate) fn max_bytes(&self, default: u64) -> u64 {
        match (self.all, self.keep) {
            (true, _) => 0,
            (false, Some(mib)) => mib.saturating_mul(1024 * 1024),
            (false, None) => default,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LayerArgs {
    #[command(subcommand)]
    pub(crate) command: LayerCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LayerCommand {
    /// List the package layers in the store
    List,
    /// Remove damaged and abandoned layers, and the least recently used ones beyond a limit
    Prune(PruneArgs),
}
