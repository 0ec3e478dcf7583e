use std::collections::VecDeque;

use fumehood_protocol::{ContextName, ErrorType, Language, Limits, WireError};

use super::interpreter::Interpreter;
use crate::process::Process;

/// Interpreters that outlive an exec: prepared ones, which wait for the next program, and contexts.
#[derive(Debug, Default)]
pub(crate) struct InterpreterPool {
    /// At most one of each language.
    prepared: Vec<Interpreter>,
    contexts: Vec<Context>,
    /// Contexts whose loss could not be reported yet; the oldest first.
    lost: VecDeque<ContextName>,
}

/// Maximum number of names of lost contexts that are remembered.
const MAX_LOST_NAMES: usize = 64;

#[derive(Debug)]
struct Context {
    name: ContextName,
    language: Language,
    /// `None` while an exec is using it.
    interpreter: Option<Interpreter>,
}

/// The place in the pool that an interpreter returns to after an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InterpreterSlot {
    Prepared,
    Context(ContextName),
}

impl InterpreterPool {
    /// Takes the prepared interpreter of this language.
    pub(crate) fn take_prepared(&mut self, language: Language) -> Option<Interpreter> {
        let at = self.prepared.iter().position(|i| i.language == language)?;
        Some(self.prepared.swap_remove(at))
    }

    /// Whether there is a prepared interpreter of this language.
    pub(crate) fn has_prepared(&self, language: Language) -> bool {
        self.prepared.iter().any(|i| i.language == language)
    }

    /// Takes the interpreter of a context. Returns `None` if the context does not exist yet.
    ///
    /// # Errors
    /// `request_error`: the context has another language, or there are too many contexts; `busy_error`: an exec is
    /// using it.
    pub(crate) fn take_context(
        &mut self,
        name: &ContextName,
        language: Language,
        limits: &Limits,
    ) -> Result<Option<Interpreter>, WireError> {
        let reject = |error_type, message| Err(WireError::new(error_type, message));
        let shown = name.as_str();
        let Some(context) = self.contexts.iter_mut().find(|c| c.name == *name) else {
            let count = self.contexts.len() as u64;
            if count < limits.contexts {
                return Ok(None);
            }

            let message = format!(
                "{count} contexts are open, of at most {}; use one of them, none, or another guest",
                limits.contexts
            );

            return reject(ErrorType::RequestError, message);
        };

        // A context has one language for its whole life.
        if context.language != language {
            let message = format!(
                "field `context`: `{shown}` is a context of {}; use another name",
                context.language
            );
            return reject(ErrorType::RequestError, message);
        }

        match context.interpreter.take() {
            Some(interpreter) => Ok(Some(interpreter)),
            None => reject(
                ErrorType::BusyError,
                format!("an exec is running in the context `{shown}`; try again when it has ended"),
            ),
        }
    }

    /// Removes a context that no exec is using, and returns its interpreter.
    pub(crate) fn close(&mut self, name: &ContextName) -> Option<Interpreter> {
        let at = self.contexts.iter().position(|c| c.name == *name)?;
        self.lost.retain(|lost| lost != name);
        self.contexts.swap_remove(at).interpreter
    }

    /// Whether an exec is using this context.
    pub(crate) fn is_busy(&self, name: &ContextName) -> bool {
        let mut contexts = self.contexts.iter();
        contexts.any(|context| context.name == *name && context.interpreter.is_none())
    }

    /// The contexts that no exec is using.
    pub(crate) fn idle_contexts(&self) -> impl Iterator<Item = (&ContextName, &Process)> {
        let contexts = self.contexts.iter();
        contexts.filter_map(|context| Some((&context.name, &context.interpreter.as_ref()?.process)))
    }

    /// Notes that an exec is using a context, which may be new. Returns whether the context has lost its state since
    /// its last exec.
    pub(crate) fn open_context(&mut self, name: &ContextName, language: Language) -> bool {
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

    /// Takes back the interpreter of an exec that has ended. Returns it if its slot is taken or gone.
    pub(crate) fn put_back(
        &mut self,
        slot: &InterpreterSlot,
        interpreter: Interpreter,
    ) -> Option<Interpreter> {
        let context = match slot {
            // Two execs may prepare at the same time; one interpreter is enough.
            InterpreterSlot::Prepared if self.has_prepared(interpreter.language) => {
                return Some(interpreter);
            }
            InterpreterSlot::Prepared => {
                self.prepared.push(interpreter);
                return None;
            }
            InterpreterSlot::Context(name) => self.contexts.iter_mut().find(|c| c.name == *name),
        };

        match context {
            Some(context) => context.interpreter.replace(interpreter),
            None => Some(interpreter),
        }
    }

    /// Removes the context of an exec whose interpreter has ended.
    pub(crate) fn forget_slot(&mut self, slot: &InterpreterSlot) {
        if let InterpreterSlot::Context(name) = slot {
            self.contexts.retain(|context| context.name != *name);
        }
    }

    /// Removes a context whose loss could not be reported. The next exec with its name reports it.
    pub(crate) fn mark_lost(&mut self, slot: &InterpreterSlot) {
        self.forget_slot(slot);
        if let InterpreterSlot::Context(name) = slot {
            if self.lost.len() >= MAX_LOST_NAMES {
                self.lost.pop_front();
            }
            self.lost.push_back(name.clone());
        }
    }

    /// Takes the idle interpreter with this process id, because the process has died.
    pub(crate) fn take_dead(&mut self, pid: i32) -> Option<Interpreter> {
        let is_dead = |i: &Interpreter| i.process.pid() == pid;
        if let Some(at) = self.prepared.iter().position(is_dead) {
            return Some(self.prepared.swap_remove(at));
        }

        let at = self
            .contexts
            .iter()
            .position(|context| context.interpreter.as_ref().is_some_and(is_dead))?;

        let interpreter = self.contexts[at].interpreter.take();
        self.mark_lost(&InterpreterSlot::Context(self.contexts[at].name.clone()));

        interpreter
    }

    /// All interpreters that no exec is using.
    pub(crate) fn idle(&mut self) -> impl Iterator<Item = &mut Interpreter> {
        let contexts = self.contexts.iter_mut();
        let of_contexts = contexts.filter_map(|context| context.interpreter.as_mut());
        self.prepared.iter_mut().chain(of_contexts)
    }

    /// Takes all interpreters that no exec is using.
    pub(crate) fn take_all(&mut self) -> Vec<Interpreter> {
        let contexts = self.contexts.drain(..);
        let of_contexts: Vec<_> = contexts.filter_map(|context| context.interpreter).collect();
        self.prepared.drain(..).chain(of_contexts).collect()
    }

    /// Counts the interpreters that no exec is using.
    pub(crate) fn process_count(&self) -> usize {
        let contexts = self.contexts.iter();
        self.prepared.len() + contexts.filter(|c| c.interpreter.is_some()).count()
    }
}
