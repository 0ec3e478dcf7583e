"""What a VM may reach, and who may reach it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence, Union

from fumehood._errors import InvalidError


@dataclass(frozen=True)
class Network:
    """A VM's network. Without one it has no network device at all; what no rule allows is denied.

    Args:
        allow: rules in words: ``example.com``, ``*.example.com:443,8443``, ``10.0.0.0/8:5432``,
            ``[2001:db8::/32]:443`` or ``index:python``, the package index that the server's machine uses; or
            rules in full, as mappings (see docs/reference/policy.md).
        policy: a whole policy as a mapping, to which ``allow`` is added.
        secrets: values by name. The VM has a placeholder in its variable of that name, and the server puts the
            value into requests to the hosts of the policy's secret of that name. It is never stored nor given back.
        secret_hosts: the hosts of secrets that the policy does not have: a name to a host or more.
        expose: ports of the VM that the server's machine reaches, as ``3000`` (at a free port), or
            ``"8080:3000"`` (at its port 8080).
    """

    allow: Sequence[Union[str, Mapping[str, Any]]] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_hosts: Mapping[str, Union[str, Sequence[str]]] = field(default_factory=dict)
    expose: Sequence[Union[int, str]] = ()

    def to_json(self) -> dict[str, Any]:
        """It as the API takes it."""
        policy = dict(self.policy)
        rules = [rule_from(word) if isinstance(word, str) else dict(word) for word in self.allow]
        if rules:
            policy["allow"] = [*policy.get("allow", []), *rules]
        secrets = [
            {"name": name, "host": [hosts] if isinstance(hosts, str) else list(hosts)}
            for name, hosts in self.secret_hosts.items()
        ]
        if secrets:
            policy["secret"] = [*policy.get("secret", []), *secrets]
        told: dict[str, Any] = {"policy": policy}
        if self.secrets:
            told["secrets"] = dict(self.secrets)
        if self.expose:
            told["expose"] = [f"0:{port}" if isinstance(port, int) else port for port in self.expose]
        return told


NetworkLike = Union[Network, Sequence[str], Mapping[str, Any], None]
"""A network, rules in words alone, or the API's JSON as it is."""


def network_json(network: NetworkLike) -> Union[dict[str, Any], None]:
    """What a caller gave for a network, as the API takes it."""
    if network is None:
        return None
    if isinstance(network, Network):
        return network.to_json()
    if isinstance(network, str):
        raise InvalidError(
            f"network={network!r}: give a list of rules, as [{network!r}], or a Network", retry="never"
        )
    if isinstance(network, Mapping):
        return dict(network)
    return Network(allow=list(network)).to_json()


def rule_from(word: str) -> dict[str, Any]:
    """A rule of a policy from its word.

    Raises:
        InvalidError: the ports are no numbers.
    """
    if word.startswith("index:"):
        return {"index": word.removeprefix("index:")}
    if word.startswith("["):
        host, _, rest = word[1:].partition("]")
        ports = rest.removeprefix(":")
    elif word.count(":") > 1:
        host, ports = word, ""
    else:
        host, _, ports = word.partition(":")
    try:
        ipaddress.ip_network(host, strict=False)
        rule: dict[str, Any] = {"addresses": [host]}
    except ValueError:
        rule = {"host": [host]}
    if ports == "any":
        rule["ports"] = "any"
    elif ports:
        rule["ports"] = [_port(word, port) for port in ports.split(",")]
    return rule


def _port(word: str, port: str) -> Union[int, str]:
    first, dash, last = port.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise InvalidError(
            f"the rule {word!r}: {port!r} is no port; give numbers or ranges, as example.com:443,8000-8010",
            retry="never",
        )
    return port if dash else int(port)
