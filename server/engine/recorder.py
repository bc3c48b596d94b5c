"""Gathers one engine request into one EngineRecord and gives it to the sink exactly once.

Knows records, clocks and the sink. Knows no engine: implementations feed it what was sampled and say how the request
ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.base import now_ms
from server.engine.port import Sink
from server.engine.record import EffectiveSampling, EngineChoice, EngineRecord, FinishReason
from server.request.context import RequestContext


@dataclass(slots=True)
class _Choice:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class Recording:
    """One request being recorded. Every method is synchronous and cheap; `close` may be called more than once."""

    def __init__(
        self,
        sink: Sink,
        context: RequestContext,
        engine_request_id: str,
        prompt_token_ids: Sequence[int],
        sampling: EffectiveSampling,
        logprobs_mode: str,
        adapter: str | None,
    ) -> None:
        self._sink = sink
        self._context = context
        self._request_id = engine_request_id
        self._prompt = tuple(prompt_token_ids)
        self._sampling = sampling
        self._logprobs_mode = logprobs_mode
        self._adapter = adapter
        self._choices = [_Choice() for _ in range(sampling.n)]
        self._started_ms = now_ms()
        self._started = time.monotonic()
        self._first_token_s: float | None = None
        self._cached_prompt_tokens: int | None = None
        self._closed = False

    def sampled(
        self,
        index: int,
        token_ids: Sequence[int],
        logprobs: Sequence[float] | None,
        text: str,
        *,
        cumulative: bool = False,
    ) -> None:
        """Add newly sampled tokens of choice `index` (or, when `cumulative`, put all of its tokens in place of those
        so far).

        `logprobs` has one value for each of `token_ids`; once it is None the choice has no logprobs at all.
        """
        choice = self._choices[index]
        if cumulative:
            choice.token_ids.clear()
            choice.text.clear()
            if choice.logprobs is not None:
                choice.logprobs.clear()
        choice.token_ids.extend(token_ids)
        choice.text.append(text)
        if logprobs is None and token_ids:
            choice.logprobs = None
        elif choice.logprobs is not None and logprobs is not None:
            choice.logprobs.extend(logprobs)
        if token_ids and self._first_token_s is None:
            self._first_token_s = time.monotonic() - self._started

    def finished(self, index: int, reason: FinishReason, stop_reason: int | str | None) -> None:
        """Choice `index` came to its end."""
        self._choices[index].finish_reason = reason
        self._choices[index].stop_reason = stop_reason

    def cached(self, prompt_tokens: int | None) -> None:
        """Number of prompt tokens that were found in the prefix cache."""
        self._cached_prompt_tokens = prompt_tokens

    def first_token_after(self, seconds: float) -> None:
        """The engine's own measure of the time to the first token, for outputs that arrive only as a whole."""
        self._first_token_s = seconds

    def close(self, unfinished: FinishReason) -> None:
        """Give the record to the sink, unless that was done. Choices that had not come to an end get `unfinished`,
        unseen.
        """
        if self._closed:
            return
        self._closed = True
        self._sink(
            EngineRecord(
                context=self._context,
                engine_request_id=self._request_id,
                prompt_token_ids=self._prompt,
                choices=tuple(_frozen(index, choice, unfinished) for index, choice in enumerate(self._choices)),
                sampling=self._sampling,
                logprobs_mode=self._logprobs_mode,
                adapter=self._adapter,
                started_ms=self._started_ms,
                finished_ms=now_ms(),
                duration_s=time.monotonic() - self._started,
                first_token_s=self._first_token_s,
                cached_prompt_tokens=self._cached_prompt_tokens,
            )
        )

    def discard(self) -> None:
        """The request was refused before it ran: there is nothing to record."""
        self._closed = True


def _frozen(index: int, choice: _Choice, unfinished: FinishReason) -> EngineChoice:
    reason = choice.finish_reason or unfinished
    return EngineChoice(
        index=index,
        token_ids=tuple(choice.token_ids),
        logprobs=None if choice.logprobs is None else tuple(choice.logprobs),
        text="".join(choice.text),
        finish_reason=reason,
        stop_reason=choice.stop_reason,
        seen=reason not in ("abort", "error"),
    )
