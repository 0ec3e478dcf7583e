use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use super::place::Place;
use super::{Template, TemplateKey, TemplateManifest, Templates};
use crate::Error;

/// One template of a store, as it was found.
#[derive(Debug)]
pub struct ListedTemplate {
    /// Under which it lies in the store.
    pub key: TemplateKey,
    /// Its directory.
    pub directory: PathBuf,
    /// What it was made from, or why that cannot be said.
    pub manifest: Result<TemplateManifest, Error>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last opened, or made.
    pub last_used: SystemTime,
    /// Whether it can be used: all is there and is what the manifest says.
    pub is_intact: bool,
}

impl Templates {
    /// Every finished template of the store, by key. Nothing is hashed that looks as it did after it was
    /// last hashed, and no use is noted.
    ///
    /// # Errors
    /// When the store cannot be read; a store that does not exist yet is empty. A template that is not what
    /// it should be is no error.
    pub fn list(&self) -> Result<Vec<ListedTemplate>, Error> {
        let found = self.places()?;
        Ok(found.iter().map(ListedTemplate::of).collect())
    }

    /// The templates' directories, by key.
    pub(super) fn places(&self) -> Result<Vec<Place>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &self.root))?,
        };
        let mut places = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("read", &self.root))?.file_name();
            let Some(key) = name.to_str().and_then(TemplateKey::from_name) else {
                continue;
            };
            match Place::open(&self.root, &key) {
                Ok(place) => places.extend(place),
                Err(error) => tracing::warn!(%error, "a template cannot be looked at"),
            }
        }
        places.sort_by(|a, b| a.key().cmp(b.key()));
        Ok(places)
    }
}

impl ListedTemplate {
    pub(super) fn of(place: &Place) -> Self {
        // Before it is looked at, for a new record of identities changes the directory.
        let last_used = place.last_used();
        let is_intact = Template::load(place).is_ok();
        if place.last_used() != last_used {
            place.mark_used(last_used);
        }
        Self {
            key: place.key().clone(),
            directory: place.path().to_path_buf(),
            manifest: TemplateManifest::load(place),
            bytes: place.bytes(),
            last_used,
            is_intact,
        }
    }
}
