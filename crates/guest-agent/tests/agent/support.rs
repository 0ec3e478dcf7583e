//! The real agent on this machine, and a small client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fumehood_protocol::{
    Complete, Decoder, ErrorMessage, ErrorType, Exec, Hello, Item, Language, OpId, Ping, Request,
    Response, Stream, encode_line,
};

use crate::listening::start_listening;

/// Everything must happen within this time, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// An agent process that is killed at the end of the test.
pub struct Agent {
    child: Child,
    pub address: String,
    pub directory: tempfile::TempDir,
}

impl Agent {
    /// Starts an agent without a token.
    pub fn open() -> Self {
        Self::start(&["--no-token"])
    }

    pub fn start(arguments: &[&str]) -> Self {
        Self::run(
            Command::new(env!("CARGO_BIN_EXE_fumehood-agent")),
            arguments,
        )
    }

    /// Starts an agent that may have at most this many open files.
    pub fn with_open_files(files: u32) -> Self {
        let mut shell = Command::new("/bin/sh");
        let program = env!("CARGO_BIN_EXE_fumehood-agent");
        shell.args([
            "-c",
            &format!("ulimit -n {files}; exec {program} \"$@\""),
            "sh",
        ]);
        Self::run(shell, &["--no-token"])
    }

    fn run(mut command: Command, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bun = bun()
            .and_then(|bun| bun.parent().map(Path::to_path_buf))
            .unwrap_or_default();
        let path = format!(
            "{}/bin:/usr/local/bin:/usr/bin:/bin:{}",
            directory.path().display(),
            bun.display()
        );
        command.current_dir(&directory).env("PATH", path);
        let (child, address) = start_listening(&mut command, arguments);

        Self {
            child,
            address,
            directory,
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Connects and agrees on version 1 with these features.
    pub fn hello(&self, features: &[&str]) -> Client {
        let mut client = self.connect();
        let features = features.iter().map(ToString::to_string).collect();
        client.send(&Request::Hello(Hello {
            protocol: 1,
            features,
            ..Hello::default()
        }));
        assert!(matches!(client.response(), Response::Hello(_)));
        client
    }

    /// Installs a shell script that is found before any other program with this name.
    pub fn install_program(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let bin = self.directory.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        let permissions = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), permissions).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The agent's resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The agent's children, including zombies.
    pub fn children(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| parent(*pid) == Some(self.pid()))
            .collect()
    }

    /// Sends SIGTERM to the agent, as an operator would.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        wait_until("the agent ends", || {
            self.child.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.terminate();
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Whether this process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}

/// Waits until `holds` returns true; panics if that takes too long.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The path of `bun`, if this machine has it: from `FUMEHOOD_TEST_BUN` or PATH.
pub fn bun() -> Option<PathBuf> {
    let named = std::env::var_os("FUMEHOOD_TEST_BUN").map(PathBuf::from);
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|directory| directory.join("bun"));
    named.into_iter().chain(found).find(|bun| bun.is_file())
}

/// The collected messages of an exec.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Lines of JSON, one for each displayed value.
    pub results: Vec<u8>,
    /// The bytes of each piece, in order.
    pub pieces: Vec<Vec<u8>>,
    pub complete: Option<Complete>,
    pub error: Option<ErrorMessage>,
}

impl Outcome {
    /// An outcome of which this many pieces have arrived before.
    pub fn after(pieces: usize) -> Self {
        Self {
            pieces: vec![Vec::new(); pieces],
            ..Self::default()
        }
    }

    pub fn complete(&self) -> &Complete {
        self.complete
            .as_ref()
            .unwrap_or_else(|| panic!("no complete: {self:?}"))
    }

    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn err(&self) -> &str {
        std::str::from_utf8(&self.stderr).unwrap()
    }

