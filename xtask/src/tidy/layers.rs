//! Layers within a crate: folders import downwards only, and no import circle exists at any level.

use std::path::{Path, PathBuf};

use super::graph::Graph;
use super::imports::{Import, Modules, folders, is_within};

/// Source files that one folder may hold; with more, a reader does not find anything by name.
const FOLDER_FILES: usize = 15;

/// What is wrong with the layers of the crate with this root file.
///
/// The order of layers is the order of the `mod` lines in the root file: a module imports only from its own folder and
/// from modules that are declared after it.
///
/// # Errors
/// Fails if a source file cannot be read.
pub(super) fn faults(root: &Path) -> anyhow::Result<Vec<String>> {
    let modules = Modules::read(root)?;
    let imports = modules.imports();

    let mut faults = upward_imports(root, &modules, &imports);
    faults.extend(circles(&modules, &imports));
    faults.extend(full_folders(root)?);

    Ok(faults)
}

/// Imports from a top-level module of one that is declared before it.
fn upward_imports(root: &Path, modules: &Modules, imports: &[Import]) -> Vec<String> {
    let order = modules.children(&[]);
    let rank = |path: &[String]| order.iter().position(|name| Some(name) == path.first());
    let mut faults = Vec::new();

    for import in imports {
        if let (Some(from), Some(to)) = (rank(&import.from), rank(&import.to))
            && to < from
        {
            faults.push(format!(
                "{}, but {} declares `{}` above `{}`: imports go down; move the definition or the `mod` line",
                import.place,
                root.display(),
                order[to],
                order[from],
            ));
        }
    }

    faults
}

/// Circles between the members of one folder, at each level of the crate.
fn circles(modules: &Modules, imports: &[Import]) -> Vec<String> {
    let mut faults = Vec::new();

    for folder in folders(modules) {
        let mut graph = Graph::default();

        for import in imports {
            if !is_within(&folder, &import.from) || !is_within(&folder, &import.to) {
                continue;
            }

            // What stays within one member is the concern of the level below.
            let from = member(&folder, &import.from);
            let to = member(&folder, &import.to);
            if from != to {
                graph.add(&from, &to, &import.place);
            }
        }

        for places in graph.circles() {
            let shown = if folder.is_empty() {
                "the crate root".to_owned()
            } else {
                folder.join("::")
            };
            faults.push(format!(
                "import circle within {shown}:\n    {}",
                places.join("\n    ")
            ));
        }
    }

    faults
}

/// The child of a folder that holds this module, or the folder's own `mod.rs`.
fn member(folder: &[String], path: &[String]) -> String {
    path.get(folder.len())
        .cloned()
        .unwrap_or_else(|| "mod.rs".to_owned())
}

/// Folders with more source files than a reader takes in.
fn full_folders(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut open: Vec<PathBuf> = root.parent().map(Path::to_path_buf).into_iter().collect();

    while let Some(folder) = open.pop() {
        let mut files = 0;

        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files += 1;
            }
        }

        if files > FOLDER_FILES {
            faults.push(format!(
                "{} has {files} source files; at most {FOLDER_FILES} are allowed: sort them into folders",
                folder.display()
            ));
        }
    }

    Ok(faults)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Writes a crate of these files and returns its faults.
    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();

        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        faults(&directory.path().join("lib.rs")).unwrap()
    }

    #[test]
    fn an_import_of_a_module_declared_above_is_reported_with_both_files() {
        let found = check(&[
            ("lib.rs", "mod top;\nmod bottom;"),
            ("top.rs", "pub struct Top;"),
            ("bottom.rs", "\nuse crate::top::Top;"),
        ]);

        let [fault] = &found[..] else {
            panic!("{found:?}")
        };
        for word in ["bottom.rs:2", "crate::top::Top", "lib.rs"] {
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn a_circle_between_siblings_is_reported_however_the_path_is_written() {
        let uses = [
            "use super::b::B;",
            "use crate::folder::b::B;",
            "use crate::folder::{b::{self, B}};",
            "fn f() { super::b::g(); }",
            "fn f() { println!(\"{}\", super::b::X); }",
            // By the name that the folder re-exports.
            "use super::B;",
            "use crate::folder::B;",
        ];

        for line in uses {
            let found = check(&[
                ("lib.rs", "mod folder;"),
                ("folder/mod.rs", "mod a;\nmod b;\npub use b::B;"),
                ("folder/a.rs", line),
                ("folder/b.rs", "use super::a::A;\npub struct B;"),
            ]);

            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(
                found[0].contains("a.rs:1") && found[0].contains("b.rs:1"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_circle_between_folders_is_reported_though_no_file_is_in_one() {
        let found = check(&[
            ("lib.rs", "mod outer;"),
            ("outer/mod.rs", "mod x;\nmod y;"),
            ("outer/x/mod.rs", "mod one;\nmod two;"),
            ("outer/y/mod.rs", "mod one;\nmod two;"),
            ("outer/x/one.rs", "use crate::outer::y::one;"),
            ("outer/x/two.rs", ""),
            ("outer/y/one.rs", ""),
            ("outer/y/two.rs", "use crate::outer::x::two;"),
        ]);

        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn what_only_tests_import_and_what_is_re_exported_makes_no_circle() {
        let found = check(&[
            ("lib.rs", "mod folder;\npub use folder::A;"),
            ("folder/mod.rs", "mod a;\nmod b;\npub use a::A;"),
            ("folder/a.rs", "use super::b::B;\npub struct A;"),
            (
                "folder/b.rs",
                "pub struct B;\n#[cfg(test)]\nmod tests { use crate::A; }",
            ),
        ]);

        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_visibility_is_no_import() {
        let found = check(&[
            ("lib.rs", "mod top;\nmod bottom;"),
            ("top.rs", ""),
            (
                "bottom.rs",
                "pub(in crate::top) struct B;\nmod inline { pub(in crate::top) fn f() {} }",
            ),
        ]);

        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn re_exports_by_star_and_modules_without_a_file_are_refused() {
        for line in ["pub use a::*;", "pub(crate) use self::a::*;", "mod absent;"] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("lib.rs");
            fs::write(&root, format!("mod a;\n{line}")).unwrap();
            fs::write(directory.path().join("a.rs"), "").unwrap();

            assert!(faults(&root).is_err(), "{line}");
        }
    }

    #[test]
    fn a_definition_in_a_mod_file_that_uses_its_children_is_a_circle_with_them() {
        let found = check(&[
            ("lib.rs", "mod folder;"),
            ("folder/mod.rs", "mod a;\nuse a::A;\npub struct Own(A);"),
            ("folder/a.rs", "use super::Own;\npub struct A;"),
        ]);

        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_folder_may_hold_so_many_files_and_not_one_more() {
        let files: Vec<String> = (0..FOLDER_FILES)
            .map(|n| format!("folder/m{n}.rs"))
            .collect();
        let mut crate_files = vec![("lib.rs", "")];
        crate_files.extend(files.iter().map(|name| (name.as_str(), "")));
        assert!(check(&crate_files).is_empty());

        crate_files.push(("folder/more.rs", ""));
        assert_eq!(check(&crate_files).len(), 1);
    }
}
