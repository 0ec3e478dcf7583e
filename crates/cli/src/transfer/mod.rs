//! Files between this machine and a guest, as words ask for them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fumehood_engine::{FileInfo, FileKind, Files, WriteOptions};

mod local_files;

/// Something here that is to be copied into a guest.
#[derive(Debug)]
pub(crate) struct Upload {
    local: PathBuf,
    /// What it becomes there.
    remote: String,
    /// Where it goes if that is a directory already.
    name: String,
    is_dir: bool,
}

impl Upload {
    /// What `LOCAL[:REMOTE]` asks for. Looks at what is here.
    pub(crate) fn parse(word: &OsStr) -> anyhow::Result<Self> {
        let (local, remote) = halves(word);
        let local = PathBuf::from(local);
        let shown = local.display();
        let found = std::fs::metadata(&local)
            .with_context(|| format!("--upload {}: {shown} cannot be read", word.display()))?;
        let remote = match remote {
            None => String::new(),
            Some(remote) => text(remote)?,
        };
        // The name of `.` is known to the file system alone.
        let named = local.file_name().map(OsStr::to_owned).or_else(|| {
            let whole = local.canonicalize().ok()?;
            whole.file_name().map(OsStr::to_owned)
        });
        let name = match named {
            Some(name) => text(&name)?,
            None if remote.is_empty() || remote.ends_with('/') => {
                bail!("--upload {shown}: it has no name; give it one: {shown}:NAME")
            }
            None => String::new(),
        };
        let remote = match remote {
            none if none.is_empty() => name.clone(),
            dir if dir.ends_with('/') => format!("{dir}{name}"),
            remote => remote,
        };
        Ok(Self {
            local,
            remote,
            name,
            is_dir: found.is_dir(),
        })
    }

    /// Copies it.
    pub(crate) async fn go(&self, files: &Files) -> anyhow::Result<()> {
        let shown = self.local.display();
        let copied = match self.is_dir {
            true => files
                .upload_dir(&self.local, &self.remote)
                .await
                .map_err(Into::into),
            false => self.file(files).await,
        };
        copied.with_context(|| format!("--upload {shown}"))
    }

    async fn file(&self, files: &Files) -> anyhow::Result<()> {
        let from = tokio::fs::File::open(&self.local).await?;
        let found = from.metadata().await?;
        // A pipe knows neither.
        let is_file = found.is_file();
        let options = WriteOptions {
            mode: is_file.then(|| found.permissions().mode() & 0o777),
            parents: true,
            size: is_file.then_some(found.len()),
        };
        let remote = match is_dir(files, &self.remote).await {
            true => format!("{}/{}", self.remote, self.name),
            false => self.remote.clone(),
        };
        files.upload(&remote, from, options).await?;
        Ok(())
    }
}

/// Something of a guest that is to be copied here.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) remote: String,
    /// What it becomes here.
    pub(crate) local: PathBuf,
    /// Where it goes if that is a directory already.
    name: OsString,
}

/// What came of a download: where it is, and how many bytes it has, where it is a file; or why nothing came.
pub(crate) type Downloaded = Result<(PathBuf, Option<u64>), String>;

impl Download {
    /// What `REMOTE[:LOCAL]` asks for. Looks whether there is a place for it.
    pub(crate) fn parse(word: &OsStr) -> anyhow::Result<Self> {
        let shown = word.display();
        let (remote, local) = halves(word);
        let remote = text(remote)?;
        let Some(name) = Path::new(&remote).file_name().map(OsStr::to_owned) else {
            bail!("--download {shown}: it has no name; say what to copy: DIR/NAME");
        };
        let local = match local {
            None => PathBuf::from(&name),
            Some(local) if is_place(local) => Path::new(local).join(&name),
            Some(local) => PathBuf::from(local),
        };
        local_files::has_place(&local).with_context(|| format!("--download {shown}"))?;
        Ok(Self {
            remote,
            local,
            name,
        })
    }

