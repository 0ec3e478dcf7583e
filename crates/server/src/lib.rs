//! The HTTP API of fumehood.
//!
//! A [`Service`] has done what callers ask for, whoever they are and whatever way they come; [`app`] offers it over
//! HTTP. The caller owns listener and shutdown; [`Listeners`] has what is needed for that.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fumehood_engine::{Config, Engine};
//! use fumehood_server::{Door, Service, Settings, app};
//!
//! let service = Service::open(Engine::start(Config::default())?, Settings::default())?;
//! let router = app(&service, Door::Keyed);
//! # let _ = router;
//! # Ok(())
//! # }
//! ```
//!
//! Modules by rank; a lower one never names a higher: `http, listen > runs, sandboxes, checkpoints > ceiling > service > records >
//! job, metrics, claims, keys, rate > store, ring, pieces > body, view > owner > error`.

mod body;
mod ceiling;
mod checkpoints;
mod claims;
mod error;
mod http;
mod job;
pub mod keys;
mod listen;
pub mod mcp;
mod metrics;
mod number;
mod owner;
mod pieces;
mod rate;
mod records;
mod ring;
mod runs;
mod sandboxes;
mod service;
mod store;
mod view;

pub use body::{
    CodeLanguage, NetworkBody, PackageLanguage, PackagesBody, PortBody, ProcessBody, PtyBody,
    RunBody, SandboxBody, Signal, Stdin, TimesBody,
};
pub use claims::Once;
pub use error::{ApiError, ErrorBody, Kind};
pub use http::{Door, app, openapi};
pub use job::Job;
pub use listen::{ListenError, Listeners, default_socket};
pub use owner::Owner;
pub use ring::{Follower, Ring, Told};
pub use runs::Found;
pub use sandboxes::Kept;
pub use service::{Service, Settings};
pub use store::{Store, StoreError};
pub use view::{
    CheckpointView, FileView, OutcomeView, OutputView, PackageView, RunError, RunKind, RunState,
    RunView, SandboxState, SandboxView, TimingView,
};
