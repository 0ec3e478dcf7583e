use fumehood_image::LayerKey;
use fumehood_protocol::{Language, Limits, PackageSpec, Packages};

use crate::error::{Error, ErrorKind};

/// The packages of a request, as written by the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PackageRequest {
    pub(crate) specs: Vec<String>,
    /// Resolve them again, even if their versions are cached.
    pub(crate) force: bool,
}

impl PackageRequest {
    /// Parses the packages; returns `None` if there are none.
    ///
    /// # Errors
    /// As [`PackageSet::parse`].
    pub(crate) fn set(
        &self,
        language: Language,
        limits: &Limits,
    ) -> Result<Option<PackageSet>, Error> {
        if self.specs.is_empty() {
            return Ok(None);
        }
        PackageSet::parse(language, &self.specs, limits).map(Some)
    }
}

/// The packages of one language that a program requests: normalized, sorted, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackageSet {
    language: Language,
    specs: Vec<String>,
}

impl PackageSet {
    /// Parses at least one package.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] for an invalid package of this language, or too many packages.
    pub(crate) fn parse(
        language: Language,
        words: &[String],
        limits: &Limits,
    ) -> Result<Self, Error> {
        let packages: Packages = words.iter().collect();
        let parsed = packages.parse(language, limits);
        let parsed = parsed.map_err(|error| Error::new(ErrorKind::Invalid, error.message))?;
        let specs = parsed.iter().map(|spec| normalize(spec, language));
        let mut specs: Vec<String> = specs.collect();
        specs.sort();
        specs.dedup();
        Ok(Self { language, specs })
    }

    pub(crate) fn language(&self) -> Language {
        self.language
    }

    pub(crate) fn specs(&self) -> &[String] {
        &self.specs
    }

    /// Returns the key of the request. The image's id also identifies the package managers, which are part of it.
    pub(crate) fn key(&self, image: &str) -> LayerKey {
        let head = [("image", image), ("language", self.language.as_str())];
        let specs = self.specs.iter().map(|spec| ("asked", spec.as_str()));
        LayerKey::of(head.into_iter().chain(specs))
    }
}

/// Returns the canonical form of a package.
fn normalize(spec: &PackageSpec, language: Language) -> String {
    let words = spec.as_str().split_whitespace();
    match language {
        Language::Python => {
            // Names are normalized as in PEP 503; spaces have no meaning.
            let name = spec.name().to_ascii_lowercase();
            let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
            let name = parts.collect::<Vec<_>>().join("-");
            let text: String = words.collect();
            format!("{name}{}", &text[spec.name().len()..])
        }
        // A space means `and` between ranges.
        Language::Javascript | Language::Shell => words.collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(language: Language, words: &[&str]) -> Result<PackageSet, Error> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        PackageSet::parse(language, &words, &Limits::default())
    }

    #[test]
    fn equivalent_packages_have_one_key() {
        let key = |words: &[&str]| parse(Language::Python, words).unwrap().key("image");
        let one = key(&["Foo_Bar >= 1, <2", "a[x]==1"]);
        assert_eq!(one, key(&["a[x]==1", "foo-bar>=1,<2", "foo.bar>=1,<2"]));
        assert_ne!(one, key(&["a[x]==1", "foo-bar>=1,<3"]));
        let language = |language, word: &str| parse(language, &[word]).unwrap().key("image");
        assert_ne!(
            language(Language::Javascript, "a@1 || 2"),
            language(Language::Javascript, "a@1 || 3")
        );

        assert_eq!(
            language(Language::Javascript, "a@1  ||  2"),
            language(Language::Javascript, "a@1 || 2")
        );
    }

    #[test]
    fn the_image_is_part_of_the_key() {
        let set = parse(Language::Python, &["a==1"]).unwrap();
        assert_ne!(set.key("one"), set.key("other"));
    }

    #[test]
    fn invalid_packages_are_rejected_at_once() {
        for (language, word, expected) in [
            (Language::Shell, "a==1", "python and javascript"),
            (Language::Python, "a", "version"),
            (Language::Python, "--index-url=x", "options"),
            (Language::Javascript, "a", "version"),
        ] {
            let error = parse(language, &[word]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
