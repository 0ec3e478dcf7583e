//! The command line: words as clap reads them.

mod network;
mod packages;
mod server;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use fumehood_engine::policy::{Method, Target};
use fumehood_engine::{AcceleratorChoice, Config, Language, RequiredIsolation};

pub(crate) use network::NetworkArgs;
pub(crate) use packages::PackageArgs;
pub(crate) use server::{Agents, Keys, KeysCommand, Mcp, Serve};

/// Runs untrusted code in fresh microVMs on this machine.
#[derive(Debug, Parser)]
#[command(name = "fumehood", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What this host offers, for every command.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Host {
    /// Directory of images and caches [default: ~/.local/share/fumehood]
    #[arg(long, env = "FUMEHOOD_HOME", value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    /// What executes the guest's instructions: auto, kvm or tcg (software emulation)
    #[arg(
        long,
        env = "FUMEHOOD_ACCELERATOR",
        default_value = "auto",
        value_name = "NAME",
        global = true
    )]
    accelerator: AcceleratorChoice,
    /// The QEMU to use [default: qemu-system-x86_64 in PATH]
    #[arg(long, env = "FUMEHOOD_QEMU", value_name = "PROGRAM", global = true)]
    qemu: Option<PathBuf>,
    /// The program that puts up the walls around QEMU [default: fumehood-launcher beside this program, or in
    /// the store]
    #[arg(long, env = "FUMEHOOD_LAUNCHER", value_name = "PROGRAM", global = true)]
    launcher: Option<PathBuf>,
    /// Starts no VM where a wall around QEMU is missing (full), or says which were (any)
    #[arg(
        long,
        env = "FUMEHOOD_REQUIRE_ISOLATION",
        default_value = "any",
        value_name = "HOW_MUCH",
        global = true
    )]
    require_isolation: RequiredIsolation,
}

