//! Runs programs in all modes.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use fumehood_engine::{
    Config, Engine, Error, Event, Language, Run, RunRequest, Sandbox, SpawnRequest, TemplateUse,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::execution::{Execution, Stream};
use super::modes::Mode;
use super::program::{Folder, Program};
use crate::{finish_run, within_deadline};

/// Runs programs with the plain interpreter, in the guest.
const DRIVER: &str = include_str!("driver.py");

/// The home directory in the guest, with a `/` at its end.
const HOME: &str = "/home/user/";

/// The longest that a program may take, in seconds. They take less than one; the machine may be busy.
const TIMEOUT_S: u64 = 30;

/// Programs that one start of the driver runs: they end long before the test's deadline.
const BATCH: usize = 40;

/// One-shot runs at the same time.
const RUNS_AT_ONCE: usize = 2;

/// What programs did, by their index and the mode.
pub type Executions = BTreeMap<(usize, Mode), Execution>;

/// Runs each program with the plain interpreter and in its modes: all folders at the same time.
///
/// # Panics
/// Panics if no VM can be started.
pub async fn execute_all(programs: &[Program]) -> Executions {
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        ..Config::default()
    });
    let engine = engine.unwrap_or_else(|e| panic!("{e}"));

    // One sandbox for each folder: several, so that they share the processors evenly.
    let in_sandboxes = Folder::ALL.map(|folder| execute_in_sandbox(&engine, programs, folder));
    let in_sandboxes = futures_util::future::join_all(in_sandboxes);
    let (in_sandboxes, mut executions) =
        tokio::join!(in_sandboxes, execute_in_vms(&engine, programs));
    for other in in_sandboxes {
        executions.extend(other);
    }

    executions
}

/// Runs each program in the modes that use a restored VM for each run.
async fn execute_in_vms(engine: &Engine, programs: &[Program]) -> Executions {
    let all = programs.iter().enumerate().flat_map(|(at, program)| {
        let modes = program.modes.iter().filter(|mode| mode.has_own_vm());
        modes.map(move |mode| (at, program, *mode))
    });

    let runs = all.map(async |(at, program, mode)| {
        let request = match mode {
            Mode::Display => request(program).display(),
            _ => request(program),
        };
        let execution = follow(engine.run(request), program).await;
        ((at, mode), execution)
    });

    let runs = futures_util::stream::iter(runs).buffer_unordered(RUNS_AT_ONCE);
    runs.collect().await
}

/// Runs the programs of a folder in all modes that need no VM of their own.
async fn execute_in_sandbox(engine: &Engine, programs: &[Program], folder: Folder) -> Executions {
    let all = programs.iter().enumerate();
    let own: Vec<_> = all
        .filter(|(_, program)| program.folder == folder)
        .collect();
    let mut executions = Executions::new();
    if own.is_empty() {
        return executions;
    }

    let mut guest = Guest::start(engine, folder.language()).await;
    for batch in own.chunks(BATCH) {
        let plain = execute_plain(&guest.sandbox, batch).await;
        let keys = batch.iter().map(|(at, _)| (*at, Mode::Plain));
        executions.extend(keys.zip(plain));
    }

    for (at, program) in own {
        for &mode in program.modes.iter().filter(|mode| !mode.has_own_vm()) {
            let execution = guest.execute(program, mode).await;
            executions.insert((at, mode), execution);
        }
    }
    executions
}

/// Runs programs with the plain interpreter, in the order given.
async fn execute_plain(sandbox: &Sandbox, programs: &[(usize, &Program)]) -> Vec<Execution> {
    let described: Vec<_> = programs
        .iter()
        .map(|(_, program)| describe(program))
        .collect();
    let input = Value::from(described).to_string();

    let command = ["python3", "-c", DRIVER];
    let request = SpawnRequest::new(command).stdin();
    let run = sandbox.spawn(&request).unwrap_or_else(|e| panic!("{e}"));
    let mut to = run.input();
    let feed = async {
        let written = to.write(input).await;
        written.unwrap_or_else(|e| panic!("the driver takes no input: {e}"));
        to.close().await;
    };
    let (transcript, ()) = tokio::join!(finish_run(run), feed);

    let error = transcript.err();
    assert_eq!(transcript.outcome.exit_code, Some(0), "the driver: {error}");
    let executions: Vec<_> = transcript.out().lines().map(parse_result).collect();
    assert_eq!(executions.len(), programs.len(), "the driver: {error}");

    executions
}

/// Describes a program for the driver.
fn describe(program: &Program) -> Value {
    let folder = program.folder;
    let is_python = folder.language() == Language::Python;
    let path = if is_python {
        // One-shot runs give Python the whole path.
        [HOME, folder.file_name()].concat()
    } else {
        folder.file_name().to_owned()
    };
    let command = |options: &[&str]| -> Vec<String> {
        let words = [folder.interpreter()]
            .into_iter()
            .chain(options.iter().copied());
        let words = words.chain([path.as_str()]).map(str::to_owned);
        words.chain(program.args.iter().cloned()).collect()
    };

    // Python holds back what goes to a pipe, and would write standard output after standard error. The order is that in
    // which the program printed.
    let merged = command(if is_python { &["-u"] } else { &[] });
    json!({
        "file": folder.file_name(),
        "code": program.code,
        "stdin": program.stdin.as_deref().unwrap_or_default(),
        "command": command(&[]),
        "merged": program.is_order_compared.then_some(merged),
    })
}

