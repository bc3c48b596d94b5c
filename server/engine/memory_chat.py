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
from typing import Any, Literal

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


class ChatCall:
    """One chat request: its parameters, and the bodies that answer it."""

    def __init__(self, body: dict[str, Any], model: str, answer_id: str) -> None:
        self.model = model
        self.answer_id = answer_id
        self.answers: list[Answer] = []
        self.prompt = "".join(f"<{message['role']}>{message.get('content') or ''}" for message in body["messages"])
        self.prompt_ids = list(self.prompt.encode())
        stop = body.get("stop") or ()
        schema = body.get("response_format") or {}
        self.sampling = EffectiveSampling(
            n=body.get("n") or 1,
            temperature=_default(body.get("temperature"), 1.0),
            top_p=_default(body.get("top_p"), 1.0),
            top_k=int(_default(body.get("top_k"), 0)),
            min_p=_default(body.get("min_p"), 0.0),
            presence_penalty=_default(body.get("presence_penalty"), 0.0),
            frequency_penalty=_default(body.get("frequency_penalty"), 0.0),
            repetition_penalty=_default(body.get("repetition_penalty"), 1.0),
            seed=body.get("seed"),
            max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            min_tokens=int(_default(body.get("min_tokens"), 0)),
            ignore_eos=bool(body.get("ignore_eos")),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_token_ids=tuple(body.get("stop_token_ids") or ()),
            include_stop_str_in_output=False,
            logit_bias=bool(body.get("logit_bias")),
            bad_words=bool(body.get("bad_words")),
            allowed_token_ids=bool(body.get("allowed_token_ids")),
            structured_output=None if schema.get("type", "text") == "text" else "json",
            thinking_token_budget=None,
            repetition_detection=False,
            forced_tokens=False,
            watermarked=False,
            custom_arguments=False,
            custom_logits_processors=False,
            speculative=False,
        )
        self._logprobs = bool(body.get("logprobs"))
        self._token_ids = bool(body.get("return_token_ids"))
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
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
