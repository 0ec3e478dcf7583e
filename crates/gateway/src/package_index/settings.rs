//! The settings of the tools of an ecosystem.

use std::num::NonZeroU16;

use url::Url;

use super::credential::{Credential, Login};
use super::error::IndexError;
use crate::value::Host;

/// The index settings of an ecosystem's tools.
#[derive(Default)]
pub(super) struct IndexSettings {
    /// The indexes, the main one first.
    pub(super) urls: Vec<Url>,
    /// Other hosts that keep the files of an index.
    pub(super) file_hosts: Vec<Url>,
    pub(super) credentials: Vec<Credential>,
}

impl IndexSettings {
    /// Adds an index from a tool's setting, and separates its credentials.
    ///
    /// # Errors
    /// Fails if the text is not an http or https URL. The error does not repeat it.
    pub(super) fn add(
        &mut self,
        text: &str,
        setting: &str,
        location: &str,
    ) -> Result<(), IndexError> {
        let error = || IndexError::Url {
            setting: setting.into(),
            location: location.into(),
        };

        let mut url: Url = text.trim().parse().map_err(|_| error())?;
        let is_web = matches!(url.scheme(), "http" | "https");
        if !is_web || host_and_port(&url).is_none() {
            return Err(error());
        }

        let (user, password) = (
            percent_decode(url.username()),
            percent_decode(url.password().unwrap_or_default()),
        );

        // These cannot fail for a URL that has a host.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_query(None);
        url.set_fragment(None);

        if !user.is_empty() || !password.is_empty() {
            let login = Login::Basic { user, password };
            self.credentials.push(Credential {
                url: url.clone(),
                login,
            });
        }

        if !self.urls.contains(&url) {
            self.urls.push(url);
        }

        Ok(())
    }
}

fn percent_decode(text: &str) -> String {
    // The decoding of a form's value, except for the meaning of `+`.
    let text = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = url::form_urlencoded::parse(text.as_bytes());
    pairs
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

/// Returns the host and port of a URL; `None` if it has no host.
pub(crate) fn host_and_port(url: &Url) -> Option<(Host, NonZeroU16)> {
    let port = url.port_or_known_default().and_then(NonZeroU16::new)?;
    Some((url.host_str()?.parse().ok()?, port))
}