    /// The displayed values.
    pub fn values(&self) -> Vec<serde_json::Value> {
        let lines = std::str::from_utf8(&self.results).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asserts that byte counts and checksums in `complete` match the received output.
    pub fn check_summaries(&self) {
        for (summary, bytes) in [
            (self.complete().stdout, &self.stdout),
            (self.complete().stderr, &self.stderr),
            (self.complete().results, &self.results),
        ] {
            assert_eq!(summary.bytes, bytes.len() as u64);
            assert_eq!(summary.crc32c, crc32c::crc32c(bytes));
        }
    }
}

/// A message, with the bytes of the frame that followed it.
pub type Message = (Response, Vec<u8>);

/// A connection to the agent.
pub struct Client {
    pub stream: TcpStream,
    decoder: Decoder,
    input: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            decoder: Decoder::new(64 << 20),
            input: Vec::new(),
        }
    }

    pub fn send(&mut self, request: &Request) {
        self.stream.write_all(&encode_line(request)).unwrap();
    }

    /// Sends a line unchanged.
    pub fn line(&mut self, line: impl AsRef<[u8]>) {
        self.stream.write_all(line.as_ref()).unwrap();
        self.stream.write_all(b"\n").unwrap();
    }

    pub fn exec(&mut self, id: u64, language: Language, code: &str) {
        self.send(&Request::Exec(exec(Some(id), language, code)));
    }

    pub fn cancel(&mut self, id: u64) {
        self.line(format!(r#"{{"action":"cancel","op_id":{id}}}"#));
    }

    pub fn credit(&mut self, id: u64, bytes: u64) {
        self.line(format!(
            r#"{{"action":"credit","op_id":{id},"bytes":{bytes}}}"#
        ));
    }

    fn item(&mut self) -> Option<Item> {
        loop {
            let mut rest = self.input.as_slice();
            let item = self.decoder.decode(&mut rest);
            let used = self.input.len() - rest.len();
            self.input.drain(..used);
            if item.is_some() {
                return item;
            }
            let mut buffer = vec![0; 256 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing arrived in time: {error}"),
            }
        }
    }

    /// Returns the next message, or `None` if the agent has closed the connection.
    pub fn try_message(&mut self) -> Option<Message> {
        let Item::Line(line) = self.item()? else {
            panic!("no line")
        };
        let response = Response::parse(&line).unwrap();
        let Response::Data(data) = &response else {
            return Some((response, Vec::new()));
        };
        self.decoder.expect_raw(usize::try_from(data.len).unwrap());
        let Some(Item::Raw(bytes)) = self.item() else {
            panic!("no frame")
        };
        Some((response, bytes))
    }

    pub fn message(&mut self) -> Message {
        self.try_message().expect("the agent hung up")
    }

    pub fn response(&mut self) -> Response {
        self.message().0
    }

    pub fn error(&mut self) -> ErrorMessage {
        match self.response() {
            Response::Error(error) => error,
            other => panic!("no error: {other:?}"),
        }
    }

    /// Sends a line, and asserts that the error has this type and its message contains each of `parts`.
    pub fn expect_error(&mut self, line: impl AsRef<[u8]>, error_type: ErrorType, parts: &[&str]) {
        let shown =
            String::from_utf8_lossy(&line.as_ref()[..line.as_ref().len().min(200)]).into_owned();
        self.line(line);
        let error = self.error();
        assert_eq!(error.error_type, error_type, "{shown}: {}", error.message);
        for part in parts {
            assert!(
                error.message.contains(part),
                "{shown}: no `{part}` in: {}",
                error.message
            );
        }
    }

    /// Asserts that the agent answers on this connection.
    pub fn ping(&mut self) {
        self.send(&Request::Ping(Ping::default()));
        let response = self.response();
        assert!(matches!(response, Response::Pong(_)), "{response:?}");
    }

    /// Runs code in version 0, without an `op_id`.
    pub fn run(&mut self, language: Language, code: &str) -> Outcome {
        self.send(&Request::Exec(exec(None, language, code)));
        self.outcome()
    }

    pub fn python(&mut self, code: &str) -> Outcome {
        self.run(Language::Python, code)
    }

    pub fn shell(&mut self, code: &str) -> Outcome {
        self.run(Language::Shell, code)
    }

    /// Collects everything up to the end of the only running operation.
    pub fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        self.collect_rest(&mut outcome);
        outcome
    }

    /// The same, for an operation of which some messages have arrived before.
    pub fn collect_rest(&mut self, outcome: &mut Outcome) {
        loop {
            let (response, bytes) = self.message();
            if outcome.add(response, bytes) {
                return;
            }
        }
    }
}

impl Outcome {
    /// Adds a message. Returns whether it was the last one.
    pub fn add(&mut self, response: Response, bytes: Vec<u8>) -> bool {
        let (stream, seq, bytes) = match response {
            Response::Stdout(output) => (Stream::Stdout, output.seq, output.chunk.into_bytes()),
            Response::Stderr(output) => (Stream::Stderr, output.seq, output.chunk.into_bytes()),
            Response::Result(output) => (Stream::Result, output.seq, output.chunk.into_bytes()),
            Response::Credit(_) | Response::Queued(_) | Response::Started(_) => return false,
            Response::Data(data) => (data.stream, Some(data.seq), bytes),
            Response::Complete(complete) => {
                self.complete = Some(complete);
                return true;
            }
            Response::Error(error) => {
                self.error = Some(error);
                return true;
            }
            other => panic!("unexpected: {other:?}"),
        };
        assert!(!bytes.is_empty(), "an empty piece");
        assert!(
            seq.is_none_or(|seq| seq == self.pieces.len() as u64),
            "pieces are out of order"
        );
        match stream {
            Stream::Stdout => self.stdout.extend_from_slice(&bytes),
            Stream::Stderr => self.stderr.extend_from_slice(&bytes),
            Stream::Result => self.results.extend_from_slice(&bytes),
            Stream::File => panic!("a file's content"),
        }
        self.pieces.push(bytes);
        false
    }
}

/// An exec with a generous timeout.
pub fn exec(id: Option<u64>, language: Language, code: &str) -> Exec {
    let mut exec = Exec::new(language, code);
    exec.op_id = id.map(|id| OpId::try_from(id).unwrap());
    exec.timeout = Some(60);
    exec
}

/// Returns `text`, padded to `len` bytes.
pub fn padded(text: &str, with: &str, len: usize) -> String {
    text.to_string() + &with.repeat(len - text.len())
}

/// Returns the id of the operation that a response belongs to.
pub fn op_id(response: &Response) -> Option<u64> {
    serde_json::to_value(response)
        .unwrap()
        .get("op_id")?
        .as_u64()
}
