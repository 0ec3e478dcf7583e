use std::collections::VecDeque;

use fumehood_protocol::{ContextName, ErrorType, Language, Limits, WireError};

use crate::interpreter::Interpreter;
use crate::process::Process;

/// Interpreters that outlive an exec: those that wait for the next one, and contexts.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// At most one of each language.
    waiting: Vec<Interpreter>,
    contexts: Vec<Context>,
    /// Contexts whose state was lost when no answer could say so; the oldest first.
    lost: VecDeque<ContextName>,
}

/// Names of lost contexts that are kept: as many as anybody would name again.
const LOST_NAMES: usize = 64;

#[derive(Debug)]
struct Context {
    name: ContextName,
    language: Language,
    /// None while an exec has it.
    interpreter: Option<Interpreter>,
}

/// Where an interpreter goes back to after an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    Waiting,
    Context(ContextName),
}

impl Kept {
    /// The one that waits for a program of this language.
    pub(crate) fn take_waiting(&mut self, language: Language) -> Option<Interpreter> {
        let at = self.waiting.iter().position(|i| i.language == language)?;
        Some(self.waiting.swap_remove(at))
    }

    /// Whether one waits for a program of this language.
    pub(crate) fn is_waiting(&self, language: Language) -> bool {
        self.waiting.iter().any(|i| i.language == language)
    }

    /// The interpreter of a context; `None` where it is to be begun.
    ///
    /// # Errors
    /// `request_error`: another language, or too many contexts; `busy_error`: an exec has it.
    pub(crate) fn take_context(
        &mut self,
        name: &ContextName,
        language: Language,
        limits: &Limits,
    ) -> Result<Option<Interpreter>, WireError> {
        let refuse = |error_type, message| Err(WireError::new(error_type, message));
        let shown = name.as_str();
        let Some(context) = self.contexts.iter_mut().find(|c| c.name == *name) else {
            let count = self.contexts.len() as u64;
            if count < limits.contexts {
                return Ok(None);
            }
            let message = format!(
                "{count} contexts are open; at most {} may be; use one of them, or none, or another guest",
                limits.contexts
            );
            return refuse(ErrorType::RequestError, message);
        };
        if context.language != language {
            let message = format!(
                "field `context`: `{shown}` is a context of {}; use another name",
                context.language
            );
            return refuse(ErrorType::RequestError, message);
        }
        match context.interpreter.take() {
            Some(interpreter) => Ok(Some(interpreter)),
            None => refuse(
                ErrorType::BusyError,
                format!("an exec runs in the context `{shown}`; try again when it has ended"),
            ),
        }
    }

    /// Takes the interpreter of a context that no exec has, and forgets the context.
    pub(crate) fn close(&mut self, name: &ContextName) -> Option<Interpreter> {
        let at = self.contexts.iter().position(|c| c.name == *name)?;
        self.lost.retain(|lost| lost != name);
        self.contexts.swap_remove(at).interpreter
    }

    /// Whether an exec has this context.
    pub(crate) fn is_busy(&self, name: &ContextName) -> bool {
        let mut contexts = self.contexts.iter();
        contexts.any(|context| context.name == *name && context.interpreter.is_none())
    }

    /// The contexts that no exec has.
    pub(crate) fn idle_contexts(&self) -> impl Iterator<Item = (&ContextName, &Process)> {
        let contexts = self.contexts.iter();
        contexts.filter_map(|context| Some((&context.name, &context.interpreter.as_ref()?.process)))
    }

    /// A context has begun: its interpreter is with an exec. True: it had begun before, and has lost its
    /// state since.
    pub(crate) fn begun(&mut self, name: &ContextName, language: Language) -> bool {
        if !self.contexts.iter().any(|context| context.name == *name) {
            self.contexts.push(Context {
                name: name.clone(),
                language,
                interpreter: None,
            });
        }
        let lost = self.lost.iter().position(|lost| lost == name);
        lost.and_then(|at| self.lost.remove(at)).is_some()
    }

    /// An exec has ended, and its interpreter lives on. Returns the interpreter if there is no place for
    /// it.
    pub(crate) fn put_back(
        &mut self,
        home: &Home,
        interpreter: Interpreter,
    ) -> Option<Interpreter> {
        let place = match home {
            // Two that prepared at the same time: one is enough.
            Home::Waiting if self.is_waiting(interpreter.language) => return Some(interpreter),
            Home::Waiting => {
                self.waiting.push(interpreter);
                return None;
            }
            Home::Context(name) => self.contexts.iter_mut().find(|c| c.name == *name),
        };
        match place {
            Some(context) => context.interpreter.replace(interpreter),
            None => Some(interpreter),
        }
    }

    /// An exec has ended, and its interpreter with it.
    pub(crate) fn forget(&mut self, home: &Home) {
        if let Home::Context(name) = home {
            self.contexts.retain(|context| context.name != *name);
        }
    }

    /// The same, where the answer to the exec cannot say so: the next one of that name will.
    pub(crate) fn lose(&mut self, home: &Home) {
        self.forget(home);
        if let Home::Context(name) = home {
            if self.lost.len() >= LOST_NAMES {
                self.lost.pop_front();
            }
            self.lost.push_back(name.clone());
        }
    }

    /// Takes the interpreter whose process has this id, if it is with no exec: it has died.
    pub(crate) fn take_dead(&mut self, pid: i32) -> Option<Interpreter> {
        if let Some(at) = self.waiting.iter().position(|i| i.process.pid() == pid) {
            return Some(self.waiting.swap_remove(at));
        }
        let is_it = |i: &Interpreter| i.process.pid() == pid;
        let at = self
            .contexts
            .iter()
            .position(|context| context.interpreter.as_ref().is_some_and(is_it))?;
        let interpreter = self.contexts[at].interpreter.take();
        self.lose(&Home::Context(self.contexts[at].name.clone()));
        interpreter
    }

    /// All of them that are with no exec.
    pub(crate) fn idle(&mut self) -> impl Iterator<Item = &mut Interpreter> {
        let contexts = self.contexts.iter_mut();
        let of_contexts = contexts.filter_map(|context| context.interpreter.as_mut());
        self.waiting.iter_mut().chain(of_contexts)
    }

    /// Takes all of them that are with no exec.
    pub(crate) fn take_all(&mut self) -> Vec<Interpreter> {
        let contexts = self.contexts.drain(..);
        let of_contexts: Vec<_> = contexts.filter_map(|context| context.interpreter).collect();
        self.waiting.drain(..).chain(of_contexts).collect()
    }

    /// How many processes they are.
    pub(crate) fn count(&self) -> usize {
        let contexts = self.contexts.iter();
        self.waiting.len() + contexts.filter(|c| c.interpreter.is_some()).count()
    }
}
