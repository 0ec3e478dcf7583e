use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The isolation layers between a QEMU and this host, as reported by the launcher. In JSON: `"full"`, or
/// `{"reduced": […]}` with the missing layers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// All layers.
    Full,
    /// All layers except these.
    Reduced(Vec<IsolationLayer>),
}

/// An isolation layer around QEMU that a host may not support. Others are always active, or nothing runs: no
/// capabilities, no new privileges, a filter of system calls, resource limits, only the necessary descriptors, and
/// termination with its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IsolationLayer {
    /// A separate user; for ordinary users, a user namespace.
    User,
    /// Separate namespaces (processes, mounts, network, IPC, host name, cgroups), and a read-only root that contains
    /// only QEMU.
    Namespaces,
    /// Landlock.
    Landlock,
    /// A separate cgroup, which limits memory, threads and processor time.
    Cgroup,
}

impl IsolationLayer {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
            Self::Cgroup => "cgroup",
        }
    }

    /// Returns how to enable the layer on a host that lacks it.
    pub(crate) const fn fix(self) -> &'static str {
        match self {
            Self::User => {
                "run as root of the host, or as an ordinary user who may create user namespaces"
            }
            Self::Namespaces => {
                "allow users to create namespaces: sysctl user.max_user_namespaces above 0, \
                 kernel.unprivileged_userns_clone=1 where there is one, and on Ubuntu \
                 kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile that allows \
                 `userns` for fumehood-launcher; in a container, give it CAP_SYS_ADMIN and an unmasked /proc"
            }
            Self::Landlock => {
                "use a kernel with Landlock (Linux 5.13; 6.12 without namespaces), enabled in its \
                 `lsm=`"
            }
            Self::Cgroup => {
                "run as root, or in a unit whose slice delegates cgroups to you \
                 (`systemd-run --user --scope -p Delegate=yes fumehood …`)"
            }
        }
    }
}

impl From<fumehood_qemu::IsolationLayer> for IsolationLayer {
    fn from(layer: fumehood_qemu::IsolationLayer) -> Self {
        match layer {
            fumehood_qemu::IsolationLayer::User => Self::User,
            fumehood_qemu::IsolationLayer::Namespaces => Self::Namespaces,
            fumehood_qemu::IsolationLayer::Landlock => Self::Landlock,
            fumehood_qemu::IsolationLayer::Cgroup => Self::Cgroup,
        }
    }
}

impl Display for IsolationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Isolation {
    pub(crate) fn without(missing: &[fumehood_qemu::IsolationLayer]) -> Self {
        if missing.is_empty() {
            Self::Full
        } else {
            Self::Reduced(
                missing
                    .iter()
                    .map(|layer| IsolationLayer::from(*layer))
                    .collect(),
            )
        }
    }

    /// Returns the missing layers.
    #[must_use]
    pub fn missing(&self) -> &[IsolationLayer] {
        match self {
            Self::Full => &[],
            Self::Reduced(missing) => missing,
        }
    }
}

/// `full`, or `reduced` with the missing layers.
impl Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Reduced(missing) => {
                let names: Vec<_> = missing.iter().map(|layer| layer.as_str()).collect();
                write!(f, "reduced: no {}", names.join(", no "))
            }
        }
    }
}

/// The isolation that is required to start a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RequiredIsolation {
    /// What this host supports; outcomes report what that was.
    #[default]
    Any,
    /// All layers.
    Full,
}

impl FromStr for RequiredIsolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "full" => Ok(Self::Full),
            other => Err(format!("unknown isolation `{other}`; use any or full")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_layers_are_named() {
        assert_eq!(Isolation::without(&[]).to_string(), "full");
        let layers = [
            fumehood_qemu::IsolationLayer::User,
            fumehood_qemu::IsolationLayer::Cgroup,
        ];

        let reduced = Isolation::without(&layers);
        assert_eq!(
            reduced.missing(),
            [IsolationLayer::User, IsolationLayer::Cgroup]
        );

        assert_eq!(reduced.to_string(), "reduced: no user, no cgroup");
    }

    #[test]
    fn only_full_and_any_can_be_required() {
        assert_eq!("full".parse(), Ok(RequiredIsolation::Full));
        assert_eq!("any".parse(), Ok(RequiredIsolation::Any));
        assert!(
            "most"
                .parse::<RequiredIsolation>()
                .unwrap_err()
                .contains("most")
        );
    }
}
