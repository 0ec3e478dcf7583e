use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// The file of the certificate authorities that programs trust: the image's, and after them those that a refresh
/// has brought.
#[derive(Debug)]
pub(crate) struct Trust {
    bundle: PathBuf,
    /// Bytes of the image's own; none before the first refresh that brings others.
    own: Option<u64>,
}

impl Trust {
    pub(crate) const fn new(bundle: PathBuf) -> Self {
        Self { bundle, own: None }
    }

    /// Has these authorities, in PEM, stand in the place of those that an earlier refresh brought.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn bring(&mut self, authorities: &str) -> io::Result<()> {
        if authorities.is_empty() && self.own.is_none() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.bundle)?;
        let own = match self.own {
            Some(own) => own,
            None => file.metadata()?.len(),
        };
        self.own = Some(own);
        file.set_len(own)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(authorities.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_brought_is_replaced_and_what_was_there_stays() {
        let name = format!("fumehood-trust-{}", std::process::id());
        let bundle = std::env::temp_dir().join(name);
        std::fs::write(&bundle, "own\n").unwrap();
        let mut trust = Trust::new(bundle.clone());
        let mut brought = |authorities| {
            trust.bring(authorities).unwrap();
            std::fs::read_to_string(&bundle).unwrap()
        };
        assert_eq!(brought(""), "own\n");
        assert_eq!(brought("longer\n"), "own\nlonger\n");
        assert_eq!(brought("new\n"), "own\nnew\n");
        assert_eq!(brought(""), "own\n");
        std::fs::remove_file(&bundle).unwrap();
    }
}
