//! Replaces placeholders in a request's headers by their values, or refuses the request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::secrets::{Secret, Secrets};
use super::value::{MAX_VALUE_BYTES, SecretText};
use crate::refusal::Refusal;

/// Maximum length of a header with all values in it, in bytes, if each value has the maximum length. A guest may repeat a
/// placeholder many times.
pub(super) const MAX_HEADER_BYTES: usize = 64 * 1024;

impl Secrets {
    /// Replaces placeholders in a request's headers, if the request goes to a secret's `host` in TLS.
    ///
    /// # Errors
    /// Returns a refusal if a placeholder goes to another host, or a header grows past [`MAX_HEADER_BYTES`].
    pub(crate) fn substitute(
        &self,
        host: &str,
        is_tls: bool,
        path: &str,
        headers: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        for secret in &self.secrets {
            if secret.value.is_none() {
                secret.check_unused(host, path, headers)?;
            } else if !secret.is_for(host) {
                secret.check_absent(host, path, headers)?;
            } else if is_tls {
                secret.substitute(headers)?;
            }
        }
        Ok(())
    }
}

impl Secret {
    /// Refuses a request to another host that contains the placeholder in its head.
    fn check_absent(&self, host: &str, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        if !self.is_in_head(path, headers) {
            return Ok(());
        }

        let (name, hosts) = (&self.name, self.hosts.join(", "));
        Err(Refusal::new(
            "secret_elsewhere",
            format!(
                "The request to {host} contains the placeholder of the secret {name:?}, which is only for {hosts}. \
                 Nothing was sent. To allow it, add {host} to the hosts of the secret {name:?}."
            ),
        ))
    }

    /// Refuses a request that contains the placeholder of a secret without value.
    fn check_unused(&self, host: &str, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        if !self.is_in_head(path, headers) {
            return Ok(());
        }

        let name = &self.name;
        Err(Refusal::new(
            "secret_without_value",
            format!(
                "The request to {host} contains the placeholder of the secret {name:?}, which has no value since the \
                 sandbox was resumed. Nothing was sent. Resume the sandbox with a policy that has the secret {name:?}, \
                 and give its value."
            ),
        ))
    }

    /// Returns whether the head of a request contains the placeholder.
    fn is_in_head(&self, path: &str, headers: &HeaderMap) -> bool {
        let placeholder = &self.placeholder;
        let contains_placeholder = |(name, value): (&HeaderName, &HeaderValue)| {
            contains(value.as_bytes(), placeholder)
                || decode_basic(name, value).is_some_and(|plain| contains(&plain, placeholder))
        };
        path.contains(placeholder) || headers.iter().any(contains_placeholder)
    }

    fn substitute(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        for (name, value) in headers.iter_mut() {
            if !self.headers.contains(name) {
                continue;
            }
            let substituted = match decode_basic(name, value) {
                Some(plain) if contains(&plain, &self.placeholder) => {
                    let plain = self.replace_in(&plain)?;
                    let encoded = Zeroizing::new(STANDARD.encode(plain.as_slice()));
                    Zeroizing::new(format!("Basic {}", encoded.as_str()).into_bytes())
                }
                _ if contains(value.as_bytes(), &self.placeholder) => {
                    self.replace_in(value.as_bytes())?
                }
                _ => continue,
            };
            *value = HeaderValue::from_bytes(&substituted).map_err(|_| self.too_long())?;
            value.set_sensitive(true);
        }
        Ok(())
    }

    /// Returns `text` with the value in place of each placeholder.
    fn replace_in(&self, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let placeholder = self.placeholder.as_bytes();
        let value = self.value.as_ref().map_or("", SecretText::expose);
        let count = text
            .windows(placeholder.len())
            .filter(|window| *window == placeholder)
            .count();

        // Each placeholder counts as the longest value: a guest could find out the length of this one by trying.
        if text.len() + count * MAX_VALUE_BYTES > MAX_HEADER_BYTES {
            return Err(self.too_long());
        }

        // The buffer is allocated in full: growing it would leave copies of the value behind in memory.
        let length = text.len() + count * value.len();
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
                "With the secret {:?} in it, a header of the request may exceed {} KiB, because each placeholder counts \
                 as {} KiB. Use the placeholder only once, and shorten the header.",
                self.name,
                MAX_HEADER_BYTES / 1024,
                MAX_VALUE_BYTES / 1024
            ),
        )
    }
}

/// Decodes the credentials of `Authorization: Basic`.
fn decode_basic(name: &HeaderName, value: &HeaderValue) -> Option<Zeroizing<Vec<u8>>> {
    if name != AUTHORIZATION {
        return None;
    }
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let encoded = encoded.trim().trim_end_matches('=');
    // Not all clients write the padding, so it is normalized.
    let padded = format!("{encoded}{}", &"==="[..(4 - encoded.len() % 4) % 4]);
    let is_basic = scheme.eq_ignore_ascii_case("basic");
    is_basic.then(|| STANDARD.decode(padded).ok().map(Zeroizing::new))?
}

fn contains(text: &[u8], placeholder: &str) -> bool {
    text.windows(placeholder.len())
        .any(|window| window == placeholder.as_bytes())
}
