use fumehood_protocol::{ActionTag, CloseContext, ContextName, Language, Request, Response};

use super::sandbox::{Sandbox, invalid};
use crate::error::{Error, ErrorKind};
use crate::run::{Run, RunRequest};

/// A persistent interpreter in a [`Sandbox`]: its state is kept from one run to the next.
///
/// ```no_run
/// # async fn example(sandbox: fumehood_engine::Sandbox) -> Result<(), fumehood_engine::Error> {
/// use fumehood_engine::{Event, Language};
///
/// let python = sandbox.context("main", Language::Python);
/// python.run("x = 6")?.outcome().await?;
/// let mut run = python.start(&python.request("x * 7").display())?;
/// while let Some(event) = run.next().await {
///     if let Event::Result(value) = event {
///         assert_eq!(value.text().as_deref(), Some("42"));
///     }
/// }
/// python.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    sandbox: Sandbox,
    name: String,
    language: Language,
}

impl Sandbox {
    /// Returns a persistent interpreter of this sandbox by its name: letters, digits, `.`, `_` and `-`. Its first run
    /// starts it, and it exists until it is closed or the sandbox ends; dropping the returned value has no effect.
    #[must_use]
    pub fn context(&self, name: impl Into<String>, language: Language) -> Context {
        Context {
            sandbox: self.clone(),
            name: name.into(),
            language,
        }
    }

    async fn close_context(&self, name: &str) -> Result<(), Error> {
        let context = ContextName::new(name);
        context.check(self.limits()).map_err(invalid)?;
        let request = |op_id| {
            Request::CloseContext(CloseContext {
                action: ActionTag,
                op_id: Some(op_id),
                context,
            })
        };

        match self.ask(request).await? {
            Response::Done(_) => Ok(()),
            other => Err(self.unexpected_answer(&other)),
        }
    }
}

impl Context {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the language.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// Creates a request for a run in this context, to be changed and [started](Self::start).
    #[must_use]
    pub fn request(&self, code: impl Into<String>) -> RunRequest {
        RunRequest::new(self.language, code).context(&self.name)
    }

    /// Runs code in this context, after the runs that were started before.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn run(&self, code: impl Into<String>) -> Result<Run, Error> {
        self.start(&self.request(code))
    }

    /// Starts a request that was created by [`request`](Self::request).
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn start(&self, request: &RunRequest) -> Result<Run, Error> {
        if !request.is_in_context(&self.name) {
            let message = "the request is not for this context; create it with `Context::request`";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.sandbox.run(request)
    }

    /// Ends the interpreter and all that runs in it. The next run with this name starts a new one.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InUse`] while a run is in progress in it, and [`ErrorKind::Lost`].
    pub async fn close(self) -> Result<(), Error> {
        self.sandbox.close_context(&self.name).await
    }
}
