//! What callers can have done with sandboxes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fumehood_engine::{Engine, Sandbox, SandboxEnd};
use jiff::Timestamp;

use super::service::Service;
use crate::api::requests::{SandboxBody, TimesBody};
use crate::api::responses::{PackageView, SandboxState, SandboxView};
use crate::api::timestamp::written;
use crate::error::{ApiError, Kind};
use crate::id::fresh_id;
use crate::owner::Owner;
use crate::state::sandbox_handle::{Kept, Times, word};
use crate::storage::records::{self, Filter, Table, find, list};
use crate::sync::lock;

/// Letters of a name for people.
const NAME_CHARS: usize = 128;

/// A place among an owner's sandboxes.
pub(crate) struct Starting {
    service: Service,
    owner: Owner,
    count: usize,
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut starting = lock(&self.service.0.starting);
        if let Some(count) = starting.get_mut(&self.owner) {
            *count -= self.count;
            if *count == 0 {
                starting.remove(&self.owner);
            }
        }
    }
}

impl Service {
    /// Starts a sandbox. Whoever drops the future has none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn create_sandbox(
        &self,
        owner: &Owner,
        body: &SandboxBody,
    ) -> Result<Arc<Kept>, ApiError> {
        self.takes_work()?;
        let times = Times::of(
            body.idle_timeout_s,
            body.max_lifetime_s,
            Times::UNLESS_GIVEN,
        )?;
        let name = body.name.clone();
        if name
            .as_ref()
            .is_some_and(|name| name.chars().count() > NAME_CHARS)
        {
            let message = format!("`name`: at most {NAME_CHARS} characters are allowed");
            return Err(ApiError::invalid(message));
        }
        if let Some(network) = &body.network {
            self.allows(owner, network)?;
        }
        let engine = self.engine()?;
        self.fits(&engine, body.memory_mib)?;
        let _starting = self.starting(owner, 1)?;
        let sandbox = match &body.checkpoint {
            Some(id) => {
                only_times(body)?;
                engine.open(&self.0.checkpoints.find(owner, id)?).await?
            }
            None => start(&engine, body).await?,
        };
        self.keep(owner, sandbox, name, times)
    }

    /// Reserves places for so many sandboxes.
    pub(crate) fn starting(&self, owner: &Owner, count: usize) -> Result<Starting, ApiError> {
        let most = self.most_sandboxes(owner);
        let there = lock(&self.0.sandboxes)
            .values()
            .filter(|kept| *kept.owner() == *owner)
            .count();
        let mut starting = lock(&self.0.starting);
        let begun = starting.entry(owner.clone()).or_default();
        if there + *begun + count > most {
            let message =
                format!("{there} sandboxes are there, of {most} that one key may have; end one");
            if *begun == 0 {
                starting.remove(owner);
            }
            return Err(ApiError::new(Kind::Busy, message));
        }
        *begun += count;
        Ok(Starting {
            service: self.clone(),
            owner: owner.clone(),
            count,
        })
    }

    /// Takes a sandbox into its care.
    pub(crate) fn keep(
        &self,
        owner: &Owner,
        sandbox: Sandbox,
        name: Option<String>,
        times: Times,
    ) -> Result<Arc<Kept>, ApiError> {
        let id = fresh_id("sb").map_err(|e| ApiError::internal(&e))?;
        let kept = Kept::new(id, owner, sandbox, name, times);
        let begun = {
            let mut there = lock(&self.0.sandboxes);
            // Once more, under the lock: who ends all sandboxes finds this one, or it ends here.
            self.takes_work()?;
            there.insert(kept.id().to_owned(), kept.clone());
            records::sandbox_begins(&self.0.store, owner, &kept.view())
        };
        if let Err(error) = begun {
            lock(&self.0.sandboxes).remove(kept.id());
            return Err(error.into());
        }
        tokio::spawn(self.clone().watch(kept.clone()));
        Ok(kept)
    }

    /// Tells what it does on its network; at its end, writes why.
    async fn watch(self, kept: Arc<Kept>) {
        let mut network = kept.handle().network_events();
        let end = loop {
            let event = async {
                match &mut network {
                    Some(events) => events.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = event => match event {
                    Some(event) => kept.tell("network", &event),
                    None => network = None,
                },
                end = kept.handle().wait() => break end,
            }
        };
        let stops = self.0.stopped.load(Ordering::Relaxed) && end == SandboxEnd::Requested;
        let view = SandboxView {
            state: SandboxState::Ended,
            ended_at: Some(written(Timestamp::now())),
            ended: Some(if stops { "server_stopped" } else { word(&end) }.into()),
            ended_why: Some(if stops {
                "the server was stopped".into()
            } else {
                end.to_string()
            }),
            urls: Vec::new(),
            ..kept.view()
        };
        // What cannot be written has been logged.
        let _ = records::ends(&self.0.store, Table::Sandboxes, kept.id(), "ended", &view);
        lock(&self.0.sandboxes).remove(kept.id());
        kept.close("ended", &view);
        self.0.metrics.sandbox_ended(&view);
        self.0.less.notify_waiters();
    }

    fn there(&self, owner: &Owner, id: &str) -> Option<Arc<Kept>> {
        let all = lock(&self.0.sandboxes);
        all.get(id).filter(|kept| *kept.owner() == *owner).cloned()
    }

    /// A sandbox of this owner that is there.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Lost`], with what ended it.
    pub fn sandbox(&self, owner: &Owner, id: &str) -> Result<Arc<Kept>, ApiError> {
        if let Some(kept) = self.there(owner, id) {
            return Ok(kept);
        }
        let view = self.find_sandbox(owner, id)?;
        let why = view.ended_why.unwrap_or_default();
        let message = format!("the sandbox has ended: {why}; begin another one");
        let error = ApiError::new(Kind::Lost, message);
        Err(ApiError {
            ended: view.ended.map(String::into_boxed_str),
            retry: "never",
            ..error
        })
    }

    /// A sandbox of this owner, or what became of it.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn find_sandbox(&self, owner: &Owner, id: &str) -> Result<SandboxView, ApiError> {
        if let Some(kept) = self.there(owner, id) {
            return Ok(kept.view());
        }
        let past = find(&self.0.store, Table::Sandboxes, owner, id)?;
        past.ok_or_else(|| ApiError::not_found("sandbox", id))
    }

    /// Sandboxes of this owner, the newest first.
    ///
    /// # Errors
    /// [`Kind::Internal`].
    pub(crate) fn list_sandboxes(
        &self,
        owner: &Owner,
        state: Option<SandboxState>,
        mut filter: Filter,
    ) -> Result<Vec<SandboxView>, ApiError> {
        filter.is_over = state.map(|state| state == SandboxState::Ended);
        let views: Vec<SandboxView> = list(&self.0.store, Table::Sandboxes, owner, &filter)?;
        let there = lock(&self.0.sandboxes);
        let views = views.into_iter().map(|view| match there.get(&view.id) {
            Some(kept) => kept.view(),
            None => view,
        });
        Ok(views.collect())
    }

    /// Gives it other times, counted as they always are: idle from its last use, the lifetime from its beginning.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), and [`Kind::Invalid`].
    pub fn set_times(
        &self,
        owner: &Owner,
        id: &str,
        body: &TimesBody,
    ) -> Result<SandboxView, ApiError> {
        let kept = self.sandbox(owner, id)?;
        let times = Times::of(body.idle_timeout_s, body.max_lifetime_s, kept.times())?;
        kept.set_times(times);
        Ok(kept.view())
    }

    /// Ends it, with all that runs in it. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn end_sandbox(&self, owner: &Owner, id: &str) -> Result<SandboxView, ApiError> {
        if let Some(kept) = self.there(owner, id) {
            let mut follower = kept.follow(u64::MAX);
            kept.handle().end().await;
            // Until its end is written.
            while follower.next().await.is_some() {}
        }
        self.find_sandbox(owner, id)
    }

    pub(crate) async fn end_all_sandboxes(&self) {
        let all: Vec<_> = lock(&self.0.sandboxes).values().cloned().collect();
        let ending = all.iter().map(|kept| {
            let kept = kept.clone();
            let service = self.clone();
            tokio::spawn(async move { service.end_sandbox(kept.owner(), kept.id()).await })
        });
        for ended in ending.collect::<Vec<_>>() {
            let _ = ended.await;
        }
    }

    /// Installs packages in a sandbox.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), and [`Kind::Invalid`].
    pub async fn install(
        &self,
        owner: &Owner,
        id: &str,
        language: fumehood_engine::Language,
        packages: &[String],
    ) -> Result<Vec<PackageView>, ApiError> {
        let kept = self.sandbox(owner, id)?;
        let installed = kept.handle().install(language, packages).await;
        let installed = installed.map_err(|error| kept.explain(error))?;
        Ok(installed.into_iter().map(PackageView::from).collect())
    }

    /// Leads a port of this host's loopback interface to one of a sandbox; returns how it is reached.
    ///
    /// # Errors
    /// As [`sandbox`](Self::sandbox), and [`Kind::Invalid`].
    pub fn expose(
        &self,
        owner: &Owner,
        id: &str,
        expose: fumehood_engine::PortMapping,
    ) -> Result<String, ApiError> {
        let kept = self.sandbox(owner, id)?;
        self.allows_port(owner, expose)?;
        let url = kept
            .handle()
            .expose(expose)
            .map_err(|error| kept.explain(error))?;
        kept.add_url(url.clone());
        Ok(url)
    }
}

async fn start(engine: &Engine, body: &SandboxBody) -> Result<Sandbox, ApiError> {
    let mut builder = engine.sandbox();
    if let Some(language) = body.language {
        builder = builder.language(language.into());
    }
    if let Some(mib) = body.memory_mib {
        builder = builder.memory_mib(mib);
    }
    if let Some(network) = &body.network {
        builder = builder.network(network.network()?);
    }
    if body.refresh_packages {
        builder = builder.refresh_packages();
    }
    Ok(builder.packages(body.packages.iter().cloned()).await?)
}

/// A saved state has all but times and a name.
fn only_times(body: &SandboxBody) -> Result<(), ApiError> {
    let given = [
        ("language", body.language.is_some()),
        ("memory_mib", body.memory_mib.is_some()),
        ("network", body.network.is_some()),
        ("packages", !body.packages.is_empty()),
        ("refresh_packages", body.refresh_packages),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => {
            let message =
                format!("`{name}`: a checkpoint has its own; leave it out beside `checkpoint`");
            Err(ApiError::invalid(message))
        }
    }
}
