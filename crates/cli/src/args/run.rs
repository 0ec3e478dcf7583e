//! Arguments of `run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use fumehood_engine::Language;

use super::environment::EnvironmentArgs;
use super::network::NetworkArgs;
use super::packages::{PACKAGES_HEADING, PackageArgs};

/// The default upper bound of `--timeout`, in seconds.
const MAX_TIMEOUT_S: u64 = 300;

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
    /// Language: python, javascript (also for TypeScript) or shell [default: by file extension]
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
    /// Forward standard input to the program; without this option its input is empty
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
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
    pub(crate) packages: PackageArgs,
    /// Do not install the packages that the program itself names: in script metadata (`# /// script`) for Python, in
    /// `package.json` beside the file for JavaScript
    #[arg(long, help_heading = PACKAGES_HEADING)]
    pub(crate) no_script_packages: bool,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

impl RunArgs {
    /// Returns whether `--max-timeout` differs from its default.
    pub(crate) fn has_custom_max_timeout(&self) -> bool {
        self.max_timeout != MAX_TIMEOUT_S
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
