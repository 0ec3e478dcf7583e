//! The fields that all requests and all responses share, written once as macros.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// Defines a request that starts an operation: a struct with `action` and `op_id` before the
/// request's own fields.
macro_rules! request {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            #[doc(hidden)]
            #[serde(default, skip_serializing)]
            #[cfg_attr(feature = "schema", schemars(skip))]
            pub action: super::envelope::ActionTag,
            /// The id of the operation. Without an id, the request is synchronous.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub op_id: Option<$crate::value::OpId>,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}

/// Defines a request that controls a running operation. An unknown id means that the operation has
/// ended already, which is no error.
macro_rules! control_request {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            #[doc(hidden)]
            #[serde(default, skip_serializing)]
            #[cfg_attr(feature = "schema", schemars(skip))]
            pub action: super::envelope::ActionTag,
            /// The id of the operation. An unknown id means that it has ended already; that is no error.
            pub op_id: $crate::value::OpId,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}

/// Defines a response: a struct with `op_id` before the response's own fields.
macro_rules! response {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct $name {
            /// The `op_id` of the request.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub op_id: Option<$crate::value::OpId>,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}

pub(super) use {control_request, request, response};

/// The position of the field `action` in each request. The field is skipped here; [`Request`] writes it.
///
/// [`Request`]: super::request::Request
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActionTag;

impl<'de> Deserialize<'de> for ActionTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Returns whether a field is false; for `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}
