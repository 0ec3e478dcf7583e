//! The walls as the probes find them: verdicts in `docs/walls`, and README's tables of them.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::build;

const README: &str = "README.md";
/// What the tables stand between.
const BEGIN: &str = "<!-- `cargo xtask walls` writes what follows -->\n";
const END: &str = "<!-- `cargo xtask walls` wrote this -->\n";
/// Verdicts of each side, and what the table says that they are of. One that is not there has no table.
const SIDES: [(&str, &str); 2] = [
    (
        "docs/walls/guest.json",
        "A program in a guest, on its way to the guest's kernel, its agent or another program",
    ),
    (
        "docs/walls/host.json",
        "A QEMU that its guest has taken over, on its way to the host",
    ),
];

/// Runs both probes, keeps their verdicts, and writes README's tables anew.
pub(crate) fn write() -> anyhow::Result<()> {
    let programs = build::setup()?;
    let probes = build::test_programs()?;
    let guest = in_guest(&programs.fumehood, &probes.join("fumehood-guest-probe"))?;
    let host = in_qemus_place(&programs.fumehood, &probes.join("fumehood-host-probe"))?;
    for ((path, _), verdicts) in SIDES.into_iter().zip([guest, host]) {
        let fallen = verdicts.iter().filter(|verdict| verdict["holds"] != true);
        let fallen: Vec<String> = fallen.map(ToString::to_string).collect();
        if !fallen.is_empty() {
            bail!("these walls do not hold:\n{}", fallen.join("\n"));
        }
        let path = Path::new(path);
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, serde_json::to_string_pretty(&verdicts)? + "\n")?;
    }
    fs::write(README, readme()?).context("README.md cannot be written")
}

/// What the guest's probe says in a VM, a line each.
fn in_guest(fumehood: &Path, probe: &Path) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(fumehood);
    command.args(["run", "--quiet", "-l", "shell", "-c", "exec ./probe"]);
    command.args(["--upload", &format!("{}:probe", probe.display())]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the probe failed: {said}");
    let lines = String::from_utf8(output.stdout)?;
    let verdicts = lines.lines().map(serde_json::from_str);
    Ok(verdicts.collect::<Result<_, _>>()?)
}

/// What the host's probe says, in the words of an engine that wonders about its QEMU.
fn in_qemus_place(fumehood: &Path, probe: &Path) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(fumehood);
    command.arg("--qemu").arg(probe);
    let output = command.args(["run", "-l", "shell", "-c", "1"]).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = text.split_once("QEMU said: ").map(|(_, said)| said);
    let said = said.with_context(|| format!("the probe said nothing: {text}"))?;
    let mut values = serde_json::Deserializer::from_str(said).into_iter();
    Ok(values.next().context("the probe said nothing")??)
}

/// What is out of date.
pub(crate) fn faults() -> anyhow::Result<Vec<String>> {
    let fault = "README.md's tables of walls are not those of docs/walls; run `cargo xtask walls`";
    let is_right = fs::read_to_string(README)? == readme()?;
    Ok((!is_right).then(|| fault.to_owned()).into_iter().collect())
}

/// README with the tables that belong to the verdicts.
fn readme() -> anyhow::Result<String> {
    let text = fs::read_to_string(README)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.context("README.md has no place for the tables of walls")?;
    let mut tables = String::new();
    for (path, title) in SIDES {
        if Path::new(path).exists() {
            tables += &table(
                title,
                &serde_json::from_slice::<Vec<Value>>(&fs::read(path)?)?,
            )?;
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
