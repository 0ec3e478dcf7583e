use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fumehood_protocol::{GuestPath, Limits};
use serde::{Deserialize, Serialize, Serializer};

use super::skipped::SkippedFiles;
use crate::error::{Error, ErrorKind};

/// Maximum number of uploads, and of downloads, of one run.
const MAX_TRANSFERS: usize = 1024;

/// Default of the content that the downloads of one run may hold in memory together, in bytes.
const DEFAULT_MEMORY_BYTES: u64 = 256 * 1024 * 1024;

/// The error of a download of a run that was cancelled.
pub(crate) const CANCELLED: &str = "the run was cancelled before the download";

/// Content that is copied into the guest before a run starts. See [`RunRequest::upload`](crate::RunRequest::upload).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UploadSource {
    /// A file or directory of this host. A file keeps its permissions; links in a directory are copied as links.
    Path(PathBuf),
    /// The content of one file.
    Bytes(Bytes),
}

impl From<PathBuf> for UploadSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&Path> for UploadSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_path_buf())
    }
}

impl From<Bytes> for UploadSource {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for UploadSource {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Where a download goes. See [`RunRequest::download`](crate::RunRequest::download).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownloadTarget {
    /// A path of this host. A file appears there complete or not at all; if the path is a directory, the file is put
    /// into it under its own name. A directory of the guest is merged into the one at this path.
    Path(PathBuf),
    /// Memory: [`Download::content`]. Only for files, and only up to
    /// [`RunRequest::memory_download_limit`](crate::RunRequest::memory_download_limit) for all downloads of a run
    /// together.
    Memory,
}

impl From<PathBuf> for DownloadTarget {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&Path> for DownloadTarget {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_path_buf())
    }
}

/// The result of one download of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct Download {
    /// The path in the guest, as requested.
    pub remote: String,
    /// The path on this host; none for a download into memory. In JSON, bytes of it that are not UTF-8 are replaced.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_path"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"), schema(value_type = Option<String>))]
    pub local: Option<PathBuf>,
    /// The length of the file in bytes; none for a directory or a failed download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The content, if the download went into memory and succeeded. Not part of the JSON form.
    #[serde(skip)]
    pub content: Option<Bytes>,
    /// Why the download failed; none if it succeeded. A directory of which files could not be copied has failed, but
    /// everything else in it was copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The files of a directory that were not copied, with reasons.
    #[serde(default, skip_serializing_if = "SkippedFiles::is_empty")]
    #[cfg_attr(feature = "schema", schema(required = false))]
    pub skipped: SkippedFiles,
}

impl Download {
    /// The result of a download that failed.
    pub(crate) fn failed(remote: String, target: DownloadTarget, error: String) -> Self {
        Self {
            remote,
            local: match target {
                DownloadTarget::Path(path) => Some(path),
                DownloadTarget::Memory => None,
            },
            error: Some(error),
            ..Self::default()
        }
    }
}

/// Serializes a path. One that is not UTF-8 must not make the whole outcome fail, after the code has run.
#[expect(clippy::ref_option, reason = "serde defines the signature")]
fn serialize_path<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref()
        .map(|path| path.to_string_lossy())
        .serialize(to)
}

/// Files that are copied into a VM before its program starts, and out of it after the program ended.
#[derive(Debug, Clone)]
pub(crate) struct Transfers {
    pub(crate) uploads: Vec<(UploadSource, String)>,
    pub(crate) downloads: Vec<(String, DownloadTarget)>,
    /// Maximum content that the downloads may hold in memory together, in bytes.
    pub(crate) memory_bytes: u64,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            uploads: Vec::new(),
            downloads: Vec::new(),
            memory_bytes: DEFAULT_MEMORY_BYTES,
        }
    }
}

impl Transfers {
    pub(crate) fn is_empty(&self) -> bool {
        self.uploads.is_empty() && self.downloads.is_empty()
    }

    /// Returns the results of the downloads of a run that was cancelled before them.
    pub(crate) fn cancelled_downloads(self) -> Vec<Download> {
        self.downloads
            .into_iter()
            .map(|(remote, target)| Download::failed(remote, target, CANCELLED.to_owned()))
            .collect()
    }

    /// Rejects transfers that cannot succeed, before a VM is started.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with the path, and [`ErrorKind::Host`] if a file of this host cannot be read.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), Error> {
        for (name, count) in [
            ("uploads", self.uploads.len()),
            ("downloads", self.downloads.len()),
        ] {
            if count > MAX_TRANSFERS {
                return Err(invalid(format!(
                    "{count} {name}; at most {MAX_TRANSFERS} are allowed"
                )));
            }
        }

