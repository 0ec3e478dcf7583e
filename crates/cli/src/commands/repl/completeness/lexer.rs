//! The lexers behind one type.

use fumehood_engine::Language;

use super::javascript::JavascriptLexer;
use super::python::PythonLexer;
use super::shell::ShellLexer;

/// The state after some lines of an input.
pub(crate) enum InputState {
    Python(PythonLexer),
    Javascript(JavascriptLexer),
    Shell(ShellLexer),
}

impl InputState {
    pub(crate) fn new(language: Language) -> Self {
        match language {
            Language::Python => Self::Python(PythonLexer::default()),
            Language::Javascript => Self::Javascript(JavascriptLexer::default()),
            Language::Shell => Self::Shell(ShellLexer::default()),
        }
    }

    /// Adds the next line, without its line end.
    pub(crate) fn add_line(&mut self, line: &str) {
        let line = line.as_bytes();
        match self {
            Self::Python(lexer) => lexer.add_line(line),
            Self::Javascript(lexer) => lexer.add_line(line),
            Self::Shell(lexer) => lexer.add_line(line),
        }
    }

    /// Returns whether the lines are a complete input.
    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Python(lexer) => lexer.is_complete(),
            Self::Javascript(lexer) => lexer.is_complete(),
            Self::Shell(lexer) => lexer.is_complete(),
        }
    }
}

/// Returns whether `text` is a complete input.
pub(crate) fn is_complete(language: Language, text: &str) -> bool {
    let mut state = InputState::new(language);
    for line in text.split('\n') {
        state.add_line(line);
    }
    state.is_complete()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, complete: &[&str], open: &[&str]) {
        for text in complete {
            assert!(is_complete(language, text), "{text:?} is complete");
        }
        for text in open {
            assert!(!is_complete(language, text), "{text:?} is open");
        }
    }

    #[test]
    fn python() {
        let complete = [
            "",
            "x = 1",
            "if x: print(1)",
            "f(1,\n  2)",
            "'('",
            "\"it's\"",
            "'\\'('",
            "x # (",
            "'''a\nb'''",
            "x = '''\n'(\n'''",
            "if x:\n  a\n",
            "if x: # why\n  a\nb\n",
            "@d\ndef f():\n  pass\n  ",
            "a + \\\n  b",
            "x = {1: 2}\nx[1:]",
            ")",
            "'''x''' '''y'''",
            "''",
        ];
        let open = [
            "f(",
            "[1,\n2",
            "'''a",
            "\"\"\"a'''\n",
            "a + \\",
            "if x:",
            "if x:\n  a",
            "@d",
            "if x: # why",
            "if x:\n  '''\n",
            "with a(\n  b):",
            "{1:",
        ];
        check(Language::Python, &complete, &open);
    }

    #[test]
    fn javascript() {
        let complete = [
            "",
            "let x = 1",
            "f({a: [1]})",
            "`a ${b({c: `d`})} e`",
            "'{'",
            "// {",
            "/* { */ x",
            "/[({]/.test(x)",
            "a / b / c",
            "(1) / 2",
            "x = y ? /(/ : 1",
            "`a\n}`",
            "}",
            "'\\'{'",
        ];
        let open = [
            "f(",
            "function f() {",
            "`a",
            "`a ${",
            "`a ${b}",
            "/* a",
            "f(/)/,",
            "/* a\n{",
            "x = [ // ]",
        ];
        check(Language::Javascript, &complete, &open);
    }

    #[test]
    fn shell() {
        let complete = [
            "",
            "echo hi",
            "if true; then echo; fi",
            "for x in if do; do echo $x; done",
            "echo if; echo done",
            "echo \"a $(b \"c\") d\"",
            "echo 'a\nb'",
            "echo it\\'s",
            "cat <<E\n$(\nE",
            "cat <<-'E'\nif\n\tE",
            "f() { echo; }",
            "case x in a) echo;; esac",
            "case $x in\na) echo;;\n*) if true; then :; fi;;\nesac",
            "(case x in\na) echo; echo;;\nesac\n)",
            "$(case x in (a) echo \"(\";; b) (c);; esac)",
            "echo $((1 << 2)) ${x#'a'} $#",
            "echo a # if (",
            "a &&\nb",
            "cat <<< 'x'",
            "while read x; do echo; done < f",
            "(cd x; ls)",
            "echo {a,b} \\\n c",
            "echo \"it's\"",
            "done",
        ];
        let open = [
            "echo \\",
            "echo 'a",
            "echo \"a $(",
            "if true; then",
            "if true; then echo; else if x; then y; fi",
            "for x in a",
            "while true; do\n  x",
            "case x in",
            "(case x in\na) echo;;\nesac",
            "(case x in\na) echo;;\n",
            "f() {",
            "cat <<E\nx",
            "a |",
            "a &&",
            "a ||",
            "(cd x",
            "cat <<A <<B\nA",
            "{ a; ",
            "a; if",
            "x=$(if a; then b; fi",
        ];
        check(Language::Shell, &complete, &open);
    }
}
