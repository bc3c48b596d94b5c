"""Rules over the policy journal: who may make versions, what the canary waits for, what gates said. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deploy.doctor.findings import Finding, blocks, note, slows, waits
from schemas.base import version_name
from schemas.lifecycle import PolicyState, Stage
from trainer.release.promotion import CanaryVote, PromotionSettings, decide

REJECTED_IN_A_ROW = 3
PATIENCE_HOURS = 0.5
"""After which a canary without a single vote is no mere wait."""


def look_at_versions(
    state: PolicyState,
    settings: PromotionSettings,
    votes: Callable[[int, int, int], Sequence[CanaryVote]],
    *,
    holder: str | None,
    now: int,
) -> Iterator[Finding]:
    """What keeps versions from being made or decided.

    Args:
        votes: (canary, stable, since ms) -> blinded votes between them.
        holder: id of the trainer whose settings these are; None where it never ran.
        now: ms since the epoch.
    """
    yield from _lease(state, holder, now)
    if state.canary is not None:
        name = version_name(state.policy, state.canary)
        since = state.versions[state.canary].since
        verdict = decide(votes(state.canary, state.stable, since), settings)
        if verdict.action == "hold":
            hours = (now - since) / 3_600_000
            weigh = blocks if not verdict.tally.decisive and hours > PATIENCE_HOURS else waits
            yield weigh(
                "canary_waits",
                f"No new version is trained while {name} is an undecided canary, for {hours:.1f} hours now: "
                f"{verdict.reason}.",
                f"Ask people for comparisons (POST /v1/comparisons), decide it yourself (`attune policy promote {name}`"
                f" or `rollback {name}`), or lower `[promotion] min_votes`.",
            )
    yield from _rejections(state)


def _lease(state: PolicyState, holder: str | None, now: int) -> Iterator[Finding]:
    lease = state.lease
    if lease.holder is None or lease.expires_at <= now:
        yield blocks("no_trainer", "No trainer is at work: nobody holds the lease.", "Run `attune train`.")
    elif lease.holder != holder:
        yield blocks(
            "lease_elsewhere",
            f"Another trainer ({lease.holder}) holds the lease, so one with these settings waits.",
            "Stop one of the two. If the other is gone, its lease runs out by itself.",
        )


def _rejections(state: PolicyState) -> Iterator[Finding]:
    made = [version for number, version in sorted(state.versions.items()) if number]
    ended = [version for version in made if version.stage not in (Stage.RESERVED, Stage.CANDIDATE, Stage.CANARY)]
    rejected = []
    for version in reversed(ended):
        if version.stage is not Stage.REJECTED:
            break
        rejected.append(version)
    if not rejected:
        return
    name = version_name(state.policy, rejected[0].version)
    weigh = blocks if len(rejected) >= REJECTED_IN_A_ROW else note if len(rejected) == 1 else slows
    many = f"The last {len(rejected)} versions were rejected; " if len(rejected) > 1 else ""
    yield weigh(
        "rejected",
        f"{many}{name} was rejected: {rejected[0].reason}",
        "The gates' limits are in `[gates]`; loosen one only where you know why it said no. A smaller "
        "learning rate (`learning_rate` of the method) or more feedback moves the policy less.",
    )
