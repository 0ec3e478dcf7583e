//! The schema of languages.

use fumehood_engine::Language;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// Returns the schema of [`Language`]: its names.
pub(super) fn language_schema() -> Schema {
    let names = Language::ALL.map(Language::as_str);
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .into()
}
