use std::hash::{Hash, Hasher};

use fumehood_protocol::Language;

/// A set of packages with a name and pinned versions. Templates with it have imported its packages.
///
/// Other packages are not imported for a template: that would run the code of a package that a request chose once for
/// all later runs. This set is chosen here.
#[derive(Debug)]
pub(crate) struct PackageBundle {
    /// The name, as requests write it.
    pub(crate) name: &'static str,
    pub(crate) language: Language,
    /// One package a line; comments start with `#`.
    specs: &'static str,
    /// A program that is appended to the language's primer.
    pub(crate) primer: &'static str,
}

/// All sets.
static BUNDLES: [PackageBundle; 1] = [PackageBundle {
    name: "@data",
    language: Language::Python,
    specs: include_str!("../../package-sets/data.txt"),
    primer: include_str!("../../package-sets/data.py"),
}];

impl PackageBundle {
    /// Returns the set with this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        BUNDLES.iter().find(|bundle| bundle.name == name)
    }

    /// Returns the packages of the set.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &'static str> {
        let lines = self.specs.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
    }
}

impl PartialEq for PackageBundle {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for PackageBundle {}

impl Hash for PackageBundle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use fumehood_protocol::{Limits, PackageSpec};

    use super::*;

    #[test]
    fn sets_are_valid_and_pinned() {
        for bundle in &BUNDLES {
            assert!(PackageBundle::named(bundle.name).is_some());
            assert!(bundle.specs().count() > 1);
            for spec in bundle.specs() {
                assert!(spec.contains("=="), "{spec}");
                PackageSpec::parse(spec, bundle.language, &Limits::default()).unwrap();
            }
        }
        assert!(PackageBundle::named("@none").is_none());
    }
}
