//! Requirements files, as pip reads them: the part that names packages of the index.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use super::requirement;

/// Maximum depth of files that include others.
const MAX_DEPTH: usize = 8;
/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the requirements of a file, and of the files that it includes.
///
/// # Errors
/// A file cannot be read, or a line is not supported.
pub(crate) fn read_requirements(file: &Path) -> anyhow::Result<Vec<String>> {
    let mut packages = Vec::new();
    read_into(file, 0, &mut packages)?;
    Ok(packages)
}

fn read_into(file: &Path, depth: usize, packages: &mut Vec<String>) -> anyhow::Result<()> {
    let shown = file.display();
    if depth > MAX_DEPTH {
        bail!("{shown}: more than {MAX_DEPTH} requirements files include each other");
    }

    let size = fs::metadata(file).map_or(0, |found| found.len());
    if size > MAX_BYTES {
        bail!("{shown} has {size} bytes; a requirements file may have {MAX_BYTES}");
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;

    for (number, line) in logical_lines(&text) {
        // Included files are relative to this one.
        if let Some(other) = included_file(&line) {
            let other = file.with_file_name(other);
            read_into(&other, depth + 1, packages)?;
            continue;
        }

        let parsed = requirement::parse(&line).map_err(|why| {
            anyhow::anyhow!(
                "{shown}:{number}: `{line}`: {why}; remove the line, or name the packages with -p"
            )
        })?;
        packages.extend(parsed);
    }

    Ok(())
}

/// Returns the lines without comments, with the number of the first of several joined ones.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let (mut joined, mut start) = (String::new(), 1);

    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if joined.is_empty() {
            start = index + 1;
        }

        // A comment is not continued.
        let code = match line.find('#') {
            Some(0) => "",
            Some(at) if line[..at].ends_with([' ', '\t']) => &line[..at],
            _ => line,
        };
        if let Some(part) = code.strip_suffix('\\') {
            joined += part;
            joined.push(' ');
            continue;
        }

        joined += code;
        let line = std::mem::take(&mut joined);
        if !line.trim().is_empty() {
            lines.push((start, line.trim().to_owned()));
        }
    }

    if !joined.trim().is_empty() {
        lines.push((start, joined.trim().to_owned()));
    }
    lines
}

fn included_file(line: &str) -> Option<&str> {
    let options = ["-r", "--requirement"];
    let rest = options
        .iter()
        .find_map(|option| line.strip_prefix(option))?;
    let is_separated = rest.starts_with([' ', '=', '\t']);
    is_separated.then(|| rest[1..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_comments_continuations_and_includes() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write(
            "requirements.txt",
            "# comment\npandas >= 2, \\\n  < 3  # why\n\n-r more.txt\ncolorama; sys_platform == 'win32'\n",
        );
        write("more.txt", "six==1.16.0\r\nrich\n");
        let packages = read_requirements(&directory.path().join("requirements.txt")).unwrap();
        assert_eq!(packages, ["pandas >= 2,    < 3", "six==1.16.0", "rich"]);
    }

    #[test]
    fn errors_name_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("requirements.txt");
        for line in [
            "-e .",
            "--index-url https://x",
            "-c other.txt",
            "a @ git+https://x",
        ] {
            fs::write(&file, format!("six\n{line}\n")).unwrap();
            let error = read_requirements(&file).unwrap_err().to_string();
            assert!(error.contains(":2: ") && error.contains(line), "{error}");
        }

        fs::write(&file, "-r requirements.txt\n").unwrap();
        let error = read_requirements(&file).unwrap_err().to_string();
        assert!(error.contains("include each other"), "{error}");
        let missing = read_requirements(&directory.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("cannot read"), "{missing}");
    }
}
