//! The certificate authorities that programs trust.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// The file with the certificate authorities that programs trust: those of the image, followed by those that a refresh has
/// added.
#[derive(Debug)]
pub(crate) struct CaBundle {
    path: PathBuf,
    /// Size of the image's part, in bytes. `None` before the first refresh that adds any.
    image_bytes: Option<u64>,
}

impl CaBundle {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            image_bytes: None,
        }
    }

    /// Replaces the authorities that an earlier refresh has added. They are in PEM.
    ///
    /// # Errors
    /// Returns the error of reading or writing the file.
    pub(crate) fn set_added(&mut self, authorities: &str) -> io::Result<()> {
        if authorities.is_empty() && self.image_bytes.is_none() {
            return Ok(());
        }

        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;

        let image_bytes = match self.image_bytes {
            Some(image_bytes) => image_bytes,
            None => file.metadata()?.len(),
        };

        self.image_bytes = Some(image_bytes);
        file.set_len(image_bytes)?;
        file.seek(SeekFrom::End(0))?;

        file.write_all(authorities.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_authorities_are_replaced_and_the_images_stay() {
        let name = format!("fumehood-trust-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "own\n").unwrap();
        let mut trust = CaBundle::new(path.clone());
        let mut brought = |authorities| {
            trust.set_added(authorities).unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(brought(""), "own\n");
        assert_eq!(brought("longer\n"), "own\nlonger\n");
        assert_eq!(brought("new\n"), "own\nnew\n");
        assert_eq!(brought(""), "own\n");
        std::fs::remove_file(&path).unwrap();
    }
}
