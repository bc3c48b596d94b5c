"""The engine seam: vLLM's engine client with a recorder in front of `generate()`.

Knows vLLM's sampling parameters and outputs, and turns them into plain records. Knows nothing of HTTP: who asked
comes by `server.request.context`, and a call without it is not recorded. It never changes what is sampled or
what the caller sees. It departs from the plain client in one request parameter: where no logprobs were asked it asks
for those of the sampled tokens (`logprobs=0`), which vLLM's OpenAI layer does not show, and takes them off the engine
core's outputs where `server.engine.outputs` can.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from copy import copy
from typing import Any

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.engine.inflight import InFlight
from server.engine.port import Sink
from server.engine.record import EffectiveSampling, FinishReason
from server.engine.recorder import Recording
from server.engine.taken import Taken, taking
from server.request.context import RequestContext, current_request

GRAMMARS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")


class RecordingEngine:
    """Delegates everything to a vLLM `EngineClient` and records what `generate()` samples.

    `base_name` is the name under which requests without adapter are held in `in_flight`.
    """

    def __init__(self, inner: Any, in_flight: InFlight, base_name: str) -> None:
        self._inner = inner
        self._in_flight = in_flight
        self._base_name = base_name
        self.sink: Sink | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: Any = None,
        **rest: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As `EngineClient.generate`. The context is read now, not when the first output is asked for."""
        context = current_request.get()
        adapter = None if lora_request is None else str(lora_request.lora_name)
        recording = taken = None
        if context is not None and self.sink is not None:
            if sampling_params.num_logprobs is None:
                taken = Taken(request_id, sampling_params.n)
                sampling_params = _with_logprobs(sampling_params)
            recording = self._recording(self.sink, context, prompt, sampling_params, request_id, adapter)
        outputs = self._inner.generate(prompt, sampling_params, request_id, lora_request=lora_request, **rest)
        return self._tee(outputs, recording, taken, sampling_params.output_kind, adapter or self._base_name)

    async def _tee(
        self,
        outputs: AsyncGenerator[RequestOutput, None],
        recording: Recording | None,
        taken: Taken | None,
        kind: RequestOutputKind,
        name: str,
    ) -> AsyncGenerator[RequestOutput, None]:
        unfinished: FinishReason = "error"
        taking.set(taken)
        with self._in_flight.hold(name):
            try:
                async for output in outputs:
                    if recording is not None:
                        _take(recording, output, kind, taken)
                        if output.finished:
                            # Before the last output is handed on: the caller may never come back for more.
                            recording.close(unfinished)
                    yield output
            except (asyncio.CancelledError, GeneratorExit):
                unfinished = "abort"
                raise
            except (VLLMClientError, GracefulHTTPError):
                if recording is not None:
                    recording.discard()
                raise
            finally:
                if recording is not None:
                    recording.close(unfinished)
                await outputs.aclose()

    def _recording(
        self,
        sink: Sink,
        context: RequestContext,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        adapter: str | None,
    ) -> Recording:
        config = self._inner.vllm_config
        return Recording(
            sink,
            context,
            request_id,
            prompt_token_ids(prompt),
            effective_sampling(params, config),
            str(config.model_config.logprobs_mode),
            adapter,
        )


def _with_logprobs(params: SamplingParams) -> SamplingParams:
    """A copy that asks for the sampled tokens' logprobs; the caller's object stays as it is.

    A shallow copy is enough, as vLLM copies deeply whatever it changes later, unless the caller gave its object away.
    """
    params = copy(params)
    params.logprobs = 0
    return params


def prompt_token_ids(prompt: Any) -> Sequence[int]:
    """Token ids of a rendered vLLM prompt; empty where it has none (embeddings, text not yet tokenised)."""
    if isinstance(prompt, dict):
        prompt = prompt.get("decoder_prompt", prompt)
        return prompt.get("prompt_token_ids") or () if isinstance(prompt, dict) else ()
    return getattr(prompt, "prompt_token_ids", None) or ()


def effective_sampling(params: SamplingParams, config: Any) -> EffectiveSampling:
    """`params` (which already hold the model's generation defaults) and what the engine's `config` adds to them."""
    grammar = params.structured_outputs
    return EffectiveSampling(
        n=params.n,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=max(params.top_k, 0),  # -1 is off too
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        seed=params.seed,
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        ignore_eos=params.ignore_eos,
        stop=tuple(params.stop or ()),
        stop_token_ids=tuple(params.stop_token_ids or ()),
        include_stop_str_in_output=params.include_stop_str_in_output,
        logit_bias=bool(params.logit_bias),
        bad_words=bool(params.bad_words),
        allowed_token_ids=bool(params.allowed_token_ids),
        structured_output=next((kind for kind in GRAMMARS if getattr(grammar, kind, None) is not None), None),
        thinking_token_budget=params.thinking_token_budget,
        repetition_detection=params.repetition_detection is not None,
        forced_tokens=bool(params.trace_decode_token_ids),
        watermarked=config.watermark_config is not None and params.watermarking is not False,
        custom_arguments=bool(params.extra_args),
        custom_logits_processors=bool(config.model_config.logits_processors),
        speculative=config.speculative_config is not None,
    )


def _take(recording: Recording, output: RequestOutput, kind: RequestOutputKind, taken: Taken | None) -> None:
    cumulative = kind is not RequestOutputKind.DELTA
    for choice in output.outputs:
        if choice.logprobs is None and taken is not None:
            logprobs = taken.logprobs_of(choice.index, choice.token_ids, cumulative=cumulative)
        else:
            logprobs = _sampled_logprobs(choice.token_ids, choice.logprobs)
        recording.sampled(choice.index, choice.token_ids, logprobs, choice.text, cumulative=cumulative)
        if choice.finish_reason is not None:
            recording.finished(choice.index, choice.finish_reason, choice.stop_reason)
    if output.finished:
        recording.cached(output.num_cached_tokens)
        if kind is RequestOutputKind.FINAL_ONLY and output.metrics is not None:
            recording.first_token_after(output.metrics.first_token_latency)


def _sampled_logprobs(token_ids: Sequence[int], logprobs: Any) -> list[float] | None:
    """Out of vLLM's dictionaries, one for each token."""
    if logprobs is None or len(logprobs) != len(token_ids):
        return None
    return [position[token].logprob for token, position in zip(token_ids, logprobs, strict=True)]