impl Host {
    /// Whether nothing is to be other than usual.
    pub(crate) fn is_default(&self) -> bool {
        let is_usual = self.accelerator == AcceleratorChoice::Auto
            && self.require_isolation == RequiredIsolation::default();
        is_usual && self.store.is_none() && self.qemu.is_none() && self.launcher.is_none()
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            store: self.store.clone(),
            accelerator: self.accelerator,
            qemu: self.qemu.clone(),
            launcher: self.launcher.clone(),
            require_isolation: self.require_isolation,
            ..Config::default()
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs code in a fresh VM, streams its output and exits as it does
    Run(Run),
    /// Opens a terminal in a fresh VM, which is gone with its shell
    Shell(Shell),
    /// Runs pieces of code one after the other in a fresh VM, where each finds what others have left
    Repl(Repl),
    /// Looks at this machine: what is, what it means, how to mend it
    Doctor,
    /// Builds, lists and verifies guest images
    Image(Image),
    /// Builds, lists and prunes warm templates, from which runs are restored
    Template(Template),
    /// Lists and prunes layers of packages, which runs with -p make
    Layer(Layer),
    /// Starts a VM and offers its agent's protocol on a loopback TCP port
    Agent(Agent),
    /// Checks a policy of the guest's network, or explains what it decides
    Policy(Policy),
    /// Offers all of this over HTTP, to this user's processes and to whoever has a key
    Serve(Serve),
    /// Offers tools to an agent by the Model Context Protocol
    Mcp(Mcp),
    /// Makes, lists and revokes keys of the HTTP API
    Keys(Keys),
    /// Prints a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page
    Man,
}

/// The most that a timeout may be unless that is raised, in seconds.
const MAX_TIMEOUT_S: u64 = 300;

impl Run {
    /// Whether a timeout may be other than is usual.
    pub(crate) fn has_raised_timeout(&self) -> bool {
        self.max_timeout != MAX_TIMEOUT_S
    }
}

/// Runs code in a fresh VM.
///
/// Exits as the program does; 124 when its time was up, 125 when fumehood failed, 130 when
/// interrupted.
///
/// With --upload or --download, files are copied before the program begins and after it has ended, whatever
/// its end was; 125 as well where a download fails of a program that succeeded.
#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    /// The program's file, or - for standard input
    #[arg(
        required_unless_present = "code",
        conflicts_with = "code",
        value_name = "FILE"
    )]
    pub(crate) file: Option<PathBuf>,
    /// The program itself
    #[arg(short, long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// python, javascript (also typescript) or raw (shell) [default: by the file's extension]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Option<Language>,
    /// Sets an environment variable; KEY alone takes its value from here
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Seconds until the program is ended; 0 = the most that is allowed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
    /// Raises the most that a timeout may be
    #[arg(long, value_name = "SECONDS", default_value_t = MAX_TIMEOUT_S)]
    pub(crate) max_timeout: u64,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Starts an interpreter for this run instead of using the one that the template keeps warm; hash
    /// seeds and addresses are then shared with no other VM
    #[arg(long)]
    pub(crate) fresh_interpreter: bool,
    /// Boots the VM instead of restoring it from a template
    #[arg(long)]
    pub(crate) boot: bool,
    /// Does it without this user's server (`fumehood serve`), which is used where one runs and nothing particular is
    /// asked for
    #[arg(long, env = "FUMEHOOD_NO_SERVER", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_server: bool,
    /// Says nothing but what the program says
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Prints one JSON object at the end instead of the output as it comes
    #[arg(long)]
    pub(crate) json: bool,
    /// Passes this command's standard input to the program; without it, the program's is empty
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Prints values, too: that of the last expression and those given to `display(…)`, as text; with
    /// --json all of their forms. Python and JavaScript have them
    #[arg(long)]
    pub(crate) display: bool,
    /// Runs in this directory of the VM, absolute or below the user's home
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) uploads: Uploads,
    /// Copies a file or a directory from the VM to here when the program has ended; may be repeated. REMOTE
    /// is absolute or below the user's home. LOCAL is what it becomes here [default: its name, in this
    /// directory]; a file goes into a directory that is there already, and anything does with a / at the
    /// end. A file that is there is replaced once the whole of the new one has come; into a directory that
    /// is there, a directory's content is copied. After a name with a colon in it, write one more
    #[arg(long, value_name = "REMOTE[:LOCAL]")]
    pub(crate) download: Vec<OsString>,
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// What is to be copied into a VM.
#[derive(Debug, ClapArgs)]
pub(crate) struct Uploads {
    /// Copies a file or a directory into the VM first; may be repeated. REMOTE, absolute or below the
    /// user's home, is what it becomes there [default: its name, in the home]; the directories on the way
    /// are made. A file goes into a directory that is there already, and anything does with a / at the end.
    /// After a name with a colon in it, write one more
    #[arg(long, value_name = "LOCAL[:REMOTE]")]
    pub(crate) upload: Vec<OsString>,
}

