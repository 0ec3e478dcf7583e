//! A guest with a network, and the events that it causes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fumehood_engine::policy::{Document, Policy};
use fumehood_engine::{
    Config, Engine, Event, Language, Network, NetworkEvent, RunRequest, Sandbox, SpawnRequest,
    TemplateUse,
};

use crate::servers::NameServer;
use crate::{finish_run, run_ok, within_deadline};

/// Starts an engine that boots every VM.
///
/// # Panics
/// Panics if there is no image.
#[must_use]
pub fn engine_without_templates() -> Engine {
    Engine::start(Config {
        templates: TemplateUse::Never,
        ..Config::default()
    })
    .unwrap_or_else(|e| panic!("{e}"))
}

/// Returns the policy `test` with these rules, in TOML.
///
/// # Panics
/// Panics if the rules are invalid.
#[must_use]
pub fn policy(rules: &str) -> Policy {
    Document::parse_toml(rules).unwrap().policy("test").unwrap()
}

/// Returns a network with these rules that resolves names by the test's own name server.
///
/// # Panics
/// Panics if the rules are invalid.
#[must_use]
pub fn network(rules: &str) -> Network {
    Network::new(policy(rules)).name_servers([NameServer::address()])
}

/// Runs Python code after this module's [`PRELUDE`], and returns its output.
///
/// # Panics
/// Panics if it fails.
pub async fn python(sandbox: &Sandbox, code: &str) -> String {
    run_ok(sandbox, Language::Python, &format!("{PRELUDE}\n{code}")).await
}

/// Runs Python code as [`python`] does, but as the guest's root.
///
/// # Panics
/// Panics if it fails.
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

/// Definitions for Python programs of the tests. `report(name, act)` prints a line with the result of `act`: its value or
/// its error, and `late` if that took longer than an immediate answer takes.
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
    start = time.monotonic()
    try: result = act()
    except Exception as error: result = explained(error)
    late = ' late' if time.monotonic() - start > AT_ONCE else ''
    print(f'{name}: {result}{late}', flush=True)
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

/// Collects the network events of a sandbox.
#[derive(Debug, Clone, Default)]
pub struct NetworkEvents(Arc<Mutex<Vec<NetworkEvent>>>);

impl NetworkEvents {
    /// Collects the events of this sandbox from now on.
    ///
    /// # Panics
    /// Panics if it has no network.
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

    /// Returns all events so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn all(&self) -> Vec<NetworkEvent> {
        self.0.lock().unwrap().clone()
    }

    /// Discards all events so far.
    ///
    /// # Panics
    /// Never.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Waits for an event that `fits` accepts, and returns the first.
    ///
    /// # Panics
    /// Panics if none occurs in time.
    pub async fn find(&self, what: &str, fits: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        let start = Instant::now();
        loop {
            let all = self.all();
            if let Some(found) = all.iter().find(|event| fits(event)) {
                return found.clone();
            }

            let lines: Vec<_> = all.iter().map(describe).collect();
            assert!(
                start.elapsed() < EVENT_DEADLINE,
                "no {what} among\n{}",
                lines.join("\n")
            );

            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a denial with this code.
    ///
    /// # Panics
    /// Panics if none occurs in time.
    pub async fn denial(&self, code: &str, fits: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        self.find(code, |event| {
            !event.allowed && event.code == code && fits(event)
        })
        .await
    }
}

/// Time for an event to be delivered.
const EVENT_DEADLINE: Duration = Duration::from_secs(20);

/// Formats an event as one line.
#[must_use]
pub fn describe(event: &NetworkEvent) -> String {
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

/// Starts a program in the guest, and waits until its output contains `word`.
///
/// # Panics
/// Panics if it ends first.
pub async fn start_until_output(
    sandbox: &Sandbox,
    language: Language,
    code: &str,
    word: &str,
) -> fumehood_engine::Run {
    let mut run = sandbox
        .run(&RunRequest::new(language, code).timeout_s(170))
        .unwrap();

    let is_up = async {
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
    within_deadline("its first word", is_up).await;

    run
}
