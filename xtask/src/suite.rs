//! Everything that must hold before a change lands.

use std::time::Instant;

use crate::shell::{self, cargo};
use crate::{build, sdk, tidy};

pub(crate) fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    let programs = build::setup()?;
    build::test_programs()?;
    let python = sdk::prepare()?;
    shell::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    shell::run(
        cargo()
            .args(["test", "--workspace", "--all-features", "--no-fail-fast"])
            .env("FUMEHOOD_BIN", &programs.fumehood)
            .env("FUMEHOOD_AGENT", &programs.agent)
            .env("FUMEHOOD_MCP_PYTHON", &python),
    )?;
    sdk::test(&python, &programs)?;
    eprintln!("all tests passed in {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}
