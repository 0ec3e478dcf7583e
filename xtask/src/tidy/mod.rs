//! The project's own rules, as far as a program can check them.

mod graph;
mod imports;
mod layers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell::cargo;
use crate::walls;

/// The workspace's crates, each with those of the workspace that it may depend on.
const DEPENDENCIES: &[(&str, &[&str])] = &[
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

/// Words that say nothing about what a type is for.
const EMPTY_WORDS: [&str; 4] = ["Manager", "Utils", "Helper", "Common"];

/// Lines of a source file; past this it holds more than one noun or verb.
const FILE_LINES: usize = 500;

pub(crate) fn run() -> anyhow::Result<()> {
    let mut faults = dependencies()?;
    faults.extend(layers()?);
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
        bail!("{} rules are broken; see above", faults.len())
    }
}

fn dependencies() -> anyhow::Result<Vec<String>> {
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
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let allowed: BTreeMap<&str, &[&str]> = DEPENDENCIES.iter().copied().collect();
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else {
            faults.push(format!(
                "crate {name} is missing in DEPENDENCIES of xtask/src/tidy/mod.rs; add it with the crates that it may depend on"
            ));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let ours = dependencies
            .filter(|dependency| dependency["kind"].is_null() && dependency["path"].is_string())
            .filter_map(|dependency| dependency["name"].as_str());
        faults.extend(ours.filter(|d| !allowed.contains(d)).map(|d| {
            format!("crate {name} may not depend on {d}: see DEPENDENCIES in xtask/src/tidy/mod.rs")
        }));
    }
    Ok(faults)
}

/// Broken layers of every crate.
fn layers() -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();

    for root in crate_roots()? {
        faults.extend(layers::faults(&root)?);
    }

    Ok(faults)
}

/// The root files of all crates: `lib.rs` where there is one, else `main.rs`.
fn crate_roots() -> anyhow::Result<Vec<PathBuf>> {
    let mut roots = Vec::new();

    for file in sources(&["crates", "xtask", "tests"])? {
        let in_src = file.parent().is_some_and(|parent| parent.ends_with("src"));
        let is_lib = in_src && file.ends_with("lib.rs");
        let is_main =
            in_src && file.ends_with("main.rs") && !file.with_file_name("lib.rs").exists();
        if is_lib || is_main {
            roots.push(file);
        }
    }

    Ok(roots)
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
                "{shown}: `{word}` in a name says nothing about what the type is for: {}",
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
