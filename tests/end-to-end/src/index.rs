//! Package indexes that tests build and serve.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use fumehood_engine::image::Store;
use rustls::{ServerConnection, StreamOwned};
use tokio_rustls::TlsAcceptor;

use crate::finish;

/// A Python program that builds wheels of two small packages, one of which requires the other, and an index of them in
/// the directory `index`.
pub const PYTHON_INDEX: &str = r#"
import hashlib, os, zipfile
def wheel(name, version, body, requires="", scripts=""):
    place = "index/" + name.replace("_", "-")
    os.makedirs(place, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(f"{place}/{file}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    with open(f"{place}/index.html", "a") as page:
        digest = hashlib.sha256(open(f"{place}/{file}", "rb").read()).hexdigest()
        page.write(f'<a href="{file}#sha256={digest}">{file}</a>\n')
wheel("tiny", "1.0", "VALUE = 1\n")
wheel("tiny", "1.5", "VALUE = 15\n")
wheel("tiny", "2.0", "VALUE = 2\ndef main(): print('a program of tiny')\n", scripts="tiny-program = tiny:main")
wheel("user_of_tiny", "0.3", "from tiny import VALUE\n", "Requires-Dist: tiny<2\n")
os.makedirs(".config/uv", exist_ok=True)
open(".config/uv/uv.toml", "w").write('[[index]]\nurl = "http://127.0.0.1:8000"\ndefault = true\n')
"#;

/// A Python program that builds a registry of one package, for bun, in the directory `registry`.
pub const JAVASCRIPT_INDEX: &str = r#"
import base64, gzip, hashlib, io, json, os, tarfile
os.makedirs("registry", exist_ok=True)
def pack(version):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for path, text in {
            "package/package.json": json.dumps({"name": "tiny", "version": version, "main": "index.js", "bin": {"tiny-program": "cli.js"}}),
            "package/index.js": f"module.exports = '{version}';\n",
            "package/cli.js": "\x23!/usr/bin/env node\nconsole.log('a program of tiny');\n",
        }.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    file = f"tiny-{version}.tgz"
    open("registry/" + file, "wb").write(raw.getvalue())
    digest = base64.b64encode(hashlib.sha512(raw.getvalue()).digest()).decode()
    return {"name": "tiny", "version": version, "bin": {"tiny-program": "cli.js"},
            "dist": {"tarball": "http://127.0.0.1:8001/" + file, "integrity": "sha512-" + digest}}
versions = {version: pack(version) for version in ("1.0.0", "1.2.0", "2.0.0")}
document = {"name": "tiny", "dist-tags": {"latest": "2.0.0"}, "versions": versions}
open("registry/tiny", "w").write(json.dumps(document))
open(".bunfig.toml", "w").write('[install]\nregistry = "http://127.0.0.1:8001"\n')
"#;

/// Runs one of these programs on this host, in a new directory `NAME.made` of `directory`, and returns the path of the
/// index `name` that it builds.
///
/// What else it writes is the configuration of a guest's tools, which must not lie in a home directory of this host.
///
/// # Panics
/// Panics if Python is missing, or the program fails.
#[must_use]
pub fn build_index(script: &str, name: &str, directory: &Path) -> PathBuf {
    let work = directory.join(format!("{name}.made"));
    std::fs::create_dir(&work).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", script]).current_dir(&work);
    let output = finish(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the index {name}: {stderr}");
    work.join(name)
}

/// Makes a store below this directory that has the images of the user's store and nothing else.
///
/// # Panics
/// Panics if it cannot be made.
#[must_use]
pub fn isolated_store(directory: &Path) -> PathBuf {
    let store = directory.join("store");
    std::fs::create_dir(&store).unwrap();
    let images = Store::default_root().unwrap().join("images");
    std::os::unix::fs::symlink(images, store.join("images")).unwrap();
    store
}

/// An HTTP server of a directory's files. It serves until the process exits.
#[derive(Debug, Clone)]
pub struct FileServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// The header `Authorization` that requests must have.
    authorization: Option<String>,
    state: Mutex<ServerState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ServerState {
    requests: Vec<String>,
    holds: bool,
}

impl FileServer {
    /// Serves a directory; requests without this header `Authorization` are rejected.
    #[must_use]
    pub fn new(directory: &Path, authorization: Option<&str>) -> Self {
        Self(Arc::new(Inner {
            directory: directory.to_path_buf(),
            authorization: authorization.map(str::to_owned),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Listens at this address.
    ///
    /// # Panics
    /// Panics if it is in use.
    #[must_use]
    pub fn listen(self, address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let served = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                thread::spawn(move || served.answer(stream));
            }
        });

        self
    }

    /// Listens at this address with TLS.
    ///
    /// # Panics
    /// Panics if it is in use.
    #[must_use]
    pub fn listen_tls(self, address: &str, tls: &TlsAcceptor) -> Self {
        let (listener, served) = (TcpListener::bind(address).unwrap(), self.clone());
        let config = tls.config().clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, config) = (served.clone(), config.clone());
                thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    served.answer(StreamOwned::new(tls, stream));
                });
            }
        });

        self
    }

    /// Returns method, path and header `Authorization` of each request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Holds back files, or releases them; index pages are served in any case.
    pub fn hold(&self, holds: bool) {
        self.state().holds = holds;
        self.0.changed.notify_all();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ServerState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request. A client that disconnects is not a failure.
    fn answer(&self, stream: impl Read + Write) {
        let mut reader = BufReader::new(stream);
        let (mut head, mut authorization) = (String::new(), None);
        let mut line = String::new();

        while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line.trim() != "" {
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("authorization") {
                authorization = Some(value.trim().to_owned());
            } else if head.is_empty() {
                head = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
            }

            line.clear();
        }

        let shown = authorization.clone().unwrap_or_default();
        self.state().requests.push(format!("{head} {shown}"));
        let path = head.split(' ').nth(1).unwrap_or("/");
        let is_authorized = self.0.authorization == authorization || self.0.authorization.is_none();
        let (status, body) = if is_authorized {
            self.file(path)
        } else {
            (
                "401 Unauthorized\r\nwww-authenticate: Basic realm=\"index\"",
                Vec::new(),
            )
        };

        let length = body.len();
        let kind = if path.ends_with('/') {
            "text/html"
        } else {
            "application/octet-stream"
        };

        let head_of_answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );

        let body = if head.starts_with("HEAD") {
            Vec::new()
        } else {
            body
        };

        let stream = reader.get_mut();
        let _ = stream.write_all(&[head_of_answer.into_bytes(), body].concat());
        let _ = stream.flush();
    }

    fn file(&self, path: &str) -> (&'static str, Vec<u8>) {
        let mut file = self.0.directory.join(path.trim_start_matches('/'));
        if file.is_dir() {
            file = file.join("index.html");
        } else {
            let mut state = self.state();
            while state.holds {
                state = self
                    .0
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }

        match std::fs::read(file) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        }
    }
}
