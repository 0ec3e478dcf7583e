use std::borrow::Cow;
use std::collections::BTreeMap;

use fumehood_image::LayerKey;
use fumehood_protocol::{Language, Limits, PackageSpec, Packages};

use super::bundle::PackageBundle;
use super::installed_package::InstalledPackage;
use super::specifier::{has_specifier, newest_specifier, with_specifier};
use crate::error::{Error, ErrorKind};

/// Maximum number of packages in a request.
const MAX_PACKAGES: u64 = 500;

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
    /// The packages as requested: those without a version have no specifier.
    specs: Vec<String>,
    /// Their normalized names.
    names: Vec<String>,
    /// The package set among them that templates have imported.
    bundle: Option<&'static PackageBundle>,
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
        let (words, bundle) = expand_bundles(language, words)?;
        let packages: Packages = words
            .iter()
            .map(|word| with_specifier(word, language))
            .collect();
        // The limit of guests is for one installation in a sandbox; files of requirements are longer.
        let limits = Limits {
            packages: MAX_PACKAGES,
            ..*limits
        };
        let parsed = packages.parse(language, &limits);
        let parsed = parsed.map_err(|error| Error::new(ErrorKind::Invalid, error.message))?;

        let names = parsed
            .iter()
            .map(|spec| normalize_name(spec.name(), language));
        let names = sorted(names.collect());

        // A package without a version stays one, since its version is resolved again from time to time.
        let newest = newest_specifier(language);
        let specs = parsed.iter().zip(&words).map(|(spec, word)| {
            let mut normalized = normalize(spec, language);
            if !has_specifier(word, language) {
                normalized.truncate(normalized.len() - newest.len());
            }
            normalized
        });

        Ok(Self {
            language,
            specs: sorted(specs.collect()),
            names,
            bundle,
        })
    }

    pub(crate) fn language(&self) -> Language {
        self.language
    }

    /// Returns the package set that is part of the request.
    pub(crate) fn bundle(&self) -> Option<&'static PackageBundle> {
        self.bundle
    }

    /// Returns the packages as requested.
    pub(crate) fn specs(&self) -> &[String] {
        &self.specs
    }

    /// Returns the packages with a version specifier each.
    pub(crate) fn complete_specs(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let specs = self.specs.iter();
        specs.map(|spec| with_specifier(spec, self.language))
    }

    /// Returns whether a package has no version, so that its resolution changes with time.
    pub(crate) fn is_unpinned(&self) -> bool {
        let mut specs = self.specs.iter();
        specs.any(|spec| !has_specifier(spec, self.language))
    }

    /// Returns those of the installed packages that the request names, sorted by name.
    pub(crate) fn requested_of(
        &self,
        installed: impl IntoIterator<Item = InstalledPackage>,
    ) -> Vec<InstalledPackage> {
        let mut found: BTreeMap<String, InstalledPackage> = BTreeMap::new();
        for package in installed {
            let name = normalize_name(&package.name, self.language);
            if !self.names.contains(&name) {
                continue;
            }

            // A package of npm may be installed in several versions; the newest is that of the request.
            let known = found.entry(name).or_insert_with(|| package.clone());
            if version_numbers(&known.version) < version_numbers(&package.version) {
                *known = package;
            }
        }

        found.into_values().collect()
    }

    /// Returns the key of the request. The image's id also identifies the package managers, which are part of it.
    /// `builder` are the scripts that build the layer.
    pub(crate) fn key(&self, image: &str, builder: &str) -> LayerKey {
        let language = self.language.as_str();
        let head = [
            ("image", image),
            ("builder", builder),
            ("language", language),
        ];
        let specs = self.specs.iter().map(|spec| ("asked", spec.as_str()));
        LayerKey::of(head.into_iter().chain(specs))
    }
}

/// Replaces the names of package sets by their packages. Returns the set, too.
fn expand_bundles(
    language: Language,
    words: &[String],
) -> Result<(Vec<String>, Option<&'static PackageBundle>), Error> {
    let mut expanded = Vec::new();
    let mut found = None;

    for word in words {
        // The name of a package starts with `@` only with a scope.
        if !word.starts_with('@') || word.contains('/') {
            expanded.push(word.clone());
            continue;
        }

        let bundle = PackageBundle::named(word).filter(|bundle| bundle.language == language);
        let bundle = bundle.ok_or_else(|| {
            let message = format!(
                "there is no package set `{word}` for {language}; there is @data for python"
            );
            Error::new(ErrorKind::Invalid, message)
        })?;
        expanded.extend(bundle.specs().map(str::to_owned));
        found = Some(bundle);
    }

    Ok((expanded, found))
}

