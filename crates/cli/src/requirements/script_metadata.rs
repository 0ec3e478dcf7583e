//! The metadata in the comments of a Python script (PEP 723): its packages, and the versions of Python.

use anyhow::{Context, bail};
use serde::Deserialize;

use super::marker::{PYTHON_VERSION, compare_versions};
use super::program_packages::ProgramPackages;
use super::requirement;

/// The fields that are read; tools have others.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    #[serde(default)]
    dependencies: Vec<String>,
    requires_python: Option<String>,
}

/// Returns the packages of a script's metadata; `None` if it has none.
///
/// # Errors
/// The metadata is invalid, or requires another version of Python.
pub(super) fn packages(code: &str) -> anyhow::Result<Option<ProgramPackages>> {
    let Some(text) = metadata(code)? else {
        return Ok(None);
    };

    let metadata: Metadata =
        toml::from_str(&text).context("the script metadata (PEP 723) of the program is invalid")?;
    if let Some(required) = &metadata.requires_python {
        check_python(required)?;
    }

    let parsed = metadata.dependencies.iter().map(|text| {
        requirement::parse(text).map_err(|why| {
            anyhow::anyhow!(
                "the script metadata of the program: `{text}`: {why}; --no-script-packages ignores the metadata"
            )
        })
    });
    let parsed: Vec<_> = parsed.collect::<Result<_, _>>()?;

    Ok(Some(ProgramPackages {
        source: "script metadata".into(),
        packages: parsed.into_iter().flatten().collect(),
        skipped: Vec::new(),
    }))
}

/// Returns the content of the block `# /// script`; `None` if there is no complete one.
fn metadata(code: &str) -> anyhow::Result<Option<String>> {
    let mut found = None;
    let mut lines = code.lines().peekable();

    while let Some(line) = lines.next() {
        if line.trim_end() != "# /// script" {
            continue;
        }

        // The block ends at the last closing line of the comment.
        let mut content: Vec<&str> = Vec::new();
        let mut closed_at = None;
        while let Some(line) = lines.next_if(|line| *line == "#" || line.starts_with("# ")) {
            if line.trim_end() == "# ///" {
                closed_at = Some(content.len());
            }
            content.push(line.get(2..).unwrap_or_default());
        }

        let Some(end) = closed_at else { continue };
        if found.replace(content[..end].join("\n")).is_some() {
            bail!("the program has several blocks of script metadata (`# /// script`); keep one");
        }
    }

    Ok(found)
}

/// Rejects a program that does not run with the guest's Python.
fn check_python(required: &str) -> anyhow::Result<()> {
    for part in required.split(',') {
        let part = part.trim();
        let operators = ["==", "!=", "<=", ">=", "~=", "<", ">"];
        let Some((operator, version)) = operators
            .iter()
            .find_map(|operator| Some((*operator, part.strip_prefix(operator)?.trim())))
        else {
            bail!("requires-python of the script metadata: `{part}` is not a version specifier");
        };

        // The guest's patch release is left open: only as many numbers as it has are compared.
        let base = version.trim_end_matches(".*");
        let numbers: Vec<_> = base.split('.').take(2).collect();
        let Some(order) = compare_versions(PYTHON_VERSION, &numbers.join(".")) else {
            bail!("requires-python of the script metadata: `{part}` is not a version specifier");
        };
        let has_patch = base.split('.').count() > 2;
        let is_whole = numbers.len() < 2;

        let fits = match operator {
            "==" if is_whole => PYTHON_VERSION.starts_with(&format!("{base}.")),
            "==" => order.is_eq(),
            "!=" => has_patch || order.is_ne(),
            ">=" | "~=" => order.is_ge(),
            "<=" => order.is_le(),
            ">" => order.is_gt() || (has_patch && order.is_eq()),
            _ => order.is_lt() || (has_patch && order.is_eq()),
        };
        if !fits {
            bail!(
                "the script metadata of the program requires Python {required}; VMs have Python {PYTHON_VERSION}; --no-script-packages ignores the metadata"
            );
        }
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "#!/usr/bin/env python3\n# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\n#   \"requests<3\",\n#\n#   \"rich\",\n# ]\n# ///\nimport requests\n";

    #[test]
    fn the_packages_of_a_script() {
        let found = packages(SCRIPT).unwrap().unwrap();
        assert_eq!(found.packages, ["requests<3", "rich"]);
        let windows = SCRIPT.replace('\n', "\r\n");
        assert_eq!(packages(&windows).unwrap().unwrap().packages.len(), 2);
    }

    #[test]
    fn scripts_without_metadata() {
        for code in [
            "",
            "print(1)",
            "# /// script\n# dependencies = []\nprint(1)",
            "# /// other\n# a = 1\n# ///\n",
            " # /// script\n # ///\n",
        ] {
            assert_eq!(packages(code).unwrap(), None, "{code}");
        }
    }

    #[test]
    fn invalid_metadata_is_explained() {
        let script = |body: &str| format!("# /// script\n# {body}\n# ///\n");
        for (code, expected) in [
            (script("dependencies = [1]"), "invalid"),
            (script("dependencies"), "invalid"),
            (script("dependencies = ['a @ https://x']"), "URLs"),
            (script("requires-python = '>=3.99'"), "Python 3.13"),
            (script("requires-python = 'new'"), "specifier"),
            (script("") + "\n" + &script(""), "several"),
        ] {
            let error = format!("{:#}", packages(&code).unwrap_err());
            assert!(error.contains(expected), "{code}: {error}");
        }
    }

    #[test]
    fn versions_of_python() {
        for good in [
            ">=3.8",
            ">=3.11,<4",
            "==3.13.*",
            "~=3.10",
            "!=3.13.1",
            ">=3",
            "==3.*",
            "<3.14",
        ] {
            assert!(check_python(good).is_ok(), "{good}");
        }
        for bad in [">3.13", "<3.13", "==3.12.*", ">=3.14", "<3", "==2.*"] {
            assert!(check_python(bad).is_err(), "{bad}");
        }
    }
}
