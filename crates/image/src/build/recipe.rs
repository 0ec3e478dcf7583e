//! The inputs of a build, read once, and the key that identifies them.

use std::fs;
use std::path::Path;

use super::elf;
use crate::Error;
use crate::hash::{self, Fields};
use crate::kernel::KernelPlan;
use crate::options::{BuildOptions, ExtraFile};
use crate::rootfs::{base_packages, commands};
use crate::store::FORMAT;
use crate::tools::bun::BUN;
use crate::tools::download::Pinned;
use crate::tools::uv::UV;

/// The paths where distributions store the bundle of certificates that the host trusts.
const HOST_CA_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
/// The line that starts a certificate in a PEM file.
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The inputs of one build.
pub(crate) struct Recipe {
    /// The agent's bytes, read once so that the hashed bytes are those in the image.
    pub(crate) agent: Vec<u8>,
    pub(crate) agent_sha256: String,
    /// The host's certificates, followed by the extra ones.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) ca_sha256: Option<String>,
    /// The kernel.
    pub(crate) kernel: KernelPlan,
    /// The hash of all inputs and of everything that this program builds in.
    pub(crate) key: String,
}

impl Recipe {
    /// Reads the inputs. Returns an error for inputs that cannot be used.
    pub(crate) fn read(options: &BuildOptions) -> Result<Self, Error> {
        options.check()?;
        let agent =
            fs::read(&options.agent).map_err(Error::io("read the agent", &options.agent))?;
        elf::check_static(&options.agent, &agent)?;
        let agent_sha256 = hash::of_bytes(&agent);

        let ca = ca_bundle(options.extra_ca.as_deref())?;
        let ca_sha256 = ca.as_deref().map(hash::of_bytes);
        let kernel = KernelPlan::new(options)?;

        // A change of any field rebuilds every image.
        let key = Fields::default()
            .add("builder", FORMAT.to_string())
            .add("kernel", kernel.key())
            .add("base", base_packages::key(&options.suite))
            .add("commands", commands::key())
            .add("uv", artifact_key(&UV))
            .add("bun", artifact_key(&BUN))
            .add("agent", &agent_sha256)
            .add("ca", ca_sha256.as_deref().unwrap_or_default())
            .add("extra", extra_files_hash(&options.extra_files))
            .add("format", options.format.as_str())
            .finish();

        Ok(Self {
            agent,
            agent_sha256,
            ca,
            ca_sha256,
            kernel,
            key,
        })
    }
}

/// Returns the part of the key that identifies a pinned artifact.
fn artifact_key(artifact: &Pinned) -> String {
    format!("{} {}", artifact.version, artifact.sha256)
}

/// Hashes the extra files, independent of their order.
fn extra_files_hash(files: &[ExtraFile]) -> String {
    let mut sorted: Vec<&ExtraFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));

    let all = sorted.iter().fold(Fields::default(), |fields, file| {
        fields
            .add(&file.path, file.mode.to_le_bytes())
            .add("contents", &file.contents)
    });
    all.finish()
}

/// Returns the host's bundle followed by the extra certificates.
fn ca_bundle(extra_ca: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
    let host = HOST_CA_BUNDLES.iter().find_map(|path| fs::read(path).ok());
    let Some(path) = extra_ca else {
        return Ok(host);
    };

    let extra = fs::read(path).map_err(Error::io("read", path))?;
    if !String::from_utf8_lossy(&extra).contains(PEM_BEGIN) {
        let option = format!("certificate file {}", path.display());
        return Err(Error::Option {
            option,
            reason: "it contains no PEM certificate",
        });
    }

    let mut all = host.unwrap_or_default();
    if !all.is_empty() && !all.ends_with(b"\n") {
        all.push(b'\n');
    }

    all.extend_from_slice(&extra);
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, mode: u32, contents: &str) -> ExtraFile {
        ExtraFile {
            path: path.to_owned(),
            mode,
            contents: contents.into(),
        }
    }

    #[test]
    fn the_hash_of_extra_files_ignores_their_order() {
        let (a, b) = (file("/a", 0o644, "1"), file("/b", 0o755, "2"));
        let both = extra_files_hash(&[a.clone(), b.clone()]);
        assert_eq!(both, extra_files_hash(&[b.clone(), a.clone()]));
        assert_ne!(both, extra_files_hash(&[file("/a", 0o600, "1"), b.clone()]));
        assert_ne!(both, extra_files_hash(&[file("/a", 0o644, "2"), b]));
        assert_ne!(both, extra_files_hash(&[a]));
    }

    #[test]
    fn extra_certificates_are_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        fs::write(&path, "nothing").unwrap();
        assert!(matches!(ca_bundle(Some(&path)), Err(Error::Option { .. })));
        fs::write(&path, format!("{PEM_BEGIN}\nAAAA\n")).unwrap();
        let all = ca_bundle(Some(&path)).unwrap().unwrap();
        assert!(all.ends_with(b"AAAA\n"));
        assert!(all.starts_with(&ca_bundle(None).unwrap().unwrap_or_default()));
    }
}
