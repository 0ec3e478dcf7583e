use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::time::SystemTime;

use rustix::fs::fstat;

use super::interpreter::Interpreter;
use super::numbered_file::NumberedFile;
use crate::process::{CodeFile, Confinement, FileStamp};

/// Names of builtins, attributes and members of `sys` by which a program may see its file, its stack or its path.
/// Everything else that sees them is in a module.
const SEEING_WORDS: [&str; 24] = [
    "argv",
    "breakpoint",
    "dir",
    "eval",
    "exc_info",
    "excepthook",
    "exec",
    "executable",
    "f_back",
    "flags",
    "getattr",
    "getrecursionlimit",
    "globals",
    "help",
    "locals",
    "meta_path",
    "modules",
    "open",
    "path",
    "path_hooks",
    "prefix",
    "setprofile",
    "settrace",
    "vars",
];

/// The same for parts of names, and for the declaration of an encoding.
const SEEING_PARTS: [&str; 7] = ["__", "._", "_frame", ".sys", ".os", "recursion", "coding"];

/// Modules whose functions do not see them.
const BLIND_MODULES: [&str; 21] = [
    "base64",
    "bisect",
    "collections",
    "copy",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "time",
    "sys",
];

/// Whether a Python program may notice that it has no file. Writing the file and letting Python read it takes 30 ms in a
/// restored VM without hardware acceleration, half of the time to the first output of a short program.
pub(crate) fn may_see_its_file(code: &str) -> bool {
    let sees = SEEING_WORDS.iter().any(|word| has_word(code, word))
        || SEEING_PARTS.iter().any(|part| code.contains(part));
    if sees {
        return true;
    }

    let imports = code.matches("import").count();
    let blind = code.lines().filter(|line| imports_blind_module(line));

    blind.count() != imports
}

/// Whether code contains an identifier, or a word of a text or comment like it.
fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';

    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Whether a line is a single import of a module in [`BLIND_MODULES`].
fn imports_blind_module(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (keyword, module) = (words.next(), words.next());

    let is_blind = module.is_some_and(|name| BLIND_MODULES.contains(&name));
    let is_import = match keyword {
        Some("import") => !line.contains(','),
        Some("from") => !line.contains(" _") && !line.contains(",_"),
        _ => false,
    };

    is_import && is_blind && !line.contains([';', '\\', '*', '#'])
}

/// Creates an empty `main.py` in the working directory, or the first free name like it, and returns it with the path that
/// Python is started with. It exists while the interpreter waits, because creating a file takes long in a restored VM.
pub(super) fn create_python_main(
    confinement: &Confinement,
) -> std::io::Result<(File, CodeFile, CString)> {
    let (file, code_file) = create(confinement)?;
    let link = format!("/proc/self/fd/{}", code_file.directory.as_raw_fd());
    let path = std::fs::read_link(link)?.join(&code_file.name);
    let path = CString::new(path.into_os_string().into_vec()).unwrap_or_default();

    Ok((file, code_file, path))
}

impl Interpreter {
    /// Writes a Python program to the file that the interpreter was started for and returns the file's name. Uses another
    /// file if the user has put one in its place or has written to it. Returns `None` if no file can be written, for
    /// example because the disk is full; the interpreter then runs the code without a file.
    pub(crate) fn write_python_main(
        &mut self,
        code: &str,
        confinement: &Confinement,
    ) -> Option<String> {
        let own = self.code_file.take();
        let own = own.filter(|_| self.process.has_pristine_code_file());

        let mut file = match own {
            Some(file) => file,
            None => {
                let (file, code_file) = create(confinement).ok()?;
                self.process.set_code_file(code_file);
                file
            }
        };

        if file.write_all(code.as_bytes()).is_err() {
            let _ = file.set_len(0);
            return None;
        }
        self.process.code_file_was_written(code.len())
    }
}

fn create(confinement: &Confinement) -> std::io::Result<(File, CodeFile)> {
    let NumberedFile {
        file,
        name,
        directory,
    } = NumberedFile::create(confinement, "py", 0o644)?;

    let stat = fstat(&file)?;
    let code_file = CodeFile {
        directory,
        name,
        written: Some(FileStamp::new(&stat, 0, SystemTime::now())),
    };

    Ok((file, code_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_programs_that_cannot_see_their_file() {
        for code in [
            "print(1)",
            "import sys\nfrom collections import Counter, defaultdict\nsys.exit(len(Counter(sys.stdin)))",
            "import re\nevaluate = re.compile('a')\nfor direction in range(3): pass",
        ] {
            assert!(!may_see_its_file(code), "{code}");
        }

        for code in [
            "print(__file__)",
            "import os",
            "import sys, os",
            "import sys; import os",
            "from json import codecs as c, decoder\nimport os.path",
            "import random as r\nr._os.listdir()",
            "from random import _os",
            "import sys\nprint(sys.argv)",
            "print(open('main.py').read())",
            "# -*- coding: latin-1 -*-",
            "def f():\n  import inspect",
            "importlib",
            "eval('1')",
        ] {
            assert!(may_see_its_file(code), "{code}");
        }
    }
}
