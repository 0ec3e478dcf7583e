//! The cost of VMs that do nothing: memory, processor time and translated code.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use fumehood_engine::policy::{Document, RuleSpec};
use fumehood_engine::{Engine, Language, Network, RunRequest, Sandbox};
use rustix::time::{ClockId, clock_gettime};

use crate::harness::{self, PYTHON};
use crate::programs::HELLO;

/// The number of VMs whose cost is averaged.
const VMS: usize = 8;
/// How long the processor time of idle VMs is measured.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// The processor time of a number of VMs and of this process.
pub(crate) struct ProcessorTime {
    /// The time of this process, including threads that have exited.
    own: Duration,
    /// The time of each running thread of the VMs, by process and thread id.
    threads: HashMap<(u32, u32), Duration>,
}

impl ProcessorTime {
    /// Reads the processor time used so far.
    pub(crate) fn read(sandboxes: &[Sandbox]) -> anyhow::Result<Self> {
        let mut threads = HashMap::new();
        for pid in sandboxes.iter().map(Sandbox::process_id) {
            for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let entry = entry?;
                let tid = entry.file_name().to_string_lossy().parse()?;
                // A thread may exit after it was listed.
                let Ok(text) = std::fs::read_to_string(entry.path().join("schedstat")) else {
                    continue;
                };
                let nanoseconds = text
                    .split_ascii_whitespace()
                    .next()
                    .context("schedstat is empty")?;
                threads.insert((pid, tid), Duration::from_nanos(nanoseconds.parse()?));
            }
        }

        Ok(Self {
            own: Duration::try_from(clock_gettime(ClockId::ProcessCPUTime))?,
            threads,
        })
    }

    /// Returns the time used since an earlier reading.
    ///
    /// Each thread is compared with itself: when a thread exits, its time leaves `/proc`, so that the sum over all
    /// threads may be less than before. The time between the earlier reading and a thread's exit is not counted.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let of_threads = self.threads.iter().map(|(thread, now)| {
            let before = earlier.threads.get(thread).copied().unwrap_or_default();
            now.saturating_sub(before)
        });

        self.own.saturating_sub(earlier.own) + of_threads.sum::<Duration>()
    }
}

/// Returns the memory of a process in MiB: its proportional share, and what only it has.
pub(crate) fn memory(pid: u32) -> anyhow::Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let mib = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        let kib = kib.and_then(|kib| kib.parse::<f64>().ok());
        Ok::<_, anyhow::Error>(kib.with_context(|| format!("no {name} in {text}"))? / 1024.0)
    };

    // Pages of files that were not changed are shared with others.
    Ok((mib("Pss:")?, mib("Anonymous:")?))
}

/// Measures the memory and the idle processor time of VMs from templates and from hot images.
pub(crate) async fn measure(engine: &Engine) -> anyhow::Result<()> {
    let with_templates = harness::engine(false)?;
    print_memory("restored", &sandboxes(&with_templates).await?, 22.0)?;

    let continued = sandboxes(engine).await?;
    print_memory("continued", &continued, 4.0)?;
    print_idle_time("continued VMs", &continued).await?;
    for sandbox in &continued {
        let run = sandbox.run(&RunRequest::new(PYTHON, HELLO[0]).timeout_s(120))?;
        run.outcome().await?;
    }
    print_memory("continued (after a print)", &continued, 8.0)?;
    drop(continued);

    let document = Document {
        allow: vec![RuleSpec::parse_word("example.com")?],
        ..Document::default()
    };
    let network = Network::new(document.policy("bench")?);
    let mut with_network = Vec::new();
    for _ in 0..VMS {
        let builder = engine.sandbox().language(PYTHON);
        let builder = builder.memory_mib(RunRequest::DEFAULT_MEMORY_MIB);
        with_network.push(builder.network(network.clone()).await?);
    }
    print_idle_time("VMs with a network", &with_network).await
}

async fn sandboxes(engine: &Engine) -> anyhow::Result<Vec<Sandbox>> {
    let mut sandboxes = Vec::new();
    for _ in 0..VMS {
        sandboxes.push(harness::sandbox(engine, PYTHON).await?);
    }
    Ok(sandboxes)
}

