//! The manifest of an image.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::name::ID_DIGITS;
use crate::Error;
use crate::error::is_shortage;
use crate::hash::Fields;

/// The version of the manifest's format and of the build procedure. Changing either makes every image out of
/// date. Since 2, the agent knows the language `shell` by that name.
pub(crate) const FORMAT: u32 = 2;

/// The names of an image's parts and their files, in the manifest's order.
pub(crate) const PARTS: [(&str, &str); 3] = [
    ("kernel", "vmlinux"),
    ("initrd", "initrd.cpio"),
    ("rootfs", "rootfs.erofs"),
];

/// The record of an image, with every part's hash and every package's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The image's id: a hash over its inputs and its parts.
    pub id: String,
    /// The hash over all inputs. A build with the same inputs has nothing to do.
    pub inputs: String,
    /// The build time, in seconds since 1970.
    pub created: u64,
    /// The files, in the order kernel, initrd, rootfs.
    pub parts: Vec<PartRecord>,
    /// The origin of the kernel.
    pub kernel: KernelRecord,
    /// The Debian suite of the root file system.
    pub suite: String,
    /// Every Debian package in the root file system with its version.
    pub packages: BTreeMap<String, String>,
    /// The programs that do not come from Debian: `uv` and `bun`.
    pub artifacts: Vec<Artifact>,
    /// SHA-256 of the agent.
    pub agent_sha256: String,
    /// SHA-256 of the included certificate bundle, or `None` if the host has none.
    pub ca_sha256: Option<String>,
}

/// The record of one file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// `kernel`, `initrd` or `rootfs`.
    pub name: String,
    /// The file's name in the image's directory.
    pub file: String,
    /// The file's SHA-256 in hexadecimal.
    pub sha256: String,
    /// The file's size in bytes.
    pub bytes: u64,
}

/// The origin of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// The kind of kernel.
    pub kind: KernelChoice,
    /// The Debian package.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The release that `uname -r` prints in the guest.
    pub release: String,
    /// SHA-256 of the complete configuration.
    pub config_sha256: String,
}

/// A program that does not come from Debian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `uv` or `bun`.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// SHA-256 of the package that contained the program.
    pub sha256: String,
}

/// The kernel that the guest boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelChoice {
    /// Built from Debian's kernel source with fumehood's own small configuration. It boots on QEMU's
    /// `microvm,acpi=off`, and its command line accepts `lapic_timer_khz=1000000`, which saves 0.3 s of boot.
    #[default]
    Own,
    /// Debian's own kernel for cloud machines: no build, but a slower boot. It needs `microvm,acpi=on` and an
    /// agent that loads the modules listed in `/modules/order`.
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

        let text = std::fs::read(&path).map_err(|e| {
            if is_shortage(&e) {
                Error::io("read", &path)(e)
            } else {
                damaged(e.to_string())
            }
        })?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!(
                "format {} instead of {FORMAT}",
                manifest.format
            )));
        }

        Ok(manifest)
    }

    /// Returns the record of a part.
    pub fn part(&self, name: &str) -> Option<&PartRecord> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// Returns the id for these inputs and parts.
    pub(crate) fn id_of(inputs: &str, parts: &[PartRecord]) -> String {
        let start = Fields::default().add("inputs", inputs);
        let all = parts
            .iter()
            .fold(start, |fields, part| fields.add(&part.name, &part.sha256));
        all.finish()
    }

    /// Returns the name of the directory of an image with this name and manifest.
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
    fn survives_a_round_trip_through_json() {
        let manifest = example();
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn the_id_depends_on_the_parts() {
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
    fn rejects_another_format() {
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

        let mismatch = format!("format {} instead of {FORMAT}", FORMAT + 1);
        assert!(
            error.contains(&mismatch) && error.contains("fumehood image build"),
            "{error}"
        );
    }
}
