//! What a session's daily work takes: output, files, memory of the host's process.

use std::time::{Duration, Instant};

use anyhow::ensure;
use fumehood_engine::{Engine, Event, Language, RunRequest, Sandbox};

use super::series::Series;

const MIB: usize = 1024 * 1024;
/// Bytes of a large file.
const FILE_BYTES: usize = 20 * MIB;
/// Bytes of a small one.
const SMALL_BYTES: usize = 100;
/// Bytes that a program prints.
const OUTPUT_BYTES: u64 = 50_000_000;
/// Sandboxes at once whose cost to this process is measured.
const SESSIONS: usize = 10;

pub(crate) async fn measure(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    // First: what the others free, it would find again.
    memory(engine).await?;
    let sandbox = engine.sandbox().language(Language::Python).await?;
    output(&sandbox, rounds).await?;
    files(&sandbox, rounds).await?;
    small(&sandbox).await?;
    sandbox.end().await;
    Ok(())
}

async fn output(sandbox: &Sandbox, rounds: u32) -> anyhow::Result<()> {
    let most = milliseconds(OUTPUT_BYTES, 80.0);
    let mut series = Series::to_reach("stdout: 50 MB of a program (80 MB/s)", most);

    for _ in 0..rounds {
        let code = format!("head -c {OUTPUT_BYTES} /dev/zero");
        let start = Instant::now();
        let mut run = sandbox.run(&RunRequest::new(Language::Shell, code).timeout_s(120))?;
        let mut bytes = 0;

        while let Some(event) = run.next().await {
            if let Event::Stdout(piece) = event {
                bytes += piece.len() as u64;
            }
        }

        run.outcome().await?;
        series.add(start.elapsed());
        ensure!(bytes == OUTPUT_BYTES, "{bytes} bytes came");
    }

    series.print(None);

    Ok(())
}

async fn files(sandbox: &Sandbox, rounds: u32) -> anyhow::Result<()> {
    let most = milliseconds(FILE_BYTES as u64, 120.0);
    let mut up = Series::to_reach("files: 20 MiB of random bytes up (120 MB/s)", most);
    let mut down = Series::to_reach("files: 20 MiB of random bytes down (120 MB/s)", most);
    let mut random = vec![0; FILE_BYTES];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let random = bytes::Bytes::from(random);
    let files = sandbox.files();

    for _ in 0..rounds {
        let start = Instant::now();
        files.write("large", random.clone()).await?;
        up.add(start.elapsed());
        let start = Instant::now();
        let read = files.read("large").await?;
        down.add(start.elapsed());
        ensure!(read == random, "other bytes came back");
        files.remove("large").await?;
    }

    up.print(None);
    down.print(None);

    Ok(())
}

async fn small(sandbox: &Sandbox) -> anyhow::Result<()> {
    const WARM_UP: usize = 50;
    const CALLS: usize = 500;
    let mut write = Series::to_reach("files: 100 bytes written", 1.0);
    let mut read = Series::to_reach("files: 100 bytes read", 1.0);
    let files = sandbox.files();

    for n in 0..WARM_UP + CALLS {
        let content = vec![b'x'; SMALL_BYTES];
        let start = Instant::now();
        files.write("small", content).await?;
        let wrote = start.elapsed();
        let start = Instant::now();
        let content = files.read("small").await?;
        let took = start.elapsed();
        ensure!(content.len() == SMALL_BYTES, "{} bytes", content.len());

        if n >= WARM_UP {
            write.add(wrote);
            read.add(took);
        }
    }

    write.print(None);
    read.print(None);

    Ok(())
}

/// Ten sessions that have worked: how much more this process holds.
async fn memory(engine: &Engine) -> anyhow::Result<()> {
    let before = resident_mib()?;
    let mut sandboxes = Vec::new();

    for _ in 0..SESSIONS {
        let sandbox = engine.sandbox().language(Language::Python).await?;
        super::exec(&sandbox, "print(1)").await?;
        sandbox.files().write("a", "b").await?;
        sandboxes.push(sandbox);
    }

    let grown = resident_mib()? - before;
    println!("memory of the host's process for {SESSIONS} sessions: {grown:.1} MiB (to reach 15)");

    Ok(())
}

fn resident_mib() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).unwrap_or_default().parse::<f64>()?;
    Ok(pages * rustix::param::page_size() as f64 / MIB as f64)
}

/// How long this many bytes take at a speed in MB/s.
pub(crate) fn milliseconds(bytes: u64, speed: f64) -> f64 {
    Duration::from_secs_f64(bytes as f64 / 1e6 / speed).as_secs_f64() * 1000.0
}
