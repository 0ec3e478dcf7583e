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

/// What a person enters at the prompt.
#[derive(Debug)]
pub(crate) enum Entered {
    Code(String),
    /// Ctrl-C: what was typed is dropped.
    Nothing,
    /// Ctrl-D.
    End,
    Failed(ReadlineError),
}

/// A line that a person edits, in a thread of its own, which nothing else needs to wait for.
pub(crate) struct Prompt {
    asks: blocking::Sender<()>,
    answers: mpsc::Receiver<Entered>,
    /// The line is on the screen.
    is_asked: bool,
}

/// Tells a terminal to send what is pasted as if it were typed, which it was told not to at the prompt.
const UNBRACKETED: &[u8] = b"\x1b[?2004l\r\n";

impl Prompt {
    pub(crate) fn new(language: Language) -> anyhow::Result<Self> {
        let editor = editor(language).context("there is no line editor on this terminal")?;
        let (asks, asked) = blocking::channel();
        let (answer, answers) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("prompt".into())
            .spawn(move || edit(editor, prompt(language), &asked, &answer))?;
        Ok(Self {
            asks,
            answers,
            is_asked: false,
        })
    }

    /// What is entered next. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Entered {
        if !self.is_asked {
            // A thread that is gone gives no answer, either.
            let _ = self.asks.send(());
            self.is_asked = true;
        }
        let entered = self.answers.recv().await;
        self.is_asked = false;
        entered.unwrap_or(Entered::End)
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if self.is_asked {
            let mut stdout = std::io::stdout();
            let _ = stdout.write_all(UNBRACKETED).and_then(|()| stdout.flush());
        }
    }
}

fn prompt(language: Language) -> &'static str {
    match language {
        Language::Python => ">>> ",
        Language::Shell => "$ ",
        _ => "> ",
    }
}

type LineEditor = Editor<Pieces, MemHistory>;

fn editor(language: Language) -> rustyline::Result<LineEditor> {
    let config = Config::builder().auto_add_history(true).build();
    let history = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(Pieces(language)));
    Ok(editor)
}

fn edit(
    mut editor: LineEditor,
    prompt: &str,
    asked: &blocking::Receiver<()>,
    answer: &mpsc::Sender<Entered>,
) {
    while asked.recv().is_ok() {
        let entered = match editor.readline(prompt) {
            Ok(code) => Entered::Code(code),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Entered::Nothing,
            Err(ReadlineError::Eof) => Entered::End,
            Err(error) => Entered::Failed(error),
        };
        if answer.blocking_send(entered).is_err() {
            return;
        }
    }
}

/// Tells the editor whether Enter ends a piece of code or only its line.
struct Pieces(Language);

impl Validator for Pieces {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match is_complete(self.0, context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Pieces {
    type Candidate = String;
}

impl Hinter for Pieces {
    type Hint = String;
}

impl Highlighter for Pieces {}

impl Helper for Pieces {}
