//! Arguments of `--mount`, and the state of a folder when it was copied in.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::names::quoted;
use super::tree::{Tree, scan};
use crate::io::eprint_message;
use crate::transfer::split_argument;

/// The number of paths that are printed one by one; the rest is counted.
const MAX_PRINTED: usize = 10;

/// A folder of this host that is copied into a VM.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    /// The absolute path on this host.
    pub(crate) local: PathBuf,
    /// The path in the VM.
    pub(crate) remote: String,
    /// The content of the folder when it was copied in.
    pub(super) before: Tree,
}

impl Mount {
    /// Parses the arguments of all `--mount` options, and reads the folders. Prints the files that are not compared later.
    ///
    /// # Errors
    /// An argument is invalid, or a folder cannot be read or exceeds a limit.
    pub(crate) fn parse_all(args: &[OsString]) -> anyhow::Result<Vec<Self>> {
        let mounts: Vec<_> = args
            .iter()
            .map(|arg| Self::parse(arg).with_context(|| format!("--mount {}", arg.display())))
            .collect::<anyhow::Result<_>>()?;

        for (index, mount) in mounts.iter().enumerate() {
            let is_same = |other: &Self| other.remote == mount.remote;
            if mounts[..index].iter().any(is_same) {
                bail!("--mount: {} is given twice", mount.remote);
            }
        }
        Ok(mounts)
    }

    fn parse(arg: &OsStr) -> anyhow::Result<Self> {
        let (local, remote) = split_argument(arg);
        let Some(remote) = remote else {
            bail!("the path in the VM is missing; use FOLDER:REMOTE, for example ./project:/work");
        };
        let remote = remote
            .to_str()
            .context("the path in the VM is not valid UTF-8")?;
        let remote = remote.trim_end_matches('/');
        let has_name = Path::new(remote).file_name().is_some();
        if !has_name {
            bail!("the path in the VM has no name; use FOLDER:REMOTE, for example ./project:/work");
        }

        let local = Path::new(local).canonicalize().context("cannot read it")?;
        if !local.is_dir() {
            bail!("it is not a directory; use --upload for a file");
        }
        let scan = scan(&local)?;
        print_left_out(&local, &scan.left_out);
        Ok(Self {
            local,
            remote: remote.to_owned(),
            before: scan.tree,
        })
    }
}

fn print_left_out(folder: &Path, left_out: &[(PathBuf, String)]) {
    let action = format!("--mount {}", folder.display());
    for (path, reason) in left_out.iter().take(MAX_PRINTED) {
        let path = quoted("", path);
        eprint_message(&format!(
            "{action}: {path} will not be compared: {}",
            reason.replace(char::is_control, "\u{fffd}")
        ));
    }

    let more = left_out.len().saturating_sub(MAX_PRINTED);
    if more > 0 {
        eprint_message(&format!("{action}: {more} more files will not be compared"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().to_str().unwrap();
        let parse = |arg: String| Mount::parse(OsStr::new(&arg));
        assert_eq!(parse(format!("{shown}:/work/")).unwrap().remote, "/work");
        assert_eq!(parse(format!("{shown}:work")).unwrap().remote, "work");
        assert!(parse(format!("{shown}/.:w")).unwrap().local.is_absolute());
        for invalid in [
            shown.to_owned(),
            format!("{shown}:/"),
            format!("{shown}:.."),
            "/no/such/folder:/work".into(),
            "Cargo.toml:/work".into(),
        ] {
            assert!(parse(invalid.clone()).is_err(), "{invalid}");
        }

        let twice = format!("{shown}:/work");
        let error = Mount::parse_all(&[twice.clone().into(), twice.into()]).unwrap_err();
        assert!(error.to_string().contains("twice"));
    }
}
