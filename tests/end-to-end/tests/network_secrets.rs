//! Secrets reach only their own hosts, and never the guest.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::FileExt;

use fumehood_end_to_end::guest::{NetworkEvents, network, python};
use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::servers::{CertificateAuthority, NameServer, OTHER, WEB4, WebServer, at};
use fumehood_end_to_end::{engine, run_ok};
use fumehood_engine::image::Store;
use fumehood_engine::{Language, ResumeOptions, Sandbox, SecretValue};

/// In two parts, so that a program which looks for it does not have it itself.
const VALUE: (&str, &str) = ("s3cr3t-value-that-", "nobody-else-may-have-0815");

const RULES: &str = r#"
[[allow]]
id = "own"
host = ["api.test", "plain.test", "through.test"]

[[secret]]
name = "API_TOKEN"
host = "api.test"
header = ["authorization", "x-token"]

[[secret]]
name = "OTHER_TOKEN"
host = "plain.test"
"#;

#[test]
fn a_secret_reaches_its_host_and_never_the_guest() {
    in_private_netns("a_secret_reaches_its_host_and_never_the_guest", || async {
        let authority = CertificateAuthority::trusted();
        let hosts = ["api.test", "plain.test", "through.test"];
        let _names = NameServer::serve()
            .await
            .know(hosts[0], WEB4)
            .know(hosts[1], WEB4)
            .know(hosts[2], OTHER);

        let (web, other) = (WebServer::default(), WebServer::default());
        for (web, address) in [(&web, WEB4), (&other, OTHER)] {
            web.serve(at(address, 80)).await;
            web.serve_tls(at(address, 443), authority.acceptor(&hosts))
                .await;
        }

        let value = format!("{}{}", VALUE.0, VALUE.1);
        let secret = |text: &str| SecretValue::new(text.to_owned()).unwrap();
        let network = network(RULES)
            .secret("API_TOKEN".parse().unwrap(), secret(&value))
            .secret(
                "OTHER_TOKEN".parse().unwrap(),
                secret("another-value-for-another-host"),
            );

        let sandbox = engine().sandbox().network(network).await.unwrap();
        let events = NetworkEvents::of(&sandbox);
        let files = sandbox.files();
        files
            .write("ca.pem", authority.pem().to_owned())
            .await
            .unwrap();

        assert_host_receives_secret(&sandbox, &web, &value).await;
        assert_no_other_host_receives_secret(&sandbox, &events, &web, &other, &value).await;
        assert_guest_has_no_secret(&sandbox, &value).await;

        let child = sandbox.fork(1).await.unwrap().remove(0);
        let before = web.seen().len();
        let code = "report('again', lambda: get('https://api.test/', headers={'X-Token': os.environ['API_TOKEN']}))";
        assert_eq!(python(&child, code).await, "again: this is api.test\n");
        assert!(web.seen()[before].contains(&format!("x-token: {value}\n")));

        for event in events.all() {
            assert!(!format!("{event:?}").contains(VALUE.1), "{event:?}");
        }

        assert_resumed_guest_has_new_values(child, &web).await;
    });
}

/// The placeholders stay, the values and the authority are new, and a secret without a value is denied.
async fn assert_resumed_guest_has_new_values(sandbox: Sandbox, web: &WebServer) {
    let saved = sandbox.pause("secrets").await.unwrap();
    assert_eq!(saved.secrets, ["API_TOKEN", "OTHER_TOKEN"]);
    let root = Store::default_root().unwrap();
    let state = Store::open(root).unwrap().saved_states().path(&saved.id);
    for file in std::fs::read_dir(state).unwrap().flatten() {
        let contents = std::fs::read(file.path()).unwrap();
        let value = format!("{}{}", VALUE.0, VALUE.1).into_bytes();
        assert!(
            !contents.windows(value.len()).any(|part| part == value),
            "{file:?}"
        );
    }

    let new_value = "a-value-that-was-rotated-meanwhile";
    let value = SecretValue::new(new_value.to_owned()).unwrap();
    let options = ResumeOptions {
        network: Some(network(RULES).secret("API_TOKEN".parse().unwrap(), value)),
        ..ResumeOptions::default()
    };
    let resumed = engine().resume(&saved.id, options).await.unwrap();
    let before = web.seen().len();
    let code = r"
report('new', lambda: get('https://api.test/', headers={'X-Token': os.environ['API_TOKEN']}))
report('none', lambda: get('https://plain.test/', headers={'Authorization': os.environ['OTHER_TOKEN']}))
";
    let output = python(&resumed, code).await;
    assert!(output.starts_with("new: this is api.test\n"), "{output}");
    assert!(
        output.contains("has no value since the sandbox was resumed"),
        "{output}"
    );
    assert!(web.seen()[before].contains(&format!("x-token: {new_value}\n")));
}

