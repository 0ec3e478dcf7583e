//! Options for host folders in a VM.

use std::ffi::OsString;

use clap::Args;

/// Host folders that are copied into a VM.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// Copy a folder of this host into the VM before anything runs, so that its changes can be taken over later; may be
    /// repeated. REMOTE is absolute or relative to the user's home; it must not exist. The VM does not see the folder itself
    #[arg(long, value_name = "FOLDER:REMOTE")]
    pub(crate) mount: Vec<OsString>,
}

/// Options for taking over the changes of a mounted folder.
#[derive(Debug, Args)]
pub(crate) struct SyncBackArgs {
    /// Take over the changes after printing them as a patch: asks first, unless --yes is given. Files that also changed on
    /// this host are not overwritten
    #[arg(long)]
    pub(crate) sync_back: bool,
    /// Do not ask
    #[arg(short, long, requires = "sync_back")]
    pub(crate) yes: bool,
    /// Take over changes in `.git`, too. Its configuration and hooks can run programs on this host
    #[arg(long, requires = "sync_back")]
    pub(crate) include_git: bool,
}
