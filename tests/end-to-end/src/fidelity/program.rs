use std::fs;
use std::path::Path;

use fumehood_engine::Language;
use serde::Deserialize;

use super::modes::Mode;

/// A folder of programs. In the table of exceptions: the variant's name in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Folder {
    /// Python.
    Python,
    /// JavaScript.
    Javascript,
    /// TypeScript, which runs in the same interpreter as JavaScript.
    Typescript,
    /// Shell.
    Shell,
}

impl Folder {
    /// All folders.
    pub const ALL: [Self; 4] = [
        Self::Python,
        Self::Javascript,
        Self::Typescript,
        Self::Shell,
    ];

    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Typescript => "typescript",
            Self::Shell => "shell",
        }
    }

    /// Returns the language of its programs for a request.
    #[must_use]
    pub const fn language(self) -> Language {
        match self {
            Self::Python => Language::Python,
            Self::Javascript | Self::Typescript => Language::Javascript,
            Self::Shell => Language::Shell,
        }
    }

    /// Returns the plain interpreter's command.
    pub(super) const fn interpreter(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Javascript | Self::Typescript => "bun",
            Self::Shell => "bash",
        }
    }

    /// Returns the file name that a one-shot run gives to a program.
    pub(super) const fn file_name(self) -> &'static str {
        match self {
            Self::Python => "main.py",
            Self::Javascript | Self::Typescript => "main.ts",
            Self::Shell => "main.sh",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::Javascript => "js",
            Self::Typescript => "ts",
            Self::Shell => "sh",
        }
    }

    const fn comment(self) -> &'static str {
        match self {
            Self::Python | Self::Shell => "#",
            Self::Javascript | Self::Typescript => "//",
        }
    }
}

/// A program, as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its folder.
    pub folder: Folder,
    /// The name of its file without the extension.
    pub name: String,
    /// The code: the whole file.
    pub code: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its standard input; empty if none.
    pub stdin: Option<String>,
    /// The modes in which it is compared.
    pub modes: Vec<Mode>,
    /// Whether the order of both outputs is compared: the plain interpreter then runs it twice.
    pub is_order_compared: bool,
}

impl Program {
    /// Returns the id: `python/NAME`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.folder.as_str(), self.name)
    }

    /// Leaves out a part of the modes, so that the test takes three minutes on two processors. Each program still runs in
    /// a restored VM, which is what users get. One in four also runs in a context, one in four once more for the order of
    /// its output, one in eight with an interpreter of its own, and one in eight with display.
    pub fn sample(programs: &mut [Self]) {
        for (at, program) in programs.iter_mut().enumerate() {
            program.modes.retain(|mode| match mode {
                Mode::Plain | Mode::Run => true,
                Mode::Context => at % 4 == 0,
                Mode::Fresh => at % 8 == 1,
                Mode::Display => at % 8 == 5,
            });
            program.is_order_compared = at % 4 == 3;
        }
    }

    /// Reads all programs, sorted by id.
    ///
    /// # Panics
    /// Panics if a file cannot be read, has a wrong extension or an invalid directive.
    #[must_use]
    pub fn read_all(directory: &Path) -> Vec<Self> {
        let mut programs: Vec<Self> = Folder::ALL
            .into_iter()
            .flat_map(|folder| Self::read_folder(directory, folder))
            .collect();
        programs.sort_by_key(|program| (program.folder, program.name.clone()));

        programs
    }

    fn read_folder(directory: &Path, folder: Folder) -> Vec<Self> {
        let path = directory.join(folder.as_str());
        let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));

        let read = |path: &Path| {
            let code = fs::read_to_string(path).map_err(|e| e.to_string())?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if path
                .extension()
                .is_none_or(|given| given != folder.extension())
            {
                return Err(format!("its name must end in .{}", folder.extension()));
            }
            Self::parse(folder, &name, code)
        };

        entries
            .flatten()
            .map(|entry| {
                let path = entry.path();
                read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            })
            .collect()
    }

    /// Parses the directives of a program.
    ///
    /// # Errors
    /// Returns a message if a directive is unknown or has an invalid value.
    pub fn parse(folder: Folder, name: &str, code: String) -> Result<Self, String> {
        let mut program = Self {
            folder,
            name: name.to_owned(),
            code: String::new(),
            args: Vec::new(),
            stdin: None,
            modes: Mode::COMPARED.to_vec(),
            is_order_compared: true,
        };
        if folder == Folder::Shell {
            // Shell code displays no values.
            program.modes.retain(|mode| *mode != Mode::Display);
        }

        // Directives are in comments before the first line of code.
        let comments = code.lines().map(str::trim).map_while(|line| {
            let comment = line.strip_prefix(folder.comment());
            comment.or_else(|| line.is_empty().then_some(""))
        });
        for comment in comments {
            if let Some(directive) = comment.trim_start().strip_prefix("fidelity:") {
                program.apply(directive.trim())?;
            }
        }

        program.code = code;
        Ok(program)
    }

    fn apply(&mut self, directive: &str) -> Result<(), String> {
        let (key, value) = directive.split_once('=').unwrap_or((directive, ""));

        match key {
            "args" => self.args = split_words(value)?,
            "stdin" => self.stdin = Some(unescape(value)?),
            "only" => {
                let only = parse_modes(value)?;
                self.modes.retain(|mode| only.contains(mode));
            }
            "skip" => {
                let (modes, reason) = value.split_once(" -- ").unwrap_or((value, ""));
                if reason.trim().is_empty() {
                    return Err(format!(
                        "`{directive}` needs a reason: skip=MODES -- REASON"
                    ));
                }
                let skipped = parse_modes(modes)?;
                self.modes.retain(|mode| !skipped.contains(mode));
            }
            _ => {
                return Err(format!(
                    "unknown directive `{directive}`; the directives are args=, stdin=, only= and skip="
                ));
            }
        }

        Ok(())
    }
}

