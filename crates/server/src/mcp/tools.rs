use std::sync::Arc;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ErrorData, Implementation, ServerCapabilities, ServerConfig};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, tool, tool_handler, tool_router};
use serde_json::{Value, json};

use super::params;
use super::progress::Progress;
use super::results::{self, done, refused};
use super::sessions::Gone;
use crate::Service;
use crate::api::requests::{CodeLanguage, NetworkBody, RunBody, SandboxBody, Stdin};
use crate::api::responses::SandboxState;
use crate::error::{ApiError, Kind};
use crate::owner::Owner;
use crate::service::runs::LIST;
use crate::state::run_task::Job;
use crate::storage::records::Filter;

/// The interpreter that a session's calls share, one for each language.
const CONTEXT: &str = "main";

/// What a model is told of all this once.
const INSTRUCTIONS: &str = "Runs code in fresh virtual machines that see neither this computer's files nor, unless its \
operator allows it, any network. For one piece of code call run_code. To keep variables, files and packages between calls, \
call start_session and pass the session it returns; end it when the work is done. Code runs in the home directory as an \
ordinary user. An answer shows the output's beginning and end: write what is large to a file and read parts of it.";

/// The tools, for one client.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(super) service: Service,
    /// Whose they are; none: the request says it.
    owner: Option<Owner>,
    /// Shared: it is the same for all clients.
    router: Arc<ToolRouter<Self>>,
}

type Called = Result<CallToolResult, ErrorData>;

/// A refusal is the model's to read.
fn called(result: Result<CallToolResult, ApiError>) -> Called {
    Ok(result.unwrap_or_else(|error| refused(&error)))
}

#[tool_router(router = router)]
impl Tools {
    pub(super) fn new(service: Service, owner: Option<Owner>) -> Self {
        Self {
            service,
            owner,
            router: Arc::new(Self::router()),
        }
    }

    /// Runs code and returns its output, the value of its last expression, figures as images, and how it ended. Without a
    /// session each call has a fresh machine of its own; in a session, state is kept.
    #[tool(annotations(title = "Run code", destructive_hint = false, open_world_hint = false))]
    async fn run_code(
        &self,
        Parameters(asked): Parameters<params::RunCode>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.run(asked, &context).await)
    }

    /// Starts a session: a machine of its own that keeps variables, files, packages and processes between calls.
    #[tool(annotations(
        title = "Start a session",
        destructive_hint = false,
        open_world_hint = false
    ))]
    async fn start_session(
        &self,
        Parameters(asked): Parameters<params::StartSession>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.start(asked, &context).await)
    }

    /// Lists the sessions that are there.
    #[tool(annotations(
        title = "List sessions",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn list_sessions(
        &self,
        Parameters(params::Nothing {}): Parameters<params::Nothing>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.sessions(&context).await)
    }

    /// Ends a session, with all that is in it.
    #[tool(annotations(
        title = "End a session",
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn end_session(
        &self,
        Parameters(asked): Parameters<params::Session>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.end(asked, &context).await)
    }

    /// Writes a file in a session, the whole of it.
    #[tool(annotations(
        title = "Write a file",
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn write_file(
        &self,
        Parameters(asked): Parameters<params::WriteFile>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.write(asked, &context).await)
    }

    /// Reads a file in a session: text as text, an image as an image, anything else as base64.
    #[tool(annotations(title = "Read a file", read_only_hint = true, open_world_hint = false))]
    async fn read_file(
        &self,
        Parameters(asked): Parameters<params::ReadFile>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.read(asked, &context).await)
    }

    /// Lists a directory in a session.
    #[tool(annotations(title = "List files", read_only_hint = true, open_world_hint = false))]
    async fn list_files(
        &self,
        Parameters(asked): Parameters<params::ListFiles>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.list(asked, &context).await)
    }

    /// Installs packages in a session that has a network, for the code that follows.
    #[tool(annotations(
        title = "Install packages",
        destructive_hint = false,
        open_world_hint = true
    ))]
    async fn install_packages(
        &self,
        Parameters(asked): Parameters<params::InstallPackages>,
        context: RequestContext<RoleServer>,
    ) -> Called {
        called(self.install(asked, &context).await)
    }
}

impl Tools {
    pub(super) fn owner(&self, context: &RequestContext<RoleServer>) -> Result<Owner, ApiError> {
        let said = || {
            context
                .extensions
                .get::<axum::http::request::Parts>()?
                .extensions
                .get::<Owner>()
        };
        let owner = self.owner.as_ref().or_else(said).cloned();
        owner.ok_or_else(|| ApiError::new(Kind::Unauthorized, "this call came without a key"))
    }

    /// The network of code that asked for one.
    fn network(&self, is_wanted: bool) -> Result<Option<NetworkBody>, ApiError> {
        match (is_wanted, &self.service.0.settings.agents_network) {
            (false, _) => Ok(None),
            (true, Some(policy)) => Ok(Some(NetworkBody {
                policy: policy.clone(),
                is_operators: true,
                ..NetworkBody::default()
            })),
            (true, None) => {
                let message = "the operator of this server allows no network; do it without one, or ask them to start it \
                    with --mcp-allow or --mcp-policy";
                Err(ApiError::new(Kind::Forbidden, message))
            }
        }
    }

