//! What an image consists of.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::name::ID_DIGITS;
use crate::Error;
use crate::hash::Fields;

/// The version of the manifest's format and of the way images are put together. A change of either makes
/// every image out of date.
pub(crate) const FORMAT: u32 = 1;

/// The names of an image's parts and of their files, in the order of the manifest.
pub(crate) const PARTS: [(&str, &str); 3] = [
    ("kernel", "vmlinux"),
    ("initrd", "initrd.cpio"),
    ("rootfs", "rootfs.erofs"),
];

/// The record of one image: every part's hash, every package's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    /// The image's identity: a hash over its inputs and its parts.
    pub id: String,
    /// Hash over everything the image was made from; a build with the same inputs has nothing to do.
    pub inputs: String,
    /// When it was built, in seconds since 1970.
    pub created: u64,
    /// The files, in the order kernel, initrd, rootfs.
    pub parts: Vec<PartRecord>,
    /// Where the kernel comes from.
    pub kernel: KernelRecord,
    /// The Debian suite of the root file system.
    pub suite: String,
    /// Every Debian package in the root file system, with its version.
    pub packages: BTreeMap<String, String>,
    /// What comes from elsewhere than Debian: `uv` and `bun`.
    pub artifacts: Vec<Artifact>,
    /// SHA-256 of the agent.
    pub agent_sha256: String,
    /// SHA-256 of the certificate bundle that was put in; none when the host had none.
    pub ca_sha256: Option<String>,
}

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// `kernel`, `initrd` or `rootfs`.
    pub name: String,
    /// The file's name in the image's directory.
    pub file: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Which of the two.
    pub kind: KernelChoice,
    /// The Debian package.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// SHA-256 of the complete configuration.
    pub config_sha256: String,
}

/// A program that does not come from Debian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `uv` or `bun`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package it was taken from.
    pub sha256: String,
}

/// Which kernel the guest boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelChoice {
    /// Built from Debian's kernel source with fumehood's own small configuration. Boots on QEMU's
    /// `microvm,acpi=off`; takes `lapic_timer_khz=1000000` on its command line, which saves 0.3 s of boot.
    #[default]
    Own,
    /// Debian's own kernel for cloud machines: no build, but a slower boot. Needs `microvm,acpi=on`, and an
    /// agent that loads what `/modules/order` names.
    Debian,
}

impl Manifest {
    /// Reads and checks the manifest in an image's directory.
    pub(crate) fn load(name: &str, directory: &Path) -> Result<Self, Error> {
        let path = directory.join("manifest.json");
        let damaged = |reason: String| Error::Damaged {
            name: name.to_owned(),
            part: "manifest".to_owned(),
            path: path.clone(),
            reason,
        };

        let text = std::fs::read(&path).map_err(|e| damaged(e.to_string()))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!(
                "format {} instead of {FORMAT}",
                manifest.format
            )));
        }

        Ok(manifest)
    }

    /// The record of a part.
    pub fn part(&self, name: &str) -> Option<&PartRecord> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// The identity that belongs to these inputs and parts.
    pub(crate) fn id_of(inputs: &str, parts: &[PartRecord]) -> String {
        let start = Fields::default().add("inputs", inputs);
        let all = parts
            .iter()
            .fold(start, |fields, part| fields.add(&part.name, &part.sha256));
        all.finish()
    }

    /// The directory's name of an image with this name and manifest.
    pub(crate) fn directory(&self, name: &str) -> String {
        format!("{name}-{}", &self.id[..ID_DIGITS.min(self.id.len())])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Manifest {
        let parts: Vec<PartRecord> = PARTS
            .iter()
            .map(|(name, file)| PartRecord {
                name: (*name).to_owned(),
                file: (*file).to_owned(),
                sha256: crate::hash::of_bytes(name.as_bytes()),
                bytes: name.len() as u64,
            })
            .collect();

        Manifest {
            format: FORMAT,
            id: Manifest::id_of("inputs", &parts),
            inputs: "inputs".to_owned(),
            created: 1_700_000_000,
            parts,
            kernel: KernelRecord {
                kind: KernelChoice::Own,
                package: "linux-source-6.12".to_owned(),
                version: "6.12.1".to_owned(),
                release: "6.12.1-fumehood".to_owned(),
                config_sha256: "0".repeat(64),
            },
            suite: "trixie".to_owned(),
            packages: BTreeMap::from([("bash".to_owned(), "5.2".to_owned())]),
            artifacts: Vec::new(),
            agent_sha256: "1".repeat(64),
            ca_sha256: None,
        }
    }

    #[test]
    fn comes_back_from_json_as_it_was() {
        let manifest = example();
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn another_part_is_another_identity() {
        let mut parts = example().parts;
        let before = Manifest::id_of("inputs", &parts);
        parts[0].sha256.replace_range(0..1, "x");
        assert_ne!(Manifest::id_of("inputs", &parts), before);
        assert_eq!(
            example().directory("default").len(),
            "default-".len() + ID_DIGITS
        );
    }

    #[test]
    fn another_format_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = Manifest {
            format: FORMAT + 1,
            ..example()
        };

        let text = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(directory.path().join("manifest.json"), text).unwrap();
        let error = Manifest::load("default", directory.path())
            .unwrap_err()
            .to_string();

        assert!(
            error.contains("format 2") && error.contains("fumehood image build"),
            "{error}"
        );
    }
}
