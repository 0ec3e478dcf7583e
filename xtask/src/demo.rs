//! `cargo xtask demo`: one program in each language, each in a fresh VM.

use std::process::Command;

use anyhow::bail;

use crate::setup::{self, Programs};

/// Language and code of each program.
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

/// Runs each program and prints it with its output.
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

/// Sets up and runs the programs.
///
/// # Errors
/// Fails if the set-up or a program fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let programs = setup::setup()?;
    run_all(&programs)?;

    println!(
        "\nthree VMs were started and are gone; try: {} run -l python -c 'print(6*7)'",
        programs.fumehood.display()
    );

    Ok(())
}
