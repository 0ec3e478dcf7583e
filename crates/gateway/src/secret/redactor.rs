//! Values are taken out of what comes back, without changing its length.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::value::Value;

/// All forms of the values that must not come back from one host.
pub(crate) struct Needles {
    host: String,
    needles: Vec<Needle>,
    /// Whether a needle begins with this byte.
    first: [bool; 256],
}

struct Needle {
    text: Zeroizing<Vec<u8>>,
    /// What is shown in its place; as long.
    mask: Vec<u8>,
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Needles({}, redacted)", self.host)
    }
}

impl Needles {
    /// The values of one host, each with its placeholder.
    pub(super) fn new<'a>(host: &str, pairs: impl Iterator<Item = (&'a Value, &'a str)>) -> Self {
        let mut texts = Vec::new();
        for (value, placeholder) in pairs {
            for form in forms(value.expose().as_bytes()) {
                texts.push((form, placeholder));
            }
        }
        // The longest form counts where several begin.
        texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let edge = edge(texts.iter().map(|(text, _)| text.as_slice()));
        let masks: Vec<_> = texts
            .iter()
            .map(|(text, placeholder)| mask(placeholder, text.len(), edge))
            .map(|mask| safe(mask, edge, texts.iter().map(|(text, _)| text.as_slice())))
            .collect();
        let mut first = [false; 256];
        for (text, _) in &texts {
            first[usize::from(text[0])] = true;
        }
        let needles = texts.into_iter().zip(masks);
        Self {
            host: host.to_owned(),
            needles: needles
                .map(|((text, _), mask)| Needle { text, mask })
                .collect(),
            first,
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// `text` without the values.
    pub(crate) fn clean(self: &Arc<Self>, text: &[u8]) -> Vec<u8> {
        let mut redactor = Redactor::new(Arc::clone(self));
        let mut clean = redactor.push(text).to_vec();
        clean.extend_from_slice(&redactor.finish());
        clean
    }

    /// Takes the values out of a response's headers. A header that bears one in its name goes.
    pub(crate) fn clean_headers(self: &Arc<Self>, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            let clean = self.clean(value.as_bytes());
            if clean != value.as_bytes() {
                // Masks are made of what headers may hold.
                *value = HeaderValue::from_bytes(&clean)
                    .unwrap_or_else(|_| HeaderValue::from_static("redacted"));
            }
        }
        let named: Vec<HeaderName> = headers
            .keys()
            .filter(|name| self.in_small_letters(name.as_str().as_bytes()))
            .cloned()
            .collect();
        for name in named {
            headers.remove(name);
        }
    }

    fn in_small_letters(&self, name: &[u8]) -> bool {
        self.needles.iter().any(|needle| {
            name.windows(needle.text.len())
                .any(|window| window.eq_ignore_ascii_case(&needle.text))
        })
    }

    /// What begins at `rest`, after which `more` may follow.
    fn at(&self, rest: &[u8], more: bool) -> Found<'_> {
        if !self.first[usize::from(rest[0])] {
            return Found::Nothing;
        }
        for needle in &self.needles {
            if rest.starts_with(&needle.text) {
                return Found::Whole(&needle.mask);
            }
            if more && needle.text.starts_with(rest) {
                return Found::Begun;
            }
        }
        Found::Nothing
    }
}

enum Found<'a> {
    Nothing,
    /// More bytes are needed to tell.
    Begun,
    Whole(&'a [u8]),
}

/// Takes values out of a stream. Keeps back only what may be a value's beginning: less than one value.
pub(crate) struct Redactor {
    needles: Arc<Needles>,
    held: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({:?})", self.needles)
    }
}

impl Redactor {
    /// For one stream.
    pub(crate) fn new(needles: Arc<Needles>) -> Self {
        Self {
            needles,
            held: Zeroizing::default(),
        }
    }

    /// Bytes that are kept back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes a piece, and gives what can be passed on.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Bytes {
        let text = Zeroizing::new([self.held.as_slice(), piece].concat());
        let (clean, held) = self.scan(&text, true);
        self.held = Zeroizing::new(held.to_vec());
        clean
    }

    /// What was kept back, when nothing follows. It may still hold a shorter value.
    pub(crate) fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.held);
        self.scan(&text, false).0
    }

    /// The text without values, up to where one may begin.
    fn scan<'a>(&self, text: &'a [u8], more: bool) -> (Bytes, &'a [u8]) {
        let mut clean = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(&byte) = rest.first() {
            match self.needles.at(rest, more) {
                Found::Nothing => {
                    clean.push(byte);
                    rest = &rest[1..];
                }
                Found::Whole(mask) => {
                    clean.extend_from_slice(mask);
                    rest = &rest[mask.len()..];
                }
                Found::Begun => break,
            }
        }
        (clean.into(), rest)
    }
}

/// A value as it may come: as it is, and in base64 at each of the three places where it can begin.
fn forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(value.to_vec())];
    for before in 0..3 {
        let padded = Zeroizing::new([&[0; 2][..before], value].concat());
        // Characters that hold bits of the value alone.
        let (from, to) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(engine.encode(padded.as_slice()));
            let form = Zeroizing::new(encoded.as_bytes()[from..to].to_vec());
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

/// A byte that no needle has. A tab is in none.
fn edge<'a>(needles: impl Iterator<Item = &'a [u8]>) -> u8 {
    let mut used = [false; 256];
    for &byte in needles.flatten() {
        used[usize::from(byte)] = true;
    }
    let wanted = (b'*'..=b'~').chain(b'!'..=b')');
    wanted
        .into_iter()
        .find(|&byte| !used[usize::from(byte)])
        .unwrap_or(b'\t')
}

/// The placeholder, cut or padded, between two bytes that no needle has: so none can arise at its borders.
fn mask(placeholder: &str, length: usize, edge: u8) -> Vec<u8> {
    let mut mask = placeholder.as_bytes().to_vec();
    mask.resize(length, edge);
    mask[0] = edge;
    mask[length - 1] = edge;
    mask
}

/// The mask, or a blank one if it holds a needle itself.
fn safe<'a>(mask: Vec<u8>, edge: u8, mut needles: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let holds = |needle: &[u8]| mask.windows(needle.len()).any(|window| window == needle);
    if needles.any(holds) {
        return vec![edge; mask.len()];
    }
    mask
}