        for (source, guest_path) in &self.uploads {
            match source {
                UploadSource::Path(path) => {
                    std::fs::metadata(path).map_err(|e| {
                        let message = format!("cannot read {} to upload it: {e}", path.display());
                        Error::new(ErrorKind::Host, message).caused_by(e)
                    })?;

                    if upload_path(path, guest_path).is_none() {
                        let shown = path.display();
                        return Err(invalid(format!(
                            "{shown} has no file name; give its path in the guest a name"
                        )));
                    }
                }
                UploadSource::Bytes(_) if guest_path.is_empty() || guest_path.ends_with('/') => {
                    return Err(invalid(format!(
                        "the upload to `{guest_path}` has no file name; add one"
                    )));
                }
                UploadSource::Bytes(bytes) if bytes.len() as u64 > limits.file_bytes => {
                    let (len, max) = (bytes.len(), limits.file_bytes);
                    return Err(invalid(format!(
                        "the upload to {guest_path} has {len} bytes; at most {max} are allowed"
                    )));
                }
                UploadSource::Bytes(_) => {}
            }

            // An empty path stands for the name of the source.
            if !guest_path.is_empty() {
                check_guest_path(guest_path, limits)?;
            }
        }

        for (guest_path, target) in &self.downloads {
            check_guest_path(guest_path, limits)?;
            if let DownloadTarget::Path(path) = target {
                let parent = parent(path);
                if !parent.is_dir() {
                    let shown = parent.display();
                    return Err(invalid(format!(
                        "cannot download to {}: no directory {shown}; create it first",
                        path.display()
                    )));
                }
            }
        }

        Ok(())
    }
}

/// The memory that the downloads of one run may still take, in bytes.
#[derive(Debug)]
pub(crate) struct DownloadMemory {
    limit: u64,
    /// What the next contents may take.
    left: u64,
    /// What may still be read, with contents that turn out to be too large. Without this limit, a guest could have
    /// the whole memory read for each download.
    readable: u64,
}

impl DownloadMemory {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            left: limit,
            // One file that is too large leaves the whole limit to the others.
            readable: limit.saturating_mul(2).saturating_add(1),
        }
    }

    /// Returns how many bytes of a file of this size may be read.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if the file does not fit.
    pub(crate) fn reserve(&self, remote: &str, size: u64) -> Result<u64, Error> {
        let max = self.left.min(self.readable);
        if size > max {
            return Err(self.too_large(remote));
        }

        Ok(max)
    }

    /// Takes a content that has been read. The size of the file was only what the guest said.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] if it does not fit.
    pub(crate) fn take(&mut self, remote: &str, len: u64) -> Result<(), Error> {
        let max = self.left.min(self.readable);
        self.readable = self.readable.saturating_sub(len);
        if len > max {
            return Err(self.too_large(remote));
        }

        self.left -= len;
        Ok(())
    }

    fn too_large(&self, remote: &str) -> Error {
        let limit = self.limit;
        invalid(format!(
            "{remote} does not fit: the downloads of this run may hold {limit} bytes in memory; use a sandbox for large files, \
             or download it to a path"
        ))
    }
}

/// Returns the path that an upload gets in the guest, and its last part; none if the path has no name.
pub(crate) fn upload_path(local: &Path, guest_path: &str) -> Option<(String, String)> {
    // Only the file system knows the name of `.`.
    let name = local
        .file_name()
        .map(std::ffi::OsStr::to_owned)
        .or_else(|| {
            let canonical = local.canonicalize().ok()?;
            canonical.file_name().map(std::ffi::OsStr::to_owned)
        });

    let name = name.map_or(Some(String::new()), |name| name.into_string().ok())?;

    let path = match guest_path {
        "" => name.clone(),
        directory if directory.ends_with('/') && name.is_empty() => return None,
        directory if directory.ends_with('/') => format!("{directory}{name}"),
        path => path.to_owned(),
    };

    (!path.is_empty()).then_some((path, name))
}

/// Returns the directory that a path of this host is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

fn check_guest_path(path: &str, limits: &Limits) -> Result<(), Error> {
    GuestPath::new(path)
        .check(limits)
        .map_err(|error| invalid(error.message))
}

