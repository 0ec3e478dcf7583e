//! `cargo xtask fuzz`: arbitrary bytes for everything that reads input of a guest or a user.

use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::packages;
use crate::shell::{self, cargo};

/// Fuzz targets: first those that read input of a guest, then those of callers and of files.
const TARGETS: [&str; 14] = [
    "frames",
    "client_hello",
    "dns",
    "http_head",
    "protocol_line",
    "protocol_message",
    "agent_channel",
    "directory",
    "monitor",
    "http_body",
    "mcp_params",
    "policy_document",
    "manifest",
    "process_image",
];

/// For how many seconds each target runs by default.
const SECONDS: u32 = 20;

/// Where inputs that reach new code are kept between runs. Git ignores it.
const CORPUS: &str = "fuzz/corpus";

/// How much more memory a target may take after a third of its time, in KiB. By then it has found most of the inputs that it keeps.
const GROWTH_KIB: u64 = 64 * 1024;

/// Where cargo-fuzz leaves programs for this machine.
const BUILT: &str = "fuzz/target/x86_64-unknown-linux-gnu/release";

/// Fuzzes each target for this many seconds, or for [`SECONDS`].
///
/// # Errors
/// Fails if a program is missing, or a target crashes, hangs or grows.
pub(crate) fn run(seconds: Option<u32>) -> anyhow::Result<()> {
    if !packages::succeeds("cargo", &["fuzz", "--version"]) {
        bail!(
            "cargo-fuzz is missing; run\n    cargo install --locked cargo-fuzz\nand then this again"
        );
    }
    if !packages::program("c++") {
        bail!("libFuzzer needs a C++ compiler, which is missing; install Debian's package g++");
    }

    // Sanitizers find errors of unsafe code, of which the targets have none; without them stable Rust is enough.
    shell::run(cargo().args(["fuzz", "build", "-s", "none", "--target-dir", "fuzz/target"]))?;
    for target in TARGETS {
        fuzz_target(target, seconds.unwrap_or(SECONDS))?;
    }

    eprintln!("inputs that reach new code are kept in {CORPUS}, for the next run");
    Ok(())
}

fn fuzz_target(target: &str, seconds: u32) -> anyhow::Result<()> {
    let dirs = [CORPUS, "fuzz/seeds"].map(|kind| format!("{kind}/{target}"));
    let artifacts = format!("fuzz/artifacts/{target}/");
    for dir in dirs.iter().chain([&artifacts]) {
        std::fs::create_dir_all(dir)?;
    }

    eprintln!("fuzzing {target} for {seconds} s");
    // In a network without routes, so that every connection fails at once, and with an empty /dev/shm, where targets
    // write files.
    let mut child = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=256m tmpfs /dev/shm && exec \"$@\"")
        .arg("sh")
        .arg(Path::new(BUILT).join(target))
        .args(&dirs)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={artifacts}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .spawn()
        .context("unshare (package util-linux) could not be started")?;

    let (warm, end) = watch(&mut child, Duration::from_secs(seconds.into()))?;
    eprintln!("{target}: {warm} KiB of memory when warm, {end} at the end");
    if !child.wait()?.success() {
        bail!("{target} failed; the input is in {artifacts}");
    }
    if end > warm + GROWTH_KIB {
        bail!(
            "{target} leaks memory: it may grow by {GROWTH_KIB} KiB at most after a third of its time"
        );
    }

    Ok(())
}

/// Resident memory of a child in KiB: after a third of its time, and at its end.
fn watch(child: &mut Child, time: Duration) -> anyhow::Result<(u64, u64)> {
    let start = Instant::now();
    let (mut warm, mut last) = (0, 0);

    while child.try_wait()?.is_none() {
        last = resident(child.id()).unwrap_or(last);
        if start.elapsed() < time / 3 {
            warm = last;
        }
        sleep(Duration::from_millis(200));
    }

    Ok((warm, last))
}

fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
