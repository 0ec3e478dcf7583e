//! The result of attempts at one isolation layer.

/// The attempts that succeeded at one isolation layer; empty if the layer held.
pub(crate) type Breaches = Vec<String>;

/// Returns the names of the attempts that succeeded. All of them should fail.
pub(crate) fn succeeded<T, E>(
    attempts: impl IntoIterator<Item = (String, Result<T, E>)>,
) -> Breaches {
    let attempts = attempts.into_iter();
    attempts
        .filter_map(|(name, result)| result.is_ok().then_some(name))
        .collect()
}
