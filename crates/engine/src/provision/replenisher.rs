use std::sync::Arc;
use std::time::Duration;

use fumehood_protocol::{ActionTag, PROTOCOL_VERSION, Ping, Request};

use super::pool::HotVm;
use super::provisioner::Provisioner;
use crate::agent::{Channel, GuestInit, OperationEvent};
use crate::config::TemplateUse;
use crate::error::Error;
use crate::snapshot::{BuildResult, Snapshot, StandbyProcess, TemplateSpec, run_primer};
use crate::vm::{Shape, StartedVm};

/// Interval of the health checks of hot VMs.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// How long a hot VM may take to answer a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum and maximum delay after a failure: what fails once often fails again.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the program that took a VM has the processors for itself. Its first output comes earlier, also from a
/// standby process (measured: 63 ms; with a refill at the same time, 66).
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

/// Builds missing templates and keeps the pool full, for as long as the future is polled.
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

/// Adds the next missing template, standby process or hot VM.
async fn replenish_once(provisioner: &Provisioner) -> Result<Progress, Error> {
    // Templates that requests are waiting for come first.
    if let Some(spec) = provisioner.take_missing_template() {
        return build(provisioner, spec).await;
    }

    let pool = &provisioner.config.pool;
    if !pool.is_enabled() {
        return Ok(Progress::Complete);
    }

    // The pool needs the template of each language.
    let mut templates = Vec::new();
    for spec in provisioner.pool_specs() {
        match provisioner.templates.find(&provisioner.factory, &spec) {
            Some(snapshot) => templates.push((spec, snapshot)),
            None if provisioner.config.templates == TemplateUse::UseAndBuild => {
                return build(provisioner, spec).await;
            }
            None => {}
        }
    }

    let snapshots: Vec<Snapshot> = templates
        .iter()
        .map(|(_, snapshot)| snapshot.clone())
        .collect();
    provisioner.pool.retain_usable(&snapshots);

    // Standby processes start faster than hot VMs.
    let standby = provisioner.pool.status().standby;
    if standby < pool.standby_processes && !snapshots.is_empty() {
        return add_standby(provisioner, &snapshots).await;
    }

    // Package sets have hot VMs and no standby processes: their machines have another disk.
    for spec in provisioner.bundle_specs() {
        if let Some(snapshot) = provisioner.templates.find(&provisioner.factory, &spec) {
            templates.push((spec, snapshot));
        }
    }
    let missing = templates
        .iter()
        .find(|(spec, _)| provisioner.pool.hot_count(spec) < pool.warm_vms);

    match missing {
        Some((spec, snapshot)) if pool.warm_vms > 0 => {
            add_hot(provisioner, spec.clone(), snapshot).await
        }
        _ => Ok(Progress::Complete),
    }
}

async fn build(provisioner: &Provisioner, spec: TemplateSpec) -> Result<Progress, Error> {
    let memory_mib = spec.shape.memory_mib;
    let reserved = provisioner.admission.reserve_with_turn(memory_mib, || ());
    let Ok((_reservation, _turn)) = reserved.await else {
        return Ok(Progress::Blocked);
    };

    let deadline = provisioner.config.boot_deadline;
    let built = provisioner
        .templates
        .build(&provisioner.factory, &spec, deadline);

    match built.await? {
        BuildResult::Saved | BuildResult::Unsaved(_) => Ok(Progress::Worked),
        BuildResult::Elsewhere => Ok(Progress::Blocked),
    }
}

async fn add_standby(provisioner: &Provisioner, snapshots: &[Snapshot]) -> Result<Progress, Error> {
    let memory_mib = provisioner.config.pool.memory_mib;
    // The pool must not take what requests need now.
    let (Some(reservation), Some(_turn)) = (
        provisioner.admission.try_reserve_spare(memory_mib),
        provisioner.admission.try_turn(),
    ) else {
        return Ok(Progress::Blocked);
    };

    for snapshot in snapshots {
        snapshot.ready().await?;
    }

    let machine = provisioner.factory.machine(Shape::plain(memory_mib));
    let standby = StandbyProcess::start(&provisioner.factory, machine, snapshots).await?;
    standby.wait_until_up().await?;
    provisioner.pool.put_standby(standby, reservation);

    Ok(Progress::Worked)
}

async fn add_hot(
    provisioner: &Provisioner,
    spec: TemplateSpec,
    base: &Snapshot,
) -> Result<Progress, Error> {
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
    let bases = std::slice::from_ref(base);
    let standby = StandbyProcess::start(factory, base.machine().clone(), bases).await?;
    let deadline = provisioner.config.restore_deadline;
    let restored = standby.restore(base, factory, &GuestInit::NONE, PROTOCOL_VERSION, deadline);
    let StartedVm { vm, agent, .. } = restored.await?;

    // Translated code is not part of a saved state: the primer runs again.
    let channel = Channel::new(agent);
    run_primer(&channel, &spec).await?;
    let hot = HotVm {
        vm,
        channel,
        reservation,
        base: base.clone(),
    };
    provisioner.pool.put_hot(spec, hot);

    Ok(Progress::Worked)
}

/// Pings every hot VM, and ends those that do not answer.
async fn health_check(provisioner: &Provisioner) {
    let specs = provisioner.pool_specs().into_iter();
    for spec in specs.chain(provisioner.bundle_specs()) {
        for _ in 0..provisioner.config.pool.warm_vms {
            // A VM that is being checked is not in the pool.
            let Some(hot) = provisioner.pool.take_hot(&spec) else {
                break;
            };

            let ping = |op_id| {
                Request::Ping(Ping {
                    action: ActionTag,
                    op_id: Some(op_id),
                })
            };

            if let Ok(OperationEvent::Pong) = hot.channel.ask(ping, HEALTH_TIMEOUT).await {
                provisioner.pool.put_hot(spec.clone(), hot);
            }
        }
    }
}
