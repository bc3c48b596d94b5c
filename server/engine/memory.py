"""An engine without a model: the same port, the OpenAI chat protocol, canned words. For tests and for trying the API.

Knows adapters, records and pacing; `memory_chat` knows the wire format. Words and logprobs are a pure function of
model, prompt, seed and choice, so equal requests get equal answers. Departs from a real engine in that adapter files
are never read: an adapter only changes the words.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from schemas.wire import validation_summary
from server.engine.errors import AdapterError
from server.engine.inflight import InFlight
from server.engine.memory_chat import (
    END_TOKEN,
    Answer,
    ChatCall,
    ChatParameters,
    Reply,
    canned_logprob,
    canned_reply,
    make_answer,
    shown,
)
from server.engine.port import Sink
from server.engine.recorder import Recording
from server.files.base_layers import BaseLayers
from server.request.context import current_request

LAYERS: BaseLayers = {
    "layers.0.self_attn.q_proj": frozenset({(8, 4)}),
    "layers.0.mlp.down_proj": frozenset({(4, 16)}),
}
"""The base model that this engine claims to be."""


class InMemoryEngine:
    """The `Engine` port without vLLM. `seconds_per_step` slows answers down; a step is one word of every choice."""

    def __init__(
        self,
        base_names: tuple[str, ...] = ("support@v0",),
        *,
        reply: Reply = canned_reply,
        seconds_per_step: float = 0.0,
        max_model_len: int = 4096,
    ) -> None:
        self._base_names = base_names
        self._reply = reply
        self._seconds_per_step = seconds_per_step
        self._max_model_len = max_model_len
        self._adapters: dict[str, Path] = {}
        self._paths: dict[str, Path] = {}
        self._in_flight = InFlight()
        self._sink: Sink | None = None
        self._progress = time.monotonic()
        self.errored = False
        self.unloadable: set[str] = set()  # names whose load fails, for tests of a failed swap
        self._app = Starlette(
            routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])],
            exception_handlers={404: _unknown_path},
        )

    @property
    def app(self) -> ASGIApp:
        return self._app

    @property
    def base_names(self) -> tuple[str, ...]:
        return self._base_names

    @property
    def base_fingerprint(self) -> str:
        return hashlib.sha256(b"attune in-memory engine").hexdigest()

    @property
    def chat_template_hash(self) -> str:
        return hashlib.sha256(b"attune in-memory chat template").hexdigest()

    @property
    def base_layers(self) -> BaseLayers:
        return LAYERS

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def progress_age_s(self) -> float:
        return time.monotonic() - self._progress

    def set_sink(self, sink: Sink) -> None:
        self._sink = sink

    async def load_adapter(self, name: str, path: Path) -> None:
        used = name in self._adapters or name in self._base_names
        if used or self._paths.get(name, path) != path:
            raise AdapterError(
                f"Adapter name {name} was used before", remedy="Publish other weights under a new version."
            )
        if name in self.unloadable:
            raise AdapterError(f"Adapter {name} cannot be loaded from {path.name}")
        self._paths[name] = path
        self._adapters[name] = path

    async def probe(self, name: str) -> str:
        self._require(name)
        self._progress = time.monotonic()
        return self._reply(name, "probe", 0)

    async def score(self, name: str, prompt_ids: list[int], answer_ids: list[int]) -> list[float]:
        self._require(name)
        tokens = [*prompt_ids, *answer_ids]
        if len(tokens) >= self._max_model_len or not all(0 <= token <= END_TOKEN for token in tokens):
            raise AdapterError("the tokens are too many, or none of the vocabulary")
        return [canned_logprob(name, position, token) for position, token in enumerate(answer_ids)]

    def hold(self, name: str) -> AbstractContextManager[None]:
        return self._in_flight.hold(name)

    def in_flight(self, name: str) -> int:
        return self._in_flight.count(name)

    async def drain(self, name: str) -> None:
        await self._in_flight.drain(name)

    async def unload_adapter(self, name: str) -> None:
        if name not in self._adapters:
            raise AdapterError(f"Adapter {name} is not loaded")
        if held := self._in_flight.count(name):
            raise AdapterError(f"Adapter {name} is still used by {held} requests", remedy="Drain it first.")
        del self._adapters[name]

    def loaded(self) -> list[str]:
        return list(self._adapters)

    def _require(self, name: str) -> None:
        if name not in self._base_names and name not in self._adapters:
            raise AdapterError(f"Adapter {name} is not loaded")

    async def _chat(self, request: Request) -> Response:
        try:
            asked = ChatParameters.model_validate_json(await request.body())
        except ValidationError as error:
            return _refusal(validation_summary(error), "BadRequestError", 400)
        model = asked.model or self._base_names[0]
        if model not in self._base_names and model not in self._adapters:
            return _refusal(f"The model `{model}` does not exist.", "NotFoundError", 404)
        if asked.use_beam_search:
            return _refusal("Beam search is not supported", "BadRequestError", 400)
        answer_id = f"chatcmpl-{request.headers.get('x-request-id') or uuid.uuid4().hex}"
        call = ChatCall(asked, model, answer_id)
        if asked.stream:
            return StreamingResponse(call.stream(self._generate(call)), media_type="text/event-stream")
        async for _ in self._generate(call):
            pass
        return JSONResponse(call.whole())

    async def _generate(self, call: ChatCall) -> AsyncIterator[tuple[int, str, bool]]:
        """Yield (choice, text of one word, whether that choice is done), recording as it goes."""
        context = current_request.get()
        recording = None
        if context is not None and self._sink is not None:
            recording = Recording(
                self._sink,
                context,
                call.answer_id,
                call.prompt_ids,
                call.sampling,
                "processed_logprobs",
                call.model if call.model in self._adapters else None,
            )
        call.answers = [
            make_answer(
                call.model,
                self._reply(call.model, call.prompt, (call.sampling.seed or 0) + index),
                call.sampling.max_tokens,
                call.sampling.stop,
            )
            for index in range(call.sampling.n)
        ]
        with self._in_flight.hold(call.model):
            try:
                async for index, start, end in self._steps(call.answers):
                    answer = call.answers[index]
                    done = end == len(answer.token_ids)
                    # The text goes out whole with the last tokens, so a byte sequence is never cut inside a character.
                    before = shown(answer, start)
                    piece = answer.text[len(before) :] if done else shown(answer, end)[len(before) :]
                    if recording is not None:
                        recording.sampled(index, answer.token_ids[start:end], answer.logprobs[start:end], piece)
                        if done:
                            recording.finished(index, answer.finish_reason, answer.stop_reason)
                    self._progress = time.monotonic()
                    yield index, piece, done
            finally:
                if recording is not None:
                    recording.cached(0)
                    recording.close("abort")

    async def _steps(self, answers: list[Answer]) -> AsyncIterator[tuple[int, int, int]]:
        positions = [0] * len(answers)
        while any(position < len(answer.token_ids) for position, answer in zip(positions, answers, strict=True)):
            await asyncio.sleep(self._seconds_per_step)
            for index, answer in enumerate(answers):
                start = positions[index]
                if start == len(answer.token_ids):
                    continue
                with contextlib.suppress(ValueError):
                    positions[index] = answer.token_ids.index(ord(" "), start) + 1
                if positions[index] == start:
                    positions[index] = len(answer.token_ids)
                yield index, start, positions[index]


async def _unknown_path(request: Request, _: Exception) -> Response:
    return _refusal(f"The in-memory engine has chats alone, no {request.url.path}", "NotFoundError", 404)


def _refusal(message: str, kind: str, status: int) -> Response:
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": None, "code": status}}, status_code=status
    )
