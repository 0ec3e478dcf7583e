//! Arguments of `run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use fumehood_engine::Language;

use super::environment::EnvironmentArgs;
use super::mount::{MountArgs, SyncBackArgs};
use super::network::NetworkArgs;
use super::packages::{PACKAGES_HEADING, PackageArgs};
use crate::io::is_stdin_redirected;

/// The default upper bound of timeouts, in seconds.
pub(super) const MAX_TIMEOUT_S: u64 = 300;

/// Run code in a fresh VM, stream its output and exit with its exit code.
///
/// Exit code: that of the program; 124 if it timed out, 125 if fumehood failed, 130 if interrupted.
///
/// With --upload and --download, files are copied before the program starts and after it has ended. Downloads are
/// attempted however the program ended. Exits with 125 if the program succeeded but a download failed.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// File with the program, or - for standard input
    #[arg(
        required_unless_present = "code",
        conflicts_with = "code",
        value_name = "FILE"
    )]
    pub(crate) file: Option<PathBuf>,
    /// Program text
    #[arg(short, long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Language: python (py), javascript (js), typescript (ts) or shell (bash, sh) [default: by file extension]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Option<Language>,
    #[command(flatten)]
    pub(crate) environment: EnvironmentArgs,
    /// Timeout of the program, in seconds; 0 selects the maximum (--max-timeout)
    #[arg(short, long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
    /// Maximum that --timeout may be, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = MAX_TIMEOUT_S)]
    pub(crate) max_timeout: u64,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Start a new interpreter instead of the warm one from the template, so that hash seeds and memory addresses are
    /// not shared with other VMs
    #[arg(long)]
    pub(crate) fresh_interpreter: bool,
    /// Boot the VM instead of restoring it from a template
    #[arg(long)]
    pub(crate) boot: bool,
    /// Do not use a running `fumehood serve`; start the VM from this process
    #[arg(long, env = "FUMEHOOD_NO_SERVER", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_server: bool,
    /// Print only the output of the program
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print one JSON object at the end instead of streaming the output
    #[arg(long)]
    pub(crate) json: bool,
    /// Forward standard input to the program even if it is a terminal or a device. A pipe, a file or a socket is always
    /// forwarded, unless it contains the program (-) or --no-stdin is given
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Do not forward standard input: the program's input is empty. Use it in scripts that read their own commands or
    /// data from a pipe, of which --stdin would take the rest
    #[arg(short = 'n', long, conflicts_with = "stdin")]
    pub(crate) no_stdin: bool,
    /// Print the values of the last expression and of `display(…)` as text, or in all their formats with --json (Python
    /// and JavaScript)
    #[arg(long)]
    pub(crate) display: bool,
    /// Working directory in the VM, absolute or relative to the user's home
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) uploads: UploadArgs,
    /// Copy a file or directory from the VM after the program has ended; may be repeated. REMOTE is absolute or
    /// relative to the user's home. LOCAL is the destination [default: the same name in the current directory]. A file
    /// is placed into LOCAL if that is an existing directory; so is anything if LOCAL ends in /. An existing file is
    /// replaced once the new one is complete; a directory's content is merged into an existing directory. If LOCAL or
    /// REMOTE contains a colon, append an extra `:`
    #[arg(long, value_name = "REMOTE[:LOCAL]")]
    pub(crate) download: Vec<OsString>,
    #[command(flatten)]
    pub(crate) mounts: MountArgs,
    #[command(flatten)]
    pub(crate) sync: SyncBackArgs,
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    /// Do not install the packages that the program itself names: in script metadata (`# /// script`) for Python, in
    /// `package.json` beside the file for JavaScript
    #[arg(long, help_heading = PACKAGES_HEADING)]
    pub(crate) no_script_packages: bool,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Arguments for the program
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

impl RunArgs {
    /// Returns whether `--max-timeout` differs from its default.
    pub(crate) fn has_custom_max_timeout(&self) -> bool {
        self.max_timeout != MAX_TIMEOUT_S
    }

    /// Returns whether standard input is forwarded to the program: on request, or because something is redirected to it
    /// that a local interpreter would read, too.
    pub(crate) fn forwards_stdin(&self) -> bool {
        let has_program = self.file.as_deref() == Some(Path::new("-"));
        self.stdin || !(self.no_stdin || has_program) && is_stdin_redirected()
    }

    /// Returns the timeout in effect, in seconds.
    pub(crate) fn effective_timeout(&self) -> u64 {
        if self.timeout == 0 {
            self.max_timeout
        } else {
            self.timeout
        }
    }
}

/// Files that are copied into a VM.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// Copy a file or directory into the VM before anything runs; may be repeated. REMOTE is the destination, absolute
    /// or relative to the user's home [default: the same name in the home]; missing directories are created. A file is
    /// placed into REMOTE if that is an existing directory; so is anything if REMOTE ends in /. If LOCAL or REMOTE
    /// contains a colon, append an extra `:`
    #[arg(long, value_name = "LOCAL[:REMOTE]")]
    pub(crate) upload: Vec<OsString>,
}
