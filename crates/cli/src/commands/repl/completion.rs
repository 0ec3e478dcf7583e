//! Tab completion by the guest: a short program looks up names in the context, while it waits for the next input.

use std::time::Duration;

use fumehood_engine::{Context, Event, Language};

/// Maximum output of a program that looks up names, in bytes.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;
/// Maximum number of completions.
const MAX_CANDIDATES: usize = 500;
/// Maximum length of the text that is completed, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Timeout of a program that looks up names, in seconds.
const LOOKUP_TIMEOUT_S: u64 = 4;
/// The time after which the prompt continues without completions.
pub(super) const COMPLETION_TIMEOUT: Duration = Duration::from_secs(5);

/// The indentation that Tab inserts in a line of Python without text.
const INDENTATION: &str = "    ";

/// The text to complete: the end of the typed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Completion {
    /// The last line up to the cursor.
    line: String,
    /// The word at its end. In shell code, without backslashes.
    word: String,
    /// The length of the word as it is typed, in bytes.
    typed_len: usize,
}

impl Completion {
    /// Returns the part at the end of a text that can be completed.
    pub(super) fn of(language: Language, text: &str) -> Self {
        let line = text.rsplit('\n').next().unwrap_or_default();
        let is_in_word = |c: char| match language {
            Language::Shell => !c.is_whitespace() && !";|&<>()=`'\"".contains(c),
            _ => c.is_alphanumeric() || "_$.".contains(c),
        };

        // A character after a backslash of shell code belongs to the word.
        let (mut word, mut start) = (String::new(), 0);
        let mut is_escaped = false;
        for (position, c) in line.char_indices() {
            match c {
                '\\' if language == Language::Shell && !is_escaped => {
                    is_escaped = true;
                    continue;
                }
                c if is_escaped || is_in_word(c) => word.push(c),
                c => {
                    word.clear();
                    start = position + c.len_utf8();
                }
            }
            is_escaped = false;
        }

        Self {
            line: line.to_owned(),
            word,
            typed_len: line.len() - start,
        }
    }

    /// Returns the length of the word, in bytes.
    pub(super) fn word_len(&self) -> usize {
        self.typed_len
    }

    /// Returns the completions for which the guest is not needed.
    pub(super) fn local(&self, language: Language) -> Option<Vec<String>> {
        if self.line.len() > MAX_TEXT_BYTES {
            return Some(Vec::new());
        }
        if language != Language::Shell && self.line.trim().is_empty() {
            return Some(vec![INDENTATION.to_owned()]);
        }
        None
    }

    /// Returns the program that writes the completions, one per line.
    fn program(&self, language: Language) -> String {
        let (python, javascript, shell) = (
            include_str!("guest/complete.py"),
            include_str!("guest/complete.js"),
            include_str!("guest/complete.sh"),
        );

        match language {
            // In a separate function, so that the context gets no name.
            Language::Python => format!(
                "__import__('builtins').exec({}, {{'names': globals(), 'line': {}}})",
                quoted(python),
                quoted(&self.line)
            ),
            // A subshell that keeps the exit code.
            Language::Shell => {
                let kind = self.kind();
                let word = self.word.replace('\'', r"'\''");
                format!("(__s=$?\n{shell}\n__complete_word {kind} '{word}'; exit $__s) 2>/dev/null")
            }
            _ => format!("{}({});", javascript.trim_end(), quoted(&self.line)),
        }
    }

    /// Returns the kind of a word of shell code.
    fn kind(&self) -> &'static str {
        let before = self.line[..self.line.len() - self.typed_len].trim_end();
        let starts_command = before.is_empty()
            || before.ends_with([';', '|', '&', '(', '`'])
            || ["then", "do", "else", "sudo", "exec"]
                .iter()
                .any(|word| before == *word || before.ends_with(&format!(" {word}")));

