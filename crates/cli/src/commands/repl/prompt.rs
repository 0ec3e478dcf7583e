//! The prompt: a line editor in its own thread, since it blocks.

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::time::Instant;

use anyhow::Context;
use fumehood_engine::Language;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Editor, Helper};
use tokio::sync::mpsc;

use super::completeness::is_complete;
use super::completion::{COMPLETION_TIMEOUT, Completion};
use super::history::{MAX_ENTRIES, MAX_ENTRY_BYTES, history_file};

/// Ends bracketed paste, which the line editor has enabled, and moves to a new line.
const DISABLE_BRACKETED_PASTE: &[u8] = b"\x1b[?2004l\r\n";

/// The result of one prompt.
#[derive(Debug)]
pub(super) enum PromptEvent {
    Input(String),
    /// Tab: the prompt waits for an [answer](Prompt::complete).
    Complete(CompletionRequest),
    /// Ctrl-C: the typed text is discarded.
    Interrupted,
    /// Ctrl-D.
    End,
    Failed(ReadlineError),
}

/// A request of the user for completions.
#[derive(Debug)]
pub(super) struct CompletionRequest {
    /// Answers that arrive too late have the number of an earlier request.
    number: u64,
    pub(super) completion: Completion,
}

/// The answer to a [`CompletionRequest`].
type CompletionAnswer = (u64, Vec<String>);

/// A line editor in a thread. No other task waits for that thread, which may block forever.
pub(super) struct Prompt {
    requests: blocking::Sender<()>,
    events: mpsc::Receiver<PromptEvent>,
    answers: blocking::Sender<CompletionAnswer>,
    /// Whether the prompt is on the screen.
    is_shown: bool,
}

impl Prompt {
    /// Starts the thread.
    ///
    /// # Errors
    /// The terminal does not support line editing, or the thread cannot be started.
    pub(super) fn start(language: Language) -> anyhow::Result<Self> {
        let (requests, request_receiver) = blocking::channel();
        let (answers, answer_receiver) = blocking::channel();
        let (event_sender, events) = mpsc::channel(1);
        let helper = PromptAssistant {
            language,
            events: event_sender.clone(),
            answers: answer_receiver,
            last_number: Cell::new(0),
        };

        let mut editor =
            create_editor(helper).context("this terminal does not support line editing")?;
        let history = history_file(language);
        if let Some(file) = &history {
            // There is none before the first session.
            let _ = editor.load_history(file);
        }

        std::thread::Builder::new()
            .name("prompt".into())
            .spawn(move || {
                let prompt = prompt_text(language);
                edit_lines(editor, prompt, history, &request_receiver, &event_sender);
            })?;

        Ok(Self {
            requests,
            events,
            answers,
            is_shown: false,
        })
    }

    /// Shows the prompt and returns its result. If the call is cancelled, the next one continues it.
    pub(super) async fn next(&mut self) -> PromptEvent {
        if !self.is_shown {
            // If the thread has ended, the receiver below reports that.
            let _ = self.requests.send(());
            self.is_shown = true;
        }

        let event = self.events.recv().await;
        self.is_shown = matches!(event, Some(PromptEvent::Complete(_)));
        event.unwrap_or(PromptEvent::End)
    }

    /// Answers a request for completions.
    pub(super) fn complete(&self, request: &CompletionRequest, candidates: Vec<String>) {
        // If the thread has ended, the next event reports that.
        let _ = self.answers.send((request.number, candidates));
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if self.is_shown {
            let mut stdout = std::io::stdout();
            let _ = stdout
                .write_all(DISABLE_BRACKETED_PASTE)
                .and_then(|()| stdout.flush());
        }
    }
}

fn prompt_text(language: Language) -> &'static str {
    match language {
        Language::Python => ">>> ",
        Language::Shell => "$ ",
        _ => "> ",
    }
}

type LineEditor = Editor<PromptAssistant, FileHistory>;

fn create_editor(helper: PromptAssistant) -> rustyline::Result<LineEditor> {
    // An input that starts with a space is not recorded, as in most shells.
    let config = Config::builder()
        .max_history_size(MAX_ENTRIES)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let history = FileHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(helper));
    Ok(editor)
}

/// Runs the editor once per request, until the prompt is dropped.
fn edit_lines(
    mut editor: LineEditor,
    prompt: &str,
    history: Option<PathBuf>,
    requests: &blocking::Receiver<()>,
    events: &mpsc::Sender<PromptEvent>,
) {
    while requests.recv().is_ok() {
        // The editor validates the input at each Enter, and returns once it is complete.
        let event = match editor.readline(prompt) {
            Ok(code) => {
                add_to_history(&mut editor, &code, history.as_deref());
                PromptEvent::Input(code)
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => PromptEvent::Interrupted,
            Err(ReadlineError::Eof) => PromptEvent::End,
            Err(error) => PromptEvent::Failed(error),
        };

        if events.blocking_send(event).is_err() {
            return;
        }
    }
}

/// Records an input. At once, since a session may end in any way.
fn add_to_history(editor: &mut LineEditor, code: &str, file: Option<&Path>) {
    if code.len() > MAX_ENTRY_BYTES {
        return;
    }

    let added = editor.add_history_entry(code).unwrap_or(false);
    if let (true, Some(file)) = (added, file) {
        // A history that cannot be written is no reason to disturb the session.
        let _ = editor.append_history(file);
    }
}

/// Decides for the editor whether Enter submits the input or continues it on a new line, and passes on requests for
/// completions.
struct PromptAssistant {
    language: Language,
    events: mpsc::Sender<PromptEvent>,
    answers: blocking::Receiver<CompletionAnswer>,
    last_number: Cell<u64>,
}

impl PromptAssistant {
    /// Returns the completions; none if there is no answer in time.
    fn request(&self, completion: Completion) -> Vec<String> {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        let request = CompletionRequest { number, completion };
        if self
            .events
            .blocking_send(PromptEvent::Complete(request))
            .is_err()
        {
            return Vec::new();
        }

        let deadline = Instant::now() + COMPLETION_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok((answered, candidates)) if answered == number => return candidates,
                Ok(_) => {}
                Err(_) => return Vec::new(),
            }
        }
    }
}

impl Validator for PromptAssistant {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(self.language, context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for PromptAssistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let completion = Completion::of(self.language, line.get(..position).unwrap_or_default());
        let start = position - completion.word_len();
        let candidates = match completion.local(self.language) {
            Some(candidates) => candidates,
            None => self.request(completion),
        };

        let pair = |candidate: String| Pair {
            replacement: match self.language {
                Language::Shell => escaped(&candidate),
                _ => candidate.clone(),
            },
            display: candidate,
        };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

/// Returns a word of shell code with its special characters escaped. `$` starts the name of a variable.
fn escaped(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for c in word.chars() {
        if c.is_whitespace() || "'\"\\&;|<>()*?[]#!`{}".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

impl Hinter for PromptAssistant {
    type Hint = String;
}

impl Highlighter for PromptAssistant {}

impl Helper for PromptAssistant {}
