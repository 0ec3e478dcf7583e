//! Names of images.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The maximum length in bytes. The name becomes part of a file name, which may have 255 bytes.
const MAX_BYTES: usize = 64;
/// The number of hexadecimal digits of an image's id in its directory's name.
pub(crate) const ID_DIGITS: usize = 16;

/// A valid image name. The default is `default`.
///
/// ```
/// use fumehood_image::ImageName;
/// assert_eq!("lab-2".parse::<ImageName>().unwrap().to_string(), "lab-2");
/// assert!("../lab".parse::<ImageName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ImageName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        let all = text.bytes().all(|b| plain(b) || b"._-".contains(&b));

        if first && all && text.len() <= MAX_BYTES && !ends_like_a_directory(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::InvalidName(text.to_owned()))
        }
    }
}

/// Returns whether a name such as `x-0123456789abcdef` could be mistaken for the directory of image `x`.
fn ends_like_a_directory(text: &str) -> bool {
    text.rsplit_once('-')
        .is_some_and(|(_, id)| id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_up_to_the_limit() {
        assert!("a".repeat(64).parse::<ImageName>().is_ok());
        assert!("a".repeat(65).parse::<ImageName>().is_err());
    }

    #[test]
    fn rejects_names_that_leave_the_store_or_look_like_a_directory() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "A",
            "a b",
            "default-0123456789abcdef",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }

        assert!("default-2".parse::<ImageName>().is_ok());
    }
}
