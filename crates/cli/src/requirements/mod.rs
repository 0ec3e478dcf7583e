//! The packages that files name: requirements files, the metadata of scripts, and `package.json`.
//!
//! The engine validates the names and versions; this folder reads the formats.

mod marker;
mod package_json;
mod program_packages;
mod requirement;
mod requirements_file;
mod script_metadata;

use std::path::Path;

use fumehood_engine::Language;

pub(crate) use program_packages::ProgramPackages;
pub(crate) use requirements_file::read_requirements;

/// Returns the packages that a program names: for Python in its script metadata, for JavaScript in the `package.json`
/// beside its file. `None` if there are none.
///
/// # Errors
/// The metadata or the file is invalid.
pub(crate) fn program_packages(
    language: Language,
    code: &str,
    file: Option<&Path>,
) -> anyhow::Result<Option<ProgramPackages>> {
    let found = match language {
        Language::Python => script_metadata::packages(code)?,
        Language::Javascript => file.map_or(Ok(None), package_json::packages_beside)?,
        Language::Shell => None,
    };
    Ok(found.filter(|found| !found.packages.is_empty() || !found.skipped.is_empty()))
}
