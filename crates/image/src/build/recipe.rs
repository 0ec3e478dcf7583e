//! Everything an image is made from, read once, with one key over all of it.

use std::fs;
use std::path::Path;

use super::elf;
use crate::Error;
use crate::hash::{self, Fields};
use crate::kernel::KernelPlan;
use crate::options::{BuildOptions, ExtraFile};
use crate::rootfs::base_packages;
use crate::store::FORMAT;
use crate::tools::bun::BUN;
use crate::tools::download::Pinned;
use crate::tools::uv::UV;

/// Where distributions keep the bundle of certificates that the host trusts.
const HOST_CA_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];
/// A certificate in a PEM file begins so.
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The inputs of one build.
pub(crate) struct Recipe {
    /// The agent's bytes: read once, so that what is hashed is what is built in.
    pub(crate) agent: Vec<u8>,
    pub(crate) agent_sha256: String,
    /// The host's certificates with the extra ones.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) ca_sha256: Option<String>,
    /// The kernel.
    pub(crate) kernel: KernelPlan,
    /// Hash over all of this and over everything built in.
    pub(crate) key: String,
}

impl Recipe {
    /// Reads the inputs and refuses those that cannot be used.
    pub(crate) fn read(options: &BuildOptions) -> Result<Self, Error> {
        options.check()?;
        let agent =
            fs::read(&options.agent).map_err(Error::io("read the agent", &options.agent))?;
        elf::check_static(&options.agent, &agent)?;
        let agent_sha256 = hash::of_bytes(&agent);
        let ca = ca_bundle(options.extra_ca.as_deref())?;
        let ca_sha256 = ca.as_deref().map(hash::of_bytes);
        let kernel = KernelPlan::new(options)?;
        let key = Fields::default()
            .add("builder", FORMAT.to_string())
            .add("kernel", kernel.key())
            .add("base", base_packages::key(&options.suite))
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

fn artifact_key(artifact: &Pinned) -> String {
    format!("{} {}", artifact.version, artifact.sha256)
}

/// Independent of the order in which the files are given.
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

/// The host's bundle and the extra certificates after it.
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
            reason: "it holds no certificate in PEM form",
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
    fn extra_files_count_by_what_they_are_not_by_their_order() {
        let (a, b) = (file("/a", 0o644, "1"), file("/b", 0o755, "2"));
        let both = extra_files_hash(&[a.clone(), b.clone()]);
        assert_eq!(both, extra_files_hash(&[b.clone(), a.clone()]));
        assert_ne!(both, extra_files_hash(&[file("/a", 0o600, "1"), b.clone()]));
        assert_ne!(both, extra_files_hash(&[file("/a", 0o644, "2"), b]));
        assert_ne!(both, extra_files_hash(&[a]));
    }

    #[test]
    fn extra_certificates_follow_the_hosts() {
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
