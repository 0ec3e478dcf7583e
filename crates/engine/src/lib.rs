//! The host library: runs untrusted code in fresh microVMs.
//!
//! An [`Engine`] is this host, ready: accelerator chosen, QEMU found, image open. From it,
//! [`Engine::run`] gives one fresh VM to one program: code goes in, output streams out, the VM is
//! gone.
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
//! Modules by rank; a lower one never names a higher: `engine, builder, doctor > package_layer > package_builder > sandbox,
//! context, files, packages, reading, saving, tree,
//! watcher, agent_line, keeper > begun > host > pool > template > restore, checkpoint > snapshot, warm > launch, ending >
//! life > vm > follow, uplink, report > run, spawn > package_index > network > control, result, greeting > channel, router, writer > console,
//! admission, machine > layer, config, package_set, package_step > accelerator, patience > error`.

mod accelerator;
mod admission;
mod agent_line;
mod begun;
mod builder;
mod channel;
mod checkpoint;
mod config;
mod console;
mod context;
mod control;
pub mod doctor;
mod ending;
mod engine;
mod error;
mod files;
mod follow;
mod greeting;
mod host;
mod isolation;
mod keeper;
mod launch;
mod layer;
mod life;
mod machine;
mod network;
mod package_builder;
mod package_index;
mod package_layer;
mod package_set;
mod package_step;
mod packages;
mod patience;
mod pool;
mod reading;
pub mod report;
mod restore;
mod result;
mod router;
mod run;
mod sandbox;
mod saving;
mod snapshot;
mod spawn;
mod template;
mod tree;
mod uplink;
mod vm;
mod walls;
mod warm;
mod watcher;
mod writer;

pub use accelerator::{Accelerator, AcceleratorChoice};
pub use admission::Capacity;
pub use agent_line::{AgentConnection, fresh_token};
pub use builder::SandboxBuilder;
pub use checkpoint::Checkpoint;
pub use config::{Config, Pool, Qemu, TemplateUse};
pub use context::Context;
pub use control::{Input, RunControl};
pub use engine::Engine;
pub use error::{Error, ErrorKind, Retry};
pub use files::{Files, WriteOptions};
pub use fumehood_gateway::policy;
pub use fumehood_gateway::{
    Denial, Event as NetworkEvent, NetworkAction, SecretValue, Summary as NetworkSummary,
    VaultError,
};
pub use fumehood_image as image;
pub use fumehood_protocol::{
    ChangeKind, EndedBy, Evidence, FileInfo, FileKind, Language, Limits, ProcessInfo, ProcessKind,
    SignalName, StreamSummary,
};
pub use host::VmStats;
#[doc(hidden)]
pub use isolation::{Isolation, IsolationLayer, RequiredIsolation};
pub use layer::Layer;
pub use life::SandboxEnd;
pub use network::{Network, PortMapping};
pub use package_step::PackageStep;
pub use packages::InstalledPackage;
pub use reading::FileReader;
pub use result::MimeBundle;
pub use run::{Event, NetworkOutcome, Outcome, Run, RunRequest, Timing, VmOrigin};
pub use sandbox::Sandbox;
pub use spawn::SpawnRequest;
pub use walls::{LAUNCHER_BIN, install_launcher};
pub use watcher::Watcher;
