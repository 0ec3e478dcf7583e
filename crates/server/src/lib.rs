//! The HTTP API of fumehood, and its MCP server.
//!
//! A [`Service`] carries out what callers request, whichever way they connect; [`app`] offers it over HTTP and [`mcp`] to
//! agents. The caller owns the listeners and decides when to shut down; [`Listeners`] provides both.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fumehood_engine::{Config, Engine};
//! use fumehood_server::{Service, Settings, Transport, app};
//!
//! let service = Service::open(Engine::start(Config::default())?, Settings::default())?;
//! let router = app(&service, Transport::Tcp);
//! # let _ = router;
//! # Ok(())
//! # }
//! ```

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

// From the top layer to the bottom: a module imports only modules below it.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
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

pub use api::object_name::ObjectName;
pub use api::requests::{
    InstallRequest, LifetimeCounts, NetworkRequest, OnIdle, OneShotRunRequest, PortRequest,
    ProcessRequest, PtySize, ResumeRequest, SandboxRequest, SandboxRunRequest, Signal, Stdin,
    TimeoutsRequest, UploadRequest,
};
pub use api::responses::{
    CheckpointResponse, FileContent, FileResponse, RunError, RunKind, RunOutcome, RunOutput,
    RunResponse, RunState,
};
pub use api::sandbox_responses::{SandboxResponse, SandboxState};
pub use auth::api_keys;
pub use error::{ApiError, ApiErrorKind, ErrorResponse};
pub use http::{ListenError, Listeners, Transport, app, default_socket, openapi};
pub use owner::Owner;
pub use service::{Service, Settings};
pub use state::event_log::{EventLog, EventSubscriber, LoggedEvent};
pub use state::run_task::RunTask;
pub use state::runs::RunLookup;
pub use state::sandbox::SandboxHandle;
pub use state::sandbox::SandboxUse;
pub use storage::database::{Store, StoreError};
pub use storage::idempotency::IdempotencyKey;