/// From each kind of program, which trusts the sandbox's own authority by default.
async fn assert_host_receives_secret(sandbox: &Sandbox, web: &WebServer, value: &str) {
    let placeholder = run_ok(sandbox, Language::Shell, "printf %s $API_TOKEN").await;
    assert!(placeholder.starts_with("fumehood-secret-"), "{placeholder}");
    let code = r"
import base64
token = os.environ['API_TOKEN']
report('bearer', lambda: get('https://api.test/', headers={'Authorization': f'Bearer {token}'}))
report('own header', lambda: get('https://api.test/', headers={'X-Token': token}))
basic = base64.b64encode(f'user:{token}'.encode()).decode()
report('basic', lambda: get('https://api.test/', headers={'Authorization': f'Basic {basic}'}))
def echoed(headers):
    text = get('https://api.test/head', headers=headers)
    return [line.split(': ', 1)[1] for line in text.splitlines() if line.startswith(('authorization', 'x-token'))]
sealed = echoed({'Authorization': f'Bearer {token}', 'X-Token': token})
print(len(sealed), all('nobody-else' + '-may-have' not in line for line in sealed))
sealed = echoed({'Authorization': f'Basic {basic}'})
print(len(sealed), '********' in sealed[0])
";
    let expected = "bearer: this is api.test\nown header: this is api.test\nbasic: this is api.test\n2 True\n1 True\n";
    assert_eq!(python(sandbox, code).await, expected);
    let seen = web.seen();
    let bearer = format!("authorization: Bearer {value}\n");
    assert!(seen[0].contains(&bearer), "{}", seen[0]);
    assert!(
        seen[1].contains(&format!("x-token: {value}\n")),
        "{}",
        seen[1]
    );
    let basic = seen[2]
        .lines()
        .find_map(|line| line.strip_prefix("authorization: Basic "));
    let code = format!("echo {} | base64 -d | wc -c", basic.unwrap());
    let decoded = run_ok(sandbox, Language::Shell, &code).await;

    // "user:" and the value, and not the placeholder.
    assert_eq!(decoded.trim(), (5 + value.len()).to_string());

    let before = web.seen().len();
    let code = r#"curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.test/ && curl -sS -u "user:$API_TOKEN" https://api.test/"#;
    assert_eq!(
        run_ok(sandbox, Language::Shell, code).await,
        "this is api.test\nthis is api.test\n"
    );
    let code = r"
const headers = { authorization: `Bearer ${process.env.API_TOKEN}` };
console.log((await (await fetch('https://api.test/', { headers })).text()).trim());
";
    assert_eq!(
        run_ok(sandbox, Language::Javascript, code).await,
        "this is api.test\n"
    );
    let seen = web.seen().split_off(before);
    assert!(
        seen.len() == 3 && seen[0].contains(&bearer) && seen[2].contains(&bearer),
        "{seen:?}"
    );
}

