//! Arguments of the interactive commands, `shell` and `repl`.

use clap::Args;
use fumehood_engine::Language;

use super::environment::EnvironmentArgs;
use super::network::NetworkArgs;
use super::packages::PackageArgs;
use super::run::UploadArgs;

/// Open a terminal in a fresh VM.
///
/// Runs a shell or a command on a terminal in the VM and connects it with this one. The VM ends with the shell. To leave
/// a program that does not exit, press Enter, then `~.`. If standard input is not a terminal, it is forwarded, followed
/// by Ctrl-D. Exit code: that of the shell or command; 125 if fumehood failed, 130 if ended by a signal.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Command and arguments [default: bash -l]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Run as root in the VM
    #[arg(long)]
    pub(crate) root: bool,
    #[command(flatten)]
    pub(crate) environment: EnvironmentArgs,
    #[command(flatten)]
    pub(crate) uploads: UploadArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Run code interactively in a fresh VM; state is kept between inputs.
///
/// Variables, imports, functions and files are kept between inputs; values are shown. An input continues over several
/// lines while it is incomplete. Python: an open bracket or triple-quoted string, a \ at the line end, or a block, which
/// an empty line ends. JavaScript: an open bracket, template literal or comment. Shell: an open bracket, quote,
/// here-document or compound command such as `if` or `for`, or a \, | or && at the line end.
///
/// Tab completes names. Code that runs for more than half a second reads typed text. The history is kept in
/// $XDG_STATE_HOME/fumehood. Pictures are written to files, and shown by terminals that can.
///
/// Ctrl-C interrupts the running code and keeps the state if possible; otherwise a message says that it is lost. Ctrl-D,
/// or a line `exit`, ends the session. If standard input is not a terminal, it is split into inputs in the same way,
/// without a prompt. Exit code: that of the last input; 125 if fumehood failed, 130 if interrupted.
#[derive(Debug, Args)]
pub(crate) struct ReplArgs {
    /// Language: python (py), javascript (js), typescript (ts) or shell (bash, sh)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Language,
    /// Timeout of each input, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    #[command(flatten)]
    pub(crate) uploads: UploadArgs,
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
