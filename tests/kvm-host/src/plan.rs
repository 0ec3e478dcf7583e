//! What to do: written by `cargo xtask test-kvm`, read from the host's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::boot::HOST;

/// The kernel hands a parameter that it does not know to its first process as an environment variable.
const VARIABLE: &str = "FUMEHOOD_PLAN";

/// The directories that the machine needs, and what runs in it.
#[derive(Debug, Deserialize)]
pub(crate) struct Plan {
    /// Directories of the host that are there read-only, at the same paths.
    pub(crate) shared: Vec<PathBuf>,
    /// Directories of the host that are there, at the same paths, with changes that stay in the machine.
    pub(crate) copied: Vec<PathBuf>,
    /// What runs, in this order.
    pub(crate) checks: Vec<Check>,
}

/// One program to run.
#[derive(Debug, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) directory: PathBuf,
    pub(crate) environment: BTreeMap<String, String>,
    /// How long it may run, in seconds.
    pub(crate) timeout_s: u64,
}

impl Plan {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let path = std::env::var(VARIABLE).context(VARIABLE)?;
        let path = Path::new(HOST).join(path.trim_start_matches('/'));
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;

        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }
}
