//! Where inputs come from: a prompt, or standard input that is not a terminal.

use anyhow::{Context, bail};
use fumehood_engine::{Language, Limits};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};

use super::completeness::InputState;
use super::prompt::{CompletionRequest, Prompt, PromptEvent};
use crate::io::is_interactive;

/// What a source has for the session.
pub(super) enum SourceEvent {
    Input(String),
    /// The prompt waits for completions.
    Complete(CompletionRequest),
    End,
}

/// The source of inputs.
pub(super) enum InputSource {
    Prompt(Prompt),
    Lines(Language, BufReader<Stdin>),
}

impl InputSource {
    /// Opens the prompt if standard input and output are terminals, or else standard input.
    ///
    /// # Errors
    /// The terminal does not support line editing.
    pub(super) fn open(language: Language) -> anyhow::Result<Self> {
        Ok(if is_interactive() {
            Self::Prompt(Prompt::start(language)?)
        } else {
            Self::Lines(language, BufReader::new(tokio::io::stdin()))
        })
    }

    pub(super) fn is_prompt(&self) -> bool {
        matches!(self, Self::Prompt(_))
    }

    /// Answers a request for completions.
    pub(super) fn complete(&self, request: &CompletionRequest, candidates: Vec<String>) {
        if let Self::Prompt(prompt) = self {
            prompt.complete(request, candidates);
        }
    }

    /// Returns the next input that is not empty, the end, or what to do before. May be cancelled and called again.
    ///
    /// # Errors
    /// The terminal or standard input cannot be read.
    pub(super) async fn next(&mut self) -> anyhow::Result<SourceEvent> {
        loop {
            let input = match self {
                Self::Prompt(prompt) => match prompt.next().await {
                    PromptEvent::Input(code) if matches!(code.trim(), "exit" | "exit()") => None,
                    PromptEvent::Input(code) => Some(code),
                    PromptEvent::Complete(request) => return Ok(SourceEvent::Complete(request)),
                    PromptEvent::Interrupted => continue,
                    PromptEvent::End => None,
                    PromptEvent::Failed(error) => bail!("cannot read the terminal: {error}"),
                },
                Self::Lines(language, lines) => read_input(*language, lines).await?,
            };

            // A blank input is not worth a round trip to the VM.
            match input {
                Some(code) if code.trim().is_empty() => {}
                Some(code) => return Ok(SourceEvent::Input(code)),
                None => return Ok(SourceEvent::End),
            }
        }
    }
}

/// Reads lines until they are a complete input. Returns `None` if there are no more lines.
async fn read_input(
    language: Language,
    lines: &mut BufReader<Stdin>,
) -> anyhow::Result<Option<String>> {
    let max_bytes = Limits::default().code_bytes;
    let (mut code, mut state) = (String::new(), InputState::new(language));

    loop {
        let line_start = code.len();
        // Read one byte more than allowed, so that the engine reports the size.
        let read = (&mut *lines).take(max_bytes + 1).read_line(&mut code).await;
        let is_end = read.context("cannot read standard input")? == 0;
        if is_end && code.is_empty() {
            return Ok(None);
        }

        state.add_line(code[line_start..].trim_end_matches('\n'));
        if is_end || state.is_complete() || code.len() as u64 > max_bytes {
            return Ok(Some(code));
        }
    }
}
