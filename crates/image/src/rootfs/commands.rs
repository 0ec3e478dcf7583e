//! The commands `python`, `pip`, `node`, `npm` and `npx` of the guest: links and scripts for Python, uv and bun.

use super::tree::Tree;
use crate::Error;
use crate::hash::Fields;

/// Scripts and modules: path, mode, contents.
const FILES: [(&str, u32, &str); 4] = [
    (
        "usr/local/bin/node",
        0o755,
        include_str!("../../programs/node.sh"),
    ),
    (
        "usr/local/bin/pip",
        0o755,
        include_str!("../../programs/package-manager.sh"),
    ),
    ("usr/lib/python3/dist-packages/pip/__init__.py", 0o644, ""),
    (
        "usr/lib/python3/dist-packages/pip/__main__.py",
        0o644,
        include_str!("../../programs/pip.py"),
    ),
];
/// Symbolic links: path, target.
const LINKS: [(&str, &str); 6] = [
    ("usr/bin/python", "python3"),
    ("usr/local/bin/bunx", "bun"),
    ("usr/local/bin/pip3", "pip"),
    ("usr/local/bin/npm", "pip"),
    ("usr/local/bin/npx", "pip"),
    // bun behaves as Node.js under this name.
    ("usr/local/lib/fumehood/node", "/usr/local/bin/bun"),
];

/// Adds the commands to the tree.
pub(super) fn install(tree: &Tree<'_>) -> Result<(), Error> {
    for (path, mode, contents) in FILES {
        tree.write_file(path, mode, contents.as_bytes())?;
    }
    LINKS
        .iter()
        .try_for_each(|(path, to)| tree.symlink(path, to))
}

/// Returns a hash of the commands.
pub(crate) fn key() -> String {
    let files = FILES.iter().fold(Fields::default(), |fields, file| {
        fields
            .add(file.0, file.1.to_le_bytes())
            .add("contents", file.2)
    });
    let all = LINKS
        .iter()
        .fold(files, |fields, link| fields.add(link.0, link.1));
    all.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_link_leads_to_a_program() {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree(root.path());
        for program in ["usr/bin/python3", "usr/local/bin/bun"] {
            tree.write_file(program, 0o755, b"").unwrap();
        }
        install(&tree).unwrap();

        for (path, to) in LINKS {
            let place = match to.strip_prefix('/') {
                Some(absolute) => root.path().join(absolute),
                None => root.path().join(path).with_file_name(to),
            };
            let mode = fs::metadata(&place).unwrap().permissions().mode();
            assert_eq!(mode & 0o111, 0o111, "{path}");
        }
    }
}
