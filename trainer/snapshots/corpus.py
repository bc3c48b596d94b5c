"""What the turn and the promotion rule ask of the ledger: how many labels, a snapshot, its content, votes.

Knows ledger, join, snapshot and key store; decides nothing about learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from exchange.keys.port import KeyStore
from schemas.feedback import PEOPLE
from schemas.manifests import GuidanceManifest, SnapshotManifest
from trainer.data import IMPORTED, JudgedAnswer
from trainer.intake.ledger import Ledger
from trainer.joining.eligibility import Scope
from trainer.joining.funnel import Funnel, funnel
from trainer.joining.join import Joined, join
from trainer.joining.raters import Believed
from trainer.release.promotion import CanaryVote
from trainer.release.votes import canary_votes
from trainer.settings import FeedbackSection
from trainer.snapshots.ai_share import within_ai_share
from trainer.snapshots.dataset import Dataset, Encode, EncodeChat, Split, living_keys, open_dataset
from trainer.snapshots.identity import Identities
from trainer.snapshots.news import Mark, mark_of, new_labels
from trainer.snapshots.snapshot import Snapshot, cut_snapshot
from trainer.training_data import TrainingData


@dataclass(frozen=True)
class Corpus:
    """The labels and answers of one policy that are known so far."""

    ledger: Ledger
    keys: KeyStore
    settings: FeedbackSection
    base_fingerprint: str
    encode: Encode
    encode_chat: EncodeChat | None = None
    _counted: dict[tuple[int, int, Mark | None], tuple[Funnel, int]] = field(
        default_factory=dict, init=False, compare=False
    )
    """What `count` found last: an idle trainer looks every second."""

    @cached_property
    def identities(self) -> Identities:
        """Which answers are the same."""
        return Identities(self.ledger, self.keys)

    def count(self, parent: int, since: Mark | None) -> tuple[Funnel, int]:
        """What would be learnt from now, and what became of the rest; and how many labels are new since a moment."""
        asked = (self.ledger.changes(), parent, since)
        if asked not in self._counted:
            joined = join(self.ledger.known(), self._scope(parent), self.settings.feedback_window_ms)
            self._counted.clear()
            self._counted[asked] = funnel(joined), new_labels(joined, self.settings, self.settings.min_answers, since)
        return self._counted[asked]

    def mark(self, joined: Joined) -> Mark:
        """The moment of a join, up to which labels have counted once its turn is over."""
        return mark_of(joined, self.settings, self.settings.min_answers)

    def cut(self, parent: int, out: Path, *, since: int | None, guidance: Sequence[GuidanceManifest] = ()) -> Snapshot:
        """A snapshot of what is known now, in the new folder `out`; `since` is the watermark the parent learnt to."""
        scope, identify = self._scope(parent), self.identities.of
        return cut_snapshot(self.ledger, scope, self.settings, out, since=since, guidance=guidance, identify=identify)

    def read(self, folder: Path, manifest: SnapshotManifest) -> TrainingData:
        """What a snapshot holds, as tokens, without what was erased since it was cut."""
        dataset = open_dataset(folder, manifest, self.keys, self.encode, self.encode_chat)
        return training_data(dataset, self.settings.ai_share)

    def living_keys(self, folder: Path, manifest: SnapshotManifest) -> int:
        """How many of the keys that open a snapshot still exist: fewer than before means that someone was erased."""
        return living_keys(folder, manifest, self.keys)

    def votes(self, *, canary: int, stable: int, since_ms: int) -> Sequence[CanaryVote]:
        """Blinded votes between these two versions, cast at or after `since_ms` by people who are believed."""
        known = self.ledger.known()
        believed = Believed(known.raters)
        return canary_votes(known.feedback, canary=canary, stable=stable, since_ms=since_ms, believed=believed)

    def _scope(self, parent: int) -> Scope:
        return Scope(self.base_fingerprint, parent, self.settings.max_versions_behind)


def training_data(dataset: Dataset, ai_share: float) -> TrainingData:
    """A dataset as a turn uses it, what models said within its share of what people said. Prompts are those of held-out
    people first, then the others', each once.
    """
    train, heldout = dataset.train, dataset.heldout
    prompts = [answer.prompt_ids for answer in heldout.answers]
    prompts += [pair.prompt_ids for pair in heldout.pairs]
    prompts += [answer.prompt_ids for answer in train.answers]
    # Where no answer can train PPO, other methods still learn and are to be judged: on what Attune itself was asked.
    for split in (heldout, train):
        prompts += [pair.prompt_ids for pair in split.pairs if pair.source != IMPORTED]
        prompts += [thumb.prompt_ids for thumb in split.thumbs if thumb.cohort != IMPORTED]
        prompts += [rating.prompt_ids for rating in split.ratings]
    return TrainingData(
        answers=train.answers,
        pairs=within_ai_share(train.pairs, ai_share, lambda pair: pair.speaker),
        thumbs=within_ai_share(train.thumbs, ai_share, lambda thumb: thumb.cohort),
        ratings=within_ai_share(train.ratings, ai_share, lambda rating: rating.cohort),
        heldout_pairs=heldout.pairs,
        heldout_thumbs=heldout.thumbs,
        heldout_ratings=heldout.ratings,
        aspects=train.aspects,
        heldout_aspects=heldout.aspects,
        judged=_judged(heldout),
        prompts=tuple(dict.fromkeys(prompts)),
        dropped=dataset.dropped,
        slices=dataset.slices,
    )


def _judged(heldout: Split) -> tuple[JudgedAnswer, ...]:
    """Logged answers of held-out people that a person thumbed or rated, oldest verdict first: none has taught anybody.

    A thumb held out for its time alone is on an answer that PPO learns from, and is left out.
    """
    thumbs = (*heldout.thumbs, *(thumb for rating in heldout.ratings if (thumb := rating.thumb())))
    logged = {answer.sample_id: answer for answer in heldout.answers}
    return tuple(
        JudgedAnswer(logged[thumb.sample_id], thumb.liked, thumb.cohort, thumb.weight, thumb.group)
        for thumb in sorted(thumbs, key=lambda thumb: thumb.at)
        if thumb.sample_id in logged and thumb.cohort in PEOPLE
    )
