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
// The order is the architecture: a module imports only modules below it.
mod http;
pub mod mcp;
mod service;
mod state;
mod auth;
mod storage;
mod api;
mod error;
mod id;
mod owner;
mod sync;

pub use api::requests::{
    CodeLanguage, NetworkBody, PackageLanguage, PackagesBody, PortBody, ProcessBody, PtyBody,
    RunBody, SandboxBody, Signal, Stdin, TimesBody,
};
pub use api::responses::{
    CheckpointView, FileView, OutcomeView, OutputView, PackageView, RunError, RunKind, RunState,
    RunView, SandboxState, SandboxView, TimingView,
};
pub use auth::api_keys as keys;
pub use error::{ApiError, ErrorBody, Kind};
pub use http::listeners::{ListenError, Listeners, default_socket};
pub use http::{Door, app, openapi};
pub use owner::Owner;
pub use service::{Service, Settings};
pub use state::event_log::{Follower, Ring, Told};
pub use state::run_task::Job;
pub use state::runs::Found;
pub use state::sandbox_handle::Kept;
pub use storage::database::{Store, StoreError};
pub use storage::idempotency::Once;
