//! SHA-256 of files, bytes and lists of fields.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Error;

/// The read size for hashing a file, large enough that the cost of the calls is negligible.
const CHUNK: usize = 256 * 1024;

/// Returns the hash of some bytes in hexadecimal.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns the hash of the file at `path`.
pub(crate) fn of_path(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    of_file(&mut file, path)
}

/// Returns the hash of an open file from its current position. `path` is used only in messages.
pub(crate) fn of_file(file: &mut (impl Read + ?Sized), path: &Path) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];

    loop {
        match file.read(&mut chunk).map_err(Error::io("read", path))? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// A hash over named fields. Each name and value is preceded by its length, so that different lists of fields
/// never give the same bytes.
#[derive(Default)]
pub(crate) struct Fields(Sha256);

impl Fields {
    pub(crate) fn add(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_sha256sum_does() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of_bytes(b""), empty);
        assert_eq!(of_file(&mut &b""[..], Path::new("x")).unwrap(), empty);
    }

    #[test]
    fn fields_are_separated() {
        let ab_c = Fields::default().add("ab", "c").finish();
        let a_bc = Fields::default().add("a", "bc").finish();
        assert_ne!(ab_c, a_bc);
    }
}
