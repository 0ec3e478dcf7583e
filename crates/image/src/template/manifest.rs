use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::MANIFEST;
use crate::Error;
use crate::hash::Fields;

/// The version of what lies in a template's directory.
const FORMAT: u32 = 1;

/// The name of a template: a hash over everything that its state depends on, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemplateKey(String);

impl TemplateKey {
    /// The key of what these inputs make.
    #[must_use]
    pub fn of(inputs: &BTreeMap<String, String>) -> Self {
        let fields = Fields::default().add("format", FORMAT.to_le_bytes());
        let all = inputs
            .iter()
            .fold(fields, |fields, (name, value)| fields.add(name, value));
        Self(all.finish())
    }

    /// Its digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a template consists of, and what it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateManifest {
    format: u32,
    /// The hash over `inputs`.
    pub key: String,
    /// Everything that the state depends on, by name.
    pub inputs: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The guest's memory, in bytes; on disk only what holds anything.
    pub ram_bytes: u64,
    /// SHA-256 over the memory's data: each piece's offset and length, then its bytes.
    pub ram_sha256: String,
    /// SHA-256 over the devices' state.
    pub state_sha256: String,
}

impl TemplateManifest {
    pub(super) fn new(
        inputs: BTreeMap<String, String>,
        created: u64,
        ram_bytes: u64,
        ram_sha256: String,
        state_sha256: String,
    ) -> Self {
        Self {
            format: FORMAT,
            key: TemplateKey::of(&inputs).to_string(),
            inputs,
            created,
            ram_bytes,
            ram_sha256,
            state_sha256,
        }
    }

    /// Reads the manifest of the template in `directory`.
    pub(super) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(MANIFEST);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|e| Error::io("understand", &path)(e.into()))?;
        if manifest.format == FORMAT && TemplateKey::of(&manifest.inputs).as_str() == manifest.key {
            return Ok(manifest);
        }
        let other = std::io::Error::other("it is not what this version writes");
        Err(Error::io("understand", &path)(other))
    }
}
