"""Which imported votes train the reward model: one voice for each person and target, and only with consent.

Pure. They have no answer on the log and no feedback window, so nothing is waited for. Apart from that the rules are
those of live feedback.
"""

from __future__ import annotations

from schemas.completion import ConsentLevel
from trainer.intake.facts import ImportedFacts, Known
from trainer.joining.consent import Consents, may_train
from trainer.joining.exclusions import Exclusion, Reason
from trainer.joining.raters import Believed


def join_imported(
    known: Known, consents: Consents, believed: Believed
) -> tuple[tuple[ImportedFacts, ...], list[Exclusion]]:
    """The votes that count, by time and id, and why the others do not.

    Args:
        consents: what people said since.
        believed: who is not quarantined.
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
        if not believed(last.tenant, last.speaker()):
            exclusions.append(Exclusion("feedback", last.id, Reason.QUARANTINED))
        elif last.consent.level is ConsentLevel.TRAIN and may_train(last.end_user, last.at, consents):
            kept.append(last)
        else:
            exclusions.append(Exclusion("feedback", last.id, Reason.NO_CONSENT))
    return tuple(sorted(kept, key=lambda vote: (vote.at, vote.id))), exclusions
