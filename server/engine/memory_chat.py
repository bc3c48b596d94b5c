"""The chat-completions wire format of the in-memory engine: what a request asks for, and the bodies that answer it.

Knows the protocol and canned words (plain and streamed, n, stop, max_tokens, logprobs, usage, `return_token_ids`).
Knows no engine state. A token is a byte; 256 ends an answer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from server.engine.record import EffectiveSampling

END_TOKEN = 256
WORDS = ("your", "order", "is", "on", "its", "way", "we", "sent", "a", "refund", "to", "the", "card", "thank", "you")

Reply = Callable[[str, str, int], str]
"""(model name, prompt text, seed) -> answer text."""


def canned_reply(model: str, prompt: str, seed: int) -> str:
    """Five to twelve words that depend on nothing but the arguments."""
    digest = hashlib.sha256(f"{model}\x00{prompt}\x00{seed}".encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[1 : 6 + digest[0] % 8])


def canned_logprob(model: str, position: int, token: int) -> float:
    digest = hashlib.sha256(f"{model}\x00{position}\x00{token}".encode()).digest()
    return -int.from_bytes(digest[:2], "big") / 65536.0


@dataclass(frozen=True)
class Answer:
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    stop_reason: str | None


def make_answer(model: str, full_text: str, max_tokens: int | None, stop: tuple[str, ...]) -> Answer:
    """Cut at the earliest stop string (text before it, tokens up to its end), else at `max_tokens`, else end by
    END_TOKEN.
    """
    raw = full_text.encode()
    text, tokens, reason, why = full_text, [*raw, END_TOKEN], "stop", None
    hits = [(full_text.find(word) + len(word), word) for word in stop if word in full_text]
    if hits:
        end, why = min(hits)
        text, tokens = full_text[: end - len(why)], list(full_text[:end].encode())
    if max_tokens is not None and len(tokens) > max_tokens:
        tokens, reason, why = tokens[:max_tokens], "length", None
        text = bytes(tokens).decode(errors="ignore")
    logprobs = [canned_logprob(model, position, token) for position, token in enumerate(tokens)]
    return Answer(text, tokens, logprobs, "length" if reason == "length" else "stop", why)


def shown(answer: Answer, tokens: int) -> str:
    """The part of the shown text that the first `tokens` tokens already give."""
    partial = bytes(token for token in answer.token_ids[:tokens] if token != END_TOKEN).decode(errors="ignore")
    return partial[: len(answer.text)]


class _Format(BaseModel):
    type: str = "text"


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatParameters(BaseModel):
    """What this engine reads of a request's body, in the limits that a real engine sets."""

    model: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool = False
    n: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    response_format: _Format | None = None
    logprobs: bool | None = None
    return_token_ids: bool | None = None
    stream_options: _StreamOptions | None = None
    use_beam_search: bool | None = None


class ChatCall:
    """One chat request: its parameters, and the bodies that answer it."""

    def __init__(self, asked: ChatParameters, model: str, answer_id: str) -> None:
        self.model = model
        self.answer_id = answer_id
        self.answers: list[Answer] = []
        self.prompt = "".join(f"<{message['role']}>{message.get('content') or ''}" for message in asked.messages)
        self.prompt_ids = list(self.prompt.encode())
        stop = asked.stop or ()
        self.sampling = EffectiveSampling(
            n=asked.n or 1,
            temperature=_default(asked.temperature, 1.0),
            top_p=_default(asked.top_p, 1.0),
            top_k=int(_default(asked.top_k, 0)),
            min_p=_default(asked.min_p, 0.0),
            presence_penalty=_default(asked.presence_penalty, 0.0),
            frequency_penalty=_default(asked.frequency_penalty, 0.0),
            repetition_penalty=_default(asked.repetition_penalty, 1.0),
            seed=asked.seed,
            max_tokens=asked.max_completion_tokens or asked.max_tokens,
            min_tokens=int(_default(asked.min_tokens, 0)),
            ignore_eos=bool(asked.ignore_eos),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_token_ids=tuple(asked.stop_token_ids or ()),
            include_stop_str_in_output=False,
            logit_bias=bool(asked.logit_bias),
            bad_words=bool(asked.bad_words),
            allowed_token_ids=bool(asked.allowed_token_ids),
            structured_output=None if asked.response_format is None or asked.response_format.type == "text" else "json",
            thinking_token_budget=None,
            repetition_detection=False,
            forced_tokens=False,
            watermarked=False,
            custom_arguments=False,
            custom_logits_processors=False,
            speculative=False,
        )
        self._logprobs = bool(asked.logprobs)
        self._token_ids = bool(asked.return_token_ids)
        self._usage = asked.stream_options is not None and asked.stream_options.include_usage
        self._created = int(time.time())

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices: list[dict[str, Any]] = []
        for index, answer in enumerate(self.answers):
            choice: dict[str, Any] = {
                "index": index,
                "message": {"role": "assistant", "content": answer.text},
                "logprobs": _openai_logprobs(answer) if self._logprobs else None,
                "finish_reason": answer.finish_reason,
                "stop_reason": answer.stop_reason,
            }
            if self._token_ids:
                choice["token_ids"] = answer.token_ids
            choices.append(choice)
        body = {**self._head("chat.completion"), "choices": choices, "usage": self._counts()}
        return {**body, "prompt_token_ids": self.prompt_ids} if self._token_ids else body

    async def stream(self, words: AsyncIterator[tuple[int, str, bool]]) -> AsyncIterator[str]:
        """Server-sent events of a streamed answer: role, words, finish reason, optional usage, [DONE]."""
        head = self._head("chat.completion.chunk")
        for index in range(self.sampling.n):
            yield _event({**head, "choices": [_chunk(index, {"role": "assistant", "content": ""}, None)]})
        async for index, text, done in words:
            answer = self.answers[index]
            choice = _chunk(index, {"content": text}, answer.finish_reason if done else None)
            if self._logprobs and done:
                choice["logprobs"] = _openai_logprobs(answer)
            if self._token_ids and done:
                choice["token_ids"] = answer.token_ids
            yield _event({**head, "choices": [choice]})
        if self._usage:
            yield _event({**head, "choices": [], "usage": self._counts()})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.answer_id, "object": kind, "created": self._created, "model": self.model}

    def _counts(self) -> dict[str, int]:
        answered = sum(len(answer.token_ids) for answer in self.answers)
        prompt = len(self.prompt_ids)
        return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}


def _default(value: float | None, default: float) -> float:
    return default if value is None else value


def _chunk(index: int, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _openai_logprobs(answer: Answer) -> dict[str, Any]:
    tokens = ["<end>" if token == END_TOKEN else bytes([token]).decode(errors="replace") for token in answer.token_ids]
    content = [
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
        for token, logprob in zip(tokens, answer.logprobs, strict=True)
    ]
    return {"content": content}
