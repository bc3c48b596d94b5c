"""Who allows training with what, from what people said over time. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.completion import ConsentLevel
from schemas.events import ConsentChanged
from trainer.intake.facts import Known

Consents = Mapping[str, Sequence[ConsentChanged]]
"""Every person's changes of mind, oldest first."""


def consents_of(known: Known) -> Consents:
    """The changes of mind that are known, by person."""
    found: dict[str, list[ConsentChanged]] = {}
    for consent in sorted(known.consents, key=lambda consent: (consent.at, consent.id)):
        found.setdefault(consent.end_user, []).append(consent)
    return found


def may_train(end_user: str | None, at: int, consents: Consents) -> bool:
    """Whether a person allows training with what came about at `at`: they must have then, and must still.

    What was said while consent was withdrawn stays out for good, whatever they say later.
    """
    changes = consents.get(end_user, []) if end_user is not None else []
    then = [change.level for change in changes if change.at <= at][-1:]
    return all(level is ConsentLevel.TRAIN for level in (*then, *(change.level for change in changes[-1:])))
