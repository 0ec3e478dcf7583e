//! What all requests and all responses have in common, written once.

/// A request that begins an operation: its struct with `action` and `op_id` before its own fields.
macro_rules! request {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            #[doc(hidden)]
            #[serde(default, skip_serializing)]
            #[cfg_attr(feature = "schema", schemars(skip))]
            pub action: ActionTag,
            /// The operation's id; without one the request is synchronous.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub op_id: Option<OpId>,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}

/// A request about an operation that runs. One that is not known has ended already; that is no error.
macro_rules! about_operation {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            #[doc(hidden)]
            #[serde(default, skip_serializing)]
            #[cfg_attr(feature = "schema", schemars(skip))]
            pub action: ActionTag,
            /// The operation. One that is not known has ended already; that is no error.
            pub op_id: OpId,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}

/// A response of an operation.
macro_rules! response {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct $name {
            /// The request's.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub op_id: Option<OpId>,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}

pub(crate) use {about_operation, request, response};

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}
