//! The tools, as a client calls them.

use std::sync::Arc;

use fumehood_engine::Language;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ErrorData, Implementation, ServerCapabilities, ServerConfig};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, tool, tool_handler, tool_router};
use serde_json::{Value, json};

use super::params;
use super::progress::Progress;
use super::results::{failed, run_result, succeeded};
use super::sessions::{ClientGone, ResultCharge};
use crate::api::requests::{
    NetworkRequest, OnIdle, OneShotRunRequest, SandboxRequest, SandboxRunRequest, Stdin,
};
use crate::api::sandbox_responses::SandboxState;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Owner;
use crate::service::{MAX_LIST_ITEMS, Service};
use crate::state::run_task::RunTask;
use crate::storage::records::Filter;

/// The prefix of the contexts that the calls in a session share, one for each language.
const CONTEXT_PREFIX: &str = "main";

/// The instructions that a model reads once, when the client connects.
const INSTRUCTIONS: &str = "Runs code in fresh virtual machines. They cannot see the files of this computer, and have no \
network unless the operator allows one. To run one piece of code, call run_code. To keep variables, files and packages \
between calls, call start_session and pass the session that it returns; call end_session when the work is done. Code runs in \
the home directory as an ordinary user. Results show the start and the end of long output: write large output to a file, \
and read parts of it.";

/// The tools for one client.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(super) service: Service,
    /// The owner of everything that the client starts; without one, each request carries it.
    owner: Option<Owner>,
    /// Shared, since it is the same for all clients.
    router: Arc<ToolRouter<Self>>,
}

type ToolResult = Result<CallToolResult, ErrorData>;

/// Converts an error into a result that the model can read.
fn to_tool_result(result: Result<CallToolResult, ApiError>) -> ToolResult {
    Ok(result.unwrap_or_else(|error| failed(&error)))
}

#[tool_router(router = router)]
impl Tools {
    pub(super) fn new(service: Service, owner: Option<Owner>) -> Self {
        let mut router = Self::router();
        if let Some(route) = router.map.get_mut("run_code") {
            let schema = Arc::make_mut(&mut route.attr.input_schema);
            set_max_timeout(schema, service.0.settings.max_timeout_s);
        }

        Self {
            service,
            owner,
            router: Arc::new(router),
        }
    }

    /// Run code. Returns its output, the value of its last expression, figures as images, and how it ended. Each call
    /// runs in a fresh machine, unless it names a session, which keeps state between calls.
    #[tool(annotations(title = "Run code", destructive_hint = false, open_world_hint = false))]
    async fn run_code(
        &self,
        Parameters(params): Parameters<params::RunCode>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.run(params, &context).await)
    }

    /// Start a session: a machine that keeps variables, files, packages and processes between calls.
    #[tool(annotations(
        title = "Start a session",
        destructive_hint = false,
        open_world_hint = false
    ))]
    async fn start_session(
        &self,
        Parameters(params): Parameters<params::StartSession>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.start(params, &context).await)
    }

    /// List the running sessions.
    #[tool(annotations(
        title = "List sessions",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn list_sessions(
        &self,
        Parameters(params::ListSessions {}): Parameters<params::ListSessions>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.sessions(&context).await)
    }

    /// End a session. Everything in it is deleted.
    #[tool(annotations(
        title = "End a session",
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn end_session(
        &self,
        Parameters(params): Parameters<params::EndSession>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.end(params, &context).await)
    }

    /// Write a file in a session. An existing file is replaced.
    #[tool(annotations(
        title = "Write a file",
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn write_file(
        &self,
        Parameters(params): Parameters<params::WriteFile>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.write(params, &context).await)
    }

    /// Read a file in a session. Returns text as text, an image as an image, and anything else as base64.
    #[tool(annotations(title = "Read a file", read_only_hint = true, open_world_hint = false))]
    async fn read_file(
        &self,
        Parameters(params): Parameters<params::ReadFile>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.read(params, &context).await)
    }

    /// List a directory in a session.
    #[tool(annotations(title = "List files", read_only_hint = true, open_world_hint = false))]
    async fn list_files(
        &self,
        Parameters(params): Parameters<params::ListFiles>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.list(params, &context).await)
    }

    /// Install packages in a session, for code that runs afterwards. The session needs a network.
    #[tool(annotations(
        title = "Install packages",
        destructive_hint = false,
        open_world_hint = true
    ))]
    async fn install_packages(
        &self,
        Parameters(params): Parameters<params::InstallPackages>,
        context: RequestContext<RoleServer>,
    ) -> ToolResult {
        to_tool_result(self.install(params, &context).await)
    }
}

