//! Installing packages: `install_packages`.

use super::envelope::request;
use crate::error::WireError;
use crate::limits::Limits;
use crate::value::{Language, PackageSpec, Packages};

request! {
    /// Installs packages. The agent answers as for `exec`, and lists the installed packages in a `result`.
    InstallPackages {
        /// `python` (by uv) or `javascript` (by bun).
        language: Language,
        /// 1 to `packages` packages, each with a version specifier.
        packages: Packages,
        /// Seconds, 1 to `timeout_s`; none = `default_install_timeout_s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
        /// Bytes of output that may be sent before the first `credit`, as in `exec`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
    }
}

impl InstallPackages {
    /// Validates the request and returns the packages and the timeout in seconds.
    ///
    /// # Errors
    /// `package_error`, or `request_error` for the timeout; with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(Vec<PackageSpec>, u64), WireError> {
        let specs = self.packages.parse(self.language, limits)?;
        let timeout = match self.timeout {
            None => limits.default_install_timeout_s.min(limits.timeout_s),
            Some(seconds) => limits.check_timeout(seconds, 1)?,
        };
        Ok((specs, timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ActionTag;

    #[test]
    fn install_timeout_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let install = |timeout| InstallPackages {
            action: ActionTag,
            op_id: None,
            language: Language::Python,
            packages: ["a==1"].into_iter().collect(),
            timeout,
            credit: None,
        };

        assert_eq!(install(None).check(&limits).unwrap().1, 300);
        assert_eq!(install(Some(1)).check(&limits).unwrap().1, 1);
        assert_eq!(install(Some(300)).check(&limits).unwrap().1, 300);
        assert!(install(Some(0)).check(&limits).is_err());
        assert!(install(Some(301)).check(&limits).is_err());
    }
}
