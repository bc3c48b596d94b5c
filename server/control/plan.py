"""Which versions should be loaded, and by which to route: pure functions of the policies' states.

Knows the lifecycle; knows no engine and no time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schemas.lifecycle import PolicyState, Stage
from server.request.routing import RoutingTable

Key = tuple[str, int]
"""A policy and the number of one of its versions."""


def wanted(states: Sequence[PolicyState], slots: int, routed: Collection[Key] = ()) -> list[Key]:
    """The versions that should be loaded, by urgency: the stable ones, the canaries, what is `routed` by now, then as
    many as fit of those that a rollback would go back to. Only the last kind heeds `slots`.
    """
    first = [(state.policy, state.stable) for state in states if state.stable]
    first += [(state.policy, state.canary) for state in states if state.canary]
    first += [key for key in routed if key[1] and key not in first]
    back = [(state.policy, state.previous_stable[-1]) for state in states if state.previous_stable]
    warm = [key for key in back if key[1] and key not in first]
    return [*first, *warm[: max(0, slots - len(first))]]


def routes(
    state: PolicyState, now: RoutingTable | None, ready: Collection[int], refused: Collection[int]
) -> tuple[int, int | None, float]:
    """Stable version, canary and canary share by which to route, given the versions that are loaded.

    A stable version that is not loaded yet leaves the one before in place. If it is refused and the one before was
    taken back, the newest earlier stable version that is loaded serves; the base always is.
    """
    stable = state.stable
    if stable not in ready:
        stable = now.stable if now is not None and now.stable in ready else 0
        taken_back = state.versions[stable].stage in (Stage.ROLLED_BACK, Stage.REJECTED)
        if state.stable in refused and taken_back:
            stable = next((number for number in reversed(state.previous_stable) if number in ready), 0)
    canary = state.canary if state.canary in ready and state.canary != stable else None
    return stable, canary, state.canary_share if canary is not None else 0.0
