use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which walls stood between a QEMU and this host: told by the launcher that put them up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// All.
    Full,
    /// All but these.
    Reduced(Vec<IsolationLayer>),
}

/// A wall around QEMU that a host may not offer. Others stand always, or nothing runs: no capabilities,
/// no new privileges, a filter of system calls, limits, only the descriptors that it needs, death with
/// its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IsolationLayer {
    /// A user of its own; for ordinary users, a user namespace.
    User,
    /// Namespaces of its own (processes, mounts, network, IPC, host name, cgroups), and a read-only root
    /// that holds QEMU and nothing else.
    Namespaces,
    /// Landlock.
    Landlock,
    /// A cgroup of its own, which bounds memory, threads and processor time.
    Cgroup,
}

impl IsolationLayer {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
            Self::Cgroup => "cgroup",
        }
    }

    /// What puts it up on a host that lacks it.
    pub(crate) const fn fix(self) -> &'static str {
        match self {
            Self::User => {
                "run as root of the host, or as an ordinary user who may make user namespaces"
            }
            Self::Namespaces => {
                "let users make namespaces: sysctl user.max_user_namespaces above 0, \
                 kernel.unprivileged_userns_clone=1 where there is one, and on Ubuntu \
                 kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile that lets \
                 fumehood-launcher have `userns`; in a container, give it CAP_SYS_ADMIN and an unmasked /proc"
            }
            Self::Landlock => {
                "take a kernel with Landlock (Linux 5.13; 6.12 where there are no namespaces), named in its \
                 `lsm=`"
            }
            Self::Cgroup => {
                "run as root, or in a unit whose slice hands cgroups down to you \
                 (`systemd-run --user --scope -p Delegate=yes fumehood …`)"
            }
        }
    }
}

impl From<fumehood_qemu::IsolationLayer> for IsolationLayer {
    fn from(wall: fumehood_qemu::IsolationLayer) -> Self {
        match wall {
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
                    .map(|wall| IsolationLayer::from(*wall))
                    .collect(),
            )
        }
    }

    /// The walls that did not stand.
    #[must_use]
    pub fn missing(&self) -> &[IsolationLayer] {
        match self {
            Self::Full => &[],
            Self::Reduced(missing) => missing,
        }
    }
}

/// `full`, or `reduced` with what is missing.
impl Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Reduced(missing) => {
                let names: Vec<_> = missing.iter().map(|wall| wall.as_str()).collect();
                write!(f, "reduced: no {}", names.join(", no "))
            }
        }
    }
}

/// How much isolation must be had for a VM to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RequiredIsolation {
    /// What this host offers; outcomes say what that was.
    #[default]
    Any,
    /// All of it.
    Full,
}

impl FromStr for RequiredIsolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "full" => Ok(Self::Full),
            other => Err(format!("`{other}` is no isolation to require: any or full")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Isolation::without(&[]).to_string(), "full");
        let walls = [
            fumehood_qemu::IsolationLayer::User,
            fumehood_qemu::IsolationLayer::Cgroup,
        ];
        let reduced = Isolation::without(&walls);
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
