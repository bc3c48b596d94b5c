"""Reviews the raters of a snapshot, and says on the log who is quarantined. Knows snapshots, keys and the log.

What it finds holds from the next snapshot on: the one it was found in is cut already, and a turn learns from what was
cut. A crash in between tells the same again under the same id.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from exchange.keys.port import KeyStore
from exchange.log.port import EventLog
from schemas.manifests import SnapshotManifest
from schemas.raters import RaterJudged, standings
from schemas.wire import encode_event
from trainer.data import TokenPair
from trainer.intake.ledger import Ledger
from trainer.quality.bursts import bursts_of
from trainer.quality.gold import Shown
from trainer.quality.predictions import margins
from trainer.quality.review import RaterSettings, Review, review
from trainer.quality.trials import trials_of
from trainer.quality.votes import AnswerKey, Vote, votes_of
from trainer.snapshots.contents import Contents, Unusable, read_tables

log = logging.getLogger(__name__)

StatesOf = Callable[[Sequence[TokenPair]], Tensor]
"""Prompts with answers -> what the frozen base makes of each, float [N, H]."""
MOST_VOTES = 20_000
"""The newest votes of a snapshot that are looked at: states of more would take long, and old words bots rarely mend."""


@dataclass(frozen=True)
class Reviewer:
    """One policy's."""

    log: EventLog
    ledger: Ledger
    keys: KeyStore
    policy: str
    actor: str
    settings: RaterSettings
    gold: Mapping[Shown, bool] = field(default_factory=dict)

    def review(self, folder: Path, manifest: SnapshotManifest, states_of: StatesOf) -> Review:
        """Test the people who speak in a snapshot, and announce who fails.

        Raises:
            Unavailable: log or key store cannot be reached.
            IntegrityError: the snapshot is not the one the manifest names.
        """
        if not self.settings.quarantine:
            return Review((), 0)
        tables = read_tables(folder, manifest)
        votes = votes_of(tables)[-MOST_VOTES:]
        if not self._enough(votes):
            return Review((), 0)
        known = self.ledger.known()
        tenants = {word.id: word.tenant for word in known.feedback}
        tenant_of = {vote.rater: tenants[vote.feedback_id] for vote in votes if vote.feedback_id in tenants}
        released = {
            rater: standing.released_at
            for (tenant, rater), standing in standings(known.raters).items()
            if standing.released_at is not None and tenant_of.get(rater) == tenant
        }
        answers, gold = self._opened(Contents(tables, self.keys), votes)
        places = list(dict.fromkeys(answers.values()))
        row_of = {answer: row for row, answer in enumerate(places)}
        if not places:
            return Review((), 0)
        rows = {key: row_of[answer] for key, answer in answers.items()}
        states = states_of(places)
        found = review(votes, trials_of(votes, margins(votes, states, rows), answers, gold), self.settings, released)
        self._announce(found, manifest, tenant_of)
        return found

    def _enough(self, votes: Sequence[Vote]) -> bool:
        """Whether anybody could be tested: by far most snapshots of small deployments end here."""
        counts = Counter(vote.rater for vote in votes)
        return any(count >= self.settings.min_words for count in counts.values()) or bool(bursts_of(votes))

    def _opened(
        self, contents: Contents, votes: Sequence[Vote]
    ) -> tuple[dict[AnswerKey, TokenPair], dict[Hashable, bool]]:
        """Prompt and answer of whatever was voted on, as far as the keys allow; and of which the verdict is known."""
        found: dict[AnswerKey, TokenPair] = {}
        gold: dict[Hashable, bool] = {}
        for completion_id, index in dict.fromkeys(key for vote in votes for key in (vote.answer, vote.other) if key):
            try:
                content = contents.completion(completion_id)
            except Unusable:
                continue
            choice = next((choice for choice in content.choices if choice.index == index), None)
            if choice is None or not content.prompt_token_ids or not choice.token_ids:
                continue
            answer = (content.prompt_token_ids, choice.token_ids)
            found[completion_id, index] = answer
            if (known := self.gold.get((content.prompt_token_ids, choice.text.strip()))) is not None:
                gold[answer] = known
        return found, gold

    def _announce(self, found: Review, manifest: SnapshotManifest, tenant_of: dict[str, str]) -> None:
        events = [
            RaterJudged(
                id=f"rj_{hashlib.sha256(f'{self.policy} {manifest.digest} {finding.rater}'.encode()).hexdigest()[:32]}",
                at=manifest.watermark,
                policy=self.policy,
                tenant=tenant_of[finding.rater],
                rater=finding.rater,
                verdict="quarantined",
                why=finding.why,
                actor=self.actor,
                evidence=finding.evidence,
            )
            for finding in found.findings
            if finding.rater in tenant_of
        ]
        if events:
            self.log.append([encode_event(event, source="attune/trainer") for event in events])
            log.warning("%d raters are quarantined as of the next snapshot: `attune raters list`", len(events))
