//! The lock of processes that create images in the background.

use super::hot_images::HotImages;
use crate::Error;
use crate::artifact_cache::Lock;

/// Held by the only process of a store that creates images in the background for commands that have ended. Dropping it
/// releases the lock.
#[derive(Debug)]
pub struct BuilderLock {
    _lock: Lock,
}

impl HotImages {
    /// Takes the lock, or returns `None` if another process has it.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written.
    pub fn lock_builder(&self) -> Result<Option<BuilderLock>, Error> {
        self.cache.create_root()?;
        let lock = Lock::attempt(&self.cache.path("builder-lock"))?;
        Ok(lock.map(|lock| BuilderLock { _lock: lock }))
    }
}
