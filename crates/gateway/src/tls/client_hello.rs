//! What a connection's first bytes are: TLS with its `ClientHello`, HTTP, or something else.
//!
//! Parsed here and not by a library, since the answer is a wall: every length must fit exactly, a name
//! that could be read in two ways is no name, and Encrypted Client Hello must be seen.

use rustls::pki_types::DnsName;

/// First bytes of a connection that are looked at. A `ClientHello` with the large keys of today takes 2 KiB.
pub(crate) const SNIFF_BYTES: usize = 16 * 1024;

/// Bytes of an HTTP method: the longest registered one is `UPDATEREDIRECTREF`.
pub(super) const METHOD_BYTES: usize = 24;

pub(super) const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sniffed {
    /// Too few bytes to tell; never the answer to [`SNIFF_BYTES`] or more.
    More,
    /// A whole and well-formed `ClientHello`.
    Tls(ClientHello),
    /// The beginning of an HTTP/1 request line or, with `preface`, of HTTP/2 without TLS.
    Http {
        /// `PRI * HTTP/2.0`: the client speaks HTTP/2 without having asked.
        preface: bool,
    },
    /// Neither, or a `ClientHello` that is malformed or too long.
    Other,
}

/// What a TLS client says openly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server's name in small letters. None: absent, an address, not a DNS name, or more than one.
    pub(crate) server_name: Option<String>,
    /// Encrypted Client Hello is offered: the true name may be another one.
    pub(crate) encrypted: bool,
    /// The protocols that are offered, the most wanted first.
    pub(crate) alpn: Vec<Vec<u8>>,
}

/// Tells what a connection is from its first bytes; to be asked again with more for [`Sniffed::More`].
pub(crate) fn sniff(bytes: &[u8]) -> Sniffed {
    const HANDSHAKE: u8 = 22;
    let seen = &bytes[..bytes.len().min(SNIFF_BYTES)];
    let sniffed = match seen.first() {
        None => Sniffed::More,
        Some(&HANDSHAKE) => tls(seen),
        Some(_) => http(seen),
    };
    match sniffed {
        Sniffed::More if bytes.len() >= SNIFF_BYTES => Sniffed::Other,
        sniffed => sniffed,
    }
}

/// A DNS name as a certificate may bear it, in small letters: no address, no dot at the end.
pub(crate) fn dns_name(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let valid = !name.ends_with('.') && DnsName::try_from(name.as_str()).is_ok();
    valid.then_some(name)
}

fn http(bytes: &[u8]) -> Sniffed {
    let Some(end) = bytes.iter().position(|&byte| byte == b' ') else {
        return if bytes.len() <= METHOD_BYTES && bytes.iter().all(is_method) {
            Sniffed::More
        } else {
            Sniffed::Other
        };
    };
    let (method, target) = (&bytes[..end], &bytes[end + 1..]);
    if method.is_empty() || method.len() > METHOD_BYTES || !method.iter().all(is_method) {
        return Sniffed::Other;
    }
    let preface = method == b"PRI";
    match target.first() {
        None => Sniffed::More,
        Some(b'/' | b'*') => Sniffed::Http { preface },
        Some(byte) if method == b"CONNECT" && byte.is_ascii_graphic() => Sniffed::Http { preface },
        Some(_) => absolute(target),
    }
}

fn is_method(byte: &u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

/// A target with its scheme, as proxies are sent it.
fn absolute(target: &[u8]) -> Sniffed {
    let mut sniffed = Sniffed::Other;
    for scheme in [&b"http://"[..], b"https://"] {
        let length = scheme.len().min(target.len());
        if target[..length].eq_ignore_ascii_case(&scheme[..length]) {
            if length == scheme.len() {
                return Sniffed::Http { preface: false };
            }
            sniffed = Sniffed::More;
        }
    }
    sniffed
}

fn tls(bytes: &[u8]) -> Sniffed {
    const CLIENT_HELLO: u8 = 1;
    let Some(message) = handshake(bytes) else {
        return Sniffed::Other;
    };
    match message.first() {
        None => return Sniffed::More,
        Some(&CLIENT_HELLO) => {}
        Some(_) => return Sniffed::Other,
    }
    let mut rest = Cursor(&message[1..]);
    let Some(length) = rest.number(3) else {
        return Sniffed::More;
    };
    if length > SNIFF_BYTES {
        return Sniffed::Other;
    }
    match rest.take(length) {
        None => Sniffed::More,
        Some(body) => client_hello(body).map_or(Sniffed::Other, Sniffed::Tls),
    }
}

/// The payload of the handshake records that are there, the last of which may be cut. None: not such records.
fn handshake(bytes: &[u8]) -> Option<Vec<u8>> {
    const RECORD_BYTES: usize = 1 << 14;
    let mut message = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        // What follows the whole message is not looked at: it may be of any type.
        if whole(&message) {
            break;
        }
        let (header, payload) = rest.split_at(rest.len().min(5));
        let wanted = [Some(22), Some(3)];
        if header
            .iter()
            .zip(wanted)
            .any(|(&byte, wanted)| Some(byte) != wanted)
        {
            return None;
        }
        let &[_, _, minor, high, low] = header else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if minor > 4 || length == 0 || length > RECORD_BYTES {
            return None;
        }
        let (payload, after) = payload.split_at(length.min(payload.len()));
        message.extend_from_slice(payload);
        rest = after;
    }
    Some(message)
}

/// Whether a handshake message is there to its end.
fn whole(message: &[u8]) -> bool {
    let mut rest = Cursor(message);
    rest.take(1).is_some()
        && rest
            .number(3)
            .is_some_and(|length| rest.take(length).is_some())
}

fn client_hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Cursor(body);
    body.take(2 + 32)?; // version, random
    if body.list(1)?.0.len() > 32 {
        return None; // session
    }
    let ciphers = body.list(2)?.0.len();
    if ciphers == 0 || !ciphers.is_multiple_of(2) || body.list(1)?.0.is_empty() {
        return None; // ciphers, compressions
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.list(2)?;
    body.end()?;
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let content = extensions.list(2)?;
        // Twice the same extension: two readers may believe two different ones.
        if seen.contains(&kind) {
            return None;
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = server_name(content),
            ALPN => hello.alpn = protocols(content)?,
            ENCRYPTED_CLIENT_HELLO => hello.encrypted = true,
            _ => {}
        }
    }
    Some(hello)
}

/// The one host name of the extension, which must hold nothing else.
fn server_name(mut content: Cursor<'_>) -> Option<String> {
    const HOST_NAME: usize = 0;
    let mut names = content.list(2)?;
    content.end()?;
    if names.number(1)? != HOST_NAME {
        return None;
    }
    let name = names.list(2)?.0;
    names.end()?;
    dns_name(name)
}

fn protocols(mut content: Cursor<'_>) -> Option<Vec<Vec<u8>>> {
    let mut names = content.list(2)?;
    content.end()?;
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let name = names.list(1)?.0;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    Some(protocols)
}

/// Bytes that are taken from the front, as long as there are enough.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of `width` bytes, at most three.
    fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, &byte| number << 8 | usize::from(byte)),
        )
    }

    /// What follows its length, of `width` bytes.
    fn list(&mut self, width: usize) -> Option<Self> {
        let length = self.number(width)?;
        self.take(length).map(Self)
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
