//! The kernel's configuration fragment, and the check that Kconfig applied every line of it.

use std::collections::BTreeMap;

use crate::Error;

/// The configuration lines that define the guest's kernel.
pub(crate) const FRAGMENT: &str = include_str!("../../kernel/fragment.config");

/// Compares a fragment with the complete configuration that resulted from it. `=n` means "not set".
pub(crate) fn check_applied(fragment: &str, config: &str) -> Result<(), Error> {
    let applied = parse_settings(config);

    let mut missing = Vec::new();
    for (name, requested) in parse_settings(fragment) {
        let found = applied.get(name).copied().unwrap_or("n");
        if found != requested {
            missing.push(format!("{name}={requested} became {found}"));
        }
    }

    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::FragmentNotApplied(missing))
    }
}

/// Returns the lines of a configuration that set a value.
fn parse_settings(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("CONFIG_"))
        .filter_map(|line| line.split_once('='))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=8\nCONFIG_S=\"-x\"\n";

    #[test]
    fn accepts_applied_lines() {
        let fragment =
            "# why\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_GONE=n\nCONFIG_N=8\nCONFIG_S=\"-x\"\n";
        check_applied(fragment, CONFIG).unwrap();
    }

    #[test]
    fn names_a_line_that_was_not_applied() {
        let error = |line: &str| check_applied(line, CONFIG).unwrap_err().to_string();
        assert!(error("CONFIG_B=y").contains("CONFIG_B=y became n"));
        assert!(error("CONFIG_A=n").contains("CONFIG_A=n became y"));
        assert!(error("CONFIG_N=4").contains("CONFIG_N=4 became 8"));
    }

    #[test]
    fn the_fragment_sets_nothing_twice() {
        let lines = FRAGMENT.lines().filter(|l| l.starts_with("CONFIG_"));
        assert_eq!(lines.count(), parse_settings(FRAGMENT).len());
    }

    #[test]
    fn the_fragment_disables_dangerous_features() {
        let fragment = parse_settings(FRAGMENT);
        for name in [
            "MODULES",
            "BPF_SYSCALL",
            "IO_URING",
            "USERFAULTFD",
            "IA32_EMULATION",
            "X86_X32_ABI",
        ] {
            assert_eq!(
                fragment.get(format!("CONFIG_{name}").as_str()),
                Some(&"n"),
                "{name}"
            );
        }
    }
}