    async fn run(
        &self,
        asked: params::RunCode,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let mut body = RunBody::new(language(asked.language), asked.code);
        body.display = asked.language != params::Language::Shell;
        body.timeout_s = asked.timeout_s.unwrap_or(body.timeout_s);
        if let Some(text) = asked.stdin {
            body.stdin = Stdin::Text(text);
        }
        body.packages = asked.packages;
        body.network = self.network(asked.network)?;
        if asked.session.is_some() {
            body.context = Some(format!("{CONTEXT}-{}", name(asked.language)));
        }
        let begin = async {
            match &asked.session {
                None => self.service.run(&owner, &body).await,
                Some(session) => self.service.run_in(&owner, session, &body).await,
            }
        };
        let job = tokio::select! {
            job = begin => job?,
            () = given_up(context) => return Err(cancelled()),
        };
        follow(&job, context).await?;
        match job.failure() {
            Some(failure) => Err(failure),
            None => Ok(results::run(&job.view(true), asked.session.as_deref())),
        }
    }

    async fn start(
        &self,
        asked: params::StartSession,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let body = SandboxBody {
            language: asked.language.map(language),
            packages: asked.packages,
            network: self.network(asked.network)?,
            memory_mib: asked.memory_mib,
            idle_timeout_s: asked.idle_timeout_s,
            ..SandboxBody::default()
        };
        let sandbox = tokio::select! {
            sandbox = self.service.create_sandbox(&owner, &body) => sandbox?,
            () = given_up(context) => return Err(cancelled()),
        };
        let view = sandbox.view();
        let text = format!(
            "Session {} is ready; it ends after {} s without a call.",
            view.id, view.idle_timeout_s
        );
        let structured = json!({
            "session": view.id, "memory_mib": view.memory_mib, "idle_timeout_s": view.idle_timeout_s,
        });
        Ok(done(text, structured))
    }

    async fn sessions(
        &self,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let all = Filter {
            limit: LIST,
            ..Filter::default()
        };
        let running = Some(SandboxState::Running);
        let sandboxes = self.service.list_sandboxes(&owner, running, all)?;
        let lines = sandboxes
            .iter()
            .map(|view| format!("{} since {}", view.id, view.created_at));
        let text: Vec<_> = lines.collect();
        let text = match text.is_empty() {
            true => "There is no session.".to_owned(),
            false => text.join("\n"),
        };
        let sessions = sandboxes.iter().map(|view| {
            json!({ "session": view.id, "created_at": view.created_at, "memory_mib": view.memory_mib })
        });
        Ok(done(
            text,
            json!({ "sessions": sessions.collect::<Vec<_>>() }),
        ))
    }

    async fn end(
        &self,
        asked: params::Session,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let view = self.service.end_sandbox(&owner, &asked.session).await?;
        let structured = json!({ "session": view.id, "ended": view.ended });
        Ok(done(format!("Session {} has ended.", view.id), structured))
    }

    async fn install(
        &self,
        asked: params::InstallPackages,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ApiError> {
        let owner = self.owner(context)?;
        let installed = tokio::select! {
            installed = self.service.install(&owner, &asked.session, language(asked.language).into(), &asked.packages) => installed?,
            () = given_up(context) => return Err(cancelled()),
        };
        let lines: Vec<_> = installed
            .iter()
            .map(|one| format!("{} {}", one.name, one.version))
            .collect();
        let structured = json!({ "installed": installed });
        Ok(done(lines.join("\n"), structured))
    }
}

fn cancelled() -> ApiError {
    ApiError::new(Kind::Lost, "the call was cancelled")
}

/// Waits until the client cancels the call, or has gone.
async fn given_up(context: &RequestContext<RoleServer>) {
    let parts = context.extensions.get::<axum::http::request::Parts>();
    match parts.and_then(|parts| parts.extensions.get::<Gone>()) {
        Some(gone) => tokio::select! {
            () = gone.wait() => {}
            () = context.ct.cancelled() => {}
        },
        None => context.ct.cancelled().await,
    }
}

/// Follows a run to its end, and tells how it goes on; ends it when the call is cancelled or its client has gone.
async fn follow(job: &Arc<Job>, context: &RequestContext<RoleServer>) -> Result<(), ApiError> {
    // Around telling, too: a client that does not read must not be what keeps its code running.
    tokio::select! {
        () = tell(job, context) => Ok(()),
        () = given_up(context) => {
            job.cancel();
            Err(cancelled())
        }
    }
}

async fn tell(job: &Job, context: &RequestContext<RoleServer>) {
    let mut progress = Progress::new(context);
    let mut follower = job.follow(0);
    while let Some(told) = follower.next().await {
        let field = match told.name {
            "stdout" | "stderr" => "text",
            "packages" => "step",
            _ => continue,
        };
        let told: Value = serde_json::from_str(&told.data).unwrap_or_default();
        progress.say(told[field].as_str().unwrap_or_default()).await;
    }
    job.wait().await;
}

fn language(language: params::Language) -> CodeLanguage {
    match language {
        params::Language::Python => CodeLanguage::Python,
        params::Language::Javascript => CodeLanguage::Javascript,
        params::Language::Shell => CodeLanguage::Shell,
    }
}

fn name(language: params::Language) -> &'static str {
    match language {
        params::Language::Python => "python",
        params::Language::Javascript => "javascript",
        params::Language::Shell => "shell",
    }
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
