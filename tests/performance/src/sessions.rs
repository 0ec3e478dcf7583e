//! Work in a session: later execs, output, files, and the memory of the host's process.

use std::time::{Duration, Instant};

use anyhow::ensure;
use fumehood_engine::{Engine, Event, Language, RunRequest, Sandbox};

use crate::harness::{self, PYTHON, exec};
use crate::series::Series;

const MIB: usize = 1024 * 1024;
/// The size of a large file in bytes.
const FILE_BYTES: usize = 20 * MIB;
/// The size of a small file in bytes.
const SMALL_BYTES: usize = 100;
/// The number of bytes that a program prints.
const OUTPUT_BYTES: u64 = 50_000_000;
/// The number of concurrent sandboxes whose cost to this process is measured.
const SESSIONS: usize = 10;

/// Measures later execs in a context of a long-lived sandbox.
pub(crate) async fn later_execs(engine: &Engine) -> anyhow::Result<()> {
    const WARM_UP: usize = 100;
    const EXECS: usize = 500;

    let sandbox = harness::sandbox(engine, PYTHON).await?;
    let mut series = Series::with_target("kept sandbox: later exec in a context", 2.0).and_p99(6.0);
    for n in 0..WARM_UP + EXECS {
        let took = exec(&sandbox, &format!("print({n})")).await?;
        if n >= WARM_UP {
            series.add(took);
        }
    }

    series.print();
    sandbox.end().await;
    Ok(())
}

/// Measures output, files and memory.
pub(crate) async fn measure(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    // First, because it would reuse memory that the others free.
    memory(engine).await?;
    let sandbox = engine.sandbox().language(Language::Python).await?;
    output(&sandbox, rounds).await?;
    files(&sandbox, rounds).await?;
    small_files(&sandbox).await?;
    sandbox.end().await;
    Ok(())
}

/// Measures the output of a program.
async fn output(sandbox: &Sandbox, rounds: u32) -> anyhow::Result<()> {
    let target_ms = milliseconds(OUTPUT_BYTES, 80.0);
    let mut series = Series::with_target("stdout: 50 MB of a program (80 MB/s)", target_ms);

    for _ in 0..rounds {
        let code = format!("head -c {OUTPUT_BYTES} /dev/zero");
        let start = Instant::now();
        let mut run = sandbox.run(&RunRequest::new(Language::Shell, code).timeout_s(120))?;
        let mut bytes = 0;

        while let Some(event) = run.next().await {
            if let Event::Stdout(chunk) = event {
                bytes += chunk.len() as u64;
            }
        }

        run.outcome().await?;
        series.add(start.elapsed());
        ensure!(bytes == OUTPUT_BYTES, "received {bytes} bytes");
    }

    series.print();

    Ok(())
}

/// Measures the transfer of a large file in both directions.
async fn files(sandbox: &Sandbox, rounds: u32) -> anyhow::Result<()> {
    let target_ms = milliseconds(FILE_BYTES as u64, 120.0);
    let mut up = Series::with_target("files: 20 MiB of random bytes up (120 MB/s)", target_ms);
    let mut down = Series::with_target("files: 20 MiB of random bytes down (120 MB/s)", target_ms);
    let mut buffer = vec![0; FILE_BYTES];
    rustix::rand::getrandom(&mut buffer, rustix::rand::GetRandomFlags::empty())?;
    let random = bytes::Bytes::from(buffer);
    let files = sandbox.files();

    for _ in 0..rounds {
        let start = Instant::now();
        files.write("large", random.clone()).await?;
        up.add(start.elapsed());
        let start = Instant::now();
        let read = files.read("large").await?;
        down.add(start.elapsed());
        ensure!(read == random, "the file was read back with other contents");
        files.remove("large").await?;
    }

    up.print();
    down.print();

    Ok(())
}

/// Measures writes and reads of a small file.
async fn small_files(sandbox: &Sandbox) -> anyhow::Result<()> {
    const WARM_UP: usize = 50;
    const CALLS: usize = 500;
    let mut write = Series::with_target("files: 100 bytes written", 1.0);
    let mut read = Series::with_target("files: 100 bytes read", 1.0);
    let files = sandbox.files();

    for n in 0..WARM_UP + CALLS {
        let content = vec![b'x'; SMALL_BYTES];
        let start = Instant::now();
        files.write("small", content).await?;
        let wrote = start.elapsed();
        let start = Instant::now();
        let content = files.read("small").await?;
        let took = start.elapsed();
        ensure!(content.len() == SMALL_BYTES, "read {} bytes", content.len());

        // The first calls warm up caches on both sides.
        if n >= WARM_UP {
            write.add(wrote);
            read.add(took);
        }
    }

    write.print();
    read.print();

    Ok(())
}

/// Measures how much this process grows for ten sessions that have done some work.
async fn memory(engine: &Engine) -> anyhow::Result<()> {
    let before = resident_mib()?;
    let mut sandboxes = Vec::new();

    for _ in 0..SESSIONS {
        let sandbox = engine.sandbox().language(Language::Python).await?;
        exec(&sandbox, "print(1)").await?;
        sandbox.files().write("a", "b").await?;
        sandboxes.push(sandbox);
    }

    let growth = resident_mib()? - before;
    println!("memory of the host's process for {SESSIONS} sessions: {growth:.1} MiB (target 15)");

    Ok(())
}

/// Returns the resident memory of this process in MiB.
fn resident_mib() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).unwrap_or_default().parse::<f64>()?;
    Ok(pages * rustix::param::page_size() as f64 / MIB as f64)
}

/// Returns the time that this many bytes take at a speed in MB/s.
pub(crate) fn milliseconds(bytes: u64, speed: f64) -> f64 {
    Duration::from_secs_f64(bytes as f64 / 1e6 / speed).as_secs_f64() * 1000.0
}
