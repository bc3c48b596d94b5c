"""What was before a candidate: what it goes on from and is compared with, fetched from the registry.

Knows which earlier adapters and reward models a turn needs; knows nothing of what is done with them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exchange.registry.port import Registry
from schemas.base import PolicyName
from schemas.errors import IntegrityError, NotFound
from trainer.data import LoggedAnswer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Before:
    """What a candidate goes on from and is compared with."""

    parent: Path | None
    """Folder of the parent's adapter; None where the parent is the base."""
    beta: float | None
    """KL coefficient that the parent's run ended with, above 0; None: the settings'."""
    reward_model: Path | None
    """Folder of the reward model before; None for the first."""
    behaviours: Mapping[int, Path] = field(default_factory=dict)
    """Adapter folders of the versions whose truncated answers are to be replayed, as far as they are still there."""


def fetch_before(
    registry: Registry,
    policy: PolicyName,
    cache: Path,
    *,
    parent: int,
    reward_model: str | None,
    answers: Iterable[LoggedAnswer],
) -> Before:
    """All of it, in `cache`.

    Args:
        parent: version; 0 is the base.
        reward_model: digest of the last turn's.
        answers: those that are to be learnt from.

    Raises:
        NotFound, IntegrityError: the registry lacks the parent or the reward model, or has them damaged.
        Unavailable: the registry cannot be reached.
    """
    adapter, beta, reward = None, None, None
    if parent:
        adapter = registry.fetch_adapter(policy, parent, cache)
        beta = registry.adapter(policy, parent).metrics.get("beta_next")
        # A coefficient of 0 or below could never recover; the setting is then as good a start as any.
        beta = beta if beta is not None and beta > 0 else None
    if reward_model is not None:
        reward = registry.fetch_artifact("reward-models", reward_model, cache)
    behaviours: dict[int, Path] = {}
    for version in sorted({answer.behaviour_version for answer in answers if answer.truncated} - {0}):
        try:
            behaviours[version] = registry.fetch_adapter(policy, version, cache)
        except (NotFound, IntegrityError) as error:
            log.warning("answers of version %d cannot be replayed: %s", version, error)
    return Before(adapter, beta, reward, behaviours)
