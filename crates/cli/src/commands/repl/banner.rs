//! The lines before the first prompt: versions, what the code can reach, and how to leave.

use fumehood_engine::{Context, Language};

use super::completion::ask;
use crate::args::ReplArgs;

/// Maximum length of the version that a guest reports, in characters.
const MAX_VERSION_CHARS: usize = 40;

/// Returns the banner. The version comes from the guest, whose interpreter starts meanwhile.
pub(super) async fn banner(context: &Context, args: &ReplArgs, has_network: bool) -> String {
    let (name, program) = match args.language {
        Language::Python => (
            "Python",
            "__import__('os').write(1, __import__('platform').python_version().encode())",
        ),
        Language::Shell => ("bash", "printf %s \"$BASH_VERSION\""),
        _ => (
            "bun",
            "process.getBuiltinModule('fs').writeSync(1, process.versions.bun);",
        ),
    };

    let version = ask(context, program).await.unwrap_or_default();
    text(name, &version, args.memory, has_network)
}

fn text(name: &str, version: &[u8], memory: u32, has_network: bool) -> String {
    let version: String = String::from_utf8_lossy(version)
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .take(MAX_VERSION_CHARS)
        .collect();
    let separator = if version.is_empty() { "" } else { " " };
    let network = match has_network {
        true => "a network as far as the policy allows",
        false => "no network",
    };

    format!(
        "fumehood {}: {name}{separator}{version} in a microVM of {memory} MiB, with {network} and none of this machine's files.\n\
         Ctrl-D or `exit` ends the session and the VM, Ctrl-C interrupts the code, Tab completes.\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_cannot_write_to_the_terminal_by_its_version() {
        let banner = text("Python", b"3.14.1\x1b[2J\n\xff", 512, false);
        assert!(banner.contains("Python 3.14.1[2J in a microVM of 512 MiB, with no network"));
        assert_eq!(banner.lines().count(), 2);

        let banner = text("bash", b"", 256, true);
        assert!(banner.contains(": bash in a microVM of 256 MiB, with a network as far"));
        let long = text("bun", &[b'1'; 5000], 512, false);
        assert!(long.len() < 400);
    }
}