        if self.word.starts_with('$') {
            "variable"
        } else if starts_command {
            "command"
        } else {
            "file"
        }
    }

    /// Returns the lines of the guest that complete the word. Everything else is dropped: a name with control characters
    /// would be executed by the terminal.
    fn candidates(&self, output: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(output);
        let mut candidates: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with(&self.word))
            .filter(|line| !line.contains(char::is_control) && line.len() <= MAX_TEXT_BYTES)
            .take(MAX_CANDIDATES)
            .map(str::to_owned)
            .collect();
        candidates.dedup();
        candidates
    }
}

/// Looks up completions in the context. Returns none if the guest does not answer.
pub(super) async fn complete(context: &Context, completion: &Completion) -> Vec<String> {
    let program = completion.program(context.language());
    let output = ask(context, &program).await;
    output.map_or_else(Vec::new, |output| completion.candidates(&output))
}

/// Runs a program in the context that the user does not see. Returns its standard output.
pub(super) async fn ask(context: &Context, program: &str) -> Option<Vec<u8>> {
    let request = context.request(program).timeout_s(LOOKUP_TIMEOUT_S);
    let mut run = context.start(&request).ok()?;

    let mut output = Vec::new();
    while let Some(event) = run.next().await {
        if let Event::Stdout(bytes) = event {
            let free = MAX_OUTPUT_BYTES - output.len();
            output.extend_from_slice(&bytes[..bytes.len().min(free)]);
        }
    }
    run.outcome().await.ok()?;
    Some(output)
}

/// Returns text as a string literal of Python and of JavaScript.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(language: Language, text: &str) -> String {
        Completion::of(language, text).word
    }

    #[test]
    fn the_word_before_the_cursor_is_completed() {
        assert_eq!(word(Language::Python, "x = os.pa"), "os.pa");
        assert_eq!(word(Language::Python, "f(a)\nprint(é"), "é");
        assert_eq!(word(Language::Python, "f(x)."), ".");
        assert_eq!(word(Language::Javascript, "await $a.b"), "$a.b");
        assert_eq!(word(Language::Shell, "cat src/ma"), "src/ma");
        assert_eq!(word(Language::Shell, "A=$HO"), "$HO");
        assert_eq!(word(Language::Shell, "ls "), "");
        assert_eq!(word(Language::Shell, "ls \\ a\\ di"), " a di");
        let escaped = Completion::of(Language::Shell, "ls a\\ di");
        assert_eq!(escaped.word_len(), 5);
    }

    #[test]
    fn the_kind_of_a_word_of_shell_code_is_known() {
        let kind = |line: &str| Completion::of(Language::Shell, line).kind();
        assert_eq!(kind("ec"), "command");
        assert_eq!(kind("true && ec"), "command");
        assert_eq!(kind("if true; then ec"), "command");
        assert_eq!(kind("cat a"), "file");
        assert_eq!(kind("echo $HO"), "variable");
    }

    #[test]
    fn a_blank_line_is_indented_without_the_guest() {
        let completion = Completion::of(Language::Python, "def f():\n    ");
        let local = completion.local(Language::Python);
        assert_eq!(local, Some(vec![INDENTATION.to_owned()]));
        assert_eq!(completion.local(Language::Shell), None);

        let long = Completion::of(Language::Python, &"x".repeat(5000));
        assert_eq!(long.local(Language::Python), Some(Vec::new()));
    }

    #[test]
    fn answers_of_the_guest_are_checked() {
        let completion = Completion::of(Language::Python, "os.pa");
        let output = b"os.path\nos.pathsep\nos.pa\x1b[2J\nother\nos.pa\xff\n";
        assert_eq!(
            completion.candidates(output),
            ["os.path", "os.pathsep", "os.pa\u{fffd}"]
        );

        let many = "os.pa\nos.pab\n".repeat(MAX_CANDIDATES);
        let found = completion.candidates(many.as_bytes());
        assert_eq!(found.len(), MAX_CANDIDATES);
    }

    #[test]
    fn words_are_quoted_for_the_guest() {
        let python = Completion::of(Language::Python, "print(\"\\").program(Language::Python);
        assert!(python.ends_with(r#"'line': "print(\"\\"})"#), "{python}");
        let shell = Completion::of(Language::Shell, "ls a").program(Language::Shell);
        assert!(shell.contains("__complete_word file 'a'; exit"), "{shell}");
    }
}
