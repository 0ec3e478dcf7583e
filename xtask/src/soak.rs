//! `cargo xtask soak`: a server under mixed work, and what it holds afterwards.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::setup::{self, PROFILE};
use crate::shell::{self, cargo};

/// The page with the result, and the lines around the table in it.
const PAGE: &str = "docs/design/reliability.md";
const TABLE_START: &str = "<!-- soak: written by `cargo xtask soak` -->\n";
const TABLE_END: &str = "<!-- end of soak -->\n";

/// The test that works, in its short form in CI.
const TEST: &str = "a_server_returns_to_its_floor";

/// How long to work.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes of work
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
}

/// Sets up, lets a server work, and writes what it held into the documentation.
///
/// # Errors
/// Fails if something cannot be built, or the server holds more afterwards than before.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let programs = setup::setup()?;
    let test = [
        "test",
        "--profile",
        PROFILE,
        "-p",
        "fumehood-end-to-end",
        "--test",
        "soak_server",
    ];
    shell::run(cargo().args(test).arg("--no-run"))?;

    // In a network of its own from the start: the test would otherwise end its own copy there after some minutes.
    let work = tempfile::tempdir()?;
    let (table, temporary) = (work.path().join("table"), work.path().join("tmp"));
    std::fs::create_dir(&temporary)?;
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--map-current-user", "--keep-caps"]);
    }

    let status = command
        .arg("--")
        .arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(test)
        .args(["--", TEST, "--exact", "--nocapture"])
        .env("FUMEHOOD_BIN", &programs.fumehood)
        .env("FUMEHOOD_AGENT", &programs.agent)
        .env("FUMEHOOD_TEST_NETNS", "1")
        .env("FUMEHOOD_SOAK_MINUTES", options.minutes.to_string())
        .env("FUMEHOOD_SOAK_TABLE", &table)
        .env("TMPDIR", &temporary)
        .status()
        .context("cannot run unshare; install Debian's package util-linux")?;

    if table.exists() {
        write_table(&std::fs::read_to_string(&table)?)?;
    }
    anyhow::ensure!(
        status.success(),
        "the soak failed; the table above shows what grew"
    );

    Ok(())
}

/// Replaces the table in the documentation.
fn write_table(table: &str) -> anyhow::Result<()> {
    let path = Path::new(PAGE);
    let page = std::fs::read_to_string(path)?;
    let missing = || format!("{PAGE} has no lines `{}`", TABLE_START.trim());
    let (before, rest) = page.split_once(TABLE_START).with_context(missing)?;
    let (_, after) = rest.split_once(TABLE_END).with_context(missing)?;

    std::fs::write(
        path,
        format!("{before}{TABLE_START}\n{table}\n{TABLE_END}{after}"),
    )?;
    eprintln!("wrote the table in {PAGE}");

    Ok(())
}
