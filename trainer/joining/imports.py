"""Which imported votes train the reward model: one voice for each person and target, and only with consent.

Pure. They have no answer on the log and no feedback window, so nothing is waited for. Apart from that the rules are
those of live feedback.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.completion import ConsentLevel
from trainer.intake.facts import ImportedFacts, Known
from trainer.joining.exclusions import Exclusion, Reason


def join_imported(
    known: Known, consents: Mapping[str, ConsentLevel]
) -> tuple[tuple[ImportedFacts, ...], list[Exclusion]]:
    """The votes that count, by time and id, and why the others do not.

    Args:
        consents: the latest consent that each person gave since.
    """
    exclusions = [Exclusion("feedback", name, Reason.ERASED) for name in known.erased_imported]
    slots: dict[tuple[str, str, str], list[ImportedFacts]] = {}
    for vote in known.imported:
        slots.setdefault((vote.tenant, vote.speaker(), vote.target), []).append(vote)
    kept: list[ImportedFacts] = []
    for slot in slots.values():
        *earlier, last = sorted(slot, key=lambda vote: (vote.at, vote.id))
        for vote in earlier:
            same = vote.kind == "thumbs" and vote.liked == last.liked
            exclusions.append(Exclusion("feedback", vote.id, Reason.DUPLICATE if same else Reason.SUPERSEDED))
        if _consents(last, consents):
            kept.append(last)
        else:
            exclusions.append(Exclusion("feedback", last.id, Reason.NO_CONSENT))
    return tuple(sorted(kept, key=lambda vote: (vote.at, vote.id))), exclusions


def _consents(vote: ImportedFacts, consents: Mapping[str, ConsentLevel]) -> bool:
    since = consents.get(vote.end_user, ConsentLevel.TRAIN) if vote.end_user else ConsentLevel.TRAIN
    return vote.consent.level is ConsentLevel.TRAIN and since is ConsentLevel.TRAIN
