//! What a fault is: the work that it strikes, how it strikes, and what is promised.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::places::{Places, link_tree};
use crate::processes;
use crate::random::Random;
use crate::work::{CommandJob, Ended, Job, Work};
use crate::world::{Server, World};

/// A row of the table of faults.
pub(crate) struct Fault {
    /// Its name, for `--only` and for reports.
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) act: Act,
    pub(crate) promise: Promise,
    /// Seconds within which the promise must hold on an idle machine, counted from the strike.
    pub(crate) within_s: u64,
    /// Whether the server that all faults share ends by it.
    pub(crate) ends_server: bool,
}

/// What a fault needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing in particular.
    Nothing,
    /// A change of the product that is not there yet.
    Fix(&'static str),
    /// The host's root, and not only that of a user namespace.
    Root,
}

/// How a fault acts.
pub(crate) enum Act {
    /// Something strikes while work runs.
    Strike { work: Work, at: When, how: How },
    /// The fault does everything itself, and returns how the work in question ended.
    Scene(Play),
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// At any time from the start of the work on.
    Anytime,
    /// While the program runs.
    Up,
}

/// Strikes.
pub(crate) type How = fn(&mut Target<'_>) -> anyhow::Result<()>;
/// Plays a scene.
pub(crate) type Play = fn(&mut Scene<'_>) -> anyhow::Result<Ended>;

/// What a fault strikes.
pub(crate) struct Target<'a> {
    pub(crate) world: &'a World,
    pub(crate) job: &'a mut Job,
    pub(crate) server: u32,
}

impl Target<'_> {
    /// Sends a signal to the command.
    ///
    /// # Errors
    /// Fails if the work is no command.
    pub(crate) fn signal_command(&self, signal: Signal) -> anyhow::Result<()> {
        processes::signal(self.job.command()?, signal);
        Ok(())
    }

    /// Sends a signal to the QEMU processes of the work.
    ///
    /// # Errors
    /// Fails if there is none.
    pub(crate) fn signal_qemu(&self, signal: Signal) -> anyhow::Result<()> {
        let all = self.job.qemus();
        ensure!(!all.is_empty(), "the work has no QEMU");
        all.into_iter()
            .for_each(|pid| processes::signal(pid, signal));
        Ok(())
    }

    /// Kills the first process that the work starts: the launcher, if this comes before it has become QEMU.
    ///
    /// # Errors
    /// Fails if none appears.
    pub(crate) fn kill_first_child(&self) -> anyhow::Result<()> {
        let mut children = Vec::new();
        self.world.wait_until("a process of the work", 20, || {
            children = self.job.children();
            !children.is_empty()
        })?;
        children
            .into_iter()
            .for_each(|pid| processes::signal(pid, Signal::KILL));
        Ok(())
    }
}

/// What a fault that does everything itself has.
pub(crate) struct Scene<'a> {
    pub(crate) world: &'a World,
    pub(crate) server: &'a mut Server,
    pub(crate) random: Random,
    /// Seconds on an idle machine.
    pub(crate) within_s: u64,
}

impl Scene<'_> {
    /// Runs a command `fumehood` to its end, without a server.
    ///
    /// # Errors
    /// Fails if it does not end in time.
    pub(crate) fn run(&self, world: &World, args: &[&str]) -> anyhow::Result<Ended> {
        CommandJob::start(world, args, false)?.finish(world.deadline(self.within_s))
    }

    /// Returns a world with directories of its own, which are removed when it is dropped.
    ///
    /// # Errors
    /// Fails if they cannot be made.
    pub(crate) fn own_world(&self) -> anyhow::Result<OwnWorld> {
        let root = self.world.places.root.with_file_name("scratch");
        let places = Places::make(root.clone(), self.world.places.store.clone())?;
        Ok(OwnWorld {
            world: self.world.at(places),
            root,
        })
    }
}

/// A world for one scene.
pub(crate) struct OwnWorld {
    pub(crate) world: World,
    root: PathBuf,
}

impl OwnWorld {
    /// Gives it a copy of the store, which a fault may damage, and returns the copy's directory.
    ///
    /// # Errors
    /// Fails if it cannot be copied.
    pub(crate) fn copy_store(&mut self) -> anyhow::Result<PathBuf> {
        let from = self.world.places.store.clone();
        let store = self.root.join("data/fumehood");
        for part in ["images", "templates", "layers"] {
            if from.join(part).is_dir() {
                link_tree(&from.join(part), &store.join(part))?;
            }
        }
        self.world.places.store = store.clone();
        Ok(store)
    }
}

impl Drop for OwnWorld {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// What is promised after a fault. An empty list promises nothing about its field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise {
    /// Exit codes of the command; a negative number is the signal that killed it.
    pub(crate) exits: &'static [i32],
    /// Statuses of the response.
    pub(crate) statuses: &'static [u16],
    /// Kinds of the error, or reasons of the outcome.
    pub(crate) causes: &'static [&'static str],
    /// Words of the message.
    pub(crate) says: &'static str,
}

impl Promise {
    /// Promises one of these exit codes.
    pub(crate) const fn exits(exits: &'static [i32]) -> Self {
        Self { exits, ..NOTHING }
    }

    /// Promises one of these statuses.
    pub(crate) const fn statuses(statuses: &'static [u16]) -> Self {
        Self {
            statuses,
            ..NOTHING
        }
    }

