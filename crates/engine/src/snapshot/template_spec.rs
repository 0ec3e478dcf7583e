use fumehood_protocol::Language;

use crate::packages::PackageBundle;
use crate::vm::Shape;

/// Identifies the template of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TemplateSpec {
    pub(crate) language: Language,
    pub(crate) shape: Shape,
    /// The package set of the layer that the interpreter has imported.
    pub(crate) bundle: Option<&'static PackageBundle>,
}

impl TemplateSpec {
    /// Returns the template of a VM without a package set.
    pub(crate) fn plain(language: Language, shape: Shape) -> Self {
        Self {
            language,
            shape,
            bundle: None,
        }
    }
}
