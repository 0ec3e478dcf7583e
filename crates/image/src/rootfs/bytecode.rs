//! Checks that Python will use its precompiled files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::Error;

/// The directories whose compiled files are checked. `python3` loads them at startup.
const LIBRARIES: [&str; 2] = ["usr/lib/python3/", "usr/lib/python3."];
/// The minimum number of compiled files in a complete standard library (measured: about 550).
const MIN_FILES: usize = 200;
/// The flags of a compiled file that is bound to its source by a hash which is not checked at startup.
const UNCHECKED_HASH: u32 = 1;

/// Counts the compiled files of the standard library.
#[derive(Default)]
pub(crate) struct BytecodeCheck {
    count: usize,
}

impl BytecodeCheck {
    /// Checks one file of the tree. Returns an error if CPython would compare it with its source's timestamp.
    pub(crate) fn visit(&mut self, root: &Path, path: &Path) -> Result<(), Error> {
        // Only the standard library matters at startup.
        let relative = path.strip_prefix(root).unwrap_or(path);
        let is_library = relative
            .to_str()
            .is_some_and(|r| LIBRARIES.iter().any(|l| r.starts_with(l)));

        if !is_library || path.extension().is_none_or(|e| e != "pyc") {
            return Ok(());
        }

        // The flags follow the magic number.
        let mut header = [0; 8];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
        read.map_err(Error::io("read", path))?;
        let flags = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if flags != UNCHECKED_HASH {
            return Err(invalid_tree(format!(
                "{} would be recompiled at each start",
                relative.display()
            )));
        }

        self.count += 1;

        Ok(())
    }

    /// Returns an error if the standard library was not compiled.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.count < MIN_FILES {
            return Err(invalid_tree(format!(
                "only {} files of Python's standard library are compiled",
                self.count
            )));
        }

        Ok(())
    }
}

fn invalid_tree(reason: String) -> Error {
    Error::Inconsistent {
        item: "root file system",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_compiled_file_with_a_timestamp() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("usr/lib/python3.13/__pycache__");
        std::fs::create_dir_all(&cache).unwrap();
        let visit = |name: &str, flags: u8| {
            let path = cache.join(name);
            std::fs::write(&path, [0xf3, 13, 13, 10, flags, 0, 0, 0, 1, 2]).unwrap();
            let mut compiled = BytecodeCheck::default();
            compiled.visit(root.path(), &path).map(|()| compiled.count)
        };
        assert_eq!(visit("a.pyc", 1).unwrap(), 1);
        assert!(visit("b.pyc", 0).is_err());
        assert!(visit("c.pyc", 3).is_err());
        assert_eq!(visit("d.py", 0).unwrap(), 0);
        assert!(
            BytecodeCheck {
                count: MIN_FILES - 1
            }
            .finish()
            .is_err()
        );

        assert!(BytecodeCheck { count: MIN_FILES }.finish().is_ok());
    }
}
