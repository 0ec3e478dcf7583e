//! Pictures that code displays: written to files, and shown in terminals that can.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::MimeBundle;

/// Maximum number of pictures that a session writes.
const MAX_PICTURES: u32 = 1000;
/// Maximum size of all pictures of a session, in bytes.
const MAX_TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// Maximum size of a picture that is sent to a terminal, in bytes.
const MAX_SHOWN_BYTES: usize = 8 * 1024 * 1024;
/// Maximum width and height of a picture that is sent to a terminal, in pixels.
const MAX_SHOWN_PIXELS: u32 = 8192;
/// Bytes of base64 in one message to a kitty terminal.
const KITTY_CHUNK_BYTES: usize = 4096;

/// The types that are written to files, with the endings of their names. The first that a value has is written.
const TYPES: [(&str, &str); 6] = [
    ("image/png", "png"),
    ("image/svg+xml", "svg"),
    ("image/jpeg", "jpg"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("application/pdf", "pdf"),
];

/// How a terminal shows pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageProtocol {
    Kitty,
    Iterm,
}

impl ImageProtocol {
    /// Returns the protocol of this terminal according to its variables.
    pub(super) fn detect(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let term = variable("TERM").unwrap_or_default();
        let program = variable("TERM_PROGRAM").unwrap_or_default();

        // A multiplexer does not pass pictures on.
        if variable("TMUX").is_some() || term.starts_with("screen") || term.starts_with("tmux") {
            return None;
        }
        if term == "xterm-kitty" || term == "xterm-ghostty" || program == "ghostty" {
            return Some(Self::Kitty);
        }
        let is_iterm = program == "iTerm.app" || program == "WezTerm";
        is_iterm.then_some(Self::Iterm)
    }

    /// Returns the bytes that show a PNG file.
    fn message(self, png: &[u8]) -> Vec<u8> {
        let base64 = STANDARD.encode(png);
        match self {
            Self::Iterm => {
                let size = png.len();
                format!("\x1b]1337;File=inline=1;size={size}:{base64}\x07\n").into_bytes()
            }
            Self::Kitty => {
                let mut message = Vec::new();
                let chunks = base64.as_bytes().chunks(KITTY_CHUNK_BYTES);
                let last = chunks.len().saturating_sub(1);
                for (index, chunk) in chunks.enumerate() {
                    let start = if index == 0 { "a=T,f=100,q=2," } else { "" };
                    let more = u8::from(index < last);
                    message.extend_from_slice(format!("\x1b_G{start}m={more};").as_bytes());
                    message.extend_from_slice(chunk);
                    message.extend_from_slice(b"\x1b\\");
                }
                message.push(b'\n');
                message
            }
        }
    }
}

/// Writes the pictures of a session.
#[derive(Debug)]
pub(super) struct Plots {
    protocol: Option<ImageProtocol>,
    /// Created for the first picture.
    directory: Option<PathBuf>,
    count: u32,
    total: usize,
}

impl Plots {
    pub(super) fn new(protocol: Option<ImageProtocol>) -> Self {
        Self {
            protocol,
            directory: None,
            count: 0,
            total: 0,
        }
    }

    /// Writes the picture of a value to a file. Returns what is printed for it; none if the value has no picture.
    ///
    /// # Errors
    /// The file cannot be written, or the session has too many pictures.
    pub(super) fn add(&mut self, value: &MimeBundle) -> anyhow::Result<Option<Vec<u8>>> {
        let Some((bytes, ending)) = picture(value) else {
            return Ok(None);
        };
        if self.count >= MAX_PICTURES || self.total + bytes.len() > MAX_TOTAL_BYTES {
            anyhow::bail!(
                "no more pictures are written: a session may have {MAX_PICTURES}, of {MAX_TOTAL_BYTES} bytes together"
            );
        }

        let path = self.write(&bytes, ending)?;
        let mut printed = Vec::new();
        match self.protocol {
            Some(protocol) if can_be_shown(&bytes) => printed = protocol.message(&bytes),
            _ => {}
        }
        printed.extend_from_slice(format!("[picture: {}]\n", path.display()).as_bytes());
        Ok(Some(printed))
    }

