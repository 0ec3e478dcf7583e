//! Recognizes a connection's protocol by its first bytes: TLS with its `ClientHello`, HTTP, or something else.
//!
//! The `ClientHello` is parsed here and not by a library, because decisions depend on it: every length must fit exactly,
//! a name that could be read in two ways does not count, and Encrypted Client Hello must be detected.

use rustls::pki_types::DnsName;

/// Maximum number of first bytes that are examined. A `ClientHello` with the large keys of today takes 2 KiB.
pub(crate) const SNIFF_BYTES: usize = 16 * 1024;

/// Maximum length of an HTTP method, in bytes. The longest registered one is `UPDATEREDIRECTREF`.
pub(super) const MAX_METHOD_BYTES: usize = 24;

pub(super) const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// The protocol that the first bytes show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SniffResult {
    /// More bytes are needed. Never the result for [`SNIFF_BYTES`] or more.
    Incomplete,
    /// A complete and well-formed `ClientHello`.
    Tls(ClientHello),
    /// The start of an HTTP/1 request line or, with `preface`, of HTTP/2 without TLS.
    Http {
        /// The bytes are `PRI * HTTP/2.0`: the client speaks HTTP/2 without negotiation.
        preface: bool,
    },
    /// Something else, or a `ClientHello` that is malformed or too long.
    Other,
}

/// The unencrypted contents of a TLS `ClientHello`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server name in lowercase; `None` if it is absent, an address, not a DNS name, or if there are several.
    pub(crate) server_name: Option<String>,
    /// Encrypted Client Hello is offered: the real server name may be another one.
    pub(crate) encrypted: bool,
    /// The offered protocols, in order of preference.
    pub(crate) alpn: Vec<Vec<u8>>,
}

/// Recognizes the protocol. On [`SniffResult::Incomplete`], call it again with more bytes.
pub(crate) fn sniff(bytes: &[u8]) -> SniffResult {
    const HANDSHAKE: u8 = 22;
    let examined = &bytes[..bytes.len().min(SNIFF_BYTES)];
    let result = match examined.first() {
        None => SniffResult::Incomplete,
        Some(&HANDSHAKE) => sniff_tls(examined),
        Some(_) => sniff_http(examined),
    };

    match result {
        SniffResult::Incomplete if bytes.len() >= SNIFF_BYTES => SniffResult::Other,
        result => result,
    }
}

/// Parses a DNS name as certificates contain it: not an address, without a final dot. Returns it in lowercase.
pub(crate) fn dns_name(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let valid = !name.ends_with('.') && DnsName::try_from(name.as_str()).is_ok();
    valid.then_some(name)
}

fn sniff_http(bytes: &[u8]) -> SniffResult {
    let Some(end) = bytes.iter().position(|&byte| byte == b' ') else {
        return if bytes.len() <= MAX_METHOD_BYTES && bytes.iter().all(is_method_byte) {
            SniffResult::Incomplete
        } else {
            SniffResult::Other
        };
    };

    let (method, target) = (&bytes[..end], &bytes[end + 1..]);
    if method.is_empty() || method.len() > MAX_METHOD_BYTES || !method.iter().all(is_method_byte) {
        return SniffResult::Other;
    }

    let preface = method == b"PRI";
    match target.first() {
        None => SniffResult::Incomplete,
        Some(b'/' | b'*') => SniffResult::Http { preface },
        Some(byte) if method == b"CONNECT" && byte.is_ascii_graphic() => {
            SniffResult::Http { preface }
        }
        Some(_) => sniff_absolute(target),
    }
}

fn is_method_byte(byte: &u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

/// Recognizes an absolute target, as clients send it to proxies.
fn sniff_absolute(target: &[u8]) -> SniffResult {
    let mut result = SniffResult::Other;
    for scheme in [&b"http://"[..], b"https://"] {
        let length = scheme.len().min(target.len());
        if target[..length].eq_ignore_ascii_case(&scheme[..length]) {
            if length == scheme.len() {
                return SniffResult::Http { preface: false };
            }
            result = SniffResult::Incomplete;
        }
    }

    result
}

fn sniff_tls(bytes: &[u8]) -> SniffResult {
    const CLIENT_HELLO: u8 = 1;
    let Some(message) = handshake_payload(bytes) else {
        return SniffResult::Other;
    };

    match message.first() {
        None => return SniffResult::Incomplete,
        Some(&CLIENT_HELLO) => {}
        Some(_) => return SniffResult::Other,
    }

    // The message's length, and the message itself.
    let mut rest = Cursor(&message[1..]);
    let Some(length) = rest.number(3) else {
        return SniffResult::Incomplete;
    };

    if length > SNIFF_BYTES {
        return SniffResult::Other;
    }

    match rest.take(length) {
        None => SniffResult::Incomplete,
        Some(body) => parse_client_hello(body).map_or(SniffResult::Other, SniffResult::Tls),
    }
}

/// Returns the payload of the handshake records, the last of which may be incomplete; `None` if they are not handshake
/// records.
fn handshake_payload(bytes: &[u8]) -> Option<Vec<u8>> {
    const RECORD_BYTES: usize = 1 << 14;
    let mut message = Vec::new();
    let mut rest = bytes;

    while !rest.is_empty() {
        // Records after the complete message may be of any type and are not examined.
        if is_complete(&message) {
            break;
        }

        // The header: content type and major version, then minor version and length.
        let (header, payload) = rest.split_at(rest.len().min(5));
        if header
            .iter()
            .zip([22, 3])
            .any(|(&byte, expected)| byte != expected)
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

/// Returns whether a handshake message is complete.
fn is_complete(message: &[u8]) -> bool {
    let mut rest = Cursor(message);
    rest.take(1).is_some()
        && rest
            .number(3)
            .is_some_and(|length| rest.take(length).is_some())
}

fn parse_client_hello(body: &[u8]) -> Option<ClientHello> {
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
    body.expect_end()?;

    let mut seen = Vec::new();

    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let content = extensions.list(2)?;

        // If an extension occurs twice, two readers may believe different ones.
        if seen.contains(&kind) {
            return None;
        }

        seen.push(kind);

        match kind {
            SERVER_NAME => hello.server_name = parse_server_name(content),
            ALPN => hello.alpn = parse_alpn(content)?,
            ENCRYPTED_CLIENT_HELLO => hello.encrypted = true,
            _ => {}
        }
    }

    Some(hello)
}

/// Returns the host name of the extension, which must contain exactly one name and nothing else.
fn parse_server_name(mut content: Cursor<'_>) -> Option<String> {
    const HOST_NAME: usize = 0;
    let mut names = content.list(2)?;
    content.expect_end()?;

    if names.number(1)? != HOST_NAME {
        return None;
    }

    let name = names.list(2)?.0;
    names.expect_end()?;
    dns_name(name)
}

fn parse_alpn(mut content: Cursor<'_>) -> Option<Vec<Vec<u8>>> {
    let mut names = content.list(2)?;
    content.expect_end()?;
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

/// Takes bytes from the front of a slice. Each method returns `None` if there are too few.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes a big-endian number of `width` bytes, at most three.
    fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, &byte| number << 8 | usize::from(byte)),
        )
    }

    /// Takes a vector, which follows its length in `width` bytes.
    fn list(&mut self, width: usize) -> Option<Self> {
        let length = self.number(width)?;
        self.take(length).map(Self)
    }

    fn expect_end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
