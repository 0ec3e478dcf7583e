//! Arguments of `--upload`, and uploads into a sandbox.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fumehood_engine::{Files, Sandbox, SkippedFiles, WriteOptions};

use crate::io::print_skipped;

use super::paths::{is_remote_directory, split_argument, to_text};

/// A local file or directory to copy into a VM.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) local: PathBuf,
    /// The destination path.
    pub(crate) remote: String,
    /// The name of a file in the destination if that is an existing directory.
    name: String,
    is_dir: bool,
}

impl Upload {
    /// Parses the arguments of all `--upload` options.
    ///
    /// # Errors
    /// See [`Self::parse`].
    pub(crate) fn parse_all(args: &[OsString]) -> anyhow::Result<Vec<Self>> {
        args.iter().map(|arg| Self::parse(arg)).collect()
    }

    /// Parses `LOCAL[:REMOTE]`.
    ///
    /// # Errors
    /// LOCAL does not exist or cannot be read, a path is not valid UTF-8, or the destination has no name.
    fn parse(arg: &OsStr) -> anyhow::Result<Self> {
        let (local, remote) = split_argument(arg);
        let local = PathBuf::from(local);
        let shown = local.display();
        let metadata = std::fs::metadata(&local)
            .with_context(|| format!("--upload {}: cannot read {shown}", arg.display()))?;

        // A path without a file name, such as `/`, needs a remote name.
        let remote = remote.map(to_text).transpose()?.unwrap_or_default();
        let name = match file_name(&local) {
            Some(name) => to_text(&name)?,
            None if remote.is_empty() || remote.ends_with('/') => {
                bail!("--upload {shown}: the path has no file name; give one: {shown}:NAME")
            }
            None => String::new(),
        };

        // A remote directory, or no remote path at all, keeps the local name.
        let remote = if remote.is_empty() {
            name.clone()
        } else if remote.ends_with('/') {
            format!("{remote}{name}")
        } else {
            remote
        };
        Ok(Self {
            local,
            remote,
            name,
            is_dir: metadata.is_dir(),
        })
    }

    /// Copies it. Returns the files of a directory that were skipped.
    async fn run(&self, files: &Files) -> anyhow::Result<SkippedFiles> {
        if self.is_dir {
            return Ok(files.upload_dir(&self.local, &self.remote).await?);
        }

        self.upload_file(files).await?;
        Ok(SkippedFiles::default())
    }

    async fn upload_file(&self, files: &Files) -> anyhow::Result<()> {
        let file = tokio::fs::File::open(&self.local).await?;
        let metadata = file.metadata().await?;
        // A pipe has neither a useful mode nor a size.
        let is_file = metadata.is_file();
        let options = WriteOptions {
            mode: is_file.then(|| metadata.permissions().mode() & 0o777),
            parents: true,
            size: is_file.then_some(metadata.len()),
        };

        let remote = if is_remote_directory(files, &self.remote).await {
            format!("{}/{}", self.remote, self.name)
        } else {
            self.remote.clone()
        };
        files.upload(&remote, file, options).await?;
        Ok(())
    }
}

/// Copies `uploads` into a sandbox, in their order.
///
/// # Errors
/// A local file cannot be read, or the VM cannot write it.
pub(crate) async fn upload_all(uploads: &[Upload], sandbox: &Sandbox) -> anyhow::Result<()> {
    for upload in uploads {
        let action = format!("--upload {}", upload.local.display());
        let skipped = upload.run(&sandbox.files()).await.context(action.clone())?;
        print_skipped(&action, &skipped);
    }
    Ok(())
}

/// Returns the name of a local file. That of a path such as `.` is looked up.
fn file_name(path: &Path) -> Option<OsString> {
    match path.file_name() {
        Some(name) => Some(name.to_owned()),
        None => path.canonicalize().ok()?.file_name().map(OsStr::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_uploads() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a:b");
        std::fs::write(&file, "").unwrap();
        let shown = file.to_str().unwrap();
        let remote = |arg: String| Upload::parse(OsStr::new(&arg)).unwrap().remote;

        assert_eq!(remote(format!("{shown}:")), "a:b");
        assert_eq!(remote(format!("{shown}:c")), "c");
        assert_eq!(remote(format!("{shown}:/tmp/c/")), "/tmp/c/a:b");
        assert_eq!(remote("src/..".into()), remote(".".into()));
        assert_eq!(remote("/:root".into()), "root");
        for invalid in ["/", "", "no such file", ":x"] {
            assert!(Upload::parse(OsStr::new(invalid)).is_err(), "{invalid}");
        }
    }
}
