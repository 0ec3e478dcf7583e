//! Placeholders become values in the headers of a request, or the request is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::secrets::{Secret, Secrets};
use crate::refusal::Refusal;

/// Bytes of one header with all values in it; a guest may name a placeholder many times.
pub(crate) const HEADER_BYTES: usize = 64 * 1024;

impl Secrets {
    /// Puts the values into a request's headers, if it goes to their `host` in TLS (`sealed`).
    ///
    /// # Errors
    /// A placeholder goes where it is not for, or a header grows past [`HEADER_BYTES`].
    pub(crate) fn place(
        &self,
        host: &str,
        sealed: bool,
        path: &str,
        headers: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        for secret in &self.secrets {
            if !secret.is_for(host) {
                secret.absent(host, path, headers)?;
            } else if sealed {
                secret.place(headers)?;
            }
        }
        Ok(())
    }
}

impl Secret {
    /// Refuses a request to a host of no concern that bears the placeholder in its head.
    fn absent(&self, host: &str, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let placeholder = &self.placeholder;
        let borne = |(name, value): (&HeaderName, &HeaderValue)| {
            holds(value.as_bytes(), placeholder)
                || basic(name, value).is_some_and(|plain| holds(&plain, placeholder))
        };
        if !path.contains(placeholder) && !headers.iter().any(borne) {
            return Ok(());
        }
        let (name, hosts) = (&self.name, self.hosts.join(", "));
        Err(Refusal::new(
            "secret_elsewhere",
            format!(
                "The request to {host} bears the placeholder of the secret {name:?}, which is for {hosts} only. \
                 Nothing was sent. To allow it, add {host} to the hosts of the secret {name:?}."
            ),
        ))
    }

    fn place(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        for (name, value) in headers.iter_mut() {
            if !self.headers.contains(name) {
                continue;
            }
            let placed = match basic(name, value) {
                Some(plain) if holds(&plain, &self.placeholder) => {
                    let plain = self.replaced(&plain)?;
                    let encoded = Zeroizing::new(STANDARD.encode(plain.as_slice()));
                    Zeroizing::new(format!("Basic {}", encoded.as_str()).into_bytes())
                }
                _ if holds(value.as_bytes(), &self.placeholder) => {
                    self.replaced(value.as_bytes())?
                }
                _ => continue,
            };
            *value = HeaderValue::from_bytes(&placed).map_err(|_| self.too_long())?;
            value.set_sensitive(true);
        }
        Ok(())
    }

    /// `text` with the value for each placeholder.
    fn replaced(&self, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let (placeholder, value) = (self.placeholder.as_bytes(), self.value.expose());
        let times = text
            .windows(placeholder.len())
            .filter(|window| *window == placeholder)
            .count();
        // Reserved at once: what grows leaves copies behind that nobody wipes.
        let length = text.len() + times * value.len();
        if length > HEADER_BYTES {
            return Err(self.too_long());
        }
        let mut replaced = Zeroizing::new(Vec::with_capacity(length));
        let mut rest = text;
        while let Some(&first) = rest.first() {
            if let Some(after) = rest.strip_prefix(placeholder) {
                replaced.extend_from_slice(value.as_bytes());
                rest = after;
            } else {
                replaced.push(first);
                rest = &rest[1..];
            }
        }
        Ok(replaced)
    }

    fn too_long(&self) -> Refusal {
        Refusal::new(
            "secret_too_long",
            format!(
                "With the secret {:?} in it, a header of the request would pass {} KiB. Name its placeholder once.",
                self.name,
                HEADER_BYTES / 1024
            ),
        )
    }
}

/// What `Authorization: Basic` says, decoded.
fn basic(name: &HeaderName, value: &HeaderValue) -> Option<Zeroizing<Vec<u8>>> {
    if name != AUTHORIZATION {
        return None;
    }
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let encoded = encoded.trim().trim_end_matches('=');
    // Padding is put right, since not all clients write it.
    let padded = format!("{encoded}{}", &"==="[..(4 - encoded.len() % 4) % 4]);
    let basic = scheme.eq_ignore_ascii_case("basic");
    basic.then(|| STANDARD.decode(padded).ok().map(Zeroizing::new))?
}

fn holds(text: &[u8], placeholder: &str) -> bool {
    text.windows(placeholder.len())
        .any(|window| window == placeholder.as_bytes())
}