fn invalid(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        uploads: Vec<(UploadSource, &str)>,
        downloads: Vec<(&str, DownloadTarget)>,
    ) -> Result<(), Error> {
        let transfers = Transfers {
            uploads: uploads
                .into_iter()
                .map(|(source, path)| (source, path.to_owned()))
                .collect(),
            downloads: downloads
                .into_iter()
                .map(|(path, target)| (path.to_owned(), target))
                .collect(),
            ..Transfers::default()
        };

        transfers.check(&Limits::default())
    }

    #[test]
    fn an_upload_gets_a_name() {
        let path =
            |local: &str, guest: &str| upload_path(Path::new(local), guest).map(|(path, _)| path);
        assert_eq!(path("a/b", "").as_deref(), Some("b"));
        assert_eq!(path("a/b", "c").as_deref(), Some("c"));
        assert_eq!(path("a/b", "/tmp/").as_deref(), Some("/tmp/b"));
        assert_eq!(path("/", "root").as_deref(), Some("root"));
        assert_eq!(path("/", "/tmp/"), None);
        assert_eq!(path("/", ""), None);
    }

    #[test]
    fn transfers_that_cannot_succeed_are_rejected_before_a_vm_starts() {
        let bytes = || UploadSource::Bytes(Bytes::from_static(b"x"));
        assert!(
            check(
                vec![(bytes(), "a"), (Path::new("/dev/null").into(), "")],
                vec![("a", DownloadTarget::Memory)]
            )
            .is_ok()
        );

        let missing =
            check(vec![(Path::new("/no/such/file").into(), "a")], Vec::new()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Host);
        assert!(missing.to_string().contains("/no/such/file"), "{missing}");

        for name in ["", "directory/", "a\0b"] {
            let error = check(vec![(bytes(), name)], Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        }

        let target = DownloadTarget::Path("/no/such/directory/file".into());
        let error = check(Vec::new(), vec![("a", target)]).unwrap_err();
        assert!(error.to_string().contains("/no/such/directory"), "{error}");
        assert!(check(Vec::new(), vec![("", DownloadTarget::Memory)]).is_err());
    }

    #[test]
    fn the_number_of_transfers_is_bounded() {
        let downloads = |count| vec![("a", DownloadTarget::Memory); count];
        assert!(check(Vec::new(), downloads(MAX_TRANSFERS)).is_ok());
        let error = check(Vec::new(), downloads(MAX_TRANSFERS + 1)).unwrap_err();
        assert!(error.to_string().contains("1025"), "{error}");
    }

    #[test]
    fn content_is_not_part_of_the_json_form() {
        let download = Download {
            remote: "a".into(),
            bytes: Some(1),
            content: Some(Bytes::from_static(b"x")),
            ..Download::default()
        };

        let expected = serde_json::json!({ "remote": "a", "bytes": 1 });
        assert_eq!(serde_json::to_value(download).unwrap(), expected);
    }

    #[test]
    fn a_path_that_is_not_utf_8_has_a_json_form() {
        use std::os::unix::ffi::OsStringExt;

        let path = std::ffi::OsString::from_vec(b"a\xff".to_vec());
        let download = Download {
            remote: "a".into(),
            local: Some(path.into()),
            ..Download::default()
        };

        let expected = serde_json::json!({ "remote": "a", "local": "a\u{fffd}" });
        assert_eq!(serde_json::to_value(download).unwrap(), expected);
    }

    #[test]
    fn downloads_share_the_memory_up_to_its_limit() {
        let mut memory = DownloadMemory::new(10);
        assert_eq!(memory.reserve("a", 10).unwrap(), 10);
        assert!(memory.reserve("a", 11).is_err());

        memory.take("a", 4).unwrap();
        assert_eq!(memory.reserve("b", 6).unwrap(), 6);
        let error = memory.reserve("b", 7).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("10 bytes"), "{error}");

        memory.take("b", 6).unwrap();
        assert_eq!(memory.reserve("empty", 0).unwrap(), 0);
        assert!(memory.reserve("c", 1).is_err());
    }

    #[test]
    fn a_guest_that_understates_sizes_is_not_read_again_and_again() {
        let mut memory = DownloadMemory::new(10);
        let mut read = 0;
        for _ in 0..100 {
            let Ok(max) = memory.reserve("a", 0) else {
                continue;
            };

            // One byte more than allowed shows that a file is too large.
            read += max + 1;
            let fits = memory.take("a", max + 1);
            assert!(fits.is_err());
        }

        assert!(read <= 2 * 10 + 100, "{read}");

        // A small file still fits after one that was too large.
        let mut memory = DownloadMemory::new(10);
        assert!(memory.take("a", 11).is_err());
        memory.take("b", 10).unwrap();
    }

    #[test]
    fn downloads_of_a_cancelled_run_are_reported_with_an_error() {
        let local = PathBuf::from("b");
        let transfers = Transfers {
            downloads: vec![
                ("a".to_owned(), DownloadTarget::Memory),
                ("b".to_owned(), DownloadTarget::Path(local.clone())),
            ],
            ..Transfers::default()
        };

        let downloads = transfers.cancelled_downloads();
        assert_eq!(downloads.len(), 2);
        assert_eq!(downloads[0].remote, "a");
        assert_eq!(downloads[1].local, Some(local));
        for download in downloads {
            assert_eq!(download.error.as_deref(), Some(CANCELLED));
            assert_eq!(download.bytes, None);
        }
    }
}
