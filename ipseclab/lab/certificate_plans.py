"""A topology's `certificates` key resolved: authorities in order, and what each node needs.

Without authorities in the file the lab has one, `lab-ca`; a node that the file does not name gets a
certificate of the last authority in its own names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipseclab.lab.model import AuthorityPlan, CertificatePlan, Connection
from ipseclab.lab.schema import TopologyFile
from ipseclab.lab.schema_connection import AuthorityFile, CertificateFile
from ipseclab.lab.yaml_source import Key, YamlSource, one_of

DEFAULT_AUTHORITY = "lab-ca"


def order_authorities(file: TopologyFile, source: YamlSource) -> tuple[AuthorityPlan, ...]:
    """The authorities, each behind its issuer. Raises ConfigError for an issuer that is not there,
    or a circle of them."""
    stated: Mapping[str, AuthorityFile] = file.certificates.authorities
    if not stated:
        stated = {DEFAULT_AUTHORITY: AuthorityFile()}
    ordered: dict[str, AuthorityPlan] = {}
    for name in stated:
        for link in reversed(_up(name, stated, source)):
            ordered.setdefault(link, _authority(link, stated[link]))
        path = ("certificates", "authorities", name)
        _check_days(stated[name].valid, path, source)
        if not stated[name].trusted and stated[name].issuer is not None:
            problem = f"false below {stated[name].issuer!r}, expected it of a root"
            raise source.error((*path, "trusted"), problem)
    return tuple(ordered.values())


def certificate_plans(
    file: TopologyFile,
    authorities: Sequence[AuthorityPlan],
    connections: Sequence[Connection],
    source: YamlSource,
) -> dict[str, CertificatePlan]:
    """A plan for each node that authenticates by a key. Raises ConfigError."""
    known = [plan.name for plan in authorities]
    for node, entry in file.certificates.nodes.items():
        path = ("certificates", "nodes", node)
        if node not in file.nodes:
            raise source.error(path, f"{node!r} is not a node, {one_of(list(file.nodes), node)}")
        if entry.issuer is not None and entry.issuer not in known:
            problem = f"{entry.issuer!r} is not an authority, {one_of(known, entry.issuer)}"
            raise source.error((*path, "issuer"), problem)
        _check_days(entry.valid, path, source)
        for index, text in enumerate(entry.names or ()):
            if not text.isascii():
                problem = f"{text!r} is not ASCII, expected a name as RFC 5280 section 7 has it"
                raise source.error((*path, "names", index), problem)
    identities: dict[str, dict[str, None]] = {}
    for index, connection in enumerate(connections):
        for node in connection.ends:
            for name in (*connection.raw_key_names(node), *connection.certified_names(node)):
                if not name.isascii():
                    problem = f"{name!r} is not ASCII, expected what a certificate can hold"
                    raise source.error(("connections", index, "ids"), problem)
                identities.setdefault(node, {})[name] = None
    return {
        node: _plan(node, file.certificates.nodes.get(node, CertificateFile()), known[-1], names)
        for node, names in identities.items()
    }


def _up(name: str, stated: Mapping[str, AuthorityFile], source: YamlSource) -> list[str]:
    """The authority and those above it."""
    way = [name]
    while (issuer := stated[way[-1]].issuer) is not None:
        path = ("certificates", "authorities", way[-1], "issuer")
        if issuer not in stated:
            problem = f"{issuer!r} is not an authority, {one_of(list(stated), issuer)}"
            raise source.error(path, problem)
        if issuer in way:
            raise source.error(path, f"{issuer!r} is below {way[-1]!r}, expected no circle")
        way.append(issuer)
    return way


def _check_days(days: Sequence[float], path: tuple[Key, ...], source: YamlSource) -> None:
    if days[0] >= days[1]:
        problem = f"{days[0]:g} is not before {days[1]:g}, expected the first day, then the last"
        raise source.error((*path, "valid"), problem)


def _authority(name: str, entry: AuthorityFile) -> AuthorityPlan:
    issuer = entry.issuer if entry.issuer is not None else ""
    days = (entry.valid[0], entry.valid[1])
    options = (entry.revoked, entry.path_length, entry.trusted)
    return AuthorityPlan(name, entry.key, issuer, days, *options)


def _plan(
    node: str, entry: CertificateFile, last: str, identities: Mapping[str, None]
) -> CertificatePlan:
    return CertificatePlan(
        node,
        entry.key,
        entry.issuer if entry.issuer is not None else last,
        tuple(entry.names) if entry.names is not None else tuple(identities),
        (entry.valid[0], entry.valid[1]),
        entry.revoked,
        entry.usage,
        entry.signs,
        entry.revoked_after,
    )
