use std::sync::Arc;
use std::time::Duration;

use fumehood_protocol::{ActionTag, PROTOCOL_VERSION, Ping, Request};

use super::pool::Hot;
use super::provisioner::Host;
use crate::agent::{Brought, Channel, OperationEvent};
use crate::config::TemplateUse;
use crate::error::Error;
use crate::snapshot::{Blank, Built, Snapshot, Which, prepare};
use crate::vm::{Shape, Started};

/// How often hot VMs are asked whether they are well.
const HEALTH: Duration = Duration::from_secs(30);
/// How long one may take to say so.
const PULSE: Duration = Duration::from_secs(5);
/// How long to wait after a failure at first, and at most: what fails once often fails again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the program that took a VM has the processors for itself. Its first output comes before that, also from
/// a QEMU that waited (measured: 63 ms; with a refill beside it, 66).
const HEAD_START: Duration = Duration::from_millis(70);
/// How long to wait while requests need the processors, or another process builds a template.
const YIELD: Duration = Duration::from_millis(20);

/// What a look at the pool came to.
enum Found {
    /// Something was done; there may be more.
    Work,
    /// All is as it should be.
    Nothing,
    /// Something is missing, and cannot be done just now.
    Later,
}

/// Builds missing templates and keeps the pool full, for as long as it is polled.
pub(crate) async fn keep(host: Arc<Host>) {
    let mut pause = PAUSE.0;
    loop {
        match tend(&host).await {
            Ok(Found::Work) => pause = PAUSE.0,
            Ok(Found::Later) => tokio::time::sleep(YIELD).await,
            Ok(Found::Nothing) => {
                pause = PAUSE.0;
                let changed = tokio::time::timeout(HEALTH, host.idle.changed.notified()).await;
                match changed {
                    Ok(()) => tokio::time::sleep(HEAD_START).await,
                    Err(_) => feel_pulses(&host).await,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the pool cannot be filled now");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Does the next thing that is missing.
async fn tend(host: &Host) -> Result<Found, Error> {
    if let Some(which) = host.next_wanted() {
        return build(host, which).await;
    }
    let pool = &host.config.pool;
    if !pool.is_wanted() {
        return Ok(Found::Nothing);
    }
    let mut snapshots = Vec::new();
    for which in host.kept() {
        match host.templates.find(&host.kit, &which) {
            Some(snapshot) => snapshots.push((which, snapshot)),
            None if host.config.templates == TemplateUse::UseAndBuild => {
                return build(host, which).await;
            }
            None => {}
        }
    }
    let all: Vec<Snapshot> = snapshots
        .iter()
        .map(|(_, snapshot)| snapshot.clone())
        .collect();
    host.idle.weed(&all);
    let (hot, blank) = host.idle.count();
    if blank < pool.blank && !all.is_empty() {
        return fill_blank(host, &all).await;
    }
    let missing = snapshots
        .iter()
        .find(|(which, _)| hot.get(&which.language).is_none_or(|n| *n < pool.hot));
    match missing {
        Some((which, snapshot)) if pool.hot > 0 => fill_hot(host, which.clone(), snapshot).await,
        _ => Ok(Found::Nothing),
    }
}

async fn build(host: &Host, which: Which) -> Result<Found, Error> {
    let Ok((_place, _turn)) = host
        .admission
        .place_and_turn(which.shape.memory_mib, || ())
        .await
    else {
        return Ok(Found::Later);
    };
    let deadline = host.config.boot_deadline;
    match host.templates.build(&host.kit, &which, deadline).await? {
        Built::Saved | Built::Unsaved(_) => Ok(Found::Work),
        Built::Elsewhere => Ok(Found::Later),
    }
}

async fn fill_blank(host: &Host, snapshots: &[Snapshot]) -> Result<Found, Error> {
    let memory_mib = host.config.pool.memory_mib;
    let (Some(place), Some(_turn)) = (
        host.admission.spare_place(memory_mib),
        host.admission.turn_now(),
    ) else {
        return Ok(Found::Later);
    };
    for snapshot in snapshots {
        snapshot.ready().await?;
    }
    let blank = Blank::start(
        &host.kit,
        host.kit.machine(Shape::plain(memory_mib)),
        snapshots,
    )
    .await?;
    blank.up().await?;
    host.idle.put_blank(blank, place);
    Ok(Found::Work)
}

async fn fill_hot(host: &Host, which: Which, base: &Snapshot) -> Result<Found, Error> {
    let (Some(place), Some(_turn)) = (
        host.admission.spare_place(which.shape.memory_mib),
        host.admission.turn_now(),
    ) else {
        return Ok(Found::Later);
    };
    let blank = Blank::start(
        &host.kit,
        base.machine().clone(),
        std::slice::from_ref(base),
    )
    .await?;
    let deadline = host.config.restore_deadline;
    let Started { vm, agent, .. } = blank
        .restore(base, &host.kit, &Brought::NONE, PROTOCOL_VERSION, deadline)
        .await?;
    let channel = Channel::new(agent);
    prepare(&channel, which.language).await?;
    let hot = Hot {
        vm,
        channel,
        place,
        base: base.clone(),
    };
    host.idle.put_hot(which, hot);
    Ok(Found::Work)
}

/// Asks every hot VM for a sign of life; those that give none end.
async fn feel_pulses(host: &Host) {
    for which in host.kept() {
        for _ in 0..host.config.pool.hot {
            let Some(hot) = host.idle.take_hot(&which) else {
                break;
            };
            let ping = |op_id| {
                Request::Ping(Ping {
                    action: ActionTag,
                    op_id: Some(op_id),
                })
            };
            if let Ok(OperationEvent::Pong) = hot.channel.ask(ping, PULSE).await {
                host.idle.put_hot(which.clone(), hot);
            }
        }
    }
}