fn parse_modes(text: &str) -> Result<Vec<Mode>, String> {
    let names = text.split(',').map(str::trim);
    names.map(Mode::parse).collect()
}

/// Splits words at spaces; double quotes keep the spaces in a word.
fn split_words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);

    for character in text.chars() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }

    if is_quoted {
        return Err(format!("`{text}` has a quote without an end"));
    }
    words.extend(word);
    Ok(words)
}

/// Replaces `\n`, `\r`, `\t`, `\0`, `\\`, and `\u` with four hexadecimal digits.
fn unescape(text: &str) -> Result<String, String> {
    let (mut result, mut characters) = (String::new(), text.chars());

    while let Some(character) = characters.next() {
        if character != '\\' {
            result.push(character);
            continue;
        }
        result.push(match characters.next() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('0') => '\0',
            Some('\\') => '\\',
            Some('u') => code_point(&mut characters).ok_or_else(|| wrong_escape(text))?,
            _ => return Err(wrong_escape(text)),
        });
    }

    Ok(result)
}

/// Takes four hexadecimal digits.
fn code_point(characters: &mut std::str::Chars<'_>) -> Option<char> {
    let digits: String = characters.take(4).collect();
    let number = u32::from_str_radix(&digits, 16).ok();
    number
        .filter(|_| digits.len() == 4)
        .and_then(char::from_u32)
}

fn wrong_escape(text: &str) -> String {
    format!(r"`{text}` has an escape other than \n, \r, \t, \0, \\ and \uXXXX")
}

/// The programs and modes to run: all of them, unless the environment selects some.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    ids: Vec<String>,
    modes: Vec<Mode>,
}

impl Selection {
    /// Reads `FUMEHOOD_FIDELITY`, parts of ids with commas between them, and `FUMEHOOD_FIDELITY_MODES`, modes with
    /// commas between them.
    ///
    /// # Panics
    /// Panics if a mode does not exist.
    #[must_use]
    pub fn from_environment() -> Self {
        let read = |name| std::env::var(name).unwrap_or_default();
        let (ids, modes) = (read("FUMEHOOD_FIDELITY"), read("FUMEHOOD_FIDELITY_MODES"));
        let words = |text: &str| {
            let words = text
                .split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };

        let parse = |name: &String| {
            Mode::parse(name).unwrap_or_else(|e| panic!("FUMEHOOD_FIDELITY_MODES: {e}"))
        };
        Self {
            ids: words(&ids),
            modes: words(&modes).iter().map(parse).collect(),
        }
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.ids.is_empty() && self.modes.is_empty()
    }

    /// Returns the selected programs, each with its selected modes.
    #[must_use]
    pub fn apply(&self, mut programs: Vec<Program>) -> Vec<Program> {
        if !self.ids.is_empty() {
            programs.retain(|program| {
                let id = program.id();
                self.ids.iter().any(|part| id.contains(part.as_str()))
            });
        }
        if !self.modes.is_empty() {
            for program in &mut programs {
                program.modes.retain(|mode| self.modes.contains(mode));
            }
        }

        programs
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn parse(code: &str) -> Result<Program, String> {
        Program::parse(Folder::Shell, "x", code.to_owned())
    }

    #[test]
    fn directives_are_read_from_the_first_comments() {
        let program = parse(concat!(
            "#!/bin/bash\n# fidelity: args=a \"b c\" \"\"\n\n# fidelity: stdin=1\\n\\\\n\\u00e9\n",
            "# fidelity: skip=context -- no arguments\necho\n# fidelity: nonsense\n"
        ));
        let program = program.unwrap();

        assert_eq!(program.args, ["a", "b c", ""]);
        assert_eq!(program.stdin.as_deref(), Some("1\n\\né"));
        assert_eq!(program.modes, [Mode::Run, Mode::Fresh]);
        assert!(program.code.starts_with("#!/bin/bash"));
    }

    #[test]
    fn only_names_the_modes_that_remain() {
        let program = parse("# fidelity: only=plain,run\n").unwrap();
        assert_eq!(program.modes, [Mode::Run]);
    }

    #[test]
    fn invalid_directives_are_rejected() {
        for (directive, part) in [
            ("nonsense", "unknown directive"),
            ("skip=run", "needs a reason"),
            ("only=often", "no mode `often`"),
            ("args=\"a", "quote"),
            (r"stdin=\x", "escape"),
        ] {
            let error = parse(&format!("# fidelity: {directive}\n")).unwrap_err();
            assert!(error.contains(part), "{directive}: {error}");
        }
    }
}
