"""What the engine sampled for one request, kept until it is known which of it was handed on. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar


class Taken:
    """What was sampled for one engine request and not yet given away, by choice."""

    def __init__(self, request_id: str, choices: int) -> None:
        self.request_id = request_id
        self._token_ids: list[list[int]] = [[] for _ in range(choices)]
        self._logprobs: list[list[float]] = [[] for _ in range(choices)]

    def add(self, choice: int, token_id: int, logprob: float) -> None:
        """The engine core sent this as the next token of a choice."""
        self._token_ids[choice].append(token_id)
        self._logprobs[choice].append(logprob)

    def logprobs_of(self, choice: int, token_ids: Sequence[int], *, cumulative: bool) -> list[float] | None:
        """The logprobs of `token_ids`, which are the next of the choice, or all of them so far where `cumulative`.

        None where the engine core sent other tokens or too few.
        """
        count, sent = len(token_ids), self._token_ids[choice]
        if sent[:count] != list(token_ids):
            return None
        logprobs = self._logprobs[choice][:count]
        if not cumulative:
            del sent[:count], self._logprobs[choice][:count]
        return logprobs


taking: ContextVar[Taken | None] = ContextVar("taking", default=None)
"""Where the engine call that the current task makes next puts what is sampled for it. An engine call looks at it once,
and only where the request id is its own, so nobody needs to set it back."""