    fn write(&mut self, bytes: &[u8], ending: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory()?.to_owned();
        let path = directory.join(format!("{}.{ending}", self.count + 1));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.and_then(|mut file| file.write_all(bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;

        self.count += 1;
        self.total += bytes.len();
        Ok(path)
    }

    /// Returns the directory of the session, which only this user can read. It stays after the session.
    fn directory(&mut self) -> anyhow::Result<&Path> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => tempfile::Builder::new()
                .prefix("fumehood-pictures-")
                .permissions(Permissions::from_mode(0o700))
                .tempdir()
                .context("cannot create a directory for pictures")?
                .keep(),
        };
        Ok(self.directory.insert(directory))
    }
}

/// Returns the picture of a value, with the ending of its file.
fn picture(value: &MimeBundle) -> Option<(Vec<u8>, &'static str)> {
    TYPES.into_iter().find_map(|(mime, ending)| {
        let data = value.get(mime)?;
        let data = data.as_str()?;
        let bytes = match ending {
            "svg" => data.as_bytes().to_vec(),
            _ => {
                let base64: Vec<_> = data.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
                STANDARD.decode(base64).ok()?
            }
        };
        Some((bytes, ending))
    })
}

/// Returns whether a file is a PNG file of a size that a terminal accepts.
fn can_be_shown(file: &[u8]) -> bool {
    let Some(header) = file.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR") else {
        return false;
    };
    let [a, b, c, d, e, f, g, h, ..] = *header else {
        return false;
    };

    let sizes = [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ];
    file.len() <= MAX_SHOWN_BYTES
        && sizes
            .iter()
            .all(|size| (1..=MAX_SHOWN_PIXELS).contains(size))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn png(width: u32) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        file.extend_from_slice(&width.to_be_bytes());
        file.extend_from_slice(&1u32.to_be_bytes());
        file
    }

    fn bundle(value: &serde_json::Value) -> MimeBundle {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn pictures_are_written_to_private_files() {
        use std::os::unix::fs::PermissionsExt;

        let mut plots = Plots::new(None);
        let text = bundle(&json!({ "text/plain": "1" }));
        assert_eq!(plots.add(&text).unwrap(), None);
        assert_eq!(plots.directory, None);

        let file = png(3);
        let value =
            bundle(&json!({ "image/png": STANDARD.encode(&file), "text/plain": "<Figure>" }));
        let printed = String::from_utf8(plots.add(&value).unwrap().unwrap()).unwrap();
        let directory = plots.directory.clone().unwrap();
        let path = directory.join("1.png");
        assert_eq!(printed, format!("[picture: {}]\n", path.display()));
        assert_eq!(std::fs::read(&path).unwrap(), file);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&directory)), (0o600, 0o700));

        let svg = bundle(&json!({ "image/svg+xml": "<svg/>" }));
        plots.add(&svg).unwrap();
        assert_eq!(std::fs::read(directory.join("2.svg")).unwrap(), b"<svg/>");

        plots.count = MAX_PICTURES;
        assert!(plots.add(&svg).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn terminals_that_show_pictures_are_detected() {
        let detect = |variables: &[(&str, &str)]| {
            ImageProtocol::detect(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };

        assert_eq!(detect(&[("TERM", "xterm-256color")]), None);
        let kitty = ("TERM", "xterm-kitty");
        assert_eq!(detect(&[kitty]), Some(ImageProtocol::Kitty));
        assert_eq!(detect(&[kitty, ("TMUX", "/tmp/tmux")]), None);
        let iterm = [("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")];
        assert_eq!(detect(&iterm), Some(ImageProtocol::Iterm));
    }

    #[test]
    fn only_pictures_of_a_bounded_size_go_to_the_terminal() {
        assert!(can_be_shown(&png(MAX_SHOWN_PIXELS)));
        assert!(!can_be_shown(&png(MAX_SHOWN_PIXELS + 1)));
        assert!(!can_be_shown(&png(0)));
        assert!(!can_be_shown(b"\x1b[2J"));
        assert!(!can_be_shown(&png(1)[..20]));
    }

    #[test]
    fn messages_contain_only_base64_of_the_guest() {
        let file = [0x1b; 10_000];
        let kitty = String::from_utf8(ImageProtocol::Kitty.message(&file)).unwrap();
        assert!(kitty.starts_with("\x1b_Ga=T,f=100,q=2,m=1;Gxsb"), "{kitty}");
        assert_eq!(kitty.matches("\x1b_G").count(), 4);
        assert!(kitty.contains("\x1b_Gm=0;"));

        let iterm = String::from_utf8(ImageProtocol::Iterm.message(&file)).unwrap();
        assert_eq!(iterm.matches('\x1b').count(), 1);
    }
}
