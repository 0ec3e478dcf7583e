//! `fumehood image`: builds, lists and verifies guest images.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use fumehood_engine::image::{
    BuildOptions, BuildOutcome, ImageName, ImageSummary, KernelChoice, PartReport, PartState,
    Store, build,
};
use fumehood_engine::{LAUNCHER_BIN, RunRequest, install_launcher};

use super::format::MIB;
use super::template::build_templates;
use crate::args::{
    HostArgs, ImageArgs, ImageBuildArgs, ImageCommand, KernelArg, TemplateBuildArgs,
};
use crate::exit_code::FAILURE;
use crate::io::{BuildProgress, eprint_message, print_line};

pub(crate) fn run(args: ImageArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let config = host.config();
    let root = match config.store {
        Some(root) => root,
        None => Store::default_root()?,
    };
    let store = Store::open(root)?;

    match args.command {
        ImageCommand::Build(args) => build_image(&store, args, host),
        ImageCommand::List => list(&store),
        ImageCommand::Verify => verify(&store, &config.image),
    }
}

fn build_image(store: &Store, args: ImageBuildArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    // The agent goes into the image, the launcher into the store beside it.
    let agent = match args.agent {
        Some(agent) => agent,
        None => find_companion("fumehood-agent", "--agent")?,
    };
    let launcher = match host.config().launcher {
        Some(launcher) => launcher,
        None => find_companion(LAUNCHER_BIN, "--launcher")?,
    };
    install_launcher(store, &launcher)?;

    let mut options = BuildOptions::new(agent);
    options.kernel = match args.kernel {
        KernelArg::Own => KernelChoice::Own,
        KernelArg::Debian => KernelChoice::Debian,
    };
    options.extra_ca = args.ca;
    options.refresh = args.refresh;

    let start = Instant::now();
    let report = build(store, &options, &mut BuildProgress::new())?;
    let seconds = start.elapsed().as_secs_f32();

    let directory = report.image.directory().display();
    match report.outcome {
        BuildOutcome::Built => print_line(&format!("built {directory} in {seconds:.1} s"))?,
        BuildOutcome::UpToDate => print_line(&format!("up to date: {directory}"))?,
    }

    // Build the templates that `fumehood run` uses by default, so that the first run is fast.
    if args.no_templates {
        return Ok(ExitCode::SUCCESS);
    }
    let all_templates = TemplateBuildArgs {
        language: None,
        memory: RunRequest::DEFAULT_MEMORY_MIB,
        no_network: false,
    };
    build_templates(&all_templates, host.config())
}

/// Returns the path of a binary that is installed next to this one. `option`: the option that names another path.
fn find_companion(name: &str, option: &str) -> anyhow::Result<PathBuf> {
    let this_binary =
        std::env::current_exe().context("cannot determine the path of this binary")?;
    let companion = this_binary.with_file_name(name);
    if !companion.is_file() {
        bail!(
            "{} does not exist; build it with `cargo xtask setup`, or give its path with {option}",
            companion.display()
        );
    }
    Ok(companion)
}

fn list(store: &Store) -> anyhow::Result<ExitCode> {
    let images = store.list()?;
    if images.is_empty() {
        print_line(&format!(
            "no images in {}; build one with `fumehood image build`",
            store.root().display()
        ))?;
    }

    for image in images {
        let ImageSummary {
            name,
            directory,
            manifest,
        } = image;
        match manifest {
            // The size is that of all parts: kernel, initrd and root file system.
            Ok(manifest) => {
                let bytes: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
                let (mib, suite) = (bytes / MIB, manifest.suite);
                print_line(&format!("{name} {suite} {mib} MiB {}", directory.display()))?;
            }
            Err(error) => print_line(&format!("{name} BAD {error}"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(store: &Store, name: &ImageName) -> anyhow::Result<ExitCode> {
    let verification = store.verify(name)?;

    for part in &verification.parts {
        print_line(&part_line(part))?;
    }

    if verification.is_intact() {
        Ok(ExitCode::SUCCESS)
    } else {
        eprint_message("the image is damaged; rebuild it with `fumehood image build`");
        Ok(ExitCode::from(FAILURE))
    }
}

/// Returns the verification result of one part as a line.
fn part_line(part: &PartReport) -> String {
    let PartReport {
        name,
        path,
        expected,
        state,
    } = part;
    let path = path.display();

    match state {
        PartState::Intact => format!("ok   {name} sha256 {expected}"),
        PartState::Damaged { found } => {
            format!("BAD  {name} sha256 {found} instead of {expected}: {path}")
        }
        PartState::Unreadable { reason } => {
            format!("BAD  {name} cannot be read ({reason}): {path}")
        }
    }
}
