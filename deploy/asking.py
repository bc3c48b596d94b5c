"""`attune raters ask`: puts questions with answers to one rater at the terminal, gold items hidden among them.

To the rater and to the server all are alike: an answer of the policy, a thumb. A gold item's answer is made certain by
a grammar of one choice, so that no place of its own is needed for it on the way: the engine records it like every
other, and PPO leaves it out since nothing was sampled. Knows the HTTP surface through `deploy.client` alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.client import AttuneClient
from trainer.quality.gold import AskedItem

Said = Literal["up", "down", "skip", "quit"]


@dataclass(frozen=True)
class Asked:
    """What came of it."""

    answered: int
    skipped: int
    """By the rater, or because the answer could not be shown as it is to be."""


@dataclass(frozen=True)
class Asking:
    """One sitting of one rater. `judge` shows a question with its answer and returns what was said."""

    client: AttuneClient
    model: str
    user: str
    judge: Callable[[str, str], Said]
    max_tokens: int = 512

    def run(self, items: Sequence[AskedItem], limit: int, *, source: str = "user") -> Asked:
        """Ask up to `limit` of the items, in an order of this rater's own. Raises as `AttuneClient.request`."""
        order = random.Random(self.user).sample(items, len(items))[:limit]
        answered = 0
        for place, item in enumerate(order):
            text, handle = self._answer(item)
            if handle is None or (item.answer is not None and text.strip() != item.answer.strip()):
                continue
            said = self.judge(item.messages[-1].content, text)
            if said == "quit":
                return Asked(answered, place - answered)
            if said != "skip":
                self.client.feedback(handle=handle, kind="thumbs", value=said, source=source)
                answered += 1
        return Asked(answered, len(order) - answered)

    def _answer(self, item: AskedItem) -> tuple[str, str | None]:
        """The answer's text, and its handle where it is recorded."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.model_dump() for message in item.messages],
            "user": self.user,
            "max_tokens": self.max_tokens,
        }
        if item.answer is not None:
            body["structured_outputs"] = {"choice": [item.answer]}
        told = self.client.request("POST", "/v1/chat/completions", body)
        handles = told["attune"]["handles"]
        return told["choices"][0]["message"]["content"] or "", handles[0] if handles else None
