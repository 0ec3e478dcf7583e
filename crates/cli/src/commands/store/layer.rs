//! `fumehood layer`: lists and prunes package layers.

use std::process::ExitCode;

use fumehood_engine::image::{LAYERS_BYTES, LayerSummary, Layers};

use super::super::format::{MIB, format_age, short_hash};
use super::open_store;
use crate::args::{HostArgs, LayerArgs, LayerCommand, PruneArgs};
use crate::io::print_line;

pub(crate) fn run(args: &LayerArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let layers = open_store(host)?.layers();

    match &args.command {
        LayerCommand::List => list(&layers),
        LayerCommand::Prune(args) => prune(args, &layers),
    }
}

fn list(layers: &Layers) -> anyhow::Result<ExitCode> {
    let listed = layers.list()?;
    if listed.is_empty() {
        print_line(&"no layers; `fumehood run -p PACKAGE` creates one")?;
    }

    for layer in listed {
        print_line(&layer_line(&layer))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn layer_line(layer: &LayerSummary) -> String {
    let (mib, age) = (layer.bytes.div_ceil(MIB), format_age(layer.last_used));

    match &layer.manifest {
        Ok(manifest) => {
            let packages: Vec<_> = manifest
                .packages
                .iter()
                .map(|package| format!("{} {}", package.name, package.version))
                .collect();
            let (digest, language) = (short_hash(&layer.digest), &manifest.language);
            let packages = packages.join(", ");
            format!("{digest} {language} {mib} MiB on disk, used {age}: {packages}")
        }
        Err(error) => format!("BAD {mib} MiB on disk: {error}"),
    }
}

fn prune(args: &PruneArgs, layers: &Layers) -> anyhow::Result<ExitCode> {
    let report = layers.prune(args.max_bytes(LAYERS_BYTES))?;
    let (removed, mib) = (report.removed, report.freed_bytes / MIB);
    print_line(&format!("removed {removed} layers, {mib} MiB"))?;
    Ok(ExitCode::SUCCESS)
}