    /// Copies it. Returns where it is, and how many bytes it has, where it is a file.
    pub(crate) async fn go(&self, files: &Files) -> anyhow::Result<(PathBuf, Option<u64>)> {
        let found = files.stat(&self.remote).await?;
        let is_dir = match found.kind {
            FileKind::Directory => true,
            FileKind::Link => is_dir(files, &self.remote).await,
            _ => false,
        };
        if is_dir {
            local_files::no_link(&self.local)?;
            files.download_dir(&self.remote, &self.local).await?;
            return Ok((self.local.clone(), None));
        }
        let to = local_files::file_at(&self.local, &self.name)?;
        let bytes = self.file(files, &found, &to).await?;
        Ok((to, Some(bytes)))
    }

    async fn file(&self, files: &Files, found: &FileInfo, to: &Path) -> anyhow::Result<u64> {
        let mode = match found.kind {
            FileKind::File => found.mode,
            _ => 0o644,
        };
        let new = local_files::NewFile::beside(to, mode)?;
        let bytes = files.download(&self.remote, new.writer()?).await?;
        new.put()?;
        Ok(bytes)
    }
}

/// What stands before and after the last colon; nothing, where nothing follows it.
fn halves(word: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = word.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b':') {
        None => (word, None),
        Some(at) => {
            let (first, second) = (&bytes[..at], &bytes[at + 1..]);
            let second = Some(OsStr::from_bytes(second)).filter(|second| !second.is_empty());
            (OsStr::from_bytes(first), second)
        }
    }
}

fn text(path: &OsStr) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!(
            "{} is no UTF-8 text, as names in the VM are",
            path.display()
        ),
    }
}

/// Whether a path names a directory to put things into, whatever is there.
fn is_place(path: &OsStr) -> bool {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').next();
    matches!(last, Some(b"" | b"." | b".."))
}

/// Whether there is a directory at this path of the guest, or at the end of its links.
async fn is_dir(files: &Files, path: &str) -> bool {
    let found = files.stat(&format!("{path}/.")).await;
    found.is_ok_and(|found| found.kind == FileKind::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn download(word: &str) -> (String, PathBuf) {
        let download = Download::parse(OsStr::new(word)).unwrap();
        (download.remote, download.local)
    }

    #[test]
    fn a_downloads_words() {
        assert_eq!(download("a"), ("a".into(), "a".into()));
        assert_eq!(download("/x/a/"), ("/x/a/".into(), "a".into()));
        assert_eq!(download("a:/tmp/b"), ("a".into(), "/tmp/b".into()));
        assert_eq!(download("a:/tmp/"), ("a".into(), "/tmp/a".into()));
        assert_eq!(download("a:."), ("a".into(), "./a".into()));
        assert_eq!(download("a:b:"), ("a:b".into(), "a:b".into()));
        for none in ["", "/", "..", ".", ":b"] {
            assert!(Download::parse(OsStr::new(none)).is_err(), "{none}");
        }
        let error = Download::parse(OsStr::new("a:/no/such/place")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such"), "{error:#}");
    }

    #[test]
    fn an_uploads_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a:b");
        std::fs::write(&file, "").unwrap();
        let shown = file.to_str().unwrap();
        let remote = |word: String| Upload::parse(OsStr::new(&word)).unwrap().remote;
        assert_eq!(remote(format!("{shown}:")), "a:b");
        assert_eq!(remote(format!("{shown}:c")), "c");
        assert_eq!(remote(format!("{shown}:/tmp/c/")), "/tmp/c/a:b");
        assert_eq!(remote("src/..".into()), remote(".".into()));
        assert_eq!(remote("/:root".into()), "root");
        for none in ["/", "", "no such file", ":x"] {
            assert!(Upload::parse(OsStr::new(none)).is_err(), "{none}");
        }
    }
}
