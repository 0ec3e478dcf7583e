//! The schemas of languages.

use fumehood_engine::Language;
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// Another name of JavaScript, for code that is TypeScript.
const TYPESCRIPT: &str = "typescript";

/// Returns the schema of the [`Language`] of code: its names.
pub(super) fn language_schema() -> Schema {
    let names = Language::ALL.map(Language::as_str);

    schema_of(
        SchemaType::new(Type::String),
        names.into_iter().chain([TYPESCRIPT]).map(Value::from),
    )
}

/// Returns the schema of a [`Language`] of code that may be `null`.
pub(super) fn optional_language_schema() -> Schema {
    let names = Language::ALL.map(Language::as_str);
    let values = names
        .into_iter()
        .chain([TYPESCRIPT])
        .map(Value::from)
        .chain([Value::Null]);

    schema_of(SchemaType::from_iter([Type::String, Type::Null]), values)
}

/// Returns the schema of the [`Language`] of packages: the names of those that have some.
pub(super) fn package_language_schema() -> Schema {
    let names = [Language::Python, Language::Javascript].map(Language::as_str);

    schema_of(SchemaType::new(Type::String), names.map(Value::from))
}

fn schema_of(schema_type: SchemaType, values: impl IntoIterator<Item = Value>) -> Schema {
    ObjectBuilder::new()
        .schema_type(schema_type)
        .enum_values(Some(values))
        .into()
}
