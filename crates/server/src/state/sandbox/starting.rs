use std::collections::HashSet;

use crate::api::object_name::ObjectName;

/// The sandboxes that one owner is starting: their number, and the names that they will have.
#[derive(Debug, Default)]
pub(crate) struct Starting {
    pub(crate) count: usize,
    pub(crate) names: HashSet<ObjectName>,
}