impl Tools {
    /// Returns the owner of a call: the client's, or the one that the HTTP middleware has authenticated.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unauthorized`] if there is none.
    pub(super) fn owner(&self, context: &RequestContext<RoleServer>) -> Result<Owner, ApiError> {
        let authenticated = || {
            let parts = context.extensions.get::<axum::http::request::Parts>()?;
            parts.extensions.get::<Owner>()
        };
        let owner = self.owner.as_ref().or_else(authenticated).cloned();
        owner.ok_or_else(|| ApiError::new(ApiErrorKind::Unauthorized, "missing API key"))
    }

    /// Returns the network of a call that asks for one: the operator's policy.
    ///
    /// # Errors
    /// [`ApiErrorKind::Forbidden`] if the operator has set none.
    fn network(&self, is_requested: bool) -> Result<Option<NetworkRequest>, ApiError> {
        if !is_requested {
            return Ok(None);
        }

        let Some(policy) = &self.service.0.settings.mcp_policy else {
            let message = "the operator of this server allows no network; run the code without one, or ask the operator to \
                start the server with --mcp-allow or --mcp-policy";
            return Err(ApiError::new(ApiErrorKind::Forbidden, message));
        };

        Ok(Some(NetworkRequest {
            policy: policy.clone(),
            is_from_operator: true,
            ..NetworkRequest::default()
        }))
    }

    async fn run(
        &self,
        params: params::RunCode,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let session = params.session.clone();
        let start = async {
            match &session {
                Some(session) => {
                    let request = sandbox_run_request(params)?;
                    let run = self.service.run_in_sandbox(&owner, session, request, None);
                    run.await
                }
                None => {
                    let request = self.one_shot_run_request(params)?;
                    self.service.run(&owner, request, None).await
                }
            }
        };

        let run = tokio::select! {
            run = start => run?.into_active()?,
            () = client_cancelled(context) => return Err(cancelled()),
        };

        follow(&run, context).await?;
        match run.failure() {
            Some(failure) => Err(failure),
            None => result_of(&self.service, &owner, run, session, context).await,
        }
    }

    fn one_shot_run_request(&self, params: params::RunCode) -> Result<OneShotRunRequest, ApiError> {
        let mut request = OneShotRunRequest::new(params.language, params.code);
        request.args = params.args;
        request.display = params.language != Language::Shell;
        request.timeout_s = params.timeout_s.unwrap_or(request.timeout_s);
        request.stdin = params.stdin.map_or_else(Stdin::default, Stdin::Text);
        request.packages = params.packages;
        request.network = self.network(params.network)?;
        request.uploads = params.uploads.into_iter().map(Into::into).collect();
        request.downloads = params.downloads;
        Ok(request)
    }

    async fn start(
        &self,
        params: params::StartSession,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let request = SandboxRequest {
            language: Some(params.language.unwrap_or(Language::Python)),
            packages: params.packages,
            network: self.network(params.network)?,
            memory_mib: params.memory_mib,
            idle_timeout_s: params.idle_timeout_s,
            ..SandboxRequest::default()
        };

        let sandbox = tokio::select! {
            sandbox = self.service.create_sandbox(&owner, &request) => sandbox?.response(),
            () = client_cancelled(context) => return Err(cancelled()),
        };

        let when_idle = match sandbox.on_idle {
            OnIdle::Pause => "is paused",
            OnIdle::End => "ends",
        };
        let text = format!(
            "Session {} is ready. It {when_idle} after {} s without a call.",
            sandbox.id, sandbox.idle_timeout_s
        );

        let structured = json!({
            "session": sandbox.id, "memory_mib": sandbox.memory_mib, "idle_timeout_s": sandbox.idle_timeout_s,
            "packages": sandbox.packages,
        });

        Ok(succeeded(text, structured))
    }

    async fn sessions(
        &self,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let filter = Filter {
            limit: MAX_LIST_ITEMS,
            ..Filter::default()
        };

        let filter = Filter {
            is_over: Some(false),
            ..filter
        };
        let mut sandboxes = self.service.list_sandboxes(&owner, None, filter)?;
        sandboxes.retain(|one| one.state != SandboxState::Ended);

        let lines: Vec<_> = sandboxes
            .iter()
            .map(|one| format!("{} since {}", one.id, one.created_at))
            .collect();

        let text = if lines.is_empty() {
            "There are no sessions.".to_owned()
        } else {
            lines.join("\n")
        };

        let sessions: Vec<_> = sandboxes
            .iter()
            .map(|one| {
                json!({ "session": one.id, "created_at": one.created_at, "memory_mib": one.memory_mib })
            })
            .collect();

        Ok(succeeded(text, json!({ "sessions": sessions })))
    }

