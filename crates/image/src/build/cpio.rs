//! Writes the "newc" cpio archive that the kernel unpacks as its first root file system.

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction. All entries belong to root and have the time zero, so that equal contents
/// give equal bytes.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// The header fields of an entry, apart from its name.
struct Entry<'a> {
    mode: u32,
    links: u32,
    device: (u32, u32),
    contents: &'a [u8],
}

impl Archive {
    /// Adds a directory. Its parent must have been added before.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        let mode = MODE_DIRECTORY | mode;
        self.add_entry(
            path,
            &Entry {
                mode,
                links: 2,
                device: (0, 0),
                contents: &[],
            },
        );
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let mode = MODE_FILE | mode;
        self.add_entry(
            path,
            &Entry {
                mode,
                links: 1,
                device: (0, 0),
                contents,
            },
        );
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, mode: u32, device: (u32, u32)) {
        let mode = MODE_CHARACTER_DEVICE | mode;
        self.add_entry(
            path,
            &Entry {
                mode,
                links: 1,
                device,
                contents: &[],
            },
        );
    }

    /// Appends the trailer and returns the whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.write_entry(
            TRAILER,
            &Entry {
                mode: 0,
                links: 1,
                device: (0, 0),
                contents: &[],
            },
            0,
        );

        self.bytes
    }

    fn add_entry(&mut self, path: &str, entry: &Entry<'_>) {
        self.entries += 1;
        self.write_entry(path, entry, self.entries);
    }

    fn write_entry(&mut self, path: &str, entry: &Entry<'_>, inode: u32) {
        let size = u32::try_from(entry.contents.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let (major, minor) = entry.device;

        // The fields: inode, mode, owner, group, links, time, size, device of the file system (two), device
        // of the node (two), length of the name with its terminating zero, checksum (unused).
        let fields = [
            inode,
            entry.mode,
            0,
            0,
            entry.links,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ];

        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }

        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn example() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"hello");
        archive.finish()
    }

    #[test]
    fn entries_follow_the_format() {
        let bytes = example();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..114], b"dev\0");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(5).any(|w| w == b"hello"));
    }

    #[test]
    fn cpio_lists_the_archive() {
        let started = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();

        let Ok(mut child) = started else {
            return; // cpio is not installed here
        };
        child.stdin.take().unwrap().write_all(&example()).unwrap();
        let output = child.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(
            listing.contains("drwxr-xr-x") && listing.contains("5,   1"),
            "{listing}"
        );

        assert!(
            listing
                .lines()
                .any(|l| l.starts_with("-rwxr-xr-x") && l.ends_with(" init"))
        );
    }
}
