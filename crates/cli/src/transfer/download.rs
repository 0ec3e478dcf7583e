//! Arguments of `--download`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::paths::{names_directory, split_argument, to_text};

/// A file or directory of a VM to copy to this machine.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) remote: String,
    /// The destination path. If it is an existing directory, a file is placed into it.
    pub(crate) local: PathBuf,
}

impl Download {
    /// Parses the arguments of all `--download` options.
    ///
    /// # Errors
    /// See [`Self::parse`].
    pub(crate) fn parse_all(args: &[OsString]) -> anyhow::Result<Vec<Self>> {
        args.iter().map(|arg| Self::parse(arg)).collect()
    }

    /// Parses `REMOTE[:LOCAL]`.
    ///
    /// # Errors
    /// REMOTE has no file name or is not valid UTF-8, or the directory for LOCAL does not exist.
    fn parse(arg: &OsStr) -> anyhow::Result<Self> {
        let shown = arg.display();
        let (remote, local) = split_argument(arg);
        let remote = to_text(remote)?;
        let Some(name) = Path::new(&remote).file_name() else {
            bail!("--download {shown}: the path has no file name; give one: DIR/NAME");
        };

        // A local directory, or no local path at all, keeps the remote name.
        let local = match local {
            None => PathBuf::from(name),
            Some(local) if names_directory(local) => Path::new(local).join(name),
            Some(local) => PathBuf::from(local),
        };
        check_parent_directory(&local).with_context(|| format!("--download {shown}"))?;

        Ok(Self { remote, local })
    }
}

/// Checks that the directory of a local path exists, before a VM is started.
fn check_parent_directory(path: &Path) -> anyhow::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };

    let shown = dir.display();
    let metadata = std::fs::metadata(dir)
        .with_context(|| format!("the local directory {shown} must exist"))?;
    if !metadata.is_dir() {
        bail!("{shown} is not a directory");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arg: &str) -> (String, PathBuf) {
        let download = Download::parse(OsStr::new(arg)).unwrap();
        (download.remote, download.local)
    }

    #[test]
    fn arguments_of_downloads() {
        assert_eq!(parse("a"), ("a".into(), "a".into()));
        assert_eq!(parse("/x/a/"), ("/x/a/".into(), "a".into()));
        assert_eq!(parse("a:/tmp/b"), ("a".into(), "/tmp/b".into()));
        assert_eq!(parse("a:/tmp/"), ("a".into(), "/tmp/a".into()));
        assert_eq!(parse("a:."), ("a".into(), "./a".into()));
        assert_eq!(parse("a:b:"), ("a:b".into(), "a:b".into()));
        for invalid in ["", "/", "..", ".", ":b"] {
            assert!(Download::parse(OsStr::new(invalid)).is_err(), "{invalid}");
        }

        let error = Download::parse(OsStr::new("a:/no/such/place")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such"), "{error:#}");
    }
}
