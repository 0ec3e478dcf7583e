//! What the source files of a crate import from each other.
//!
//! Files are read as tokens, so that `use` declarations, qualified paths and the insides of macros are seen alike.
//! A name that a module only re-exports is followed to the module that defines it. Code under `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A crate's source files as modules.
#[derive(Debug)]
pub(super) struct Modules {
    /// By path within the crate, as `["run", "outcome"]`; the crate root is the empty path.
    modules: BTreeMap<Vec<String>, Module>,
}

#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) file: PathBuf,
    /// Names of the modules that it declares, in the order of its `mod` lines, tests left out.
    pub(super) children: Vec<String>,
    /// Those of them whose body stands in this file.
    inline: Vec<String>,
    /// Paths that it names, from `crate`, `self`, `super` or a child.
    paths: Vec<NamedPath>,
    /// The line of a re-export by `*` within the crate.
    glob_export: Option<usize>,
    /// What it re-exports: name to path.
    exports: BTreeMap<String, Vec<String>>,
}

/// A path within the crate as it is written in one place.
#[derive(Debug, Clone)]
struct NamedPath {
    /// From the crate root; what follows the module is an item.
    segments: Vec<String>,
    line: usize,
    /// A `pub use`: it shows a name and uses nothing.
    is_export: bool,
}

/// One module uses something that another one defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) from: Vec<String>,
    pub(super) to: Vec<String>,
    /// File, line and path, for an error message.
    pub(super) place: String,
}

impl Modules {
    /// Reads a crate from its root file, `lib.rs` or `main.rs`.
    ///
    /// # Errors
    /// Fails if a file cannot be read or is not Rust.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut modules = BTreeMap::new();
        let mut open = vec![(Vec::new(), root.to_path_buf())];

        while let Some((path, file)) = open.pop() {
            let module = Module::read(&path, &file)?;
            let directory = directory_of(&file);

            for child in &module.children {
                let mut child_path = path.clone();
                child_path.push(child.clone());

                // A module without a file of its own stands in its parent's.
                let file = [
                    directory.join(format!("{child}.rs")),
                    directory.join(child).join("mod.rs"),
                ];
                match file.into_iter().find(|file| file.exists()) {
                    Some(file) => open.push((child_path, file)),
                    None if module.inline.contains(child) => {}
                    None => bail!(
                        "{} declares `{child}`, which has no file of that name; `#[path]` is not supported",
                        module.file.display()
                    ),
                }
            }

            modules.insert(path, module);
        }

        Ok(Self { modules })
    }

    /// The modules that a module declares, in the order of its `mod` lines.
    pub(super) fn children(&self, path: &[String]) -> &[String] {
        self.modules
            .get(path)
            .map_or(&[], |module| &module.children)
    }

    /// All modules by path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<String>, &Module)> {
        self.modules.iter()
    }

    /// All uses of one module's items by another.
    pub(super) fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();

        for (from, module) in &self.modules {
            for path in module.paths.iter().filter(|path| !path.is_export) {
                let to = self.definition(&path.segments, 0);
                if to != *from {
                    let shown = path.segments.join("::");
                    imports.push(Import {
                        from: from.clone(),
                        to,
                        place: format!(
                            "{}:{} names crate::{shown}",
                            module.file.display(),
                            path.line
                        ),
                    });
                }
            }
        }

        imports
    }

    /// The module that defines what a path leads to: re-exports on the way are followed.
    fn definition(&self, segments: &[String], depth: usize) -> Vec<String> {
        // The longest beginning of the path that is a module.
        let len = (0..=segments.len())
            .rev()
            .find(|len| self.modules.contains_key(&segments[..*len]))
            .unwrap_or(0);
        let module = &segments[..len];

        // No honest chain of re-exports is this long.
        const MAX_DEPTH: usize = 8;
        let export = segments
            .get(len)
            .and_then(|item| self.modules.get(module)?.exports.get(item));
        match export {
            Some(target) if depth < MAX_DEPTH => {
                let rest = &segments[len + 1..];
                self.definition(&[target.as_slice(), rest].concat(), depth + 1)
            }
            _ => module.to_vec(),
        }
    }
}

impl Module {
    fn read(path: &[String], file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| anyhow!("{} is not Rust: {error}", file.display()))?;

