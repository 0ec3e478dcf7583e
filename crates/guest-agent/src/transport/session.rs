use crate::settings::Settings;

/// What one connection has agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// The client may send requests other than `hello`.
    pub(crate) authorised: bool,
    /// How output is sent.
    pub(crate) encoding: Encoding,
}

impl Session {
    /// Returns the session of a connection that has not sent anything yet.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            authorised: settings.token.is_none(),
            encoding: Encoding::Text,
        }
    }
}

/// How a piece of output is encoded on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Version 0: text; invalid UTF-8 becomes U+FFFD.
    Text,
    /// Version 1: text, or base64 if it is not valid UTF-8.
    Exact,
    /// Version 1 with raw frames.
    Raw,
}
