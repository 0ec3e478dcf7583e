use std::path::PathBuf;
use std::time::SystemTime;

use super::draft::TemplateWriter;
use super::{MANIFEST, Template, TemplateKey};
use crate::shelf::{Kind, Shelf};
use crate::{Error, Store};

/// A template may be replaced while it is being opened; more than once within a millisecond it is not.
const OPEN_ATTEMPTS: usize = 3;

/// The warm templates of a store. Any number of threads and processes may use them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    pub(super) shelf: Shelf,
}

impl Store {
    /// The warm templates of this store.
    pub fn templates(&self) -> Templates {
        Templates {
            shelf: Shelf::new(self, "templates", Kind::Template),
        }
    }
}

impl Templates {
    /// Opens a template, if it is there, and notes that it was used. Nothing is hashed that looks as it did
    /// after it was last hashed. One that is damaged is thrown away, with a warning, and is as if it had
    /// never been there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read for a reason that is not damage, such as too many open files.
    pub fn open(&self, key: &TemplateKey) -> Result<Option<Template>, Error> {
        for _ in 0..OPEN_ATTEMPTS {
            let Some(place) = self.shelf.place(key.as_str())? else {
                return Ok(None);
            };
            match Template::load(&place) {
                Ok(template) => {
                    place.mark_used(SystemTime::now());
                    return Ok(Some(template));
                }
                // Removed or replaced while it was read: what was found says nothing of what is there now.
                Err(_) if !place.is_still_there() => {}
                Err(error @ Error::DamagedTemplate { .. }) => {
                    self.shelf.throw_away(&place, &error);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether a template is there, without opening it or noting a use.
    pub fn has(&self, key: &TemplateKey) -> bool {
        self.path(key).join(MANIFEST).is_file()
    }

    /// Begins to make a template. `None` when another thread or process is making this very one, or has
    /// just made it. What dead makers left behind is swept.
    ///
    /// The right to make it falls with the [`TemplateWriter`], or with the process.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be written to, [`Error::Locked`] when another process hangs
    /// while it changes the templates.
    pub fn create(&self, key: &TemplateKey) -> Result<Option<TemplateWriter>, Error> {
        let work = self.shelf.create(key.as_str(), || self.is_usable(key))?;
        Ok(work.map(|work| TemplateWriter::new(key, work)))
    }

    pub(super) fn path(&self, key: &TemplateKey) -> PathBuf {
        self.shelf.path(key.as_str())
    }

    fn is_usable(&self, key: &TemplateKey) -> bool {
        let place = self.shelf.place(key.as_str()).ok().flatten();
        place.is_some_and(|place| Template::load(&place).is_ok())
    }
}
