//! A guest with a network, as tests of it need one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fumehood_engine::policy::{Document, Policy};
use fumehood_engine::{
    Config, Engine, Event, Language, Network, NetworkEvent, RunRequest, Sandbox, SpawnRequest,
    TemplateUse,
};

use crate::servers::NameServer;
use crate::{finish_ok, finish_run, within_deadline};

/// An engine whose VMs are booted, each for itself.
///
/// # Panics
/// When there is no image.
#[must_use]
pub fn engine_without_templates() -> Engine {
    Engine::start(Config {
        templates: TemplateUse::Never,
        ..Config::default()
    })
    .unwrap_or_else(|e| panic!("{e}"))
}

/// The policy `test`, by its rules in TOML.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn policy(rules: &str) -> Policy {
    Document::parse_toml(rules).unwrap().policy("test").unwrap()
}

/// A network with these rules, whose names are looked up at the test's own server.
///
/// # Panics
/// As [`policy`].
#[must_use]
pub fn network(rules: &str) -> Network {
    Network::new(policy(rules)).name_servers([NameServer::address()])
}

/// What a program in the guest prints.
///
/// # Panics
/// When it fails.
pub async fn run_ok(sandbox: &Sandbox, language: Language, code: &str) -> String {
    let request = RunRequest::new(language, code).timeout_s(120);
    finish_ok(sandbox.run(&request).unwrap()).await.0
}

/// What a program of Python prints, after this module's [`PRELUDE`].
///
/// # Panics
/// When it fails.
pub async fn python(sandbox: &Sandbox, code: &str) -> String {
    run_ok(sandbox, Language::Python, &format!("{PRELUDE}\n{code}")).await
}

/// The same for the guest's root.
///
/// # Panics
/// When it fails.
pub async fn python_as_root(sandbox: &Sandbox, code: &str) -> String {
    let code = format!("{PRELUDE}\n{code}");
    let request = SpawnRequest::new(["python3", "-c", &code])
        .root()
        .timeout_s(120);

    let transcript = finish_run(sandbox.spawn(&request).unwrap()).await;
    assert_eq!(
        transcript.outcome.exit_code,
        Some(0),
        "{}{}",
        transcript.out(),
        transcript.err()
    );

    transcript.out().to_owned()
}

/// What programs of tests begin with. `report(name, act)` prints a line with what came of an act: its value, or its
/// error; and `late` where that took longer than an answer that comes at once.
pub const PRELUDE: &str = r#"
import errno, hashlib, http.client, json, os, socket, ssl, struct, sys, threading, time, urllib.error, urllib.request
AT_ONCE = 8
socket.setdefaulttimeout(60)
def explained(error):
    if isinstance(error, urllib.error.HTTPError): return f'HTTP {error.code} ' + ' '.join(error.read().decode().split())
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception): error = error.reason
    if isinstance(error, ssl.SSLError) and error.reason: return f'{type(error).__name__} {error.reason}'
    if isinstance(error, OSError) and error.errno in errno.errorcode: return errno.errorcode[error.errno]
    return type(error).__name__
def report(name, act):
    begun = time.monotonic()
    try: came = act()
    except Exception as error: came = explained(error)
    late = ' late' if time.monotonic() - begun > AT_ONCE else ''
    print(f'{name}: {came}{late}', flush=True)
def get(url, context=None, method='GET', headers={}, data=None):
    request = urllib.request.Request(url, method=method, headers=headers, data=data)
    with urllib.request.urlopen(request, context=context) as response: return response.read().decode().strip()
def connect(host, port, say=b'', hear=4096):
    with socket.create_connection((host, port)) as s:
        if say: s.sendall(say)
        return s.recv(hear)
def blind():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
"#;

/// What a run's VM, or a sandbox, does on its network.
#[derive(Debug, Clone, Default)]
pub struct NetworkEvents(Arc<Mutex<Vec<NetworkEvent>>>);

impl NetworkEvents {
    /// All that this sandbox does from now on.
    ///
    /// # Panics
    /// When it has no network.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Self {
        let (events, mut receiver) = (Self::default(), sandbox.network_events().unwrap());
        let all = events.clone();
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                all.0.lock().unwrap().push(event);
            }
        });

        events
    }

    /// All that has been told.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn all(&self) -> Vec<NetworkEvent> {
        self.0.lock().unwrap().clone()
    }

    /// Forgets all that has been told.
    ///
    /// # Panics
    /// Never.
    pub fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    /// The first event of which this holds, once it has come.
    ///
    /// # Panics
    /// When none comes.
    pub async fn find(&self, what: &str, fits: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        let start = Instant::now();
        loop {
            let all = self.all();
            if let Some(found) = all.iter().find(|event| fits(event)) {
                return found.clone();
            }

            let lines: Vec<_> = all.iter().map(line).collect();
            assert!(
                start.elapsed() < SOON,
                "no {what} among\n{}",
                lines.join("\n")
            );

            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a denial with this code.
    ///
    /// # Panics
    /// When none comes.
    pub async fn denial(&self, code: &str, fits: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        self.find(code, |event| {
            !event.allowed && event.code == code && fits(event)
        })
        .await
    }
}

/// How long an event may take that has happened.
const SOON: Duration = Duration::from_secs(20);

/// An event in a line, for a person.
#[must_use]
pub fn line(event: &NetworkEvent) -> String {
    let name = event
        .name
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();

    let address = event.address.map(|a| a.to_string()).unwrap_or_default();
    format!(
        "{:?} {} {} {name} {address} {:?} {} {}",
        event.what, event.allowed, event.code, event.port, event.bytes_up, event.message
    )
}

/// Starts a program of the guest, and waits for its first word.
///
/// # Panics
/// When it ends without.
pub async fn started(
    sandbox: &Sandbox,
    language: Language,
    code: &str,
    word: &str,
) -> fumehood_engine::Run {
    let mut run = sandbox
        .run(&RunRequest::new(language, code).timeout_s(170))
        .unwrap();

    let transcript = async {
        let mut text = String::new();
        while !text.contains(word) {
            match run.next().await {
                Some(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                    text += &String::from_utf8_lossy(&bytes)
                }
                Some(_) => {}
                None => panic!("it ended after: {text}"),
            }
        }
    };
    within_deadline("its first word", transcript).await;

    run
}