/// Parses a line that the driver printed.
fn parse_result(line: &str) -> Execution {
    let value: Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("the driver printed {line}: {e}"));
    if value["late"] == true {
        return Execution::failed("the plain interpreter did not end in 60 s");
    }

    let bytes = |name: &str| {
        value[name]
            .as_str()
            .map(|text| text.chars().map(byte).collect())
    };
    Execution {
        stdout: bytes("stdout").unwrap_or_default(),
        stderr: bytes("stderr").unwrap_or_default(),
        merged: bytes("merged"),
        exit_code: value["code"]
            .as_i64()
            .and_then(|code| i32::try_from(code).ok()),
        failure: None,
        took: Duration::from_secs_f64(value["seconds"].as_f64().unwrap_or_default()),
    }
}

/// Returns the byte that the driver wrote as the character with the same number.
fn byte(character: char) -> u8 {
    u8::try_from(u32::from(character)).unwrap_or(b'?')
}

/// Returns a request to run this program.
fn request(program: &Program) -> RunRequest {
    let request = RunRequest::new(program.folder.language(), &program.code)
        .args(program.args.iter().cloned())
        .timeout_s(TIMEOUT_S);
    match program.stdin {
        Some(_) => request.stdin(),
        None => request,
    }
}

/// Feeds a run and waits for its end.
async fn follow(run: Result<Run, Error>, program: &Program) -> Execution {
    let start = Instant::now();
    let mut run = match run {
        Ok(run) => run,
        Err(error) => return Execution::failed(error),
    };

    let mut input = run.input();
    let feed = async {
        if let Some(stdin) = &program.stdin {
            // The program may end before it has read everything.
            let _ = input.write(stdin.clone()).await;
            input.close().await;
        }
    };

    let mut execution = Execution::default();
    let follow = async {
        while let Some(event) = run.next().await {
            match event {
                Event::Stdout(bytes) => execution.push(Stream::Stdout, &bytes),
                Event::Stderr(bytes) => execution.push(Stream::Stderr, &bytes),
                _ => {}
            }
        }
        run.outcome().await
    };
    let (outcome, ()) =
        within_deadline("a program's end", async { tokio::join!(follow, feed) }).await;

    match outcome {
        Ok(outcome) => execution.exit_code = outcome.exit_code,
        Err(error) => execution.failure = Some(error.to_string()),
    }
    execution.took = start.elapsed();
    execution
}

/// A sandbox whose directories are as at its start before each program.
struct Guest<'a> {
    engine: &'a Engine,
    language: Language,
    sandbox: Sandbox,
    /// The paths in the home directory and in `/tmp` at the start.
    initial: HashSet<String>,
    contexts: usize,
}

impl<'a> Guest<'a> {
    async fn start(engine: &'a Engine, language: Language) -> Self {
        let sandbox = engine.sandbox().language(language).await;
        let sandbox = sandbox.unwrap_or_else(|e| panic!("{e}"));

        // The interpreter that waits in the sandbox owns a file, whose name the programs need.
        let used = sandbox.run(&RunRequest::new(language, ""));
        finish_run(used.unwrap_or_else(|e| panic!("{e}"))).await;
        let initial = paths(&sandbox).await.into_iter().collect();

        Self {
            engine,
            language,
            sandbox,
            initial,
            contexts: 0,
        }
    }

    async fn execute(&mut self, program: &Program, mode: Mode) -> Execution {
        if self.sandbox.ended().is_some() {
            *self = Self::start(self.engine, self.language).await;
        }

        let request = request(program);
        let execution = match mode {
            Mode::Context => {
                self.contexts += 1;
                let name = format!("fidelity-{}", self.contexts);
                let context = self.sandbox.context(&name, self.language);
                let execution = follow(self.sandbox.run(&request.context(&name)), program).await;
                // A program that has ended its interpreter has closed the context.
                let _ = context.close().await;
                execution
            }
            _ => follow(self.sandbox.run(&request.fresh_interpreter()), program).await,
        };

        self.clean().await;
        execution
    }

    /// Removes what a program has left.
    async fn clean(&self) {
        for path in paths(&self.sandbox).await {
            // The files of interpreters that wait are not the program's.
            if !self.initial.contains(&path) && !path.contains("/main.") {
                let _ = self.sandbox.files().remove_all(&path).await;
            }
        }
    }
}

/// Lists the home directory and `/tmp`.
async fn paths(sandbox: &Sandbox) -> Vec<String> {
    let mut paths = Vec::new();
    for directory in [".", "/tmp"] {
        let entries = sandbox.files().list(directory).await.unwrap_or_default();
        paths.extend(
            entries
                .iter()
                .map(|entry| format!("{directory}/{}", entry.path)),
        );
    }
    paths
}
