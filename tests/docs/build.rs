//! Writes `examples.rs`: one async function for each `rust` block of README and docs.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    collect(&root.join("docs"), &mut pages)?;
    pages.sort();

    let mut code = String::new();
    for page in &pages {
        println!("cargo::rerun-if-changed={}", page.display());
        let name = page.strip_prefix(&root)?.display().to_string();
        for (line, block) in blocks(&fs::read_to_string(page)?) {
            let function = name
                .replace(|c: char| !c.is_ascii_alphanumeric(), "_")
                .to_lowercase();
            writeln!(code, "// {name}, line {line}")?;
            writeln!(
                code,
                "async fn {function}_line_{line}() -> Result<(), Box<dyn std::error::Error>> {{"
            )?;
            writeln!(code, "{block}    Ok(())\n}}\n")?;
        }
    }

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("examples.rs"), code)?;
    Ok(())
}

/// Adds the Markdown pages below a directory.
fn collect(dir: &Path, pages: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", dir.display());
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// The `rust` blocks of a page, each with the line of its first line of code.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        match &mut open {
            None if line == "```rust" => open = Some((at + 2, String::new())),
            None => {}
            Some(_) if line == "```" => found.extend(open.take()),
            Some((_, block)) => {
                block.push_str("    ");
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    found
}