/// Prints the processor time of idle VMs. It includes that of this process, which holds the other end of each
/// VM's network link.
async fn print_idle_time(name: &str, sandboxes: &[Sandbox]) -> anyhow::Result<()> {
    let before = ProcessorTime::read(sandboxes)?;
    let start = Instant::now();
    tokio::time::sleep(IDLE_TIME).await;
    let used = ProcessorTime::read(sandboxes)?.since(&before).as_secs_f64() / VMS as f64;
    let share = 100.0 * used / start.elapsed().as_secs_f64();

    println!(
        "idle: {share:.3} % of a core for each of {VMS} {name}, over {} s (0.1 on the reference machine)",
        IDLE_TIME.as_secs()
    );
    Ok(())
}

/// Prints the average memory of some VMs beside its target.
fn print_memory(name: &str, sandboxes: &[Sandbox], target_mib: f64) -> anyhow::Result<()> {
    let (mut all, mut own) = (0.0, 0.0);
    for sandbox in sandboxes {
        let (pss, private) = memory(sandbox.process_id())?;
        all += pss / sandboxes.len() as f64;
        own += private / sandboxes.len() as f64;
    }

    println!(
        "memory of a {name} VM, of {}: {own:.1} MiB of its own (target {target_mib}), {all:.1} MiB with its share of what is shared",
        sandboxes.len()
    );

    Ok(())
}

/// Prints the number of blocks that the emulator has translated after each step. It is the cost to reduce.
pub(crate) async fn translated_blocks(engine: &Engine) -> anyhow::Result<()> {
    let with_templates = harness::engine(false)?;
    for (language, hello) in Language::ALL.into_iter().zip(HELLO) {
        let sandbox = harness::sandbox(&with_templates, language).await?;
        let restored = count_blocks(&sandbox).await?;
        let by_hello = blocks_of_program(&sandbox, language, hello).await?;

        let continued = harness::sandbox(engine, language).await?;
        let by_continued = blocks_of_program(&continued, language, hello).await?;

        println!(
            "translated blocks, {language}: restored and refreshed {restored}, hello to its end {by_hello} more; hello in a VM from a hot image {by_continued}"
        );
    }
    Ok(())
}

/// Returns the number of blocks that a program causes to be translated.
async fn blocks_of_program(
    sandbox: &Sandbox,
    language: Language,
    code: &str,
) -> anyhow::Result<u64> {
    let before = count_blocks(sandbox).await?;
    let run = sandbox.run(&RunRequest::new(language, code).timeout_s(120))?;
    run.outcome().await?;

    // The emulator discards all blocks when its buffer is full.
    let after = count_blocks(sandbox).await?;
    after
        .checked_sub(before)
        .with_context(|| format!("the translated blocks were discarded: {before}, then {after}"))
}

/// Returns the number of blocks that the emulator holds.
async fn count_blocks(sandbox: &Sandbox) -> anyhow::Result<u64> {
    let text = sandbox.monitor("info jit").await?;
    let line = text.lines().find(|line| line.starts_with("TB count"));
    let count = line.and_then(|line| line.split_ascii_whitespace().nth(2));
    count
        .and_then(|count| count.parse().ok())
        .with_context(|| format!("no count of blocks in: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(own_ms: u64, threads: &[(u32, u64)]) -> ProcessorTime {
        let threads = threads
            .iter()
            .map(|(tid, ms)| ((1, *tid), Duration::from_millis(*ms)));
        ProcessorTime {
            own: Duration::from_millis(own_ms),
            threads: threads.collect(),
        }
    }

    #[test]
    fn a_thread_that_exits_does_not_reduce_the_time() {
        let before = reading(100, &[(1, 50), (2, 4000)]);
        // Thread 2 has exited, thread 3 is new.
        let after = reading(103, &[(1, 57), (3, 2)]);
        assert_eq!(after.since(&before), Duration::from_millis(12));
    }

    #[test]
    fn a_reused_thread_id_does_not_panic() {
        let (before, after) = (reading(0, &[(2, 4000)]), reading(0, &[(2, 1)]));
        assert_eq!(after.since(&before), Duration::ZERO);
    }
}
