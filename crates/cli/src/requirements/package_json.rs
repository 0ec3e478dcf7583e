//! The dependencies in the `package.json` beside a program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::program_packages::ProgramPackages;

/// Maximum size of the file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The field that is read; tools have others.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    dependencies: BTreeMap<String, String>,
}

/// Returns the dependencies in the `package.json` beside a program's file; `None` if there is no such file. Those that are
/// not packages of the registry are left out.
///
/// # Errors
/// The file cannot be read, or is invalid.
pub(super) fn packages_beside(program: &Path) -> anyhow::Result<Option<ProgramPackages>> {
    // Standard input is beside nothing.
    if program == Path::new("-") {
        return Ok(None);
    }

    let path = program.with_file_name("package.json");
    let shown = path.display();
    let file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot read {shown}"))?,
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {shown}"))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .with_context(|| format!("{shown} is invalid; --no-script-packages ignores the file"))?;

    let mut found = ProgramPackages {
        source: shown.to_string(),
        packages: Vec::new(),
        skipped: Vec::new(),
    };
    for (name, range) in manifest.dependencies {
        match range.trim() {
            "" | "*" => found.packages.push(format!("{name}@*")),
            range if is_of_registry(range) => found.packages.push(format!("{name}@{range}")),
            range => found.skipped.push(format!(
                "{name} ({range}) is skipped: only packages of the registry are installed"
            )),
        }
    }

    Ok(Some(found))
}

/// Returns whether a range is one of versions, and not a path, a URL or another name.
fn is_of_registry(range: &str) -> bool {
    !range.contains([':', '/'])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_dependencies_of_a_program() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("main.ts");
        assert_eq!(packages_beside(&program).unwrap(), None);
        assert_eq!(packages_beside(Path::new("-")).unwrap(), None);

        let write = |text: &str| fs::write(directory.path().join("package.json"), text).unwrap();
        write(
            r#"{"name": "x", "dependencies": {"zod": "^3", "@types/node": "22.x", "any": "", "own": "file:../own"},
                "devDependencies": {"jest": "1"}}"#,
        );
        let found = packages_beside(&program).unwrap().unwrap();
        assert_eq!(found.packages, ["@types/node@22.x", "any@*", "zod@^3"]);
        assert_eq!(found.skipped.len(), 1);
        assert!(found.skipped[0].contains("file:../own"));

        write("{");
        let error = packages_beside(&program).unwrap_err().to_string();
        assert!(error.contains("--no-script-packages"), "{error}");
    }
}