    async fn end(
        &self,
        params: params::EndSession,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let sandbox = self.service.end_sandbox(&owner, &params.session).await?;
        let text = format!("Session {} has ended.", sandbox.id);
        let structured = json!({ "session": sandbox.id, "ended": sandbox.ended });
        Ok(succeeded(text, structured))
    }

    async fn install(
        &self,
        params: params::InstallPackages,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let params::InstallPackages {
            session,
            language,
            packages,
        } = params;

        let install = self
            .service
            .install_packages(&owner, &session, language, &packages);

        let installed = tokio::select! {
            installed = install => installed?,
            () = client_cancelled(context) => return Err(cancelled()),
        };

        let lines: Vec<_> = installed
            .iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect();

        Ok(succeeded(
            lines.join("\n"),
            json!({ "installed": installed }),
        ))
    }
}

/// Puts the longest timeout of this server, in seconds, into the schema of the parameters of `run_code`.
fn set_max_timeout(schema: &mut serde_json::Map<String, Value>, seconds: u64) {
    let field = schema
        .get_mut("properties")
        .and_then(|fields| fields.get_mut("timeout_s"));

    if let Some(field) = field {
        field["maximum"] = seconds.into();
        field["description"] = format!("Timeout in seconds, 1 to {seconds}. Default: 30.").into();
    }
}

pub(super) fn sandbox_run_request(params: params::RunCode) -> Result<SandboxRunRequest, ApiError> {
    let session_fields = [
        ("packages", !params.packages.is_empty()),
        ("network", params.network),
    ];

    if let Some((name, _)) = session_fields.iter().find(|(_, is_set)| *is_set) {
        let message = format!("`{name}` cannot be set with a session; pass it to start_session");
        return Err(ApiError::invalid(message));
    }

    if !params.uploads.is_empty() || !params.downloads.is_empty() {
        let message =
            "`uploads` and `downloads` cannot be set with a session; use write_file and read_file";
        return Err(ApiError::invalid(message));
    }

    let mut request = SandboxRunRequest::new(params.language, params.code);
    request.args = params.args;
    request.display = params.language != Language::Shell;
    request.timeout_s = params.timeout_s.unwrap_or(request.timeout_s);
    request.stdin = params.stdin.map_or_else(Stdin::default, Stdin::Text);
    request.context = Some(format!("{CONTEXT_PREFIX}-{}", params.language));

    Ok(request)
}

fn cancelled() -> ApiError {
    ApiError::new(ApiErrorKind::Lost, "the call was cancelled")
}

/// Returns the result of a run that has ended. It counts for the owner's quota until its client has received it.
async fn result_of(
    service: &Service,
    owner: &Owner,
    run: Arc<RunTask>,
    session: Option<String>,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResult, ApiError> {
    let quota = service.quota(owner);
    let charge = tokio::select! {
        charge = quota.wait_for(run.output_bytes()) => charge,
        () = client_cancelled(context) => return Err(cancelled()),
    };

    let parts = context.extensions.get::<axum::http::request::Parts>();
    if let Some(result) = parts.and_then(|parts| parts.extensions.get::<ResultCharge>()) {
        result.set(charge);
    }

    let result = move || run_result(&run.response(true), session.as_deref());
    service.do_heavy_work(result).await
}

/// Waits until the client cancels the call, or has disconnected.
async fn client_cancelled(context: &RequestContext<RoleServer>) {
    let parts = context.extensions.get::<axum::http::request::Parts>();
    match parts.and_then(|parts| parts.extensions.get::<ClientGone>()) {
        Some(client_gone) => tokio::select! {
            () = client_gone.wait() => {}
            () = context.ct.cancelled() => {}
        },
        None => context.ct.cancelled().await,
    }
}

/// Follows a run to its end and reports its progress. Cancels it if the call is cancelled or the client disconnects.
async fn follow(run: &RunTask, context: &RequestContext<RoleServer>) -> Result<(), ApiError> {
    // The selection includes the reports: a client that does not read them must not keep its code running.
    tokio::select! {
        () = report_progress(run, context) => Ok(()),
        () = client_cancelled(context) => {
            run.abandon();
            Err(cancelled())
        }
    }
}

async fn report_progress(run: &RunTask, context: &RequestContext<RoleServer>) {
    let mut progress = Progress::new(context);
    let mut events = run.subscribe(0);
    while let Some(event) = events.next().await {
        let field = match event.name {
            "stdout" | "stderr" => "text",
            "packages" => "step",
            _ => continue,
        };

        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let text = data[field].as_str().unwrap_or_default();
        progress.report(text).await;
    }

    run.wait().await;
}

#[tool_handler(router = self.router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("fumehood", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }
}
