"""Tells which answers are the same answer to the same question, by their tokens, for as long as the keys allow.

Facts without content cannot tell. Knows ledger, keys and seals; keeps digests in memory alone, since they are near the
text, and of a person who was erased none is asked for any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from exchange.keys.port import KeyStore
from trainer.intake.facts import Answer
from trainer.intake.ledger import Ledger
from trainer.joining.contradictions import Same
from trainer.quality.votes import AnswerKey
from trainer.snapshots.contents import Contents, Unusable


@dataclass(frozen=True)
class Identities:
    """Opens each completion once in the life of the process."""

    ledger: Ledger
    keys: KeyStore
    _known: dict[AnswerKey, str] = field(default_factory=dict, init=False)

    def of(self, answers: Iterable[Answer]) -> Same:
        """What these answers have in common; an answer that cannot be opened is like no other."""
        wanted = {answer.completion.id: answer for answer in answers if answer.key not in self._known}
        sealed = self.ledger.sealed(wanted)
        rows = [
            {"completion_id": answer.completion.completion_id, "event_id": name, **sealed[name].model_dump()}
            for name, answer in wanted.items()
            if name in sealed
        ]
        contents = Contents({"completions.parquet": rows}, self.keys)
        for row in rows:
            try:
                content = contents.completion(row["completion_id"])
            except Unusable:
                continue
            for choice in content.choices:
                said = repr((content.prompt_token_ids, choice.token_ids)).encode()
                self._known[row["completion_id"], choice.index] = hashlib.sha256(said).hexdigest()
        return lambda answer: self._known.get(answer.key, answer.key)
