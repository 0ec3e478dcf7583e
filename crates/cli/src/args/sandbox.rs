//! Arguments of `sandbox`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use fumehood_engine::{Language, PortMapping};

use super::environment::EnvironmentArgs;
use super::mount::{MountArgs, SyncBackArgs};
use super::network::NetworkArgs;
use super::run::UploadArgs;

/// Create and use sandboxes: VMs that keep files, programs and interpreters.
///
/// The sandboxes are those of this user's server, which the Python SDK and the HTTP API use, too. `create` starts that
/// server in the background if none runs; it exits when it has nothing to do. A sandbox is named by its ID, an unambiguous
/// start of its ID, or its name.
#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    #[command(subcommand)]
    pub(crate) command: SandboxCommand,
    /// Path of the server's Unix socket [default: that of this user's server]
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    Create(SandboxCreateArgs),
    /// List sandboxes
    #[command(visible_alias = "list", alias = "ps")]
    Ls(SandboxListArgs),
    Run(SandboxRunArgs),
    Exec(SandboxExecArgs),
    Shell(SandboxShellArgs),
    Cp(SandboxCopyArgs),
    Logs(SandboxLogsArgs),
    /// End sandboxes with everything that runs in them; files that were not copied out are lost
    Stop(SandboxEndArgs),
    /// The same as `stop`
    Rm(SandboxEndArgs),
    /// Save the state of sandboxes on disk and end their VMs; the next command that needs one resumes it
    Pause(SandboxEndArgs),
    /// Resume paused sandboxes
    Resume(SandboxEndArgs),
    /// Start copies of a sandbox from its current state, and print their IDs
    Fork(SandboxForkArgs),
    /// Create, list and delete checkpoints, from which sandboxes start
    Checkpoint(SandboxCheckpointArgs),
    /// List the exposed ports of a sandbox, or expose more
    Ports(SandboxPortsArgs),
    /// Print everything that the server knows about sandboxes, as a JSON array
    Inspect(SandboxNames),
    Diff(SandboxDiffArgs),
}

