"""The engine port on the demo's base without vLLM: requests that wait together are sampled together.

Knows token ids, the chat template and records. Only the base speaks: no adapter is ever served in the study.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from exchange.fingerprint import base_fingerprint, chat_template_hash
from server.engine.memory import InMemoryEngine
from server.engine.memory_chat import Answer, ChatCall, ChatParameters
from server.engine.recorder import Recording
from server.request.context import current_request
from tests.bench.study.decoder import Decoder, Drawn, draw
from trainer.gates.sample import load_tokenizer, render_chat, stop_tokens
from trainer.models.base import SharedBase

_QUIET_S = 0.01
"""A batch begins once no further request has come for so long."""
_LONGEST = 120


@dataclass(frozen=True)
class _Waiting:
    prompt: tuple[int, ...]
    seed: int
    cap: int
    answer: asyncio.Future[Drawn]


class SamplingEngine(InMemoryEngine):
    """`POLICY@v0` answered by a Hugging Face model in this process. Sampling stops the event loop meanwhile.

    Temperature 1 and the whole distribution alone: what a request asks beyond that is not looked at.
    """

    def __init__(self, base: SharedBase, folder: Path, base_names: tuple[str, ...] = ("support@v0",)) -> None:
        super().__init__(base_names, max_model_len=512)
        self._folder = folder
        self._tokenizer = load_tokenizer(folder)
        self._decoder = Decoder(base, None)
        self._ends = stop_tokens(base)
        self._seeds = itertools.count()
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._chats = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])

    @property
    def app(self) -> ASGIApp:
        return self._chats

    @property
    def base_fingerprint(self) -> str:
        return base_fingerprint(self._folder)

    @property
    def chat_template_hash(self) -> str:
        return chat_template_hash(self._folder)

    async def _answer(self, request: Request) -> Response:
        asked = ChatParameters.model_validate_json(await request.body())
        model = asked.model or self.base_names[0]
        call = ChatCall(asked, model, f"chatcmpl-{request.headers['x-request-id']}")
        call.prompt_ids = list(render_chat(self._tokenizer, asked.messages))
        sampling, context = call.sampling, current_request.get()
        seed = next(self._seeds) if sampling.seed is None else sampling.seed
        drawn = await asyncio.gather(
            *(self._sampled(call.prompt_ids, seed + choice, sampling.max_tokens) for choice in range(sampling.n))
        )
        recording = None
        if context is not None and self._sink is not None:
            recording = Recording(
                self._sink, context, call.answer_id, call.prompt_ids, sampling, "processed_logprobs", None
            )
        for index, one in enumerate(drawn):
            answer = self._shown(one)
            call.answers.append(answer)
            if recording is not None:
                recording.sampled(index, one.token_ids, one.logprobs, answer.text)
                recording.finished(index, answer.finish_reason, None)
        if recording is not None:
            recording.close("abort")
        return JSONResponse(call.whole())

    def _shown(self, drawn: Drawn) -> Answer:
        text = self._tokenizer.decode(drawn.token_ids, skip_special_tokens=True)
        ended = drawn.token_ids[-1] in self._ends
        return Answer(text, list(drawn.token_ids), list(drawn.logprobs), "stop" if ended else "length", None)

    async def _sampled(self, prompt: list[int], seed: int, cap: int | None) -> Drawn:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(tuple(prompt), seed, min(cap or _LONGEST, _LONGEST), loop.create_future())
        self._waiting.append(waiting)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(_QUIET_S, self._draw)
        return await waiting.answer

    def _draw(self) -> None:
        batch, self._waiting, self._timer = self._waiting, [], None
        for cap in {one.cap for one in batch}:
            group = [one for one in batch if one.cap == cap]
            prompts, seeds = [one.prompt for one in group], [one.seed for one in group]
            drawn = draw(self._decoder, prompts, seeds, ends=self._ends, max_new_tokens=cap)
            for one, answer in zip(group, drawn, strict=True):
                if not one.answer.done():  # whoever asked may have gone
                    one.answer.set_result(answer)
