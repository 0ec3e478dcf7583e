use std::sync::Arc;
use std::time::Duration;

use fumehood_protocol::{ActionTag, PROTOCOL_VERSION, Ping, Request};

use super::pool::HotVm;
use super::provisioner::Provisioner;
use crate::agent::{Channel, GuestInit, OperationEvent};
use crate::config::TemplateUse;
use crate::error::Error;
use crate::host::Accelerator;
use crate::snapshot::{BuildResult, TemplateSpec, WaitingProcess, run_primer};
use crate::vm::{Shape, StartedVm};

/// Interval of the health checks of hot VMs.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// How long a hot VM may take to answer a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum and maximum delay after a failure: what fails once often fails again.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the program that took a VM, or started from a template, has the processors for itself.
const HEAD_START: Duration = Duration::from_millis(70);
/// How long to wait while requests need the processors, or another process builds a template.
const YIELD: Duration = Duration::from_millis(20);

/// The result of one step of the replenisher.
enum Progress {
    /// Something was done; there may be more to do.
    Worked,
    /// Nothing is missing.
    Complete,
    /// Something is missing, and cannot be added right now.
    Blocked,
}

/// Builds missing templates and hot images, replaces hot images that will be too old soon, and keeps the pool full, for as
/// long as the future is polled.
pub(crate) async fn replenish(provisioner: Arc<Provisioner>) {
    let mut delay = RETRY_DELAY.0;
    loop {
        match replenish_once(&provisioner).await {
            Ok(Progress::Worked) => delay = RETRY_DELAY.0,
            Ok(Progress::Blocked) => tokio::time::sleep(YIELD).await,
            Ok(Progress::Complete) => {
                delay = RETRY_DELAY.0;
                let changed = provisioner.pool.changed.notified();
                match tokio::time::timeout(HEALTH_INTERVAL, changed).await {
                    Ok(()) => tokio::time::sleep(HEAD_START).await,
                    Err(_) => health_check(&provisioner).await,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "filling the pool failed");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_DELAY.1);
            }
        }
    }
}

/// Adds the next missing template, hot image or hot VM.
async fn replenish_once(provisioner: &Provisioner) -> Result<Progress, Error> {
    if provisioner.config.templates == TemplateUse::UseAndBuild
        && let Some(spec) = next_to_build(provisioner)
    {
        return build(provisioner, &spec).await;
    }

    // Only with KVM: without it, a VM from a hot image is ready as fast, and none waits.
    let warm_vms = provisioner.config.pool.warm_vms;
    if provisioner.accelerator != Accelerator::Kvm || warm_vms == 0 {
        return Ok(Progress::Complete);
    }
    for spec in hot_specs(provisioner) {
        if provisioner.pool.count(&spec) < warm_vms && provisioner.has_template(&spec) {
            return add_hot(provisioner, spec).await;
        }
    }
    Ok(Progress::Complete)
}

/// Returns the next specification whose template or hot image is to be built.
fn next_to_build(provisioner: &Provisioner) -> Option<TemplateSpec> {
    // Missing images come first, then those that expire soon.
    if let Some(spec) = provisioner.take_missing() {
        return Some(spec);
    }
    if let Some(spec) = provisioner.hot_images.due() {
        return Some(spec);
    }

    prepared_specs(provisioner).find(|spec| {
        let lacks_image =
            || provisioner.hot_images.needs_build(spec) && !provisioner.has_hot_image(spec);
        !provisioner.has_template(spec) || lacks_image()
    })
}

/// Returns the specifications that the pool keeps ready: without KVM also those with a network card, since a VM needs no
/// memory before it is requested.
fn prepared_specs(provisioner: &Provisioner) -> impl Iterator<Item = TemplateSpec> {
    let is_emulated = provisioner.accelerator == Accelerator::Tcg;
    let with_network = hot_specs(provisioner).filter(move |_| is_emulated);
    let with_network = with_network.map(|mut spec| {
        spec.shape.network = true;
        spec
    });
    hot_specs(provisioner).chain(with_network)
}

/// Returns the specifications of hot VMs.
fn hot_specs(provisioner: &Provisioner) -> impl Iterator<Item = TemplateSpec> {
    let pool = &provisioner.config.pool;
    let languages = pool.languages.iter().filter(|_| pool.is_enabled());
    languages.map(|&language| TemplateSpec::plain(language, Shape::plain(pool.memory_mib)))
}

/// Builds the template of a specification if it does not exist, and then its hot image.
async fn build(provisioner: &Provisioner, spec: &TemplateSpec) -> Result<Progress, Error> {
    let memory_mib = spec.shape.memory_mib;
    let reserved = provisioner.admission.reserve_with_turn(memory_mib, || ());
    let Ok((_reservation, _turn)) = reserved.await else {
        return Ok(Progress::Blocked);
    };

    let factory = &provisioner.factory;
    if provisioner.templates.find(factory, spec).is_none() {
        let deadline = provisioner.config.boot_deadline;
        let built = provisioner.templates.build(factory, spec, deadline);
        if let BuildResult::Elsewhere = built.await? {
            return Ok(Progress::Blocked);
        }
    }

    // Its failure is logged, and delays only the next attempt of this specification.
    let _ = provisioner.build_hot_image(spec).await;
    Ok(Progress::Worked)
}

/// Adds a hot VM to the pool.
async fn add_hot(provisioner: &Provisioner, spec: TemplateSpec) -> Result<Progress, Error> {
    // The pool must not take what requests need now.
    let (Some(reservation), Some(_turn)) = (
        provisioner
            .admission
            .try_reserve_spare(spec.shape.memory_mib),
        provisioner.admission.try_turn(),
    ) else {
        return Ok(Progress::Blocked);
    };

    let factory = &provisioner.factory;
    let Some(base) = provisioner.templates.find(factory, &spec) else {
        return Ok(Progress::Blocked);
    };
    let process = WaitingProcess::start(factory, &base).await?;
    let deadline = provisioner.config.restore_deadline;
    let restored = process.restore(&base, factory, &GuestInit::NONE, PROTOCOL_VERSION, deadline);
    let StartedVm { vm, agent, .. } = restored.await?;

    // The interpreter's caches are those of the template, the processor's are not.
    let channel = Channel::new(agent);
    run_primer(&channel, &spec).await?;
    let hot = HotVm {
        vm,
        channel,
        reservation,
        base,
    };
    provisioner.pool.put(spec, hot);

    Ok(Progress::Worked)
}

/// Pings every hot VM, and ends those that do not answer.
async fn health_check(provisioner: &Provisioner) {
    for spec in hot_specs(provisioner) {
        for _ in 0..provisioner.pool.count(&spec) {
            // A VM that is being checked is not in the pool.
            let Some(hot) = provisioner.pool.take(&spec) else {
                break;
            };

            let ping = |op_id| {
                Request::Ping(Ping {
                    action: ActionTag,
                    op_id: Some(op_id),
                })
            };

            if let Ok(OperationEvent::Pong) = hot.channel.ask(ping, HEALTH_TIMEOUT).await {
                provisioner.pool.put(spec.clone(), hot);
            }
        }
    }
}