/// Opens a terminal in a fresh VM.
///
/// The shell, or a command of yours, runs on a terminal of its own there, to which keys go and from which
/// the screen comes. Exits as it does; 125 when fumehood failed, 130 when ended by a signal. With the shell the VM
/// is gone. A program that does not let you go: type Enter, ~ and a full stop. Standard input that is
/// no terminal is passed on, and ends as one does by Ctrl-D.
#[derive(Debug, ClapArgs)]
pub(crate) struct Shell {
    /// What to run, with its arguments [default: bash -l]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Runs as the VM's root
    #[arg(long)]
    pub(crate) root: bool,
    /// Sets an environment variable; KEY alone takes its value from here
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) uploads: Uploads,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Runs pieces of code one after the other in a fresh VM.
///
/// Each finds what those before it have left: variables, imports, functions, files. Values are shown. Code goes
/// on over several lines while something is open in it: in Python a bracket, a string of three quotes, a \ at
/// the end, or a block, which an empty line ends; in JavaScript a bracket, a template or a comment; in the shell a
/// bracket, a quote, a here-document, `if`, `for` and the like, or a \, | or && at the end. Ctrl-C interrupts what
/// runs and keeps the state where that is possible, and says so where it is not; Ctrl-D, or `exit` on a line of its
/// own, ends. Standard input that is no terminal is read in the same way, without a prompt; the exit code is then
/// the last piece's; 125 when fumehood failed, 130 when interrupted.
#[derive(Debug, ClapArgs)]
pub(crate) struct Repl {
    /// python, javascript (also typescript) or raw (shell)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Language,
    /// Seconds until a piece of code is ended
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    #[command(flatten)]
    pub(crate) uploads: Uploads,
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Builds the image; does nothing when nothing has changed
    Build(ImageBuild),
    /// Lists the images of this store
    List,
    /// Hashes every part of an image and compares
    Verify,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImageBuild {
    /// The guest's agent, a static program [default: fumehood-agent beside this program]
    #[arg(long, env = "FUMEHOOD_AGENT", value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
    /// fumehood's own small kernel, built here, or Debian's
    #[arg(long, value_enum, default_value_t = Kernel::Own)]
    pub(crate) kernel: Kernel,
    /// Further certificates to trust in the guest, a PEM file; the host's bundle is always there
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Takes newer packages of Debian even when nothing else has changed
    #[arg(long)]
    pub(crate) refresh: bool,
    /// Builds no warm templates: the first runs boot
    #[arg(long)]
    pub(crate) no_templates: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kernel {
    /// Boots fastest; building it takes a few minutes, once
    Own,
    /// Needs no build
    Debian,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Template {
    #[command(subcommand)]
    pub(crate) command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Builds the templates of this image that are missing
    Build(TemplateBuild),
    /// Lists the templates of this store
    List,
    /// Removes damaged and abandoned templates, and the least recently used ones past a bound
    Prune(Prune),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TemplateBuild {
    /// Only of this language [default: all]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) language: Option<Language>,
    /// For VMs of this much memory; a run of other memory does not use them
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Only for VMs without a network
    #[arg(long)]
    pub(crate) no_network: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Prune {
    /// Keeps this much on disk at most [default: 4096 of templates, 8192 of layers]
    #[arg(long, value_name = "MIB", conflicts_with = "all")]
    keep: Option<u64>,
    /// Removes all of them
    #[arg(long)]
    all: bool,
}

impl Prune {
    /// How many bytes may stay.
    pub(crate) fn most(&self, default: u64) -> u64 {
        match (self.all, self.keep) {
            (true, _) => 0,
            (false, Some(mib)) => mib.saturating_mul(1024 * 1024),
            (false, None) => default,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Layer {
    #[command(subcommand)]
    pub(crate) command: LayerCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LayerCommand {
    /// Lists the layers of this store
    List,
    /// Removes damaged and abandoned layers, and the least recently used ones past a bound
    Prune(Prune),
}

/// Starts a VM and offers its agent's protocol on a loopback TCP port, until interrupted.
///
/// For protocol clients in any language, version 0 included. One client at a time.
#[derive(Debug, ClapArgs)]
pub(crate) struct Agent {
    /// A loopback address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// Lets any local program in, without a token
    #[arg(long)]
    pub(crate) no_token: bool,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Policy {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Reads a policy and prints its rules
    Check(PolicyCheck),
    /// Says step by step whether a guest may reach a URL, and which rule decides
    Explain(PolicyExplain),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PolicyCheck {
    /// A file of TOML, or of JSON where its name ends so
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Says step by step whether a guest may reach a URL, and which rule decides.
///
/// Exits with 0 when it may, with 1 when it may not, with 125 when fumehood failed. Nothing is looked up or sent.
#[derive(Debug, ClapArgs)]
pub(crate) struct PolicyExplain {
    /// A file of TOML, or of JSON where its name ends so
    #[arg(short, long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// One more rule; may be repeated. example.com, *.example.com:443,8443, 10.0.0.0/8:5432,
    /// [2001:db8::/32]:443 or index:python
    #[arg(long, value_name = "RULE")]
    pub(crate) allow: Vec<String>,
    /// What the URL's name resolves to [default: some public address]
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// The method of the request, where requests are seen
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub(crate) method: Method,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// https://HOST:PORT, http://…, tcp://… for anything else, or udp://…
    #[arg(value_name = "URL")]
    pub(crate) target: Target,
}

/// An environment variable as the words give it: `KEY=VALUE`, or `KEY` for the value that it has here.
pub(crate) fn environment(variable: &str) -> anyhow::Result<(&str, String)> {
    if let Some((name, value)) = variable.split_once('=') {
        return Ok((name, value.to_owned()));
    }
    let value = std::env::var(variable)
        .with_context(|| format!("-e {variable}: it has no value here; use -e {variable}=VALUE"))?;
    Ok((variable, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }
}
