"""Who is believed, from what was decided about raters. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.raters import RaterJudged, standings


class Believed:
    """Whether a speaker's words count: everybody's do but those of the quarantined."""

    def __init__(self, judgements: Iterable[RaterJudged]) -> None:
        self.quarantined = frozenset(of for of, standing in standings(judgements).items() if standing.quarantined)
        """(tenant, pseudonym) of each."""

    def __call__(self, tenant: str, speaker: str) -> bool:
        return (tenant, speaker) not in self.quarantined


EVERYBODY = Believed(())
