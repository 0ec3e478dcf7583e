//! `cargo xtask tidy`: the project's own rules, as far as a program can check them.

mod dependencies;
mod graph;
mod imports;
mod layers;
mod text;
mod walls;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub(crate) use walls::write as write_walls;

/// Checks all rules and reports everything that breaks one.
///
/// # Errors
/// Fails if a rule is broken, or a source file cannot be read.
pub(crate) fn run() -> anyhow::Result<()> {
    let sources = sources(&["crates", "xtask", "tests"])?;

    let mut faults = dependencies::faults()?;
    faults.extend(walls::faults()?);
    for root in sources.iter().filter(|file| is_crate_root(file)) {
        faults.extend(layers::faults(root)?);
    }
    for file in &sources {
        faults.extend(text::faults(file)?);
    }

    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if !faults.is_empty() {
        bail!("{} rules are broken; see above", faults.len());
    }

    Ok(())
}

/// Whether this is a crate's root file: `lib.rs` where there is one, else `main.rs`.
fn is_crate_root(file: &Path) -> bool {
    let in_src = file.parent().is_some_and(|parent| parent.ends_with("src"));
    let is_main = file.ends_with("main.rs") && !file.with_file_name("lib.rs").exists();

    in_src && (file.ends_with("lib.rs") || is_main)
}

/// All Rust files below these directories, sorted.
fn sources(roots: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();

    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
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
