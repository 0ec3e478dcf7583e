//! The schemas of languages.

use fumehood_engine::Language;
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// Returns the accepted names of the languages of code.
pub(crate) fn language_names() -> impl Iterator<Item = &'static str> {
    Language::NAMES.iter().map(|(name, _)| *name)
}

/// Returns the accepted names of the languages that have packages.
pub(crate) fn package_language_names() -> impl Iterator<Item = &'static str> {
    let with_packages = |(_, language): &&(&str, Language)| *language != Language::Shell;
    Language::NAMES
        .iter()
        .filter(with_packages)
        .map(|(name, _)| *name)
}

/// Returns the schema of the [`Language`] of code: its names.
pub(super) fn language_schema() -> Schema {
    schema_of(
        SchemaType::new(Type::String),
        language_names().map(Value::from),
    )
}

/// Returns the schema of a [`Language`] of code that may be `null`.
pub(super) fn optional_language_schema() -> Schema {
    let values = language_names().map(Value::from).chain([Value::Null]);
    schema_of(SchemaType::from_iter([Type::String, Type::Null]), values)
}

/// Returns the schema of the [`Language`] of packages: the names of those that have some.
pub(super) fn package_language_schema() -> Schema {
    schema_of(
        SchemaType::new(Type::String),
        package_language_names().map(Value::from),
    )
}

fn schema_of(schema_type: SchemaType, values: impl IntoIterator<Item = Value>) -> Schema {
    ObjectBuilder::new()
        .schema_type(schema_type)
        .enum_values(Some(values))
        .into()
}
