"""What the engine did for one request, in plain values.

Knows the shape of a record and nothing else: no engine type, no HTTP, no I/O. Everything a later trainer needs about
how an answer was sampled is here, because none of it can be recovered from the answer's text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.request.context import RequestContext

FinishReason = Literal["stop", "length", "abort", "error", "repetition"]
"""stop: end token or stop string; length: token limit; abort: client left or server drained; error: the engine failed;
repetition: vLLM's repetition detection ended the answer."""


@dataclass(frozen=True, slots=True)
class EffectiveSampling:
    """Sampling parameters as the engine used them, after the model's generation_config defaults were applied.

    Where a parameter's content is not needed to judge whether logged logprobs are the true sampling probabilities,
    only its presence is kept (`logit_bias`, `bad_words`, `allowed_token_ids`, `custom_arguments`).
    """

    n: int
    temperature: float  # 0.0 is greedy
    top_p: float  # 1.0 is off
    top_k: int  # 0 is off
    min_p: float  # 0.0 is off
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float  # 1.0 is off
    seed: int | None  # choice i of n is sampled with seed + i
    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    include_stop_str_in_output: bool
    logit_bias: bool
    bad_words: bool
    allowed_token_ids: bool
    structured_output: str | None  # kind of grammar: json, json_object, regex, choice, grammar, structural_tag
    thinking_token_budget: int | None
    repetition_detection: bool
    forced_tokens: bool  # a predetermined sequence was decoded instead of sampling
    watermarked: bool
    custom_arguments: bool  # arguments for custom logits processors (vllm_xargs)
    custom_logits_processors: bool  # the engine was started with logits processors of its own
    speculative: bool  # the engine decodes speculatively

    @property
    def opaque(self) -> bool:
        """True when something other than the plain parameters above shaped the tokens, so logprobs may not be what was
        sampled from: watermark, forced tokens, a thinking budget, custom logits processors, speculation.
        """
        return (
            self.watermarked
            or self.forced_tokens
            or self.thinking_token_budget is not None
            or self.custom_arguments
            or self.custom_logits_processors
            or self.speculative
        )


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """One sampled answer of a request.

    `token_ids` are exactly the sampled ones, the end token included; `text` is what was shown, so a stop string
    shortens `text` but not `token_ids`. `logprobs[i]` (nats) belongs to `token_ids[i]`; it is None where the engine
    gave none. `seen` is False when the client left before this choice was finished.
    """

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    text: str
    finish_reason: FinishReason
    stop_reason: int | str | None
    seen: bool


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine request, finished, aborted or failed. Given to the sink exactly once.

    `engine_request_id` differs between the engine calls of one HTTP request (a legacy completion with several prompts
    makes one call for each). `prompt_token_ids` is empty when the prompt was given as embeddings.
    """

    context: RequestContext
    engine_request_id: str
    prompt_token_ids: tuple[int, ...]
    choices: tuple[EngineChoice, ...]
    sampling: EffectiveSampling
    logprobs_mode: str  # "processed_logprobs": of the distribution really sampled from
    adapter: str | None  # name of the LoRA used, None for the base model
    started_ms: int  # Unix epoch, milliseconds
    finished_ms: int  # Unix epoch, milliseconds
    duration_s: float  # monotonic, from the engine call to its end
    first_token_s: float | None  # monotonic, from the engine call to the first sampled token; None when there was none
    cached_prompt_tokens: int | None  # prompt tokens found in the prefix cache, None when unknown
