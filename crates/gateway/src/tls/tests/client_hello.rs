use std::sync::Arc;

use proptest::prelude::*;
use rustls::ClientConnection;

use crate::testing::tls_client;
use crate::tls::client_hello::*;

fn hello(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let config = Arc::new(tls_client(alpn));
    let mut client = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A `ClientHello` of the extensions given.
fn made(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        list.extend(content);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    records(&message, 1 << 14)
}

/// A message in records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

/// The content of `server_name` with these entries.
fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in entries {
        list.push(*kind);
        list.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        list.extend(*name);
    }
    let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    content.extend(list);
    content
}

fn named(entries: &[(u8, &[u8])]) -> Option<String> {
    match sniff(&made(&[(SERVER_NAME, names(entries))])) {
        Sniffed::Tls(hello) => hello.server_name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_hello_is_read() {
    let expected = ClientHello {
        server_name: Some("api.example.com".to_owned()),
        encrypted: false,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    let bytes = hello("api.example.com", &[b"h2", b"http/1.1"]);
    assert_eq!(sniff(&bytes), Sniffed::Tls(expected));
}

#[test]
fn an_address_is_no_name() {
    for bytes in [hello("192.0.2.1", &[]), hello("2001:db8::1", &[])] {
        let Sniffed::Tls(hello) = sniff(&bytes) else {
            panic!("not TLS");
        };
        assert_eq!(hello.server_name, None);
    }
    assert_eq!(named(&[(0, b"192.0.2.1")]), None);
    assert_eq!(named(&[(0, b"0x7f000001")]), None);
}

#[test]
fn a_name_is_one_valid_dns_name_in_small_letters() {
    assert_eq!(
        named(&[(0, b"EXAMPLE.com")]).as_deref(),
        Some("example.com")
    );
    for bad in [
        &b""[..],
        b"example.com.",
        b"a b.test",
        b"\xff.test",
        b"example.com\0",
        b"-",
        b"*.test",
    ] {
        assert_eq!(named(&[(0, bad)]), None, "{bad:?}");
    }
    assert_eq!(named(&[(0, b"a.test"), (0, b"b.test")]), None);
    assert_eq!(named(&[(0, b"a.test"), (1, b"b.test")]), None);
    assert_eq!(named(&[(1, b"a.test")]), None);
    assert_eq!(named(&[]), None);
}

#[test]
fn a_name_of_253_bytes_is_taken_and_one_of_254_is_not() {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(named(&[(0, name.as_bytes())]), Some(name.clone()));
    assert_eq!(named(&[(0, format!("{name}a").as_bytes())]), None);
}

#[test]
fn encrypted_hello_is_seen() {
    let bytes = made(&[
        (SERVER_NAME, names(&[(0, b"front.test")])),
        (ENCRYPTED_CLIENT_HELLO, vec![0; 40]),
    ]);
    let Sniffed::Tls(hello) = sniff(&bytes) else {
        panic!("not TLS");
    };
    assert!(hello.encrypted);
    assert_eq!(hello.server_name.as_deref(), Some("front.test"));
}

#[test]
fn two_readings_are_none() {
    let one = names(&[(0, b"a.test")]);
    let two = names(&[(0, b"b.test")]);
    let twice = made(&[(SERVER_NAME, one.clone()), (SERVER_NAME, two)]);
    assert_eq!(sniff(&twice), Sniffed::Other);
    let trailing = [&one[..], b"x"].concat();
    let Sniffed::Tls(hello) = sniff(&made(&[(SERVER_NAME, trailing)])) else {
        panic!("not TLS");
    };
    assert_eq!(hello.server_name, None);
}

#[test]
fn lengths_that_lie_are_no_tls() {
    let good = made(&[(SERVER_NAME, names(&[(0, b"a.test")]))]);
    // The list of extensions is at 5 + 4 + 2 + 32 + 7.
    let mut long = good.clone();
    long[51] += 1;
    assert_eq!(sniff(&long), Sniffed::Other);
    let mut short = good.clone();
    short[51] -= 1;
    assert_eq!(sniff(&short), Sniffed::Other);
    let mut huge = good.clone();
    huge[6] = 1;
    assert_eq!(sniff(&huge), Sniffed::Other);
    let mut empty = good.clone();
    empty[3..5].copy_from_slice(&[0, 0]);
    assert_eq!(sniff(&empty), Sniffed::Other);
    let mut server = good;
    server[5] = 2;
    assert_eq!(sniff(&server), Sniffed::Other);
}

#[test]
fn a_hello_at_the_limit_is_read_and_one_past_it_is_not() {
    let padding = |total: usize| made(&[(21, vec![0; total - made(&[(21, Vec::new())]).len()])]);
    let fits = padding(SNIFF_BYTES);
    assert_eq!(fits.len(), SNIFF_BYTES);
    assert_eq!(sniff(&fits), Sniffed::Tls(ClientHello::default()));
    assert_eq!(sniff(&fits[..SNIFF_BYTES - 1]), Sniffed::More);
    let past = padding(SNIFF_BYTES + 1);
    assert_eq!(sniff(&past[..SNIFF_BYTES - 1]), Sniffed::More);
    assert_eq!(sniff(&past[..SNIFF_BYTES]), Sniffed::Other);
    assert_eq!(sniff(&past), Sniffed::Other);
}

#[test]
fn http_is_seen() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://example.com/ HTTP/1.1\r\n",
        "GET HTTPS://example.com/ HTTP/1.1\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\n",
        "VERSION-CONTROL /a",
    ] {
        assert_eq!(
            sniff(line.as_bytes()),
            Sniffed::Http { preface: false },
            "{line}"
        );
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(sniff(preface), Sniffed::Http { preface: true });
    for part in ["", "G", "GET", "GET ", "GET h", "GET http:", "GET https:/"] {
        assert_eq!(sniff(part.as_bytes()), Sniffed::More, "{part}");
    }
    for other in [
        "SSH-2.0-Open",
        "EHLO me",
        " GET /",
        "get / HTTP/1.1",
        "*1\r\n",
        "\0",
        "GET\r\n",
    ] {
        assert_eq!(sniff(other.as_bytes()), Sniffed::Other, "{other}");
    }
}

#[test]
fn a_method_at_the_limit_is_http_and_one_past_it_is_not() {
    let line = |length: usize| format!("{} /", "A".repeat(length));
    assert_eq!(
        sniff(line(METHOD_BYTES).as_bytes()),
        Sniffed::Http { preface: false }
    );
    assert_eq!(sniff(line(METHOD_BYTES + 1).as_bytes()), Sniffed::Other);
    assert_eq!(
        sniff("A".repeat(METHOD_BYTES + 1).as_bytes()),
        Sniffed::Other
    );
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(mut bytes in prop::collection::vec(any::<u8>(), 0..300), tls: bool) {
        if tls {
            bytes.splice(0..0, [22, 3, 1, 0, 200, 1, 0, 0, 190]);
        }
        // It must not panic, and an answer once given must not change with more bytes.
        let mut last = Sniffed::More;
        for end in 0..=bytes.len() {
            let now = sniff(&bytes[..end]);
            prop_assert!(last == Sniffed::More || last == now, "{last:?} {now:?}");
            last = now;
        }
    }

    #[test]
    fn a_spoiled_hello_gets_an_answer(at in 0usize..200, byte: u8) {
        let mut bytes = hello("example.com", &[b"h2"]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Sniffed::Tls(hello) = sniff(&bytes) {
            prop_assert!(hello.server_name.is_none_or(|name| name.is_ascii()));
        }
    }

    #[test]
    fn any_split_of_a_hello_is_the_same_hello(size in 1usize..600) {
        let whole = hello("example.com", &[b"http/1.1"]);
        let expected = sniff(&whole);
        prop_assert!(matches!(expected, Sniffed::Tls(_)));
        let split = records(&whole[5..], size);
        for end in 0..split.len() {
            let sniffed = sniff(&split[..end]);
            prop_assert!(sniffed == Sniffed::More || (size == 1 && sniffed == expected));
        }
        prop_assert_eq!(sniff(&split), expected);
    }
}
