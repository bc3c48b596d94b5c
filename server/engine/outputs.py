"""Sampled tokens and their logprobs as the engine core sends them, before vLLM makes dictionaries of them.

All that Attune knows of vLLM's output processing is here. vLLM turns each sampled token's logprob into a dictionary
with ranks and decoded text, for a client to see; where no client asked for any, that is work for nobody. So for those
requests the part of vLLM that does it is exchanged, request by request, for one that only keeps numbers. Requests
whose client asked for logprobs are left alone.

vLLM promises none of the names used here. `take_sampled` therefore tries the whole way out at start against vLLM's own
dictionaries, and leaves vLLM as it was where the two differ; and every record compares the token ids that came with
the logprobs with those that were shown.
"""

from __future__ import annotations

import logging
import math
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.logprobs import LogprobsProcessor

from server.engine.taken import Taken, taking

log = logging.getLogger(__name__)

_TRIAL_TOKENS = 4
_TOLERANCE = 1e-3


class _Numbers(LogprobsProcessor):  # type: ignore[misc]  # vLLM is untyped to us
    """One choice's part of vLLM's output processing, without the dictionaries of sampled tokens."""

    def __init__(self, plain: LogprobsProcessor, taken: Taken, choice: int) -> None:
        self.__dict__.update(vars(plain))
        self.logprobs = self.cumulative_logprob = None
        self._taken = taken
        self._choice = choice

    def _update_sample_logprobs(self, logprobs_lists: Any) -> None:
        # One row a token; the sampled one comes first. Numbers, not arrays: those would keep whole messages in memory.
        token_ids, logprobs = logprobs_lists.logprob_token_ids, logprobs_lists.logprobs
        for row in range(len(logprobs)):  # mostly one, for which this is four times faster than a slice
            self._taken.add(self._choice, token_ids.item(row, 0), logprobs.item(row, 0))


async def take_sampled(client: Any) -> bool:
    """Let engine calls of `client` (an `AsyncLLM`) put what is sampled where `taking` says.

    Returns whether that works with this vLLM; where it does not, `client` is as it was, and the log says why.
    """
    try:
        processor = client.output_processor
        _exchange(processor)
        differs = await _difference(client)
    except Exception as error:  # whatever breaks where names or shapes have changed
        differs = f"{type(error).__name__}: {error}"
    if differs is None:
        return True
    vars(client.output_processor).pop("add_request", None)
    log.error("logprobs are recorded the slow way, by vLLM's dictionaries, because this vLLM differs: %s", differs)
    return False


def _exchange(processor: Any) -> None:
    plain = processor.add_request

    def add_request(request: Any, *rest: Any, **named: Any) -> None:
        plain(request, *rest, **named)
        taken = taking.get()
        if taken is not None and taken.request_id == request.external_req_id:
            state = processor.request_states[request.request_id]
            state.logprobs_processor = _Numbers(state.logprobs_processor, taken, state.request_index)

    processor.add_request = add_request


async def _difference(client: Any) -> str | None:
    """What is wrong with what was taken from a short answer, against vLLM's dictionaries; None if nothing is."""
    taken = Taken(f"attune-trial-{uuid4().hex}", choices=2)
    taking.set(taken)
    ours, theirs = await _sample(client, taken.request_id), await _sample(client, f"attune-trial-{uuid4().hex}")
    for one, other in zip(ours, theirs, strict=True):
        logprobs = taken.logprobs_of(one.index, one.token_ids, cumulative=True)
        if one.logprobs is not None or logprobs is None or len(logprobs) != _TRIAL_TOKENS:
            return f"taken were {logprobs} for {one}"
        plain = [position[token].logprob for token, position in zip(other.token_ids, other.logprobs, strict=True)]
        near = all(math.isclose(a, b, abs_tol=_TOLERANCE) for a, b in zip(logprobs, plain, strict=True))
        if list(one.token_ids) != list(other.token_ids) or not near:
            return f"taken were {logprobs} for {one}, and {plain} for {other}"
    return None


async def _sample(client: Any, request_id: str) -> list[Any]:
    prompt = tokens_input(client.renderer.get_tokenizer().encode("Hello"))
    params = SamplingParams(
        temperature=1.0, seed=0, n=2, max_tokens=_TRIAL_TOKENS, logprobs=0, ignore_eos=True, detokenize=False
    )
    params.output_kind = RequestOutputKind.FINAL_ONLY
    async with aclosing(client.generate(prompt, params, request_id)) as outputs:
        return [choice async for output in outputs for choice in output.outputs]
