//! The emulated host: QEMU without KVM, whose processor has AMD's virtualisation.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::kernel::Kernel;

/// The machine's memory, in MiB. What tests write is kept in it.
const MEMORY_MIB: u32 = 5 * 1024;

/// A processor of AMD: the emulator lacks what KVM needs of one of Intel. Process-context identifiers do not work with
/// nested pages there.
const PROCESSOR: &str = "EPYC-Rome,-pcid";

/// The time that the machine may take beside its checks: it boots in 4 to 15 s.
const OVERHEAD: Duration = Duration::from_secs(120);

/// What the machine does; see `tests/kvm-host/src/plan.rs`.
#[derive(Serialize)]
pub(super) struct Plan {
    pub(super) shared: Vec<PathBuf>,
    pub(super) copied: Vec<PathBuf>,
    pub(super) checks: Vec<Check>,
}

#[derive(Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) directory: PathBuf,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) timeout_s: u64,
}

/// A line of the machine's report.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Message {
    Ended {
        ended: String,
        passed: bool,
        seconds: f64,
        output: String,
    },
    Started {
        started: String,
    },
    Finished {
        finished: bool,
    },
}

/// Runs the plan and hands over each message. Fails if the machine does not finish it.
///
/// # Errors
/// Fails with the end of the machine's console.
pub(super) fn run(
    kernel: &Kernel,
    init: &Path,
    plan: &Plan,
    mut on_message: impl FnMut(&Message),
) -> anyhow::Result<()> {
    let place = std::env::temp_dir().join(format!("fumehood-kvm-host-{}", std::process::id()));
    fs::create_dir_all(&place)?;
    let result = run_in(&place, kernel, init, plan, &mut on_message);
    let console = fs::read(place.join("console")).unwrap_or_default();
    fs::remove_dir_all(&place)?;

    result.with_context(|| {
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("the emulated host failed; the end of its console:\n{tail}")
    })
}

fn run_in(
    place: &Path,
    kernel: &Kernel,
    init: &Path,
    plan: &Plan,
    on_message: &mut impl FnMut(&Message),
) -> anyhow::Result<()> {
    let plan_file = place.join("plan.json");
    fs::write(&plan_file, serde_json::to_vec(plan)?)?;
    let initrd = place.join("initrd");
    let archive = fumehood_image::initrd_with_modules(&fs::read(init)?, &kernel.modules)?;
    fs::write(&initrd, archive)?;

    let mut machine = start(place, kernel, &initrd, &plan_file)?;
    let result = follow(&mut machine, plan, on_message);
    // Both fail only if it has ended.
    let _ = machine.kill();
    let _ = machine.wait();

    result
}

fn start(place: &Path, kernel: &Kernel, initrd: &Path, plan: &Path) -> anyhow::Result<Child> {
    let arguments = format!(
        "console=ttyS0 panic=-1 mitigations=off tsc=reliable FUMEHOOD_PLAN={}",
        plan.display()
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-accel", "tcg,tb-size=1024"])
        .args(["-cpu", PROCESSOR, "-smp", "1"])
        .args(["-m", &format!("{MEMORY_MIB}M")])
        .args(["-nodefaults", "-no-reboot", "-nographic"])
        // The console of the kernel, and the report.
        .arg("-serial")
        .arg(format!("file:{}", place.join("console").display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &arguments])
        // All of the host's files share one tree, in which several file systems have the same inode numbers.
        .args([
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]);

    // QEMU warns of each feature of the processor that it does not emulate.
    let warnings = File::create(place.join("warnings"))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(warnings);
    command.spawn().context("qemu-system-x86_64")
}

/// Hands over the messages of the machine until it has finished.
fn follow(
    machine: &mut Child,
    plan: &Plan,
    on_message: &mut impl FnMut(&Message),
) -> anyhow::Result<()> {
    let lines = lines_of(machine)?;
    let checks: u64 = plan.checks.iter().map(|check| check.timeout_s).sum();
    let deadline = Instant::now() + OVERHEAD + Duration::from_secs(checks);

    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("it did not finish in time"),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended before it had finished"),
        };

        let message = serde_json::from_str(&line);
        let message = message.with_context(|| format!("it reported `{line}`"))?;
        on_message(&message);
        if matches!(message, Message::Finished { finished: true }) {
            return Ok(());
        }
    }
}

/// Reads a child's output in a thread, which ends with it.
fn lines_of(machine: &mut Child) -> anyhow::Result<Receiver<String>> {
    let output = machine.stdout.take().context("the report")?;
    let (sender, receiver) = channel();

    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody listens any more: the deadline has passed.
            if sender.send(line).is_err() {
                break;
            }
        }
    });

    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let parse = |text: &str| serde_json::from_str::<Message>(text).unwrap();

        let ended = r#"{"ended":"a","passed":true,"seconds":1.5,"output":""}"#;
        assert!(matches!(parse(ended), Message::Ended { passed: true, .. }));
        assert!(matches!(
            parse(r#"{"started":"a"}"#),
            Message::Started { .. }
        ));
        assert!(matches!(
            parse(r#"{"finished":true}"#),
            Message::Finished { finished: true }
        ));
    }
}