async fn assert_no_other_host_receives_secret(
    sandbox: &Sandbox,
    events: &NetworkEvents,
    web: &WebServer,
    other: &WebServer,
    value: &str,
) {
    let before = web.seen().len();
    let code = r"
token = os.environ['API_TOKEN']
bearer = {'Authorization': f'Bearer {token}'}
trusting = ssl.create_default_context(cafile='ca.pem')
report('another secret of', lambda: get('https://plain.test/', headers=bearer))
report('in the clear, elsewhere', lambda: get('http://plain.test/', headers=bearer))
report('in the clear', lambda: get('http://api.test/', headers=bearer))
report('in a path', lambda: get(f'https://api.test/?token={token}'))
report('in another header', lambda: get('https://api.test/', headers={'X-Other': token}))
report('in a body', lambda: get('https://api.test/', method='POST', data=token.encode()))
report('passed through', lambda: get('https://through.test/', trusting, headers=bearer))
def other_host():
    c = http.client.HTTPSConnection('api.test')
    c.request('GET', '/', headers={'Host': 'through.test', **bearer})
    return c.getresponse().status
report('other host', other_host)
def other_name():
    with socket.create_connection(('through.test', 443)) as s:
        with blind().wrap_socket(s, server_hostname='api.test') as s: return 'open'
report('other name', other_name)
";
    let text = python(sandbox, code).await;
    let expected = [
        "another secret of: HTTP 403 ",
        "in the clear, elsewhere: HTTP 403 ",
        "in the clear: this is api.test",
        "in a path: this is api.test",
        "in another header: this is api.test",
        "in a body: this is api.test",
        "passed through: this is through.test",
        "other host: 403",
        "other name: SSLError TLSV1_ALERT_ACCESS_DENIED",
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, begin) in lines.iter().zip(expected) {
        assert!(line.starts_with(begin), "{begin}\n{text}");
    }
    events
        .denial("secret_elsewhere", |e| {
            e.name.as_ref().is_some_and(|n| n.as_ref() == "plain.test")
        })
        .await;
    for head in web.seen().split_off(before).iter().chain(&other.seen()) {
        assert!(!head.contains(value), "{head}");
    }
}

async fn assert_guest_has_no_secret(sandbox: &Sandbox, value: &str) {
    let code = format!(
        r#"
import glob, re
first, second = b'{}', b'{}'
def holds(text): return any(text[m.end():].startswith(second) for m in re.finditer(re.escape(first), text))
looked = found = 0
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + ['/etc/ssl/certs/ca-certificates.crt']:
    try: text = open(path, 'rb').read()
    except OSError: continue
    looked, found = looked + 1, found + holds(text)
with open('/proc/self/mem', 'rb', 0) as memory:
    for line in open('/proc/self/maps'):
        begin, end = (int(part, 16) for part in line.split()[0].split('-'))
        if line.split()[1][0] != 'r' or begin >= 1 << 63: continue
        try:
            memory.seek(begin)
            text = memory.read(end - begin)
        except OSError: continue
        looked, found = looked + 1, found + holds(text)
print(looked > 10, found)
"#,
        VALUE.0, VALUE.1
    );
    assert_eq!(python(sandbox, &code).await, "True 0\n");
    let needle = value.as_bytes();
    if rustix::process::geteuid().is_root() {
        let (bytes, found) = search(sandbox.process_id(), needle);
        // Its memory is looked at, and what a guest has shows there.
        assert!(bytes > 256 << 20, "{bytes}");
        assert_eq!(found, 0);
        assert!(search(sandbox.process_id(), VALUE.1.as_bytes()).1 > 0);
    }
}

/// Looks for something in all memory of a process: its bytes, and how often it is there.
fn search(process_id: u32, needle: &[u8]) -> (u64, usize) {
    let path = |name: &str| format!("/proc/{process_id}/{name}");
    let memory = std::fs::File::open(path("mem")).unwrap();
    let (mut looked, mut found) = (0, 0);
    let (mut piece, zeros) = (vec![0; 1 << 16], vec![0; 1 << 16]);

    for line in std::fs::read_to_string(path("maps")).unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (begin, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut begin, end) = (number(begin), number(end));

        if !rest.starts_with('r') {
            continue;
        }

        while begin < end {
            let length = piece.len().min(usize::try_from(end - begin).unwrap());
            let Ok(read) = memory.read_at(&mut piece[..length], begin) else {
                break;
            };

            // Most of a guest's memory holds nothing.
            if piece[..read] != zeros[..read] {
                found += count(&piece[..read], needle);
            }

            looked += read as u64;

            // What lies across two pieces is seen in the second one.
            let overlap = if begin + (read as u64) < end {
                needle.len() as u64
            } else {
                0
            };

            match (read as u64).saturating_sub(overlap) {
                0 => break,
                step => begin += step,
            }
        }
    }

    (looked, found)
}

fn count(text: &[u8], needle: &[u8]) -> usize {
    let mut found = 0;
    let mut rest = text;
    while let Some(place) = rest.iter().position(|byte| *byte == needle[0]) {
        rest = &rest[place..];
        found += usize::from(rest.starts_with(needle));
        rest = &rest[1..];
    }

    found
}
