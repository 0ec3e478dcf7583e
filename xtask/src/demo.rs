//! The main job, shown.

use std::process::Command;

use anyhow::bail;

use crate::build::{self, Programs};
use crate::shell;

const PROGRAMS: [(&str, &str); 3] = [
    (
        "python",
        "import platform, os\nprint('Python', platform.python_version(), 'on', os.uname().sysname, os.uname().release)\nprint(sum(n * n for n in range(10)))",
    ),
    (
        "typescript",
        "const squares: number[] = [...Array(10).keys()].map(n => n * n);\nconsole.log(`bun ${Bun.version}:`, squares.reduce((a, b) => a + b));",
    ),
    (
        "shell",
        "echo \"bash $BASH_VERSION: I am $(id -un), my network is: $(ls /sys/class/net | xargs)\"",
    ),
];

fn run_all(programs: &Programs) -> anyhow::Result<()> {
    for (language, code) in PROGRAMS {
        println!("\n── {language}, in a fresh microVM ──\n{code}\n── prints ──");
        let status = Command::new(&programs.fumehood)
            .args(["run", "-l", language, "-c", code])
            .status()?;
        if !status.success() {
            bail!("the {language} program failed: {status}");
        }
    }
    Ok(())
}

pub(crate) fn run() -> anyhow::Result<()> {
    let programs = build::setup()?;
    run_all(&programs)?;
    println!(
        "\nthree VMs came and went; try: {} run -l python -c 'print(6*7)'",
        programs.fumehood.display()
    );
    Ok(())
}

/// The names of the measurements' parts, one a line.
pub(crate) const BENCH_PARTS: &str = include_str!("../../tests/performance/parts.txt");

/// Times runs beside a floor measured in the same run.
pub(crate) fn bench(rounds: u32, only: &[String]) -> anyhow::Result<()> {
    let programs = build::setup()?;
    shell::run(build::static_build().args([
        "-p",
        "fumehood-floor-init",
        "-p",
        "fumehood-guest-load",
    ]))?;
    shell::run(shell::cargo().args(["build", "--release", "-p", "fumehood-performance"]))?;
    shell::run(
        Command::new("target/release/fumehood-performance")
            .arg(rounds.to_string())
            .args(only)
            .env("FUMEHOOD_BIN", &programs.fumehood),
    )
}