    /// Promises one of these causes.
    pub(crate) const fn causes_of(causes: &'static [&'static str]) -> Self {
        Self { causes, ..NOTHING }
    }

    /// Promises one of these causes too.
    pub(crate) const fn causes(self, causes: &'static [&'static str]) -> Self {
        Self { causes, ..self }
    }

    /// Promises these words too.
    pub(crate) const fn says(self, says: &'static str) -> Self {
        Self { says, ..self }
    }

    /// Checks how the work ended.
    ///
    /// # Errors
    /// Fails if something else was promised.
    pub(crate) fn check(&self, ended: &Ended) -> anyhow::Result<()> {
        let Ended {
            exit,
            status,
            cause,
            text,
        } = ended;

        ensure!(
            self.exits.is_empty() || exit.is_some_and(|exit| self.exits.contains(&exit)),
            "exit code {exit:?}, promised {:?}: {text}",
            self.exits
        );
        ensure!(
            self.statuses.is_empty() || status.is_none_or(|status| self.statuses.contains(&status)),
            "status {status:?}, promised {:?}: {text}",
            self.statuses
        );
        ensure!(
            self.causes.is_empty() || self.causes.contains(&cause.as_str()),
            "cause `{cause}`, promised {:?}: {text}",
            self.causes
        );
        ensure!(
            text.contains(self.says),
            "the message does not contain `{}`: {text}",
            self.says
        );
        Ok(())
    }

    /// Returns the promise for the table.
    pub(crate) fn describe(&self) -> String {
        let mut parts = Vec::new();
        if !self.exits.is_empty() {
            parts.push(format!("exit {}", join(self.exits)));
        }
        if !self.statuses.is_empty() {
            parts.push(format!("HTTP {}", join(self.statuses)));
        }
        if !self.causes.is_empty() {
            let causes: Vec<_> = self.causes.iter().map(|c| format!("`{c}`")).collect();
            parts.push(causes.join(" or "));
        }

        if parts.is_empty() {
            "nobody notices".into()
        } else {
            parts.join(", ")
        }
    }
}

/// A promise of nothing but an end in time and no leak.
pub(crate) const NOTHING: Promise = Promise {
    exits: &[],
    statuses: &[],
    causes: &[],
    says: "",
};

fn join(all: &[impl ToString]) -> String {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    all.join(" or ")
}

/// The random time before a fault that may strike at any time: a run takes about as long.
const ANYTIME_MS: u64 = 600;

impl Fault {
    /// A fault that strikes at any time.
    pub(crate) const fn anytime(name: &'static str, work: Work, how: How) -> Self {
        let at = When::Anytime;
        Self::new(name, Act::Strike { work, at, how })
    }

    /// A fault that strikes while the program runs.
    pub(crate) const fn up(name: &'static str, work: Work, how: How) -> Self {
        let at = When::Up;
        Self::new(name, Act::Strike { work, at, how })
    }

    /// A fault that does everything itself.
    pub(crate) const fn scene(name: &'static str, play: Play) -> Self {
        Self::new(name, Act::Scene(play))
    }

    const fn new(name: &'static str, act: Act) -> Self {
        Self {
            name,
            needs: Needs::Nothing,
            act,
            promise: NOTHING,
            within_s: 10,
            ends_server: false,
        }
    }

    /// Sets what is promised.
    pub(crate) const fn promise(mut self, promise: Promise) -> Self {
        self.promise = promise;
        self
    }

    /// Sets the deadline, in seconds on an idle machine.
    pub(crate) const fn within(mut self, seconds: u64) -> Self {
        self.within_s = seconds;
        self
    }

    /// Says that the shared server ends.
    pub(crate) const fn ends_server(mut self) -> Self {
        self.ends_server = true;
        self
    }

    /// Says what it needs.
    pub(crate) const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    /// Strikes, and checks the promise.
    ///
    /// # Errors
    /// Fails if the promise is broken.
    pub(crate) fn run(
        &self,
        world: &World,
        server: &mut Server,
        mut random: Random,
    ) -> anyhow::Result<()> {
        let ended = match &self.act {
            Act::Strike { work, at, how } => {
                let mut job = Job::start(world, *work, Some(server)).context("the work")?;
                match at {
                    When::Up => job.wait_until_up(world.deadline(30))?,
                    When::Anytime => {
                        let delay = Duration::from_millis(random.below(ANYTIME_MS));
                        std::thread::sleep(delay.mul_f64(world.scale));
                    }
                }

                let mut target = Target {
                    world,
                    job: &mut job,
                    server: server.pid(),
                };
                how(&mut target).context("the strike")?;
                job.finish(world, world.deadline(self.within_s))?
            }
            Act::Scene(play) => play(&mut Scene {
                world,
                server,
                random,
                within_s: self.within_s,
            })?,
        };

        self.promise.check(&ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_names_what_was_broken() {
        let promise = Promise {
            exits: &[125],
            causes: &["lost", "agent_lost"],
            ..NOTHING
        };
        let ended = |exit, cause: &str| Ended {
            exit: Some(exit),
            cause: cause.into(),
            ..Ended::default()
        };

        assert!(promise.check(&ended(125, "lost")).is_ok());
        let error = promise.check(&ended(0, "lost")).unwrap_err().to_string();
        assert!(error.contains("exit code Some(0)"), "{error}");
        let error = promise.check(&ended(125, "boot")).unwrap_err().to_string();
        assert!(error.contains("cause `boot`"), "{error}");
        assert_eq!(promise.describe(), "exit 125, `lost` or `agent_lost`");
    }
}
