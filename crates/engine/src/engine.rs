use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fumehood_protocol::{EndedBy, Evidence, Language, Limits, StreamSummary};
use tokio::task::JoinHandle;

use crate::agent::Brought;
use crate::agent_connection::AgentConnection;
use crate::config::{Config, Qemu, TemplateUse, image_error, open_store};
use crate::error::{Error, ErrorKind};
use crate::host::{Accelerator, choose};
use crate::layers::Wanted;
use crate::network::{Prepared, Served, Uplink};
use crate::packages::Told;
use crate::provision::{ANY_LANGUAGE, Capacity, Host, VmStats, keep};
use crate::run::{
    Begun, CANCELLED, Event, Outcome, Owner, Run, RunEnd, RunRequest, Telling, Timing, VmOrigin,
};
use crate::sandbox::{Checkpoint, Sandbox, Times};
use crate::snapshot::{Templates, Which};
use crate::vm::{Kit, Shape, setting};

/// This host, ready to run code. Cheap to clone; with the last clone, what is kept ready ends, and what
/// goes on in the background. Sandboxes and runs live on by themselves.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    accelerator_reason: String,
    /// Builds templates and fills the pool; begun in the first runtime that is seen.
    keeper: OnceLock<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        self.host.idle.clear();
    }
}

impl Engine {
    /// Finds QEMU and the image, chooses the accelerator. Takes a few milliseconds; VMs are started
    /// only where a [`Pool`](crate::Pool) is to be kept, in the background: call it inside a tokio
    /// runtime then.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] and [`ErrorKind::Damaged`] with the command that mends it;
    /// [`ErrorKind::Host`] when this host does not permit something.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        let qemu = Qemu::find(&config)?;
        let store = open_store(&config)?;
        let image = store.image(&config.image).map_err(image_error)?;
        let chosen = choose(config.accelerator)?;
        let setting = setting(&config, &qemu, chosen.accelerator, store.root())?;
        let kit = Kit::new(setting, chosen.accelerator, image, &config.limits)?;
        let templates = Templates::new(&store, &qemu, &kit)?;
        let engine = Self(Arc::new(Inner {
            host: Arc::new(Host::new(
                config,
                kit,
                chosen.accelerator,
                templates,
                store.layers(),
            )),
            accelerator_reason: chosen.reason,
            keeper: OnceLock::new(),
        }));
        engine.keep();
        Ok(engine)
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.0.host
    }

    /// Begins what goes on in the background, if something is to and nothing does.
    fn keep(&self) {
        let host = &self.0.host;
        let idle =
            host.config.templates != TemplateUse::UseAndBuild && !host.config.pool.is_wanted();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !idle {
            self.0
                .keeper
                .get_or_init(|| runtime.spawn(keep(host.clone())));
        }
    }

    /// What executes guests' instructions here.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.0.host.accelerator
    }

    /// Why it is that one, for a person.
    #[must_use]
    pub fn accelerator_reason(&self) -> &str {
        &self.0.accelerator_reason
    }

    /// How often VMs came from where.
    #[must_use]
    pub fn vm_stats(&self) -> VmStats {
        self.0.host.counters.read()
    }

    /// Its room for VMs, and who waits for it.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.0.host.admission.capacity()
    }

    /// The image that guests run: its id.
    #[must_use]
    pub fn image_id(&self) -> String {
        self.0.host.kit.image().id().to_string()
    }

    /// What requests may ask for at most.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.host.config.limits
    }

    /// Hot VMs and waiting QEMU processes that are ready now.
    #[must_use]
    pub fn ready(&self) -> (usize, usize) {
        let (hot, blank) = self.0.host.idle.count();
        (hot.values().sum(), blank)
    }

    /// Runs one program in a fresh VM. The request is checked at once; the VM is started while the
    /// caller goes on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: what is wrong, what the limit is.
    pub fn run(&self, request: RunRequest) -> Result<Run, Error> {
        self.keep();
        let host = self.0.host.clone();
        let (exec, timeout) = request.check(&host.config.limits)?;
        let prepared = request.prepared()?;
        let mut which = Which {
            language: request.language,
            shape: Shape {
                network: prepared.is_some(),
                ..Shape::plain(request.memory())
            },
        };
        let brought = prepared.as_ref().map_or(Brought::NONE, Prepared::brought);
        let asked = &request.packages;
        let set = asked.set(request.language, &host.config.limits)?;
        let anew = asked.anew;
        Ok(Run::drive(move |events, mut controls| async move {
            let start = Instant::now();
            let told = events.clone();
            let wanted = set.map(|set| {
                Wanted::new(
                    set,
                    anew,
                    Told::by(move |step| {
                        let _ = told.try_send(Event::Packages(step));
                    }),
                )
            });
            let fresh = async {
                if let Some(wanted) = wanted {
                    wanted.into_shape(&host, &mut which).await?;
                }
                host.acquire(&which, &brought).await
            };
            let fresh = tokio::select! {
                fresh = fresh => fresh?,
                () = controls.cancelled() => {
                    return Ok(RunEnd::Outcome(Box::new(never_started(&host, start))));
                }
            };
            let (source, accelerator) = (fresh.source, host.accelerator);
            let _ = events.try_send(Event::Ready { source });
            let limits = &host.config.limits;
            let uplink = fresh.network.map(|cable| Uplink::begin(cable, prepared));
            let uplink = uplink.transpose()?;
            let served = uplink.as_ref().and_then(Uplink::served);
            let telling = served.map(|served| Telling::start(served, events.clone()));
            let begun = Begun::exec(&fresh.line, exec, timeout, source, accelerator, limits);
            // Held until the VM is gone.
            let (_line, _place) = (fresh.line, fresh.place);
            let mut end = begun
                .drive(events, controls, Owner::Operation(Box::new(fresh.vm)))
                .await?;
            if let Some(telling) = telling {
                telling.finish().await;
            }
            if let RunEnd::Outcome(outcome) = &mut end {
                outcome.network = served.map(Served::outcome);
                outcome.timing.queue = fresh.queue;
                outcome.timing.total = start.elapsed();
            }
            Ok(end)
        }))
    }

    /// A VM that goes on from a saved state. It has no idle timeout and no maximum lifetime until it is
    /// given them.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], [`ErrorKind::Host`], [`ErrorKind::Boot`].
    pub async fn open(&self, checkpoint: &Checkpoint) -> Result<Sandbox, Error> {
        Sandbox::open(self.0.host.clone(), checkpoint, Times::default()).await
    }

    /// Builds the template of a language, for guests of this much memory, unless it is there. `false`:
    /// it was there, or another process has built it meanwhile.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ErrorKind::Host`] when it cannot be saved.
    pub async fn build_template(&self, language: Language, memory_mib: u32) -> Result<bool, Error> {
        let which = self.checked(language, memory_mib)?;
        self.0.host.build_template(&which).await
    }

    pub(crate) fn checked(&self, language: Language, memory_mib: u32) -> Result<Which, Error> {
        self.keep();
        RunRequest::new(language, "")
            .memory_mib(memory_mib)
            .check(&self.0.host.config.limits)?;
        Ok(Which {
            language,
            shape: Shape::plain(memory_mib),
        })
    }

    /// Boots the image's kernel with `init` as its first process, on the machine that runs get, and
    /// returns the time from starting QEMU to the first byte on the console: the floor that
    /// measurements of boots are compared with.
    ///
    /// # Errors
    /// [`ErrorKind::Host`], [`ErrorKind::Boot`].
    pub async fn floor(&self, init: &[u8]) -> Result<Duration, Error> {
        let host = |e: std::io::Error| {
            Error::new(ErrorKind::Host, format!("no floor can be measured: {e}"))
        };
        let mut file = fumehood_sys::host::memory_file("floor-initrd").map_err(host)?;
        file.write_all(&fumehood_image::floor_initrd(init))
            .map_err(host)?;
        let host = &self.0.host;
        host.kit.floor(file.into(), host.config.boot_deadline).await
    }

    /// Boots a VM for somebody else to speak with its agent. See [`AgentConnection`].
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`ErrorKind::Boot`].
    pub async fn agent_line(&self, memory_mib: u32) -> Result<AgentConnection, Error> {
        let which = self.checked(ANY_LANGUAGE, memory_mib)?;
        let fresh = self.0.host.acquire_line(&which, &Brought::NONE, 0).await?;
        Ok(AgentConnection::new(fresh))
    }
}

fn never_started(host: &Host, start: Instant) -> Outcome {
    let detail = "cancelled before the code was started".to_string();
    Outcome {
        exit_code: Some(CANCELLED),
        ended_by: EndedBy::Cancelled,
        evidence: Evidence {
            detail: Some(detail),
            ..Evidence::default()
        },
        stdout: StreamSummary::default(),
        stderr: StreamSummary::default(),
        source: VmOrigin::Boot,
        accelerator: host.accelerator,
        isolation: None,
        timing: Timing {
            total: start.elapsed(),
            ..Timing::default()
        },
        network: None,
    }
}
