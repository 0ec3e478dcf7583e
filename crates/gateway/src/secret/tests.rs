#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::redactor::{Needles, Redactor};
use super::secrets::{PLACEHOLDER, Secret, Secrets};
use super::substitute::HEADER_BYTES;
use super::value::{LONGEST, SHORTEST, SecretError, Value};

const VALUE: &str = "sk-live-51 Hq/=a";
const HOST: &str = "api.example.com";

fn secret(value: &str) -> Secret {
    let value = Value::new(value.to_owned()).unwrap();
    let headers = vec![AUTHORIZATION, HeaderName::from_static("x-key")];
    Secret::new("key".to_owned(), value, vec![HOST.to_owned()], headers).unwrap()
}

fn one(value: &str) -> (Secrets, String) {
    let secret = secret(value);
    let placeholder = secret.placeholder().to_owned();
    (Secrets::new(vec![secret]), placeholder)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    pairs.iter().map(pair).collect()
}

fn redact(needles: &Arc<Needles>, text: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut redactor = Redactor::new(Arc::clone(needles));
    let mut out = Vec::new();
    let mut rest = text;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        out.extend_from_slice(&redactor.push(piece));
        rest = after;
    }
    out.extend_from_slice(&redactor.finish());
    out
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_value_at_the_limits_is_taken_and_one_past_them_is_not() {
    for length in [SHORTEST, LONGEST] {
        assert!(Value::new("a".repeat(length)).is_ok());
    }
    let short = Value::new("a".repeat(SHORTEST - 1)).unwrap_err();
    assert_eq!(short, SecretError::Short(SHORTEST - 1));
    let long = Value::new("a".repeat(LONGEST + 1)).unwrap_err();
    assert_eq!(long, SecretError::Long(LONGEST + 1));
    for bad in [
        "12345678\n",
        " 12345678",
        "12345678 ",
        "1234\t5678",
        "1234ä5678",
        "1234\0 5678",
    ] {
        let error = Value::new(bad.to_owned()).unwrap_err();
        assert_eq!(error, SecretError::Characters);
        assert!(!format!("{error} {error:?}").contains("1234"));
    }
}

#[test]
fn nothing_shows_a_value() {
    let secret = secret(VALUE);
    let shown = format!("{secret:?} {:?} {}", secret.value, secret.value);
    let secrets = Secrets::new(vec![secret]);
    let needles = secrets.needles(HOST).unwrap();
    let mut redactor = Redactor::new(Arc::clone(&needles));
    redactor.push(VALUE.as_bytes().split_last().unwrap().1);
    let shown = format!("{shown} {secrets:?} {needles:?} {redactor:?}");
    assert!(
        !shown.contains("sk-") && !shown.contains("115, 107"),
        "{shown}"
    );
    assert!(shown.contains("redacted"));
}

#[test]
fn placeholders_are_random() {
    let (one, other) = (secret(VALUE), secret(VALUE));
    let digits = one.placeholder().strip_prefix(PLACEHOLDER).unwrap();
    assert_eq!(digits.len(), 32);
    assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(one.placeholder(), other.placeholder());
}

#[test]
fn its_headers_to_its_host_get_the_value() {
    let (secrets, placeholder) = one(VALUE);
    let twice = format!("Bearer {placeholder}, {placeholder}");
    let mut map = headers(&[("x-key", &twice), ("x-other", &placeholder)]);
    secrets.place(HOST, true, "/", &mut map).unwrap();
    assert_eq!(map["x-key"], format!("Bearer {VALUE}, {VALUE}"));
    assert_eq!(map["x-other"], placeholder);
    assert!(map["x-key"].is_sensitive());
    assert!(!format!("{map:?}").contains(VALUE));
}

#[test]
fn basic_credentials_get_the_value_within_base64() {
    let (secrets, placeholder) = one(VALUE);
    let encoded = STANDARD.encode(format!("user:{placeholder}"));
    for sent in [encoded.clone(), encoded.trim_end_matches('=').to_owned()] {
        let mut map = headers(&[("authorization", &format!("bAsIc {sent}"))]);
        secrets.place(HOST, true, "/", &mut map).unwrap();
        let expected = format!("Basic {}", STANDARD.encode(format!("user:{VALUE}")));
        assert_eq!(map["authorization"], expected);
    }
}

#[test]
fn plain_http_gets_no_value() {
    let (secrets, placeholder) = one(VALUE);
    let mut map = headers(&[("x-key", &placeholder)]);
    secrets.place(HOST, false, "/", &mut map).unwrap();
    assert_eq!(map["x-key"], placeholder);
}

#[test]
fn a_placeholder_to_another_host_is_refused() {
    let (secrets, placeholder) = one(VALUE);
    let encoded = format!("Basic {}", STANDARD.encode(format!("u:{placeholder}")));
    for (path, mut map) in [
        ("/", headers(&[("x-any", &placeholder)])),
        ("/", headers(&[("authorization", &encoded)])),
        (placeholder.as_str(), HeaderMap::new()),
    ] {
        for sealed in [true, false] {
            let refusal = secrets
                .place("evil.test", sealed, path, &mut map)
                .unwrap_err();
            assert_eq!(refusal.reason, "secret_elsewhere");
            assert!(refusal.text.contains("evil.test") && refusal.text.contains(HOST));
            assert!(!refusal.text.contains(VALUE));
        }
    }
    let mut clean = headers(&[("authorization", "Basic %%%")]);
    secrets.place("evil.test", true, "/", &mut clean).unwrap();
}

