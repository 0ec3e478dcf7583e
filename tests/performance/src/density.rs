//! What a VM that waits costs.

use std::time::{Duration, Instant};

use anyhow::Context;
use fumehood_engine::policy::{Document, RuleSpec};
use fumehood_engine::{Engine, Language, Network, RunRequest, Sandbox};

const MEMORY_MIB: u32 = RunRequest::DEFAULT_MEMORY_MIB;
const PYTHON: Language = Language::Python;
const VMS: usize = 8;

/// Memory of a process in MiB: its proportional share, and that without the guest memory that it shares
/// with the template.
fn memory(pid: u32) -> anyhow::Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut all, mut own, mut of_template) = (0.0, 0.0, false);

    for line in text.lines() {
        let value = || {
            let kib = line.split_ascii_whitespace().nth(1);
            kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
        };

        if line.starts_with("Pss:") {
            all += value();
            own += if of_template { 0.0 } else { value() };
        } else if of_template && line.starts_with("Anonymous:") {
            own += value();
        } else if line
            .split_once('-')
            .is_some_and(|(start, _)| u64::from_str_radix(start, 16).is_ok())
        {
            of_template = line.contains("guest-memory");
        }
    }

    Ok((all, own))
}

/// Processor time that the threads of a process have used.
fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text
            .split_ascii_whitespace()
            .next()
            .context("no schedstat")?;
        nanoseconds += first.parse::<u64>()?;
    }

    Ok(Duration::from_nanos(nanoseconds))
}

/// Memory and idle processor time of restored and of hot VMs.
pub(crate) async fn print(engine: &Engine) -> anyhow::Result<()> {
    let mut sandboxes = Vec::new();
    for _ in 0..VMS {
        sandboxes.push(
            engine
                .sandbox()
                .language(PYTHON)
                .memory_mib(MEMORY_MIB)
                .await?,
        );
    }

    report("restored", &sandboxes, 22.0)?;
    let hot = super::engine(VMS, 0, &[PYTHON])?;
    super::filled(&hot, (VMS, 0)).await?;
    let mut taken = Vec::new();

    for _ in 0..VMS {
        taken.push(
            hot.sandbox()
                .language(PYTHON)
                .memory_mib(MEMORY_MIB)
                .await?,
        );
    }

    drop(hot);
    report("hot", &taken, 55.0)?;
    idle("hot VMs", &taken).await?;
    drop(taken);
    let document = Document {
        allow: vec![RuleSpec::parse_word("example.com")?],
        ..Document::default()
    };

    let network = Network::new(document.policy("bench")?);
    let mut carded = Vec::new();
    for _ in 0..VMS {
        let builder = engine.sandbox().language(PYTHON).memory_mib(MEMORY_MIB);
        carded.push(builder.network(network.clone()).await?);
    }

    idle("VMs with a network", &carded).await
}

/// Processor time of VMs to which nothing happens, and of this process, which has an end of each one's cable.
async fn idle(what: &str, sandboxes: &[Sandbox]) -> anyhow::Result<()> {
    const IDLE: Duration = Duration::from_secs(30);
    let times = || -> anyhow::Result<Duration> {
        let pids = sandboxes.iter().map(Sandbox::process_id);
        pids.chain([std::process::id()]).map(processor_time).sum()
    };

    let before = times()?;
    let start = Instant::now();
    tokio::time::sleep(IDLE).await;
    let used = (times()? - before).as_secs_f64() / VMS as f64;
    let share = 100.0 * used / start.elapsed().as_secs_f64();
    println!(
        "idle: {share:.3} % of a core for each of {VMS} {what}, over {} s (to reach 0.1)",
        IDLE.as_secs()
    );

    Ok(())
}

fn report(what: &str, sandboxes: &[Sandbox], most: f64) -> anyhow::Result<()> {
    let (mut all, mut own) = (0.0, 0.0);
    for sandbox in sandboxes {
        let (pss, private) = memory(sandbox.process_id())?;
        all += pss / sandboxes.len() as f64;
        own += private / sandboxes.len() as f64;
    }

    println!(
        "memory of a {what} VM, of {}: {own:.1} MiB beyond the shared template (to reach {most}), {all:.1} MiB with its share of that",
        sandboxes.len()
    );

    Ok(())
}

/// Blocks that the emulator has translated, after each step of each path: the cost to bring down.
pub(crate) async fn translated(engine: &Engine) -> anyhow::Result<()> {
    for (language, hello) in Language::ALL.into_iter().zip(super::programs::HELLO) {
        let sandbox = engine
            .sandbox()
            .language(language)
            .memory_mib(MEMORY_MIB)
            .await?;

        let restored = blocks(&sandbox).await?;
        let by_hello = by(&sandbox, language, hello).await?;
        let pool = super::engine(1, 0, &[language])?;
        super::filled(&pool, (1, 0)).await?;
        let hot = pool
            .sandbox()
            .language(language)
            .memory_mib(MEMORY_MIB)
            .await?;
        drop(pool);
        let by_hot_hello = by(&hot, language, hello).await?;
        println!(
            "translated blocks, {language}: restored and refreshed {restored}, hello to its end {by_hello} more; hello in a hot VM {by_hot_hello}"
        );
    }

    Ok(())
}

/// Blocks that a program makes it translate.
async fn by(sandbox: &Sandbox, language: Language, code: &str) -> anyhow::Result<u64> {
    let before = blocks(sandbox).await?;
    let run = sandbox.run(&RunRequest::new(language, code).timeout_s(120))?;
    run.outcome().await?;
    Ok(blocks(sandbox).await? - before)
}

async fn blocks(sandbox: &Sandbox) -> anyhow::Result<u64> {
    let text = sandbox.monitor("info jit").await?;
    let line = text.lines().find(|line| line.starts_with("TB count"));
    let count = line.and_then(|line| line.split_ascii_whitespace().nth(2));
    count
        .and_then(|count| count.parse().ok())
        .with_context(|| format!("no count of blocks in: {text}"))
}
