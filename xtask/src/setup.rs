//! What everything else needs: packages, programs, the guest image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fumehood_image::{BuildOptions, Progress, Step, StepEnd, Store, prepare_kernel};

use crate::packages;
use crate::shell::{cargo, run};

/// The programs that a set-up leaves.
pub(crate) struct Programs {
    /// The command `fumehood`.
    pub(crate) fumehood: PathBuf,
    /// The guest's agent.
    pub(crate) agent: PathBuf,
}

/// The guest is x86_64 Linux; its agent is one static program.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Installs packages, and builds programs and the image, as far as they are missing. With everything cached it takes a few seconds.
///
/// # Errors
/// Fails if a package is missing and cannot be installed, or something cannot be built.
pub(crate) fn setup() -> anyhow::Result<Programs> {
    let start = Instant::now();
    packages::prepare()?;

    // The kernel is the longest step of a first set-up, and cargo does not need both processors all the time.
    let kernel = std::thread::spawn(build_kernel_ahead);
    let programs = programs()?;
    // If the kernel could not be built, the image build below fails for the same reason and reports it.
    let _ = kernel.join();

    run(Command::new(&programs.fumehood).args(["image", "build"]))?;
    eprintln!("set up in {:.0} s", start.elapsed().as_secs_f32());

    Ok(programs)
}

/// Builds the kernel into the image cache, while cargo builds the programs.
fn build_kernel_ahead() {
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
    let _ = prepare_kernel(&store, &BuildOptions::new(""), &mut Lines);
}

/// Static programs that the command looks for in its own directory: package, and name there.
const STATIC_PROGRAMS: [(&str, &str); 2] = [
    ("fumehood-guest-agent", "fumehood-agent"),
    ("fumehood-launcher", "fumehood-launcher"),
];

/// Builds the command and the programs beside it.
fn programs() -> anyhow::Result<Programs> {
    let packages = STATIC_PROGRAMS
        .iter()
        .flat_map(|(package, _)| ["-p", package]);
    run(static_build().args(packages))?;
    run(cargo().args(["build", "--release", "-p", "fumehood-cli"]))?;

    let release = Path::new("target/release");
    let built = static_directory();
    for (_, program) in STATIC_PROGRAMS {
        // By rename: the old file may be running, or be open in another image build.
        let fresh = release.join(program).with_extension("new");
        std::fs::copy(built.join(program), &fresh)?;
        std::fs::rename(&fresh, release.join(program))?;
    }

    let absolute = |name: &str| std::path::absolute(release.join(name));
    Ok(Programs {
        fumehood: absolute("fumehood")?,
        agent: absolute("fumehood-agent")?,
    })
}

/// Builds the static programs of the tests, which run in guests or in QEMU's place, and returns their directory.
///
/// # Errors
/// Fails if one cannot be built.
pub(crate) fn test_programs() -> anyhow::Result<PathBuf> {
    const PACKAGES: [&str; 3] = [
        "fumehood-guest-probe",
        "fumehood-host-probe",
        "fumehood-fake-agent",
    ];

    let packages = PACKAGES.iter().flat_map(|package| ["-p", package]);
    run(static_build().args(packages))?;

    Ok(std::path::absolute(static_directory())?)
}

/// Where [`static_build`] leaves programs.
fn static_directory() -> PathBuf {
    Path::new("target").join(GUEST_TARGET).join("guest")
}

/// A cargo build of static programs: those of the guest, and the launcher, which starts fastest as one.
pub(crate) fn static_build() -> Command {
    let mut command = cargo();

    command.args(["build", "--profile", "guest", "--target", GUEST_TARGET]);
    command.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static",
    );

    command
}
