use std::num::NonZeroU16;

use url::Url;

use super::credential::{Credential, Login};
use super::error::IndexError;
use crate::value::Host;

/// What was found of a language's indexes.
#[derive(Default)]
pub(super) struct IndexSettings {
    /// The indexes, the main one first.
    pub(super) urls: Vec<Url>,
    /// Where else their files are.
    pub(super) file_hosts: Vec<Url>,
    pub(super) credentials: Vec<Credential>,
}

impl IndexSettings {
    /// Takes an index as a tool has it, and its credentials apart.
    ///
    /// # Errors
    /// It is no URL of the web. The URL is not repeated.
    pub(super) fn add(&mut self, text: &str, setting: &str, place: &str) -> Result<(), IndexError> {
        let error = || IndexError::Url {
            setting: setting.into(),
            place: place.into(),
        };
        let mut url: Url = text.trim().parse().map_err(|_| error())?;
        let is_web = matches!(url.scheme(), "http" | "https");
        if !is_web || host_and_port(&url).is_none() {
            return Err(error());
        }
        let (user, password) = (
            decoded(url.username()),
            decoded(url.password().unwrap_or_default()),
        );
        // Neither fails for a URL that has a host.
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

fn decoded(text: &str) -> String {
    // `a=%40` and the like: the same decoding as for a form's value, without its meaning for +.
    let text = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = url::form_urlencoded::parse(text.as_bytes());
    pairs
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

/// None only where a URL has no host, of which there is none here.
pub(crate) fn host_and_port(url: &Url) -> Option<(Host, NonZeroU16)> {
    let port = url.port_or_known_default().and_then(NonZeroU16::new)?;
    Some((url.host_str()?.parse().ok()?, port))
}
