use std::fmt::Display;

/// Says what failed, beside why.
pub(crate) trait Because<T> {
    fn because(self, what: impl Display) -> Result<T, String>;
}

impl<T, E: Display> Because<T> for Result<T, E> {
    fn because(self, what: impl Display) -> Result<T, String> {
        self.map_err(|why| format!("{what}: {why}"))
    }
}