/// Create a sandbox and print its ID.
///
/// Starts this user's server if none runs. The host options (--store, --accelerator, …) apply to a server that is started;
/// one that runs keeps its own.
#[derive(Debug, Args)]
pub(crate) struct SandboxCreateArgs {
    /// Name, which can be used in place of the ID
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Language whose interpreter is started in advance: python (py), javascript (js), typescript (ts) or shell (bash, sh)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Option<Language>,
    /// Memory of the VM [default: 512]
    #[arg(short, long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Install a package of the language first; may be repeated
    #[arg(short, long, value_name = "SPEC", requires = "language")]
    pub(crate) package: Vec<String>,
    /// Resolve the packages again instead of using the versions of earlier runs
    #[arg(long)]
    pub(crate) refresh_packages: bool,
    /// Seconds without use after which the sandbox counts as idle [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) idle_timeout: Option<u64>,
    /// What happens to an idle sandbox: pause (its state is saved, and the next command resumes it) or end [default: that of
    /// the server]
    #[arg(long, value_name = "ACTION", value_parser = ["pause", "end"])]
    pub(crate) on_idle: Option<String>,
    /// Seconds after its start after which the sandbox ends in any case [default: 86400]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_lifetime: Option<u64>,
    /// Start from a checkpoint, which determines language, memory, packages and network
    #[arg(long, value_name = "ID")]
    pub(crate) checkpoint: Option<String>,
    #[command(flatten)]
    pub(crate) uploads: UploadArgs,
    #[command(flatten)]
    pub(crate) mounts: MountArgs,
    /// Print the sandbox as one JSON object instead of its ID
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxListArgs {
    /// Include sandboxes that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print only the IDs
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// One or more sandboxes.
#[derive(Debug, Args)]
pub(crate) struct SandboxNames {
    /// IDs or names of sandboxes
    #[arg(required = true, value_name = "SANDBOX")]
    pub(crate) sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxEndArgs {
    /// IDs or names of sandboxes
    #[arg(required_unless_present = "all", value_name = "SANDBOX")]
    pub(crate) sandboxes: Vec<String>,
    /// All sandboxes of this user
    #[arg(short, long, conflicts_with = "sandboxes")]
    pub(crate) all: bool,
}

/// Run code in a sandbox, stream its output and exit with its exit code.
///
/// Variables, imports and functions of earlier code are kept in a context. Exit code: that of the code; 124 if it timed
/// out, 125 if fumehood failed, 130 if interrupted.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("program").required(true).args(["file", "code"]))]
pub(crate) struct SandboxRunArgs {
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// File with the code, or - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The code itself
    #[arg(short, long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Language of the code [default: by file extension, or that of the sandbox, or python]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Option<Language>,
    /// Context: a named interpreter that keeps its state [default: that of the SDK]
    #[arg(long, value_name = "NAME", conflicts_with = "no_context")]
    pub(crate) context: Option<String>,
    /// Run the code in a new interpreter, which ends with it
    #[arg(long)]
    pub(crate) no_context: bool,
    #[command(flatten)]
    pub(crate) environment: EnvironmentArgs,
    /// Timeout of the code, in seconds; 0 selects the maximum of the server
    #[arg(short, long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
    /// Working directory in the VM, absolute or relative to the user's home
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Print the values of the last expression and of `display(…)`
    #[arg(long)]
    pub(crate) display: bool,
    /// Print one JSON object at the end instead of streaming the output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) input: SandboxInputArgs,
    /// Print the ID of the run and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Arguments for the code
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

/// Whether standard input is forwarded.
#[derive(Debug, Args)]
pub(crate) struct SandboxInputArgs {
    /// Forward standard input even if it is a terminal or a device. A pipe, a file or a socket is always forwarded
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Do not forward standard input
    #[arg(short = 'n', long, conflicts_with = "stdin")]
    pub(crate) no_stdin: bool,
}

/// Run a program in a sandbox, with the standard streams of this command, and exit with its exit code.
///
/// SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the program; the third one ends this command, and the program with
/// it. Exit code: that of the program; 124 if it timed out, 125 if fumehood failed, 130 if interrupted.
#[derive(Debug, Args)]
pub(crate) struct SandboxExecArgs {
    #[command(flatten)]
    pub(crate) environment: EnvironmentArgs,
    /// Timeout of the program, in seconds; 0 = none
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) timeout: u64,
    /// Working directory in the VM, absolute or relative to the user's home
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) input: SandboxInputArgs,
    /// Run the program on a terminal in the VM, connected with this one. Enter, then ~. leaves it
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Print the ID of the run and leave the program running; `logs` prints its output
    #[arg(short, long, conflicts_with_all = ["tty", "stdin"])]
    pub(crate) detach: bool,
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// Program and arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

/// Open a shell on a terminal in a sandbox, which continues after it.
///
/// To leave a program that does not exit, press Enter, then `~.`.
#[derive(Debug, Args)]
pub(crate) struct SandboxShellArgs {
    #[command(flatten)]
    pub(crate) environment: EnvironmentArgs,
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// Command and arguments [default: bash -l]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Copy a file or directory into or out of a sandbox.
///
/// One of SOURCE and DESTINATION is SANDBOX:PATH, with a path that is absolute or relative to the user's home; the other is
/// local. - is standard input or output. If DESTINATION is an existing directory or ends in /, the copy is placed into it.
/// Files that a sandbox sends are checked: links that leave the directory, devices and set-id bits are left out, and nothing is
/// written outside of DESTINATION.
#[derive(Debug, Args)]
pub(crate) struct SandboxCopyArgs {
    /// Local path, SANDBOX:PATH, or -
    pub(crate) source: OsString,
    /// Local path, SANDBOX:PATH, or -
    pub(crate) destination: OsString,
}

/// Print the output of code and programs that ran in a sandbox, as far as the server keeps it, or its events.
#[derive(Debug, Args)]
pub(crate) struct SandboxLogsArgs {
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// ID of one run, as `exec --detach` prints it [default: all, the oldest first]
    pub(crate) run: Option<String>,
    /// Follow the output of active runs until they end
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print the events of the sandbox as JSON lines until it ends: denied connections, why it ended
    #[arg(long, conflicts_with_all = ["run", "follow"])]
    pub(crate) events: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxForkArgs {
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// Number of copies
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) count: u32,
    /// Print a JSON array of sandboxes instead of their IDs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxCheckpointArgs {
    #[command(subcommand)]
    pub(crate) command: SandboxCheckpointCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCheckpointCommand {
    /// Save the state of a sandbox, and print the ID of the checkpoint for `sandbox create --checkpoint`
    Create {
        /// ID or name of the sandbox
        sandbox: String,
        /// Name, which can be used in place of the ID; a checkpoint with a name is kept on disk
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Print the checkpoint as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List checkpoints, the newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Print only the IDs
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Delete checkpoints
    Rm {
        /// IDs of checkpoints
        #[arg(required = true, value_name = "CHECKPOINT")]
        checkpoints: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SandboxPortsArgs {
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// Expose these ports first: HOST:GUEST, or PORT for both; host port 0 selects a free port. The sandbox must have a
    /// network
    #[arg(value_name = "PORT[:PORT]")]
    pub(crate) expose: Vec<PortMapping>,
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print what changed in the mounted host folders of a sandbox, as a patch.
///
/// Without --sync-back nothing on this host is changed.
#[derive(Debug, Args)]
pub(crate) struct SandboxDiffArgs {
    /// ID or name of the sandbox
    pub(crate) sandbox: String,
    /// Only the folder that is mounted at this path [default: all]
    pub(crate) path: Option<String>,
    #[command(flatten)]
    pub(crate) sync: SyncBackArgs,
}