        let mut module = Self {
            file: file.to_path_buf(),
            ..Self::default()
        };
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        (module.children, module.inline) = children(&tokens);
        module.scan(path, &tokens);
        if let Some(line) = module.glob_export {
            bail!(
                "{}:{line} re-exports by `*`; name the items, so that their origin can be followed",
                file.display()
            );
        }

        Ok(module)
    }

    /// Collects the paths among these tokens and in all groups below them.
    fn scan(&mut self, module: &[String], tokens: &[TokenTree]) {
        let mut at = 0;

        while at < tokens.len() {
            if let Some(end) = end_of_test_item(tokens, at) {
                at = end;
                continue;
            }

            if is_word(&tokens[at], "use") {
                let end = position(tokens, at, ';').unwrap_or(tokens.len());
                let is_export = at > 0 && is_visibility(&tokens[..at]);
                self.scan_use(module, &tokens[at + 1..end], is_export);
                at = end;
                continue;
            }

            // The place in `pub(in crate::x)` is no use of it.
            let follows_pub = at > 0 && is_word(&tokens[at - 1], "pub");
            if follows_pub && matches!(tokens[at], TokenTree::Group(_)) {
                at += 1;
                continue;
            }

            if let TokenTree::Group(group) = &tokens[at] {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();

                // A module within this file: its `super` is this module.
                let name = at
                    .checked_sub(2)
                    .filter(|before| is_word(&tokens[*before], "mod"));
                let inner_path = match name {
                    Some(_) => [module, &[tokens[at - 1].to_string()]].concat(),
                    None => module.to_vec(),
                };
                self.scan(&inner_path, &inner);
            } else if starts_path(tokens, at) {
                let (segments, line) = path_at(tokens, at);
                if let Some(segments) = self.resolve(module, &segments) {
                    self.paths.push(NamedPath {
                        segments,
                        line,
                        is_export: false,
                    });
                }
            }

            at += 1;
        }
    }

    /// Collects the paths of one `use` declaration.
    fn scan_use(&mut self, module: &[String], tokens: &[TokenTree], is_export: bool) {
        let mut leaves = Vec::new();
        use_leaves(&[], tokens, &mut leaves);

        for (segments, name, line) in leaves {
            let Some(segments) = self.resolve(module, &segments) else {
                continue;
            };
            if is_export && name == "*" {
                self.glob_export = Some(line);
            } else if is_export {
                self.exports.insert(name, segments.clone());
            }
            self.paths.push(NamedPath {
                segments,
                line,
                is_export,
            });
        }
    }

    /// Turns a path as written in a module into one from the crate root; `None` for other crates.
    fn resolve(&self, module: &[String], segments: &[String]) -> Option<Vec<String>> {
        let first = segments.first()?.as_str();
        let ups = segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();

        match first {
            "crate" => Some(segments[1..].to_vec()),
            "self" => Some([module, &segments[1..]].concat()),
            "super" => {
                let base = &module[..module.len().checked_sub(ups)?];
                Some([base, &segments[ups..]].concat())
            }
            child if self.children.iter().any(|name| name == child) => {
                Some([module, segments].concat())
            }
            _ => None,
        }
    }
}

/// The directory in which a module's children stand.
fn directory_of(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default();
    let parent = file.parent().unwrap_or(Path::new(""));

    if ["mod", "lib", "main"].iter().any(|name| stem == *name) {
        parent.to_path_buf()
    } else {
        parent.join(stem)
    }
}

/// Names of the modules that a file declares, without those for tests; and those of them whose body stands in the file.
fn children(tokens: &[TokenTree]) -> (Vec<String>, Vec<String>) {
    let (mut names, mut inline) = (Vec::new(), Vec::new());
    let mut at = 0;

    while at < tokens.len() {
        if let Some(end) = end_of_test_item(tokens, at) {
            at = end;
            continue;
        }

        if is_word(&tokens[at], "mod")
            && let Some(TokenTree::Ident(name)) = tokens.get(at + 1)
        {
            names.push(name.to_string());
            if matches!(tokens.get(at + 2), Some(TokenTree::Group(_))) {
                inline.push(name.to_string());
            }
        }
        at += 1;
    }

    (names, inline)
}

