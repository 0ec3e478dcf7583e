//! Credentials of indexes, which `Debug` does not show.

use std::fmt;

use url::Url;

/// The credentials for an index. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The index.
    pub url: Url,
    /// The credentials.
    pub login: Login,
}

/// A way to authenticate to an index. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and a password.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// A user and password in the encoding of `Authorization: Basic`.
    Encoded(String),
    /// A token for `Authorization: Bearer`.
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, {:?})", self.url, self.login)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}
