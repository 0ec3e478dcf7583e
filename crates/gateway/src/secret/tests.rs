#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::patterns::encoded_forms;
use super::redactor::{MASK, Redactor, SecretMatcher};
use super::secrets::{PLACEHOLDER_PREFIX, Secret, Secrets};
use super::substitute::MAX_HEADER_BYTES;
use super::value::{MAX_VALUE_BYTES, MIN_VALUE_BYTES, SecretError, SecretText};

const VALUE: &str = "sk-live-51 Hq/=a";
const HOST: &str = "api.example.com";

fn secret(value: &str) -> Secret {
    let value = SecretText::new(value.to_owned()).unwrap();
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

fn redact_in_pieces(matcher: &Arc<SecretMatcher>, text: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut redactor = Redactor::new(Arc::clone(matcher));
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

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_value_at_the_limits_is_accepted_and_one_past_them_is_not() {
    for length in [MIN_VALUE_BYTES, MAX_VALUE_BYTES] {
        assert!(SecretText::new("a".repeat(length)).is_ok());
    }

    let short = SecretText::new("a".repeat(MIN_VALUE_BYTES - 1)).unwrap_err();
    assert_eq!(short, SecretError::TooShort(MIN_VALUE_BYTES - 1));
    let long = SecretText::new("a".repeat(MAX_VALUE_BYTES + 1)).unwrap_err();
    assert_eq!(long, SecretError::TooLong(MAX_VALUE_BYTES + 1));

    for bad in [
        "12345678\n",
        " 12345678",
        "12345678 ",
        "1234\t5678",
        "1234ä5678",
        "1234\0 5678",
    ] {
        let error = SecretText::new(bad.to_owned()).unwrap_err();
        assert_eq!(error, SecretError::InvalidCharacters);
        assert!(!format!("{error} {error:?}").contains("1234"));
    }
}

#[test]
fn values_are_not_shown() {
    let secret = secret(VALUE);
    let value = secret.value.as_ref().unwrap();
    let shown = format!("{secret:?} {value:?} {value}");
    let secrets = Secrets::new(vec![secret]);
    let matcher = secrets.matcher_for(HOST).unwrap();
    let mut redactor = Redactor::new(Arc::clone(&matcher));
    redactor.push(VALUE.as_bytes().split_last().unwrap().1);
    let shown = format!("{shown} {secrets:?} {matcher:?} {redactor:?}");
    assert!(
        !shown.contains("sk-") && !shown.contains("115, 107"),
        "{shown}"
    );

    assert!(shown.contains("redacted"));
}

#[test]
fn placeholders_are_random() {
    let (one, other) = (secret(VALUE), secret(VALUE));
    let digits = one.placeholder().strip_prefix(PLACEHOLDER_PREFIX).unwrap();
    assert_eq!(digits.len(), 32);
    assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(one.placeholder(), other.placeholder());
}

#[test]
fn its_headers_to_its_hosts_get_the_value() {
    let (secrets, placeholder) = one(VALUE);
    let twice = format!("Bearer {placeholder}, {placeholder}");
    let mut map = headers(&[("x-key", &twice), ("x-other", &placeholder)]);
    secrets.substitute(HOST, true, "/", &mut map).unwrap();
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
        secrets.substitute(HOST, true, "/", &mut map).unwrap();
        let expected = format!("Basic {}", STANDARD.encode(format!("user:{VALUE}")));
        assert_eq!(map["authorization"], expected);
    }
}

#[test]
fn plain_http_gets_no_value() {
    let (secrets, placeholder) = one(VALUE);
    let mut map = headers(&[("x-key", &placeholder)]);
    secrets.substitute(HOST, false, "/", &mut map).unwrap();
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
                .substitute("evil.test", sealed, path, &mut map)
                .unwrap_err();
            assert_eq!(refusal.code, "secret_elsewhere");
            assert!(refusal.text.contains("evil.test") && refusal.text.contains(HOST));
            assert!(!refusal.text.contains(VALUE));
        }
    }

    let mut clean = headers(&[("authorization", "Basic %%%")]);
    secrets
        .substitute("evil.test", true, "/", &mut clean)
        .unwrap();
}

#[test]
fn a_header_at_the_limit_is_sent_and_one_past_it_is_not() {
    let value = "v".repeat(MAX_VALUE_BYTES);
    let (secrets, placeholder) = one(&value);
    let room = MAX_HEADER_BYTES - MAX_VALUE_BYTES - placeholder.len();
    let fits = format!("{placeholder}{}", "x".repeat(room));
    secrets
        .substitute(HOST, true, "/", &mut headers(&[("x-key", &fits)]))
        .unwrap();

    let past = format!("{fits}x");
    let refusal = secrets.substitute(HOST, true, "/", &mut headers(&[("x-key", &past)]));
    assert_eq!(refusal.unwrap_err().code, "secret_too_long");
}

#[test]
fn only_its_hosts_are_redacted() {
    let (secrets, _) = one(VALUE);
    assert!(secrets.matcher_for("evil.test").is_none());
    let redacted = secrets
        .matcher_for(HOST)
        .unwrap()
        .redact(format!("a{VALUE}b").as_bytes());
    assert_eq!(redacted, b"a********b");
}

#[test]
fn response_headers_are_redacted() {
    let (secrets, _) = one("abcd-efgh");
    let mut map = headers(&[
        ("x-echo", "got abcd-efgh!"),
        ("x-abcd-efgh", "1"),
        ("etag", "\"1\""),
    ]);
    secrets.matcher_for(HOST).unwrap().redact_headers(&mut map);
    assert!(!format!("{map:?}").contains("abcd-efgh"), "{map:?}");
    assert_eq!(map["x-echo"], "got ********!");
    assert_eq!(map["etag"], "\"1\"");
}

