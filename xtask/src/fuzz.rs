//! Bytes that mean nothing, for whatever reads what a guest or a user wrote.

use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::host;
use crate::shell::{cargo, run};

/// What is fuzzed, and for how many seconds by default.
const TARGETS: [(&str, u32); 5] = [
    ("frames", 600),
    ("client_hello", 60),
    ("dns", 60),
    ("http_head", 60),
    ("policy_document", 60),
];

/// How much memory one may take on after a third of its time, in KiB: what it found by then and keeps is most of it.
const GROWTH_KIB: u64 = 64 * 1024;

/// Where cargo-fuzz puts programs for this machine.
const BUILT: &str = "fuzz/target/x86_64-unknown-linux-gnu/release";

/// Fuzzes each target for so long; without a time, for its own.
pub(crate) fn fuzz(seconds: Option<u32>) -> anyhow::Result<()> {
    if !host::succeeds("cargo", &["fuzz", "--version"]) {
        bail!(
            "cargo-fuzz is missing; run\n    cargo install --locked cargo-fuzz\nand then this again"
        );
    }
    if !host::program("c++") {
        bail!("a C++ compiler is missing, for libFuzzer; install what Debian calls g++");
    }
    // Its sanitizers are for unsafe code, of which the gateway has none; without them stable Rust is enough.
    run(cargo().args(["fuzz", "build", "-s", "none", "--target-dir", "fuzz/target"]))?;
    for (target, own) in TARGETS {
        one(target, seconds.unwrap_or(own))?;
    }
    Ok(())
}

fn one(target: &str, seconds: u32) -> anyhow::Result<()> {
    let dirs = ["corpus", "seeds"].map(|kind| format!("fuzz/{kind}/{target}"));
    let artifacts = format!("fuzz/artifacts/{target}/");
    for dir in dirs.iter().chain([&artifacts]) {
        std::fs::create_dir_all(dir)?;
    }
    eprintln!("fuzzing {target} for {seconds} s");
    // In a network that leads nowhere: what is dialed fails at once.
    let mut child = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(Path::new(BUILT).join(target))
        .args(&dirs)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={artifacts}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .spawn()
        .context("unshare, of util-linux, could not be started")?;
    let (warm, end) = watch(&mut child, Duration::from_secs(seconds.into()))?;
    eprintln!("{target}: {warm} KiB of memory when warm, {end} at the end");
    if !child.wait()?.success() {
        bail!("{target} has found something; what it was given is in {artifacts}");
    }
    if end > warm + GROWTH_KIB {
        bail!(
            "{target} grows: at most {GROWTH_KIB} KiB more are allowed after a third of its time"
        );
    }
    Ok(())
}

/// Memory of a child, in KiB: after a third of its time, and the last that was seen.
fn watch(child: &mut Child, time: Duration) -> anyhow::Result<(u64, u64)> {
    let begun = Instant::now();
    let (mut warm, mut last) = (0, 0);
    while child.try_wait()?.is_none() {
        last = resident(child.id()).unwrap_or(last);
        if begun.elapsed() < time / 3 {
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
