//! Runs untrusted code in disposable microVMs.
//!
//! An [`Engine`] represents this host: its accelerator, QEMU and an image. [`Engine::run`] runs one program in a fresh
//! VM; [`Engine::sandbox`] starts a VM in which several programs run.
//!
//! ```no_run
//! # async fn example() -> Result<(), fumehood_engine::Error> {
//! use fumehood_engine::{Config, Engine, Event, Language, RunRequest};
//!
//! let engine = Engine::start(Config::default())?;
//! let mut run = engine.run(RunRequest::new(Language::Python, "print(6 * 7)"))?;
//! while let Some(event) = run.next().await {
//!     if let Event::Stdout(bytes) = event {
//!         print!("{}", String::from_utf8_lossy(&bytes));
//!     }
//! }
//! let outcome = run.outcome().await?;
//! assert_eq!(outcome.exit_code, Some(0));
//! # Ok(())
//! # }
//! ```
//!
//! Larger examples are in the crate's `examples` folder.
//!
//! # Features
//! - `schema`: schemas of [`Outcome`] and the types in it, for OpenAPI (utoipa) and JSON Schema (schemars).
//! - `testing`: access to parts of a VM that only tests need.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

// From the top layer to the bottom: a module uses only its own folder and modules that are declared after its own.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod missing_image;
mod sandbox_builder;
mod saved_states;
mod engine;
pub mod doctor;
mod agent_connection;
mod layers;
mod sandbox;
mod provision;
mod snapshot;
mod run;
mod vm;
mod config;
mod network;
mod packages;
mod host;
mod agent;
mod error;

pub use agent_connection::{AgentConnection, fresh_token};
pub use config::{Config, Pool, Qemu, TemplateUse};
pub use engine::{Engine, HotImageStatus};
pub use error::{Error, ErrorKind, Retry};
pub use fumehood_gateway::policy;
pub use fumehood_gateway::{
    ConnectionBudget, Denial, Event as NetworkEvent, NetworkAction, SecretValue,
    Summary as NetworkSummary, VaultError,
};
pub use fumehood_image as image;
pub use fumehood_image::StateId;
pub use fumehood_protocol::{
    ChangeKind, EndedBy, Evidence, FileInfo, FileKind, Language, Limits, ProcessInfo, ProcessKind,
    RunningProgram, SignalName, StreamSummary,
};
pub use fumehood_sys::host::{bound_heap, close_fds_except, raise_descriptor_limit, trim_heap};
pub use host::{
    Accelerator, AcceleratorChoice, Isolation, IsolationLayer, RequiredIsolation,
    check_descriptor_limit,
};
pub use missing_image::MissingHotImage;
pub use network::{Network, NetworkOutcome, PortMapping};
pub use packages::{InstalledPackage, PackageStep};
pub use provision::{Capacity, PoolStatus, VmStats};
pub use run::report;
pub use run::{
    Download, DownloadTarget, Event, Input, MimeBundle, Outcome, Run, RunControl, RunRequest,
    SkippedFile, SkippedFiles, SpawnRequest, Timing, UploadSource, VmOrigin,
};
pub use sandbox::{
    Checkpoint, Context, FileReader, Files, Sandbox, Watcher, WriteOptions, link_stays_inside,
    pack_directory, unpack_directory,
};
pub use sandbox_builder::SandboxBuilder;
pub use saved_states::{ResumeOptions, SavedState, SavedStateKind};
pub use snapshot::RunningPrograms;
#[cfg(feature = "testing")]
pub use vm::Layer;
pub use vm::{Activity, LAUNCHER_BIN, SandboxEnd, install_launcher};
