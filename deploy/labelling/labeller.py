"""Has pairs of fresh answers to curated prompts judged, and sends what the judge says in both orders alike.

Pairs are asked of the policy as comparisons in the domain `collected`, since no person sees them. Fresh ones, because a
word must come within the feedback window of its answers, and because so no person's words leave the house. Knows the
HTTP surface through `deploy.client` alone; each model is one voice, the user `ai:MODEL`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deploy.client import AttuneClient
from deploy.collect import Prompt, sampled
from deploy.labelling.judge import Junk, Outcome
from schemas.errors import ConfigError, InvalidInput, Unavailable

PATIENCE = 5
"""Failures of one kind in a row after which it gives up."""
SAME, JUNK, REFUSED = "same", "junk", "refused"


class Judging(Protocol):
    """Says which of two answers is better; see `deploy.labelling.judge.Judge`."""

    def better(self, conversation: Sequence[Mapping[str, Any]], first: str, second: str) -> Outcome:
        """Raises Junk, Unavailable, ConfigError, InvalidInput."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    policy: str
    judge: str
    """Name of the judging model."""
    constitution: str
    """Digest of what it judges by."""
    count: int
    """Pairs in all."""
    temperature: float
    max_tokens: int


class Labeller:
    """Judges one pair after another until there are enough.

    Args:
        order: shuffles the prompts, so that runs begin with different ones.
        pause: waits for so many seconds.
        tell: called after each pair with what came of all so far, and a word on what is waited for.
    """

    def __init__(
        self,
        client: AttuneClient,
        judge: Judging,
        plan: Plan,
        prompts: Sequence[Prompt],
        *,
        order: random.Random | None = None,
        pause: Callable[[float], None] = time.sleep,
        tell: Callable[[Counter[str], str], None] = lambda _done, _words: None,
    ) -> None:
        self._client, self._judge, self._plan = client, judge, plan
        self._prompts = list(prompts)
        (order or random.Random()).shuffle(self._prompts)
        self._pause, self._tell = pause, tell
        self.done: Counter[str] = Counter()
        """Pairs by what came of them: an Outcome, `same`, `junk` or `refused`."""

    def run(self) -> Counter[str]:
        """Judge up to the count.

        Raises:
            Unavailable: the server or the endpoint could not be reached for long.
            Junk: the judge gives no verdicts.
            InvalidInput: the server or the endpoint refuses one pair after another.
            ConfigError: the endpoint takes neither key nor model, or nothing is recorded here.
            AttuneError: the key lacks a right.
        """
        away = junk = refused = asked = 0
        while self.done.total() < self._plan.count:
            prompt = self._prompts[asked % len(self._prompts)]
            try:
                came = self._label(prompt)
                away = junk = refused = 0
            except Unavailable as error:
                away += 1
                if away == PATIENCE:
                    raise
                self._tell(self.done, f"waiting: {error}")
                self._pause(min(30.0, 2.0**away))
                continue
            except Junk:
                came, junk = JUNK, junk + 1
                if junk == PATIENCE:
                    raise
            except InvalidInput:
                came, refused = REFUSED, refused + 1
                if refused == PATIENCE:
                    raise
            asked += 1
            self.done[came] += 1
            self._tell(self.done, "")
        return self.done

    def _label(self, prompt: Prompt) -> str:
        plan = self._plan
        body: dict[str, Any] = {
            "model": plan.policy,
            "user": f"ai:{plan.judge}",
            "k": 2,
            **sampled(prompt, plan.temperature, plan.max_tokens),
        }
        shown = self._client.request("POST", "/v1/comparisons", body, headers={"attune-consent": "train"})
        if shown["handle"] is None:
            raise ConfigError("nothing is recorded of what this key asks", remedy="Make a key with --consent train.")
        first, second = (candidate["content"] for candidate in shown["candidates"])
        if first == second:
            return SAME
        outcome = self._judge.better(prompt.messages, first, second)
        if outcome is not Outcome.INCONSISTENT:
            self._send(shown["handle"], shown["id"], outcome)
        return outcome.value

    def _send(self, handle: str, comparison: str, outcome: Outcome) -> None:
        verdict: dict[str, Any] = {"verdict": "tie"}
        if outcome is not Outcome.TIE:
            verdict = {"verdict": "winner", "winner": 0 if outcome is Outcome.FIRST else 1}
        labeller = {"model": self._plan.judge, "constitution": self._plan.constitution}
        about = {"handle": handle, "source": "ai", "labeller": labeller, "idempotency_key": f"label-{comparison}"}
        self._client.feedback(kind="comparison", **verdict, **about)
