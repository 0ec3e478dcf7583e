//! Downloads from a VM.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fumehood_engine::{FileInfo, FileKind, Files};

use super::local_files::{
    NewFile, check_parent_directory, file_destination, refuse_directory_link,
};
use super::paths::{is_remote_directory, names_directory, split_argument, to_text};

/// A file or directory of a VM to copy to this machine.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) remote: String,
    /// The destination path.
    pub(crate) local: PathBuf,
    /// The name of a file in the destination if that is an existing directory.
    name: OsString,
}

/// The local result of a download.
#[derive(Debug)]
pub(crate) struct DownloadedFile {
    pub(crate) path: PathBuf,
    /// The size in bytes; `None` for a directory.
    pub(crate) bytes: Option<u64>,
}

/// A downloaded file, or why the download failed.
pub(crate) type DownloadResult = Result<DownloadedFile, String>;

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
        let Some(name) = Path::new(&remote).file_name().map(OsStr::to_owned) else {
            bail!("--download {shown}: the path has no file name; give one: DIR/NAME");
        };

        // A local directory, or no local path at all, keeps the remote name.
        let local = match local {
            None => PathBuf::from(&name),
            Some(local) if names_directory(local) => Path::new(local).join(&name),
            Some(local) => PathBuf::from(local),
        };
        check_parent_directory(&local).with_context(|| format!("--download {shown}"))?;

        Ok(Self {
            remote,
            local,
            name,
        })
    }

    /// Copies the file or directory.
    ///
    /// # Errors
    /// The VM cannot read it, or it cannot be written here.
    pub(crate) async fn run(&self, files: &Files) -> anyhow::Result<DownloadedFile> {
        let info = files.stat(&self.remote).await?;
        // A link to a directory is downloaded as that directory.
        let is_dir = match info.kind {
            FileKind::Directory => true,
            FileKind::Link => is_remote_directory(files, &self.remote).await,
            _ => false,
        };

        if is_dir {
            refuse_directory_link(&self.local)?;
            files.download_dir(&self.remote, &self.local).await?;
            return Ok(DownloadedFile {
                path: self.local.clone(),
                bytes: None,
            });
        }

        let path = file_destination(&self.local, &self.name)?;
        let bytes = self.download_file(files, &info, &path).await?;
        Ok(DownloadedFile {
            path,
            bytes: Some(bytes),
        })
    }

    async fn download_file(
        &self,
        files: &Files,
        info: &FileInfo,
        to: &Path,
    ) -> anyhow::Result<u64> {
        // The mode of a link or a device says nothing about its content.
        let mode = match info.kind {
            FileKind::File => info.mode,
            _ => 0o644,
        };

        let file = NewFile::create_beside(to, mode)?;
        let bytes = files.download(&self.remote, file.writer()?).await?;
        file.persist()?;
        Ok(bytes)
    }
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