/// If an item under `#[cfg(test)]` or a feature for tests begins here: the position after it.
fn end_of_test_item(tokens: &[TokenTree], at: usize) -> Option<usize> {
    if !is_punct(&tokens[at], '#') {
        return None;
    }
    let TokenTree::Group(attribute) = tokens.get(at + 1)? else {
        return None;
    };
    let text = attribute.stream().to_string().replace(' ', "");
    let is_test = text.starts_with("cfg(test")
        || text.starts_with("cfg(all(test")
        || text.starts_with("cfg(any(test")
        || text.starts_with("cfg(feature=\"fuzzing\"");
    if !is_test {
        return None;
    }

    let is_end = |token: &TokenTree| {
        is_punct(token, ';')
            || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
    };
    let rest = tokens.iter().enumerate().skip(at + 2);

    Some(
        rest.into_iter()
            .find(|(_, token)| is_end(token))
            .map_or(tokens.len(), |(end, _)| end + 1),
    )
}

/// The leaves of a `use` tree: each with its path, the name that it brings, and its line.
fn use_leaves(
    prefix: &[String],
    tokens: &[TokenTree],
    leaves: &mut Vec<(Vec<String>, String, usize)>,
) {
    let mut segments = prefix.to_vec();
    let mut name = None;
    let mut line = 0;
    let mut renames = false;

    for token in tokens {
        match token {
            TokenTree::Ident(ident) if *ident == "as" => renames = true,
            TokenTree::Ident(ident) if renames => name = Some(ident.to_string()),
            TokenTree::Ident(ident) => {
                segments.push(ident.to_string());
                line = ident.span().start().line;
            }
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for tree in inner.split(|token| is_punct(token, ',')) {
                    use_leaves(&segments, tree, leaves);
                }
                return;
            }
            TokenTree::Punct(punct) if punct.as_char() == '*' => name = Some("*".to_owned()),
            _ => {}
        }
    }

    if segments.len() > prefix.len() {
        // `a::{self}` is `a`.
        if segments.last().is_some_and(|last| last == "self") && segments.len() > 1 {
            segments.pop();
        }
        let last = segments.last().cloned().unwrap_or_default();
        leaves.push((segments, name.unwrap_or(last), line));
    }
}

/// Whether an identifier at this place is the first of a path with `::`.
fn starts_path(tokens: &[TokenTree], at: usize) -> bool {
    let is_continued =
        at > 0 && is_punct(&tokens[at - 1], ':') && at > 1 && is_punct(&tokens[at - 2], ':');

    matches!(tokens[at], TokenTree::Ident(_)) && !is_continued && follows_colons(tokens, at + 1)
}

/// The segments of the path that begins here, and its line.
fn path_at(tokens: &[TokenTree], start: usize) -> (Vec<String>, usize) {
    let mut segments = vec![tokens[start].to_string()];
    let mut at = start + 1;

    while follows_colons(tokens, at) {
        let Some(TokenTree::Ident(ident)) = tokens.get(at + 2) else {
            break;
        };
        segments.push(ident.to_string());
        at += 3;
    }

    (segments, tokens[start].span().start().line)
}

fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |at: usize| tokens.get(at).is_some_and(|token| is_punct(token, ':'));

    is_colon(at) && is_colon(at + 1)
}

/// Whether these tokens end with `pub` or `pub(…)`.
fn is_visibility(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(word)] => *word == "pub",
        [.., TokenTree::Ident(word), TokenTree::Group(_)] => *word == "pub",
        _ => false,
    }
}

fn position(tokens: &[TokenTree], start: usize, punct: char) -> Option<usize> {
    (start..tokens.len()).find(|at| is_punct(&tokens[*at], punct))
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if *ident == word)
}

fn is_punct(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(found) if found.as_char() == punct)
}

/// Whether the first path is a beginning of the second one.
pub(super) fn is_within(outer: &[String], inner: &[String]) -> bool {
    inner.starts_with(outer)
}

/// All folders of a crate: each module that has children, by path.
pub(super) fn folders(modules: &Modules) -> BTreeSet<Vec<String>> {
    modules
        .iter()
        .filter(|(_, module)| !module.children.is_empty())
        .map(|(path, _)| path.clone())
        .collect()
}
