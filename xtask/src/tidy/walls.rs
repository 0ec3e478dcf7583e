//! The walls as probes find them: verdicts in `docs/walls`, and the tables of them in the documentation.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::setup;

/// The page with the tables.
const PAGE: &str = "docs/design/isolation.md";
/// The lines between which the tables stand.
const BEGIN: &str = "<!-- `cargo xtask walls` writes what follows -->\n";
const END: &str = "<!-- `cargo xtask walls` wrote this -->\n";
/// Each side: the file of its verdicts, and the title of its table. A side without a file has no table.
const SIDES: [(&str, &str); 2] = [
    (
        "docs/walls/guest.json",
        "A program in a guest that attacks the guest's kernel, its agent or another program",
    ),
    (
        "docs/walls/host.json",
        "A QEMU that its guest has taken over and that attacks the host",
    ),
];

/// Runs both probes, writes their verdicts, and updates the tables.
///
/// # Errors
/// Fails if a probe cannot run, or a wall does not hold.
pub(crate) fn write() -> anyhow::Result<()> {
    let programs = setup::setup()?;
    setup::build_static(&["fumehood-guest-probe", "fumehood-host-probe"])?;
    let guest_probe = setup::test_program("fumehood-guest-probe")?;
    let host_probe = setup::test_program("fumehood-host-probe")?;
    let guest = probe_guest(&programs.fumehood, &guest_probe)?;
    let host = probe_host(&programs.fumehood, &host_probe)?;

    for ((path, _), verdicts) in SIDES.into_iter().zip([guest, host]) {
        let failed = verdicts.iter().filter(|verdict| verdict["holds"] != true);
        let failed: Vec<String> = failed.map(ToString::to_string).collect();
        if !failed.is_empty() {
            bail!("these walls do not hold:\n{}", failed.join("\n"));
        }
        let path = Path::new(path);
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, serde_json::to_string_pretty(&verdicts)? + "\n")?;
    }

    fs::write(PAGE, updated_page()?).with_context(|| format!("cannot write {PAGE}"))
}

/// Runs the guest's probe in a VM and returns its verdicts.
fn probe_guest(fumehood: &Path, probe: &Path) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(fumehood);
    command.args(["run", "--quiet", "-l", "shell", "-c", "exec ./probe"]);
    command.args(["--upload", &format!("{}:probe", probe.display())]);
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the probe failed: {stderr}");

    let lines = String::from_utf8(output.stdout)?;
    let verdicts = lines.lines().map(serde_json::from_str);
    Ok(verdicts.collect::<Result<_, _>>()?)
}

/// Runs the host's probe in QEMU's place and returns its verdicts, from the error message about the QEMU that did not start.
fn probe_host(fumehood: &Path, probe: &Path) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(fumehood);
    command.arg("--qemu").arg(probe);
    let output = command.args(["run", "-l", "shell", "-c", "1"]).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = text.split_once("QEMU said: ").map(|(_, said)| said);
    let said = said.with_context(|| format!("the probe said nothing: {text}"))?;
    let mut values = serde_json::Deserializer::from_str(said).into_iter();
    Ok(values.next().context("the probe said nothing")??)
}

/// Whether the page's tables are out of date.
pub(super) fn faults() -> anyhow::Result<Vec<String>> {
    let is_current = fs::read_to_string(PAGE)? == updated_page()?;
    let fault = format!("the tables in {PAGE} do not match docs/walls; run `cargo xtask walls`");

    Ok((!is_current).then_some(fault).into_iter().collect())
}

/// The page with the tables of the current verdicts.
fn updated_page() -> anyhow::Result<String> {
    let text = fs::read_to_string(PAGE)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{PAGE} lacks the lines around its tables"))?;

    let mut tables = String::new();
    for (path, title) in SIDES {
        if Path::new(path).exists() {
            let verdicts: Vec<Value> = serde_json::from_slice(&fs::read(path)?)?;
            tables += &table(title, &verdicts)?;
        }
    }

    Ok([before, BEGIN, &tables, END, after].concat())
}

fn table(title: &str, verdicts: &[Value]) -> anyhow::Result<String> {
    let mut table = format!(
        "\n{title}:\n\n| wall | what the probe tries | what it gets |\n| --- | --- | --- |\n"
    );

    for verdict in verdicts {
        let field = |name| verdict[name].as_str().context("a verdict lacks a field");
        let (wall, tried, evidence) = (field("wall")?, field("tried")?, field("evidence")?);
        writeln!(table, "| {wall} | {tried} | {evidence} |")?;
    }

    table.push('\n');
    Ok(table)
}
