"""Which journal changes take a person's versions out of service, so that the next turn starts without them.

Pure, over the state of a policy; who proposes the changes is elsewhere. A retired version cannot be moved by the
journal: it gets no traffic of its own, and may still be pinned by name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from schemas.lifecycle import PolicyState, Stage


@dataclass(frozen=True)
class Change:
    """One change: `to` serves after the stable version was taken back."""

    kind: Literal["reject", "roll_back"]
    version: int
    to: int | None = None


def plan_rebuild(state: PolicyState, influenced: Collection[int]) -> tuple[Change, ...]:
    """What to propose, in order: candidates are rejected, canary and stable version taken back.

    In place of the stable version comes the newest that served before and is not influenced; the base always is one.
    """
    stage = {number: version.stage for number, version in state.versions.items()}
    changes = [Change("reject", number) for number in sorted(influenced) if stage.get(number) is Stage.CANDIDATE]
    if state.canary is not None and state.canary in influenced:
        changes.append(Change("roll_back", state.canary))
    if state.stable in influenced:
        before = [number for number in state.previous_stable if number not in influenced]
        changes.append(Change("roll_back", state.stable, max(before, default=0)))
    return tuple(changes)
