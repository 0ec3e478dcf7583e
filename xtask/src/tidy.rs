//! The house's own rules, as far as a program can see them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell::cargo;
use crate::walls;

/// Who may know whom: each crate of ours with those it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("fumehood-protocol", &[]),
    ("fumehood-sys", &[]),
    ("fumehood-launcher", &["fumehood-sys"]),
    ("fumehood-qemu", &["fumehood-launcher", "fumehood-sys"]),
    ("fumehood-image", &[]),
    ("fumehood-gateway", &[]),
    (
        "fumehood-engine",
        &[
            "fumehood-gateway",
            "fumehood-image",
            "fumehood-protocol",
            "fumehood-qemu",
            "fumehood-sys",
        ],
    ),
    (
        "fumehood-guest-agent",
        &["fumehood-protocol", "fumehood-sys"],
    ),
    ("fumehood-server", &["fumehood-engine"]),
    ("fumehood-cli", &["fumehood-engine", "fumehood-server"]),
    ("fumehood-docs-examples", &["fumehood-engine"]),
    ("fumehood-end-to-end", &["fumehood-engine"]),
    ("fumehood-floor-init", &[]),
    ("fumehood-host-probe", &["fumehood-sys"]),
    ("fumehood-guest-load", &[]),
    ("fumehood-guest-probe", &["fumehood-sys"]),
    ("fumehood-fake-agent", &[]),
    (
        "fumehood-performance",
        &["fumehood-engine", "fumehood-qemu", "fumehood-sys"],
    ),
    ("xtask", &["fumehood-image"]),
];

/// The engine's modules from the highest rank to the lowest; those of one entry are equals.
const RANKS: &[&[&str]] = &[
    &["engine", "builder", "doctor"],
    &["package_layer"],
    &["package_builder"],
    &[
        "sandbox",
        "context",
        "files",
        "packages",
        "reading",
        "saving",
        "tree",
        "watcher",
        "agent_line",
        "keeper",
    ],
    &["begun"],
    &["host"],
    &["pool"],
    &["template"],
    &["restore", "checkpoint"],
    &["snapshot", "warm"],
    &["launch", "ending"],
    &["life"],
    &["vm"],
    &["follow", "uplink", "report"],
    &["run", "spawn"],
    &["package_index"],
    &["network"],
    &["control", "result", "greeting"],
    &["channel", "router", "writer"],
    &["console", "admission", "machine"],
    &["walls"],
    &["layer", "config", "package_set", "package_step"],
    &["accelerator", "isolation", "patience"],
    &["error"],
];

/// Words that say nothing about what a type is for.
const EMPTY_WORDS: [&str; 4] = ["Manager", "Utils", "Helper", "Common"];

/// Lines of a source file; past this it holds more than one noun or verb.
const FILE_LINES: usize = 500;

pub(crate) fn run() -> anyhow::Result<()> {
    let mut faults = arrows()?;
    faults.extend(ranks()?);
    faults.extend(walls::faults()?);
    for file in sources(&["crates", "xtask", "tests"])? {
        faults.extend(words_and_length(&file)?);
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("{} things are untidy", faults.len())
    }
}

fn arrows() -> anyhow::Result<Vec<String>> {
    let output = cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .output()?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata told no JSON")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else {
            faults.push(format!(
                "crate {name} has no place among the arrows of xtask/src/tidy.rs"
            ));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let ours = dependencies
            .filter(|dependency| dependency["kind"].is_null() && dependency["path"].is_string())
            .filter_map(|dependency| dependency["name"].as_str());
        faults.extend(
            ours.filter(|d| !allowed.contains(d))
                .map(|d| format!("crate {name} may not know {d}")),
        );
    }
    Ok(faults)
}

fn ranks() -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in sources(&["crates/engine/src"])? {
        let module = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if module == "lib" {
            continue;
        }
        let Some(rank) = rank(module) else {
            faults.push(format!(
                "the engine's module {module} has no rank in xtask/src/tidy.rs"
            ));
            continue;
        };
        let text = fs::read_to_string(&file)?;
        if text.contains("crate::{") || text.contains("super::super") {
            faults.push(format!(
                "the engine's {module}: name modules one by one, so that ranks can be seen"
            ));
        }
        for named in text.split("crate::").skip(1) {
            let name: String = named
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            if self::rank(&name).is_some_and(|other| other < rank) {
                faults.push(format!(
                    "the engine's {module} names {name}, which ranks higher"
                ));
            }
        }
    }
    Ok(faults)
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|equals| equals.contains(&module))
}

fn words_and_length(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let mut faults = Vec::new();
    let shown = file.display();
    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("mod tests"))
        .count();
    if lines > FILE_LINES {
        faults.push(format!(
            "{shown} has {lines} lines without its tests; at most {FILE_LINES} are allowed"
        ));
    }
    let definitions = ["struct ", "enum ", "trait ", "mod "];
    for line in text.lines() {
        let name = definitions.iter().find_map(|keyword| {
            let (before, after) = line.split_once(keyword)?;
            (before.is_empty() || before.ends_with(' '))
                .then(|| after.split(|c: char| !c.is_alphanumeric()).next())?
        });
        let empty = name.and_then(|name| {
            EMPTY_WORDS
                .iter()
                .find(|word| name.to_lowercase().contains(&word.to_lowercase()))
        });
        if let Some(word) = empty {
            faults.push(format!(
                "{shown}: a name with `{word}` says nothing: {}",
                line.trim()
            ));
        }
    }
    Ok(faults)
}

fn sources(roots: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