#[test]
fn credentials_echoed_in_base64_are_redacted() {
    for user in ["", "u", "us", "user"] {
        let (secrets, _) = one(VALUE);
        let echoed = STANDARD.encode(format!("{user}:{VALUE}"));
        let redacted = secrets.matcher_for(HOST).unwrap().redact(echoed.as_bytes());
        let decoded = STANDARD.decode(String::from_utf8_lossy(&redacted).replace(['*', '-'], "A"));
        assert!(!decoded.is_ok_and(|plain| contains(&plain, b"live-51 Hq")));
        assert!(contains(&redacted, MASK), "{redacted:?}");
    }
}

#[test]
fn lines_are_not_delayed_and_the_last_one_by_a_fixed_number_of_bytes() {
    let (secrets, _) = one(VALUE);
    let mut redactor = Redactor::new(secrets.matcher_for(HOST).unwrap());
    assert_eq!(redactor.push(b"data: one\n\n"), "data: one\n\n");
    assert!(!redactor.is_holding());

    let line = "x".repeat(300);
    assert_eq!(redactor.push(line.as_bytes()), line[..300 - 256]);
    assert_eq!(redactor.push(b"\n"), format!("{}\n", "x".repeat(256)));
    assert_eq!(redactor.push(b"end"), "");
    assert_eq!(redactor.finish(), "end");
}

#[test]
fn a_mask_does_not_tell_the_length_of_a_value() {
    let seen = |value: &str| {
        let (secrets, _) = one(value);
        let matcher = secrets.matcher_for(HOST).unwrap();
        let mut redactor = Redactor::new(matcher);
        let page = format!("{}{value}{}", "p".repeat(300), "s".repeat(300));
        [
            redactor.push(page.as_bytes()),
            redactor.push(b"\n"),
            redactor.finish(),
        ]
    };
    let short = seen("abcdefgh");
    assert_eq!(short, seen(&"Ab".repeat(90)));
    assert!(contains(&short[0], MASK));
}

#[test]
fn a_refusal_does_not_tell_the_length_of_a_value() {
    let refused_from = |value: &str| {
        let (secrets, placeholder) = one(value);
        let refuses = |count| {
            let mut map = headers(&[("x-key", &placeholder.repeat(count))]);
            secrets.substitute(HOST, true, "/", &mut map).err()
        };
        (1..100).find_map(|count| Some((count, refuses(count)?.text)))
    };
    let short = refused_from("abcdefgh");
    assert!(short.is_some());
    assert_eq!(short, refused_from(&"a".repeat(MAX_VALUE_BYTES)));
}

/// Values of every kind: of few letters, so that they overlap with themselves, and of many letters.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{8,12}",
        "[!-)+-~]{8,40}",
        "[!-)+-~]{4}[ -)+-~]{0,30}[!-)+-~]{4}",
        "fumehood[-a-z]{0,9}"
    ]
}

proptest! {
    #[test]
    fn a_value_is_redacted_however_it_is_chunked(
        value in values(),
        other in values(),
        parts in prop::collection::vec((0usize..5, "[ab*f-]{0,10}"), 0..12),
        sizes in prop::collection::vec(1usize..30, 1..6),
    ) {
        let secrets = Secrets::new(vec![secret(&value), secret(&other)]);
        let matcher = secrets.matcher_for(HOST).unwrap();
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

        let out = redact_in_pieces(&matcher, text.as_bytes(), &sizes);
        prop_assert!(!contains(&out, value.as_bytes()), "{}", String::from_utf8_lossy(&out));
        prop_assert!(!contains(&out, other.as_bytes()));

        if !contains(text.as_bytes(), value.as_bytes()) && !contains(text.as_bytes(), other.as_bytes())
            && parts.iter().all(|(kind, _)| *kind != 3) {
            prop_assert_eq!(out, text.as_bytes());
        }
    }

    /// What a guest sees of a text without values: the same for all values.
    #[test]
    fn nothing_that_a_guest_sees_depends_on_the_value(
        value in values(),
        other in "[ab]{8,190}",
        parts in prop::collection::vec((0usize..7, 0usize..400, "[ab-z]{0,10}"), 0..16),
        sizes in prop::collection::vec(1usize..400, 1..6),
    ) {
        let forms = |value: &str| encoded_forms(value.as_bytes());
        let all_forms = [forms(&value), forms(&other)].concat();
        let mut text = Vec::new();
        for (kind, length, noise) in &parts {
            let form = &all_forms[length % all_forms.len()];
            let cut = 1 + length % (form.len() - 1);
            text.extend_from_slice(noise.as_bytes());
            match kind {
                0 => text.extend_from_slice(&form[..cut]),
                1 => text.extend_from_slice(&form[cut..]),
                2 => text.extend_from_slice(&form[..form.len() - 1]),
                3 => text.extend(std::iter::repeat_n(b'a', *length)),
                4 => text.push(b'\n'),
                5 => text.extend_from_slice("ä".as_bytes()),
                _ => text.extend_from_slice(&form[1..]),
            }
        }
        prop_assume!(!all_forms.iter().any(|form| contains(&text, form)));

        let seen = |value: &str| {
            let (secrets, _) = one(value);
            let mut redactor = Redactor::new(secrets.matcher_for(HOST).unwrap());
            let mut pieces = Vec::new();
            let mut rest = text.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                pieces.push(redactor.push(piece));
                rest = after;
            }
            pieces.push(redactor.finish());
            pieces
        };
        let pieces = seen(&value);
        prop_assert_eq!(&pieces, &seen(&other));
        prop_assert_eq!(pieces.concat(), text);
    }
}
