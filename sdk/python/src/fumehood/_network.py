"""The network of a VM: destinations, secrets, exposed ports."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence, Union

from fumehood._errors import InvalidError


@dataclass(frozen=True)
class Network:
    """The network of a VM. Destinations that no rule allows are denied.

    Args:
        allow: rules as strings, such as ``internet`` (every public host), ``example.com``, ``*.example.com:443,8443``, ``10.0.0.0/8:5432``,
            ``[2001:db8::/32]:443`` or ``index:python`` (the package index configured on the server's machine), or
            complete rules as mappings (see docs/reference/policy.md).
        policy: a complete policy as a mapping, extended by ``allow``.
        secrets: values by name. The VM sees a placeholder in its environment variable of that name. The server
            inserts the value into requests to the hosts of the policy's secret of that name; it neither stores nor
            returns it.
        secret_hosts: hosts of secrets that the policy does not define: one or more for each name.
        expose: ports of the VM to expose on the server's machine: ``3000`` (at a free port), or ``"8080:3000"`` (at
            port 8080).
    """

    allow: Sequence[Union[str, Mapping[str, Any]]] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_hosts: Mapping[str, Union[str, Sequence[str]]] = field(default_factory=dict)
    expose: Sequence[Union[int, str]] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the network in the form of the API."""
        policy = dict(self.policy)
        rules = [parse_rule(rule) if isinstance(rule, str) else dict(rule) for rule in self.allow]
        if rules:
            policy["allow"] = [*policy.get("allow", []), *rules]

        secrets = [
            {"name": name, "host": [hosts] if isinstance(hosts, str) else list(hosts)}
            for name, hosts in self.secret_hosts.items()
        ]
        if secrets:
            policy["secret"] = [*policy.get("secret", []), *secrets]

        body: dict[str, Any] = {"policy": policy}
        if self.secrets:
            body["secrets"] = dict(self.secrets)
        if self.expose:
            body["expose"] = [f"0:{port}" if isinstance(port, int) else port for port in self.expose]
        return body


NetworkLike = Union[Network, Sequence[str], Mapping[str, Any], None]
"""A network, a list of rules, or JSON in the form of the API."""


def network_to_json(network: NetworkLike) -> Union[dict[str, Any], None]:
    """Returns a network in the form of the API.

    Raises:
        InvalidError: the network is a string, or a rule is invalid.
    """
    if network is None:
        return None
    if isinstance(network, Network):
        return network.to_json()
    if isinstance(network, str):
        raise InvalidError(
            f"network={network!r}: expected a list of rules, such as [{network!r}], or a Network", retry="never"
        )
    if isinstance(network, Mapping):
        return dict(network)
    return Network(allow=list(network)).to_json()


def parse_rule(rule_text: str) -> dict[str, Any]:
    """Parses a rule.

    Raises:
        InvalidError: a port is not a number.
    """
    if rule_text.startswith("index:"):
        return {"index": rule_text.removeprefix("index:")}
    if rule_text.startswith("["):
        host, _, rest = rule_text[1:].partition("]")
        ports = rest.removeprefix(":")
    elif rule_text.count(":") > 1:
        host, ports = rule_text, ""
    else:
        host, _, ports = rule_text.partition(":")

    rule: dict[str, Any]
    try:
        ipaddress.ip_network(host, strict=False)
        rule = {"addresses": [host]}
    except ValueError:
        rule = {"internet": True} if host == "internet" else {"host": [host]}

    if ports == "any":
        rule["ports"] = "any"
    elif ports:
        rule["ports"] = [_parse_port(rule_text, port) for port in ports.split(",")]
    return rule


def _parse_port(rule_text: str, port: str) -> Union[int, str]:
    first, dash, last = port.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise InvalidError(
            f"invalid rule {rule_text!r}: {port!r} is not a port; use numbers or ranges, such as"
            " example.com:443,8000-8010",
            retry="never",
        )
    return port if dash else int(port)
