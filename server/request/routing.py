"""Which version answers a request: pure functions of a routing table and the request.

Knows aliases, pins, shares and hashes; knows no engine, no journal and no time. The split is stateless, so every
replica with the same salt sends the same person to the same version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.base import parse_version_name, version_name
from schemas.completion import Arm
from schemas.errors import InvalidInput, NotFound, Unavailable


@dataclass(frozen=True)
class RoutingTable:
    """What one replica can route a policy by, at one moment.

    `loaded` maps the numbers of the versions that this replica can serve now to their adapters' digests (None for the
    base); `canary_share` is a fraction of the traffic.
    """

    policy: str
    stable: int
    canary: int | None = None
    canary_share: float = 0.0
    loaded: Mapping[int, str | None] = field(default_factory=lambda: {0: None})


@dataclass(frozen=True)
class Route:
    """The version that will answer, and why."""

    policy: str
    version: int
    digest: str | None
    arm: Arm

    @property
    def name(self) -> str:
        """The engine's name of the version, such as `support@v3`."""
        return version_name(self.policy, self.version)


def split_model(model: str) -> tuple[str, int | None]:
    """The policy that a request's `model` means, and the version where it is pinned.

    Raises:
        InvalidInput: `model` is of no such form.
    """
    if "@" not in model:
        return model, None
    try:
        return parse_version_name(model)
    except InvalidInput as error:
        raise InvalidInput(f"model: {error.message}", field="model", remedy=error.remedy) from error


def fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on nothing but `parts`: the first 53 bits of their SHA-256."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def route(table: RoutingTable, version: int | None, *, subject: str, split_salt: str) -> Route:
    """The route of one request: pinned to `version`, else split between stable and canary by a hash of `subject`.

    The canary is part of the hash, so that it is not the same people who try every new version; with a growing share
    those who had the canary keep it. `subject` is the end user, else the conversation, else the API key.

    Raises:
        NotFound: the pinned version is not loaded here.
        Unavailable: the stable version is not loaded here.
    """
    if version is not None:
        return Route(table.policy, version, _digest(table, version), Arm.PINNED)
    canary = table.canary
    if canary is not None and canary in table.loaded:
        share = fraction(split_salt, version_name(table.policy, canary), subject)
        if share < table.canary_share:
            return Route(table.policy, canary, table.loaded[canary], Arm.CANARY)
    if table.stable not in table.loaded:
        raise Unavailable(
            f"{version_name(table.policy, table.stable)} is not loaded yet", remedy="Try again in a moment."
        )
    return Route(table.policy, table.stable, table.loaded[table.stable], Arm.STABLE)


def arm_of(table: RoutingTable, version: int) -> Arm:
    """The arm of a version that was named rather than drawn."""
    return {table.canary: Arm.CANARY, table.stable: Arm.STABLE}.get(version, Arm.PINNED)


def named_route(table: RoutingTable, version: int) -> Route:
    """The route to one version with the arm it has in the table. Raises NotFound where it is not loaded here."""
    return Route(table.policy, version, _digest(table, version), arm_of(table, version))


def explore(request_key: str, share: float) -> bool:
    """Whether the request of this random id is one of the `share` sampled from the full distribution."""
    return share > 0 and fraction("exploration", request_key) < share


def _digest(table: RoutingTable, version: int) -> str | None:
    if version not in table.loaded:
        there = ", ".join(version_name(table.policy, number) for number in sorted(table.loaded))
        raise NotFound(
            f"{version_name(table.policy, version)} is not served here",
            field="model",
            remedy=f"Use the alias {table.policy}, or one of: {there}.",
        )
    return table.loaded[version]
