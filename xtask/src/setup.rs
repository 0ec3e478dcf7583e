//! What everything else needs: packages, programs, the guest image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use fumehood_image::{BuildOptions, Progress, Step, StepEnd, Store, prepare_inputs};

use crate::packages;
use crate::shell::{cargo, run};

/// The profile of everything that this program builds for the host; see `Cargo.toml`.
pub(crate) const PROFILE: &str = "setup";

/// Where cargo leaves programs that are built with [`PROFILE`].
const BUILT: &str = "target/setup";

/// Where the command and the programs beside it are copied to. Cargo builds programs of the same names for tests, with
/// other features and linked dynamically; they must not take their place.
const PROGRAMS: &str = "target/bin";

/// The guest is x86_64 Linux; its agent is one static program.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Static programs that the command looks for in its own directory: package, and name there.
const STATIC_PROGRAMS: [(&str, &str); 2] = [
    ("fumehood-guest-agent", "fumehood-agent"),
    ("fumehood-launcher", "fumehood-launcher"),
];

/// Packages of static programs that only tests need, which run in guests, in QEMU's place or as a host's first process.
const TEST_PROGRAMS: [&str; 4] = [
    "fumehood-guest-probe",
    "fumehood-host-probe",
    "fumehood-fake-agent",
    "fumehood-kvm-host",
];

/// The programs that a set-up leaves.
pub(crate) struct Programs {
    /// The command `fumehood`.
    pub(crate) fumehood: PathBuf,
    /// The guest's agent.
    pub(crate) agent: PathBuf,
}

impl Programs {
    /// The programs in this directory.
    fn in_directory(directory: &str) -> anyhow::Result<Self> {
        let absolute = |name: &str| std::path::absolute(Path::new(directory).join(name));

        Ok(Self {
            fumehood: absolute("fumehood")?,
            agent: absolute("fumehood-agent")?,
        })
    }
}

/// Installs packages, and builds programs and the image, as far as they are missing. With everything cached it takes a
/// few seconds.
///
/// # Errors
/// Fails if a package is missing and cannot be installed, or something cannot be built.
pub(crate) fn setup() -> anyhow::Result<Programs> {
    let (programs, ()) = setup_while(|| Ok(()))?;

    Ok(programs)
}

/// As [`setup`], and does other work while parts of the image are built. Returns what that work returns.
///
/// # Errors
/// As [`setup`] and as the other work.
pub(crate) fn setup_while<T>(
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Programs, T)> {
    let start = Instant::now();
    packages::prepare()?;

    // Half of the work of a first set-up, and none of it needs the programs.
    let image_parts = thread::spawn(build_image_parts);
    build_static(&STATIC_PROGRAMS.map(|(package, _)| package))?;
    run(cargo().args(["build", "--profile", PROFILE, "-p", "fumehood-cli"]))?;
    let programs = place_programs(BUILT, PROGRAMS)?;
    let result = work()?;
    // If a part could not be built, the image build below fails for the same reason and reports it.
    let _ = image_parts.join();

    run(Command::new(&programs.fumehood).args(["image", "build"]))?;
    eprintln!("set up in {:.0} s", start.elapsed().as_secs_f32());

    Ok((programs, result))
}

/// Builds the static programs that only tests need. In a build of their own, since cargo would enable the features that
/// they need in the agent and the launcher too.
///
/// # Errors
/// Fails if one cannot be built.
pub(crate) fn build_test_programs() -> anyhow::Result<()> {
    build_static(&TEST_PROGRAMS)
}

/// Builds the command as it is distributed, with the programs beside it, after a [`setup`].
///
/// # Errors
/// Fails if it cannot be built.
pub(crate) fn release_programs() -> anyhow::Result<Programs> {
    run(cargo().args(["build", "--release", "-p", "fumehood-cli"]))?;

    place_programs("target/release", "target/bin-release")
}

/// Builds the parts of the image that do not need the agent into the image cache, while cargo builds the programs.
fn build_image_parts() {
    struct Lines;

    impl Progress for Lines {
        fn started(&mut self, _: &Step) {}

        fn done(&mut self, step: &Step, end: StepEnd, took: Duration) {
            if end == StepEnd::Done {
                eprintln!("{}: done in {:.0} s", step.title, took.as_secs_f32());
            }
        }

        fn advanced(&mut self, step: &Step, fraction: Option<f64>, line: &str) {
            if fraction == Some(0.0) {
                eprintln!(
                    "{}: {line} (while cargo builds; usually {} s)",
                    step.title,
                    step.usual.as_secs()
                );
            }
        }
    }

    let Ok(store) = Store::default_root().and_then(Store::open) else {
        return;
    };
    let _ = prepare_inputs(&store, &BuildOptions::new(""), &mut Lines);
}

/// Copies the command and the static programs beside it into a directory.
fn place_programs(built: &str, directory: &str) -> anyhow::Result<Programs> {
    let command = (Path::new(built).join("fumehood"), "fumehood");
    let others = STATIC_PROGRAMS.map(|(_, program)| (static_directory().join(program), program));
    std::fs::create_dir_all(directory)?;

    for (source, program) in std::iter::once(command).chain(others) {
        let place = Path::new(directory).join(program);

        // By rename: the old file may be running, or be open in another image build.
        let fresh = place.with_extension("new");
        std::fs::copy(source, &fresh)
            .and_then(|_| std::fs::rename(&fresh, &place))
            .with_context(|| format!("cannot write {}", place.display()))?;
    }

    Programs::in_directory(directory)
}

/// Builds static programs: these packages.
///
/// # Errors
/// Fails if one cannot be built.
pub(crate) fn build_static(packages: &[&str]) -> anyhow::Result<()> {
    let packages = packages.iter().flat_map(|package| ["-p", package]);

    run(cargo()
        .args(["build", "--profile", "guest", "--target", GUEST_TARGET])
        .args(packages)
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C relocation-model=static",
        ))
}

/// Where [`build_static`] leaves programs.
fn static_directory() -> PathBuf {
    Path::new("target").join(GUEST_TARGET).join("guest")
}

/// Where the static programs of the tests are.
///
/// # Errors
/// Fails if the current directory is unknown.
pub(crate) fn test_program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(static_directory().join(name))?)
}
