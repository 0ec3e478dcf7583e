use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fumehood_protocol::Language;
use tokio::sync::Notify;

use super::admission::Place;
use crate::agent::Channel;
use crate::snapshot::{Blank, Snapshot, Which};
use crate::vm::Vm;

/// A VM that was restored and has run the primer: it is given away once.
#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) vm: Vm,
    pub(crate) channel: Channel,
    pub(crate) place: Place,
    pub(crate) base: Snapshot,
}

/// VMs and QEMU processes that wait to be used.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    shelves: Mutex<Shelves>,
    /// Something was taken, or may be taken now.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Shelves {
    hot: HashMap<Which, VecDeque<Hot>>,
    blank: VecDeque<(Blank, Place)>,
}

impl Idle {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hot VM of exactly this kind that still answers.
    pub(crate) fn take_hot(&self, which: &Which) -> Option<Hot> {
        let mut shelves = self.shelves();
        let shelf = shelves.hot.get_mut(which)?;
        let taken = std::iter::from_fn(|| shelf.pop_front()).find(|hot| hot.channel.is_open());
        drop(shelves);
        self.changed.notify_one();
        taken
    }

    /// A QEMU that waits and can take this state.
    pub(crate) fn take_blank(&self, snapshot: &Snapshot) -> Option<(Blank, Place)> {
        let mut shelves = self.shelves();
        let at = shelves
            .blank
            .iter()
            .position(|(blank, _)| blank.fits(snapshot))?;
        let taken = shelves.blank.remove(at);
        drop(shelves);
        self.changed.notify_one();
        taken
    }

    pub(crate) fn put_hot(&self, which: Which, hot: Hot) {
        self.shelves().hot.entry(which).or_default().push_back(hot);
    }

    pub(crate) fn put_blank(&self, blank: Blank, place: Place) {
        self.shelves().blank.push_back((blank, place));
    }

    /// Ends all of them: somebody needs their room now.
    pub(crate) fn clear(&self) {
        let emptied = std::mem::take(&mut *self.shelves());
        drop(emptied);
        self.changed.notify_one();
    }

    /// How many there are: hot ones of each kind, blank ones.
    pub(crate) fn count(&self) -> (HashMap<Language, usize>, usize) {
        let shelves = self.shelves();
        let hot = shelves.hot.iter();
        let hot = hot.map(|(which, shelf)| (which.language, shelf.len()));
        (hot.collect(), shelves.blank.len())
    }

    /// Ends those that are of no use any more: hot ones whose guest is lost, blank ones that cannot
    /// take one of `snapshots`.
    pub(crate) fn weed(&self, snapshots: &[Snapshot]) {
        let mut shelves = self.shelves();
        for shelf in shelves.hot.values_mut() {
            shelf.retain(|hot| hot.channel.is_open());
        }
        let fits = |blank: &Blank| snapshots.iter().all(|snapshot| blank.fits(snapshot));
        shelves
            .blank
            .retain(|(blank, _)| blank.is_alive() && fits(blank));
    }
}
