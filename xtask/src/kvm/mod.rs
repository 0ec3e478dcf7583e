//! `cargo xtask test-kvm`: tests of the path through KVM, on any machine.
//!
//! QEMU's emulator implements AMD's virtualisation with nested pages. A distribution's kernel has a working `/dev/kvm` in
//! it, and fumehood runs there as on a host with KVM. Times mean nothing there.

mod machine;
mod kernel;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use fumehood_image::Store;

use self::kernel::Kernel;
use self::machine::{Check, Message, Plan};
use crate::packages;
use crate::programs::{self, TestProgram};
use crate::setup::{self, Programs};

/// The tests of CI: what they need of the emulator fits into its time.
const SHORT: &[(&str, &[&str])] = &[(
    "kvm",
    &[
        "doctor_and_runs_choose_kvm",
        "a_booted_guest_has_all_layers_the_right_clock_and_no_virtualisation",
        "restored_guests_have_their_own_time_and_randomness",
        "an_ordinary_user_uses_a_device_that_it_may_open",
    ],
)];

/// The tests of `--long`, beside all of `kvm`. Programs without tests run all of theirs.
const LONG: &[(&str, &[&str])] = &[
    ("kvm", &[]),
    ("host_walls", &[]),
    ("guest_walls", &["every_guest_wall_holds"]),
    (
        "freshness",
        &[
            "clocks_are_right",
            "tls_works_with_a_certificate_that_is_younger_than_the_template",
        ],
    ),
    ("pool", &["requests_use_hot_vms_with_kvm"]),
    (
        "fork",
        &[
            // Others need more memory than the emulated host has.
            "a_fork_right_after_a_program_succeeds",
            "a_checkpoint_outlives_its_sandbox",
            "a_booted_sandbox_can_be_forked_too",
        ],
    ),
    (
        "sessions",
        &[
            "contexts_of_three_languages_keep_their_state",
            "a_cancelled_exec_leaves_the_state",
        ],
    ),
];

/// How long a test may take in the emulated host, in seconds.
const CHECK_TIMEOUT_S: u64 = 300;

/// What to test.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Run only the tests whose name contains this
    filter: Option<String>,

    /// Also test all layers around QEMU and the guest, hot VMs, forks and sessions
    #[arg(long)]
    long: bool,
}

/// Sets up, and runs the tests in an emulated host.
///
/// # Errors
/// Fails if a test fails, or the host cannot be emulated.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    packages::prepare()?;
    let (programs, tests) = setup::setup_while(|| {
        setup::build_test_programs()?;
        programs::build_package("fumehood-end-to-end")
    })?;

    run_tests(&programs, &tests, options)
}

/// Whether this system's packages include the kernel of the emulated host.
pub(crate) fn is_available() -> bool {
    kernel::is_available()
}

/// Runs the tests among these programs in an emulated host.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_tests(
    programs: &Programs,
    tests: &[TestProgram],
    options: &Options,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let store = Store::open(Store::default_root()?)?;
    let kernel = Kernel::prepare(&store.root().join("cache/kvm-host"))?;
    let init = setup::test_program("fumehood-kvm-host")?;

    let selection = if options.long { LONG } else { SHORT };
    let mut checks = plan_checks(programs, tests, selection)?;
    if let Some(filter) = &options.filter {
        checks.retain(|check| check.name.contains(filter));
    }
    if checks.is_empty() {
        bail!("no test has a name that contains this filter");
    }

    let plan = Plan {
        shared: shared_directories(programs, tests)?,
        copied: copied_directories(&store)?,
        checks,
    };

    eprintln!("{} tests in an emulated host with KVM:", plan.checks.len());
    let mut failed = Vec::new();
    machine::run(&kernel, &init, &plan, |message| {
        if let Message::Ended {
            ended,
            passed,
            seconds,
            output,
        } = message
        {
            let verdict = if *passed { "ok" } else { "FAILED" };
            eprintln!("  {verdict:6} {seconds:6.1} s  {ended}");
            if !passed {
                eprintln!("{output}");
                failed.push(ended.clone());
            }
        }
    })?;
    eprintln!("  ({:.1} s in all)", start.elapsed().as_secs_f32());

    if !failed.is_empty() {
        bail!("these tests failed under KVM: {}", failed.join(", "));
    }
    Ok(())
}

/// Makes a check of each test. Each runs in a process of its own, so that one that hangs does not take the others along.
fn plan_checks(
    programs: &Programs,
    tests: &[TestProgram],
    selection: &[(&str, &[&str])],
) -> anyhow::Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (program, names) in selection {
        let test = tests.iter().find(|test| test.is_integration_test(program));
        let test = test.with_context(|| format!("there is no test program {program}"))?;
        let existing = test.list()?;
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        if names.is_empty() {
            names.clone_from(&existing);
        }

        for name in names {
            if !existing.contains(&name) {
                bail!("{program} has no test {name}");
            }
            checks.push(Check {
                name: format!("{program}: {name}"),
                program: test.executable.canonicalize()?,
                args: vec!["--exact".into(), name, "--nocapture".into()],
                directory: test.directory.clone(),
                environment: environment(programs, test)?,
                timeout_s: CHECK_TIMEOUT_S,
            });
        }
    }

    Ok(checks)
}

/// The variables of a test in the emulated host; it has no others.
fn environment(
    programs: &Programs,
    test: &TestProgram,
) -> anyhow::Result<BTreeMap<String, String>> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .context("a path is not UTF-8")
    };
    let store = Store::default_root()?.canonicalize()?;

    Ok(BTreeMap::from([
        ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOME".into(), "/root".into()),
        ("FUMEHOOD_HOME".into(), text(&store)?),
        (
            "FUMEHOOD_BIN".into(),
            text(&programs.fumehood.canonicalize()?)?,
        ),
        (
            "FUMEHOOD_AGENT".into(),
            text(&programs.agent.canonicalize()?)?,
        ),
        ("FUMEHOOD_TEST_KVM".into(), "1".into()),
        ("CARGO_MANIFEST_DIR".into(), text(&test.directory)?),
        ("RUST_BACKTRACE".into(), "1".into()),
    ]))
}

/// The parts of the store that are there: images, and the launcher of programs that have none beside them. Templates are of
/// no use to another processor.
fn copied_directories(store: &Store) -> anyhow::Result<Vec<PathBuf>> {
    let root = store.root().canonicalize()?;
    let parts = ["images", "bin"].map(|part| root.join(part));

    Ok(parts.into_iter().filter(|part| part.exists()).collect())
}

/// Where the programs and the files of the tests are.
fn shared_directories(programs: &Programs, tests: &[TestProgram]) -> anyhow::Result<Vec<PathBuf>> {
    let mut shared = vec![std::env::current_dir()?.canonicalize()?];

    // The target directory may be a link to another place.
    let files =
        std::iter::once(&programs.fumehood).chain(tests.iter().map(|test| &test.executable));
    for file in files {
        let file = file.canonicalize()?;
        let directory = file.parent().and_then(Path::parent).unwrap_or(&file);
        if !shared.iter().any(|shared| directory.starts_with(shared)) {
            shared.push(directory.to_path_buf());
        }
    }

    // A directory before those in it.
    shared.sort();
    Ok(shared)
}