/// Returns the canonical form of a name: for Python, that of PEP 503.
fn normalize_name(name: &str, language: Language) -> String {
    if language != Language::Python {
        return name.to_owned();
    }

    let name = name.to_ascii_lowercase();
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Returns the numbers of a version, for a comparison.
fn version_numbers(version: &str) -> Vec<u64> {
    let parts = version.split(['.', '-', '+']);
    parts.map_while(|part| part.parse().ok()).collect()
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words.dedup();
    words
}

/// Returns the canonical form of a package.
fn normalize(spec: &PackageSpec, language: Language) -> String {
    let words = spec.as_str().split_whitespace();
    match language {
        Language::Python => {
            // Spaces have no meaning.
            let name = normalize_name(spec.name(), language);
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
        let key = |words: &[&str]| parse(Language::Python, words).unwrap().key("image", "");
        let one = key(&["Foo_Bar >= 1, <2", "a[x]==1"]);
        assert_eq!(one, key(&["a[x]==1", "foo-bar>=1,<2", "foo.bar>=1,<2"]));
        assert_ne!(one, key(&["a[x]==1", "foo-bar>=1,<3"]));
        let language = |language, word: &str| parse(language, &[word]).unwrap().key("image", "");
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
        assert_ne!(set.key("one", ""), set.key("other", ""));
        assert_ne!(set.key("one", "a"), set.key("one", "b"));
    }

    #[test]
    fn packages_without_a_version() {
        let set = parse(Language::Python, &["Foo_Bar", "b[x] ", "c==1"]).unwrap();
        assert_eq!(set.specs(), ["b[x]", "c==1", "foo-bar"]);
        let complete: Vec<_> = set.complete_specs().collect();
        assert_eq!(complete, ["b[x]>=0", "c==1", "foo-bar>=0"]);
        assert!(set.is_unpinned());

        let explicit = parse(Language::Python, &["b[x]>=0", "c==1", "foo-bar>=0"]).unwrap();
        assert!(!explicit.is_unpinned());
        assert_ne!(set.key("image", ""), explicit.key("image", ""));

        let set = parse(Language::Javascript, &["lodash", "@types/node"]).unwrap();
        let complete: Vec<_> = set.complete_specs().collect();
        assert_eq!(complete, ["@types/node@latest", "lodash@latest"]);
    }

    #[test]
    fn the_versions_of_requested_packages_are_found() {
        let installed = |name: &str, version: &str| InstalledPackage {
            name: name.into(),
            version: version.into(),
        };
        let set = parse(Language::Python, &["foo_bar"]).unwrap();
        let all = [installed("Foo.Bar", "1.2"), installed("other", "3")];
        assert_eq!(set.requested_of(all), [installed("Foo.Bar", "1.2")]);

        let set = parse(Language::Javascript, &["ms"]).unwrap();
        let all = ["2.0.0", "10.1.3", "9.0.0"].map(|version| installed("ms", version));
        assert_eq!(set.requested_of(all), [installed("ms", "10.1.3")]);
    }

    #[test]
    fn the_number_of_packages_at_the_limit_and_past_it() {
        let many = |count: u64| -> Vec<String> { (0..count).map(|n| format!("p{n}")).collect() };
        let parse = |count| PackageSet::parse(Language::Python, &many(count), &Limits::default());
        assert!(parse(MAX_PACKAGES).is_ok());
        let error = parse(MAX_PACKAGES + 1).unwrap_err().to_string();
        assert!(error.contains("501") && error.contains("500"), "{error}");
    }

    #[test]
    fn package_sets_are_expanded() {
        let set = parse(Language::Python, &["@data", "rich"]).unwrap();
        assert_eq!(set.bundle().unwrap().name, "@data");
        assert!(set.specs().iter().any(|spec| spec.starts_with("pandas==")));
        assert!(set.specs().contains(&"rich".to_string()));

        for (language, word) in [
            (Language::Python, "@other"),
            (Language::Javascript, "@data"),
        ] {
            let error = parse(language, &[word]).unwrap_err();
            assert!(error.to_string().contains("no package set"), "{error}");
        }
    }

    #[test]
    fn invalid_packages_are_rejected_at_once() {
        for (language, word, expected) in [
            (Language::Shell, "a==1", "python and javascript"),
            (Language::Python, "a b", "version"),
            (Language::Python, "", "name"),
            (Language::Python, "--index-url=x", "options"),
            (Language::Javascript, "a b", "name"),
        ] {
            let error = parse(language, &[word]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
