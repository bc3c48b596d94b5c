"""LoRA adapters in a running vLLM engine: load, probe, score, drain, unload.

Knows vLLM's LoRA requests and where its OpenAI layer looks names up. Knows no policy, version or journal. A name is
for one path for good: other weights come under another name, because vLLM keeps prefix-cache blocks by name. The
integer ids vLLM wants are counted up here and never reused, so a slow request can never meet another adapter's weights.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.engine.errors import AdapterError
from server.engine.inflight import InFlight

PROBE_TEXT = "Hello, how can I help you today?"
PROBE_TOKENS = 4


class AdapterSlots:
    """The adapters of one engine. `registry` is the OpenAI layer's table of names
    (`OpenAIServingModels.lora_requests`).
    """

    def __init__(
        self,
        client: Any,
        registry: dict[str, LoRARequest],
        in_flight: InFlight,
        base_names: tuple[str, ...],
        capacity: int,
    ) -> None:
        self._client = client
        self._registry = registry
        self._in_flight = in_flight
        self._base_names = base_names
        self._capacity = capacity
        self._paths: dict[str, Path | None] = dict.fromkeys(base_names)
        self._last_id = 0

    def loaded(self) -> list[str]:
        """Names of the loaded adapters, oldest first."""
        return list(self._registry)

    async def load(self, name: str, path: Path) -> None:
        """Load the PEFT folder at `path` as `name`, and make it known to the OpenAI layer.

        Raises AdapterError when the name is loaded or was used for another path, all slots are taken, or vLLM refuses
        the files.
        """
        if name in self._registry or self._paths.get(name, path) != path:
            raise AdapterError(
                f"Adapter name {name} was used before", remedy="Publish other weights under a new version."
            )
        if len(self._registry) >= self._capacity:
            raise AdapterError(
                f"All {self._capacity} adapter slots are taken by {', '.join(self._registry)}",
                remedy="Unload one, or raise max_loras.",
            )
        self._last_id += 1
        request = LoRARequest(lora_name=name, lora_int_id=self._last_id, lora_path=str(path))
        try:
            accepted = await self._client.add_lora(request)
        except Exception as error:  # vLLM hands on whatever its worker raised, as a plain Exception
            with suppress(Exception):  # what it had loaded when it failed would keep a slot in the worker
                await self._client.remove_lora(request.lora_int_id)
            raise AdapterError(f"vLLM cannot load adapter {name}: {error}") from error
        if not accepted:
            raise AdapterError(f"vLLM did not accept adapter {name}")
        self._paths[name] = path  # not before: under a name that was never served, nothing was cached
        self._registry[name] = request

    async def unload(self, name: str) -> None:
        """Forget the adapter and free its slot. Raises AdapterError when it is not loaded or still held."""
        request = self._registry.get(name)
        if request is None:
            raise AdapterError(f"Adapter {name} is not loaded")
        if held := self._in_flight.count(name):
            raise AdapterError(f"Adapter {name} is still used by {held} requests", remedy="Drain it first.")
        del self._registry[name]
        await self._client.remove_lora(request.lora_int_id)

    async def probe(self, name: str) -> str:
        """Generate PROBE_TOKENS tokens greedily with `name`, unrecorded, and return their text."""
        prompt = self._client.renderer.get_tokenizer().encode(PROBE_TEXT)
        params = SamplingParams(temperature=0.0, max_tokens=PROBE_TOKENS, ignore_eos=True, skip_special_tokens=False)
        output = await self._run(name, prompt, params)
        if len(output.outputs[0].token_ids) != PROBE_TOKENS:
            raise AdapterError(f"{name} ended its probe after {len(output.outputs[0].token_ids)} tokens")
        return str(output.outputs[0].text)

    async def warm_up(self) -> None:
        """Sample once from the base in the way recorded requests do, so that no user waits for what vLLM compiles
        late.
        """
        params = SamplingParams(temperature=1.0, n=2, max_tokens=PROBE_TOKENS, logprobs=0, ignore_eos=True)
        await self._run(self._base_names[0], self._client.renderer.get_tokenizer().encode(PROBE_TEXT), params)

    async def score(self, name: str, prompt_ids: list[int], answer_ids: list[int]) -> list[float]:
        """Log-probabilities (nats, temperature 1, whole vocabulary) of each of `answer_ids` after `prompt_ids`,
        unrecorded.

        Raises AdapterError when the name is not loaded, or the tokens are too many or none of the vocabulary: given to
        the engine they could end it.
        """
        config, tokens = self._client.model_config, [*prompt_ids, *answer_ids]
        vocabulary, longest = config.get_vocab_size(), config.max_model_len - 1
        if len(tokens) > longest:
            raise AdapterError(f"{len(tokens)} tokens cannot be scored: the engine takes {longest}")
        if strange := [token for token in tokens if not 0 <= token < vocabulary]:
            raise AdapterError(f"token {strange[0]} is not one of the model's {vocabulary}")
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        output = await self._run(name, tokens, params)
        positions = (output.prompt_logprobs or [])[len(prompt_ids) :]
        return [position[token].logprob for position, token in zip(positions, answer_ids, strict=True) if position]

    async def _run(self, name: str, prompt: list[int], params: SamplingParams) -> RequestOutput:
        request = self._registry.get(name)
        if request is None and name not in self._base_names:
            raise AdapterError(f"Adapter {name} is not loaded")
        params.output_kind = RequestOutputKind.FINAL_ONLY
        with self._in_flight.hold(name):
            outputs = self._client.generate(
                tokens_input(prompt), params, f"attune-probe-{uuid4().hex}", lora_request=request
            )
            try:
                async with aclosing(outputs):
                    async for output in outputs:
                        if output.finished:
                            return output
            except Exception as error:  # as in `load`: of no one kind
                raise AdapterError(f"The engine cannot answer with {name}: {error}") from error
        raise AdapterError(f"The engine gave no answer for {name}")