#[test]
fn a_header_at_the_limit_is_sent_and_one_past_it_is_not() {
    let value = "v".repeat(LONGEST);
    let (secrets, placeholder) = one(&value);
    let room = HEADER_BYTES - LONGEST - placeholder.len();
    let fits = format!("{placeholder}{}", "x".repeat(room));
    secrets
        .place(HOST, true, "/", &mut headers(&[("x-key", &fits)]))
        .unwrap();
    let past = format!("{fits}x");
    let refusal = secrets.place(HOST, true, "/", &mut headers(&[("x-key", &past)]));
    assert_eq!(refusal.unwrap_err().reason, "secret_too_long");
}

#[test]
fn only_its_hosts_are_redacted() {
    let (secrets, _) = one(VALUE);
    assert!(secrets.needles("evil.test").is_none());
    let clean = secrets
        .needles(HOST)
        .unwrap()
        .clean(format!("a{VALUE}b").as_bytes());
    assert_eq!(clean.len(), VALUE.len() + 2);
    assert!(!holds(&clean, VALUE.as_bytes()));
    assert!(clean.starts_with(b"a") && clean.ends_with(b"b"));
    assert!(holds(&clean, b"umehood-secret"), "{clean:?}");
}

#[test]
fn response_headers_are_redacted() {
    let (secrets, _) = one("abcd-efgh");
    let mut map = headers(&[
        ("x-echo", "got abcd-efgh!"),
        ("x-abcd-efgh", "1"),
        ("etag", "\"1\""),
    ]);
    secrets.needles(HOST).unwrap().clean_headers(&mut map);
    assert!(!format!("{map:?}").contains("abcd-efgh"), "{map:?}");
    assert_eq!(map["x-echo"].len(), "got abcd-efgh!".len());
    assert_eq!(map["etag"], "\"1\"");
}

#[test]
fn credentials_that_are_echoed_in_base64_are_redacted() {
    for user in ["", "u", "us", "user"] {
        let (secrets, _) = one(VALUE);
        let echoed = STANDARD.encode(format!("{user}:{VALUE}"));
        let clean = secrets.needles(HOST).unwrap().clean(echoed.as_bytes());
        let decoded = STANDARD.decode(String::from_utf8_lossy(&clean).replace(['*', '-'], "A"));
        assert!(!decoded.is_ok_and(|plain| holds(&plain, b"live-51 Hq")));
        assert_ne!(clean, echoed.as_bytes());
        assert_eq!(clean.len(), echoed.len());
    }
}

#[test]
fn nothing_is_kept_back_that_cannot_be_a_value() {
    let (secrets, _) = one(VALUE);
    let mut redactor = Redactor::new(secrets.needles(HOST).unwrap());
    assert_eq!(redactor.push(b"data: one\n\n"), "data: one\n\n");
    assert_eq!(redactor.push(b"data: sk-l"), "data: ");
    assert_eq!(redactor.held(), 4);
    assert_eq!(redactor.push(b"ost\n\n"), "sk-lost\n\n");
    assert_eq!(redactor.held(), 0);
}

/// Values of every kind: of few letters, so that they overlap with themselves, and of many.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{8,12}",
        "[!-~]{8,40}",
        "[!-~]{4}[ -~]{0,30}[!-~]{4}",
        "[*]{8,9}",
        "fumehood[-a-z]{0,9}"
    ]
}

proptest! {
    #[test]
    fn no_chunking_lets_a_value_through(
        value in values(),
        other in values(),
        parts in prop::collection::vec((0usize..5, "[ab*f-]{0,10}"), 0..12),
        sizes in prop::collection::vec(1usize..30, 1..6),
    ) {
        let secrets = Secrets::new(vec![secret(&value), secret(&other)]);
        let needles = secrets.needles(HOST).unwrap();
        let mut text = String::new();
        for (kind, noise) in &parts {
            text += noise;
            match kind {
                0 => text += &value,
                1 => text += &other,
                2 => text += &value[..value.len() - 1],
                3 => text += &STANDARD.encode(&value),
                _ => text += &value[1..],
            }
        }
        let out = redact(&needles, text.as_bytes(), &sizes);
        prop_assert_eq!(out.len(), text.len());
        prop_assert!(!holds(&out, value.as_bytes()), "{}", String::from_utf8_lossy(&out));
        prop_assert!(!holds(&out, other.as_bytes()));
        if !holds(text.as_bytes(), value.as_bytes()) && !holds(text.as_bytes(), other.as_bytes())
            && parts.iter().all(|(kind, _)| *kind != 3) {
            prop_assert_eq!(out, text.as_bytes());
        }
    }
}
