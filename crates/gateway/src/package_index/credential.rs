use std::fmt;

use url::Url;

/// What a tool shows to an index. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// To which.
    pub url: Url,
    /// What.
    pub login: Login,
}

/// Who one is for an index. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and a password.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// The user and password as `Authorization: Basic` has them.
    Encoded(String),
    /// A token, as `Authorization: Bearer` has it.
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
