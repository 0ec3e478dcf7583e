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
//! Modules by rank; a lower one never names a higher: `engine, doctor > sandbox, agent_line, keeper >
//! host > pool > template > restore, checkpoint > snapshot, warm > launch, ending > vm > follow > run >
//! greeting > channel > console, admission, machine > config > accelerator > error`.

mod accelerator;
mod admission;
mod agent_line;
mod channel;
mod checkpoint;
mod config;
mod console;
pub mod doctor;
mod ending;
mod engine;
mod error;
mod follow;
mod greeting;
mod host;
mod keeper;
mod launch;
mod machine;
mod pool;
mod restore;
mod run;
mod sandbox;
mod snapshot;
mod template;
mod vm;
mod warm;

pub use accelerator::{Accelerator, AcceleratorChoice};
pub use agent_line::{AgentLine, fresh_token};
pub use checkpoint::Checkpoint;
pub use config::{Config, Pool, Qemu, TemplateUse};
pub use engine::Engine;
pub use error::{Error, ErrorKind, Retry};
pub use fumehood_image as image;
pub use fumehood_protocol::{EndedBy, Evidence, Language, Limits, StreamSummary};
pub use host::Counts;
pub use run::{Canceller, Event, Outcome, Run, RunRequest, Source, Timing};
pub use sandbox::Sandbox;
