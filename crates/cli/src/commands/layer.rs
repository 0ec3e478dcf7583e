use std::process::ExitCode;

use fumehood_engine::image::{LAYERS_BYTES, LayerSummary, Layers, Store};

use super::say;
use super::template::{MIB, ago};
use crate::args::{Host, Layer, LayerCommand, Prune};

pub(crate) fn run(args: &Layer, host: &Host) -> anyhow::Result<ExitCode> {
    let root = match host.config().store {
        Some(root) => root,
        None => Store::default_root()?,
    };
    let layers = Store::open(root)?.layers();
    match &args.command {
        LayerCommand::List => list(&layers),
        LayerCommand::Prune(args) => prune(args, &layers),
    }
}

fn list(layers: &Layers) -> anyhow::Result<ExitCode> {
    let found = layers.list()?;
    if found.is_empty() {
        say(&"no layers; a run with -p makes one")?;
    }
    for layer in found {
        say(&line(&layer))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn line(layer: &LayerSummary) -> String {
    let (mib, used) = (layer.bytes.div_ceil(MIB), ago(layer.last_used));
    match &layer.manifest {
        Ok(manifest) => {
            let packages = manifest.packages.iter();
            let packages = packages.map(|one| format!("{} {}", one.name, one.version));
            format!(
                "{} {} {mib} MiB on disk, used {used}: {}",
                &layer.digest[..12.min(layer.digest.len())],
                manifest.language,
                packages.collect::<Vec<_>>().join(", "),
            )
        }
        Err(error) => format!("BAD {mib} MiB on disk: {error}"),
    }
}

fn prune(args: &Prune, layers: &Layers) -> anyhow::Result<ExitCode> {
    let report = layers.prune(args.most(LAYERS_BYTES))?;
    say(&format!(
        "removed {} layers, {} MiB",
        report.removed,
        report.freed_bytes / MIB
    ))?;
    Ok(ExitCode::SUCCESS)
}
