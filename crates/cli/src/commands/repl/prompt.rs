//! The prompt: a line editor in its own thread, since it blocks.

use std::io::Write;
use std::sync::mpsc as blocking;

use anyhow::Context;
use fumehood_engine::Language;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};
use tokio::sync::mpsc;

use super::completeness::is_complete;

/// Ends bracketed paste, which the line editor has enabled, and moves to a new line.
const DISABLE_BRACKETED_PASTE: &[u8] = b"\x1b[?2004l\r\n";

/// The result of one prompt.
#[derive(Debug)]
pub(super) enum PromptEvent {
    Input(String),
    /// Ctrl-C: the typed text is discarded.
    Interrupted,
    /// Ctrl-D.
    End,
    Failed(ReadlineError),
}

/// A line editor in a thread. No other task waits for that thread, which may block forever.
pub(super) struct Prompt {
    requests: blocking::Sender<()>,
    events: mpsc::Receiver<PromptEvent>,
    /// Whether the prompt is on the screen.
    is_shown: bool,
}

impl Prompt {
    /// Starts the thread.
    ///
    /// # Errors
    /// The terminal does not support line editing, or the thread cannot be started.
    pub(super) fn start(language: Language) -> anyhow::Result<Self> {
        let editor =
            create_editor(language).context("this terminal does not support line editing")?;
        let (requests, request_receiver) = blocking::channel();
        let (event_sender, events) = mpsc::channel(1);

        std::thread::Builder::new()
            .name("prompt".into())
            .spawn(move || {
                let prompt = prompt_text(language);
                edit_lines(editor, prompt, &request_receiver, &event_sender);
            })?;

        Ok(Self {
            requests,
            events,
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
        self.is_shown = false;
        event.unwrap_or(PromptEvent::End)
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

type LineEditor = Editor<InputValidator, MemHistory>;

fn create_editor(language: Language) -> rustyline::Result<LineEditor> {
    let config = Config::builder().auto_add_history(true).build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(InputValidator(language)));
    Ok(editor)
}

/// Runs the editor once per request, until the prompt is dropped.
fn edit_lines(
    mut editor: LineEditor,
    prompt: &str,
    requests: &blocking::Receiver<()>,
    events: &mpsc::Sender<PromptEvent>,
) {
    while requests.recv().is_ok() {
        // The editor validates the input at each Enter, and returns once it is complete.
        let event = match editor.readline(prompt) {
            Ok(code) => PromptEvent::Input(code),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => PromptEvent::Interrupted,
            Err(ReadlineError::Eof) => PromptEvent::End,
            Err(error) => PromptEvent::Failed(error),
        };

        if events.blocking_send(event).is_err() {
            return;
        }
    }
}

/// Decides for the editor whether Enter submits the input or continues it on a new line.
struct InputValidator(Language);

impl Validator for InputValidator {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(self.0, context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for InputValidator {
    type Candidate = String;
}

impl Hinter for InputValidator {
    type Hint = String;
}

impl Highlighter for InputValidator {}

impl Helper for InputValidator {}
