"""Samples answers of a small Llama fast, with the true logprob of every token and the exact KL to another decoder.

Departs from a serving engine in that rows that wait for others are simply dropped from the batch once they end, and in
that an adapter is merged into the weights. Every row draws its noise from its own seed (Gumbel-max), so two policies
that are asked the same with equal seeds answer alike until they really differ: differences between policies are then
far less noisy than their answers. Knows tensors and token ids; knows no text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainer.models.base import SharedBase

_COMPACT_BELOW = 0.8
"""Share of rows still at work below which the others are taken out of the batch; copying the cache costs too."""


@dataclass(frozen=True)
class Drawn:
    """One sampled answer."""

    token_ids: tuple[int, ...]
    """The end token included where it was sampled."""
    logprobs: tuple[float, ...]
    """Natural-log probability of each token under the distribution that it was drawn from."""
    kl: float
    """Sum over its tokens of the exact KL of the next-token distributions to those of `beside`, nats; 0 without."""


@dataclass(frozen=True)
class _Layer:
    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Decoder:
    """The weights of one role of a shared base (a Llama without biases), its adapter merged in."""

    def __init__(self, base: SharedBase, role: str | None) -> None:
        model = base.module
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = config.head_dim
        self.eps, self.theta = config.rms_norm_eps, config.rope_parameters["rope_theta"]
        weights = dict(model.named_parameters())
        scale = base.lora.alpha / base.lora.rank
        with torch.no_grad():
            self.layers = tuple(
                _layer(weights, f"model.layers.{number}", role, scale) for number in range(config.num_hidden_layers)
            )
        self.norm = weights["model.norm.weight"].detach()
        self.embedding = weights["model.embed_tokens.weight"].detach()
        self.head = self.embedding if config.tie_word_embeddings else weights["lm_head.weight"].detach()

    def cache(self, rows: int, length: int) -> Tensor:
        """Room for keys and values: [layers, 2, rows, key heads, length, head size]."""
        return torch.empty(len(self.layers), 2, rows, self.kv_heads, length, self.size)

    def logits(self, tokens: Tensor, start: int, cache: Tensor) -> Tensor:
        """Logits [B, V] after `tokens` [B, T], which stand at positions `start` and on; fills `cache`."""
        end = start + tokens.shape[1]
        cos, sin = self._rotation(start, end)
        state = functional.embedding(tokens, self.embedding)
        for number, layer in enumerate(self.layers):
            projected = functional.linear(self._normed(state, layer.attention_norm), layer.qkv)
            heads = projected.view(*tokens.shape, self.heads + 2 * self.kv_heads, self.size).transpose(1, 2)
            query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            cache[number, 0, :, :, start:end], cache[number, 1, :, :, start:end] = key, value
            seen = functional.scaled_dot_product_attention(
                query,
                self._shared(cache[number, 0, :, :, :end]),
                self._shared(cache[number, 1, :, :, :end]),
                is_causal=tokens.shape[1] > 1,
            )
            state = state + functional.linear(seen.transpose(1, 2).flatten(2), layer.out)
            gate, up = functional.linear(self._normed(state, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            state = state + functional.linear(functional.silu(gate) * up, layer.down)
        return functional.linear(self._normed(state[:, -1], self.norm), self.head)

    def _shared(self, tensor: Tensor) -> Tensor:
        """Each key head serves several query heads."""
        groups = self.heads // self.kv_heads
        return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)

    def _normed(self, state: Tensor, weight: Tensor) -> Tensor:
        return state * torch.rsqrt(state.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def _rotation(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        frequencies = self.theta ** (-torch.arange(0, self.size, 2, dtype=torch.float32) / self.size)
        angles = torch.outer(torch.arange(start, end, dtype=torch.float32), frequencies).repeat(1, 2)
        return angles.cos(), angles.sin()


@torch.inference_mode()
def draw(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    beside: Decoder | None = None,
    batch: int = 256,
) -> list[Drawn]:
    """One answer for each prompt, from the whole distribution at `temperature`.

    Args:
        seeds: of each answer; equal prompts and seeds give equal answers, whatever else is in the batch (up to the
            rounding of other matrix shapes).
        ends: tokens that end an answer.
        max_new_tokens: an answer that has not ended by then is cut there.
        beside: what the KL of each answer is measured to.
    """
    found: dict[int, Drawn] = {}
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        decoders = [decoder] if beside is None else [decoder, beside]
        drawn = _draw(
            decoders, [prompts[r] for r in rows], [seeds[r] for r in rows], frozenset(ends), max_new_tokens, temperature
        )
        found.update(zip(rows, drawn, strict=True))
    return [found[row] for row in range(len(prompts))]


def _draw(
    decoders: Sequence[Decoder],
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    ends: frozenset[int],
    cap: int,
    temperature: float,
) -> list[Drawn]:
    """Prompts sorted by length: their common part at once, then token by token, those of longer prompts being given."""
    count, place = len(prompts), len(prompts[0])
    longest = max(map(len, prompts)) + cap
    caches = [decoder.cache(count, longest) for decoder in decoders]
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    answers: list[list[int]] = [[] for _ in prompts]
    chances: list[list[float]] = [[] for _ in prompts]
    kl = [0.0] * count
    active = list(range(count))  # the rows that the caches hold
    done: set[int] = set()
    tokens = torch.tensor([list(prompt[:place]) for prompt in prompts])
    start = 0
    while len(done) < count:
        spread = [
            torch.log_softmax(one.logits(tokens, start, cache) / temperature, -1)
            for one, cache in zip(decoders, caches, strict=True)
        ]
        following = [prompts[row][place] if place < len(prompts[row]) else 0 for row in active]
        speaking = [at for at, row in enumerate(active) if row not in done and place >= len(prompts[row])]
        if speaking:
            own = spread[0][speaking]
            races = torch.stack(
                [torch.empty(own.shape[1]).exponential_(generator=noise[active[at]]) for at in speaking]
            )
            chosen = (own - races.log()).argmax(-1)
            picked = own.gather(1, chosen[:, None])[:, 0].tolist()
            apart = [0.0] * len(speaking)
            if len(spread) > 1:
                apart = (own.exp() * (own - spread[1][speaking])).sum(-1).tolist()
            for at, token, chance, distance in zip(speaking, chosen.tolist(), picked, apart, strict=True):
                row = active[at]
                following[at] = token
                answers[row].append(token)
                chances[row].append(chance)
                kl[row] += distance
                if token in ends or len(answers[row]) == cap:
                    done.add(row)
        at_work = [at for at, row in enumerate(active) if row not in done]
        if at_work and len(at_work) < _COMPACT_BELOW * len(active):
            caches = [_compacted(cache, at_work, place) for cache in caches]
            active, following = [active[at] for at in at_work], [following[at] for at in at_work]
        tokens, start, place = torch.tensor(following)[:, None], place, place + 1
    return [
        Drawn(tuple(ids), tuple(found), max(0.0, far)) for ids, found, far in zip(answers, chances, kl, strict=True)
    ]


def _compacted(cache: Tensor, rows: Sequence[int], filled: int) -> Tensor:
    smaller = cache.new_empty(*cache.shape[:2], len(rows), *cache.shape[3:])
    smaller[..., :filled, :] = cache[:, :, list(rows), :, :filled]
    return smaller


def _layer(weights: Mapping[str, Tensor], name: str, role: str | None, scale: float) -> _Layer:
    def merged(part: str) -> Tensor:
        where = f"{name}.{part}"
        plain = weights.get(f"{where}.base_layer.weight", weights.get(f"{where}.weight"))
        assert plain is not None
        if role is None:
            return plain.detach()
        return plain + scale * weights[f"{where}.lora_B.{role}.weight"] @ weights[f"{where}.lora_A.{role}.weight"]

    return _Layer(
        attention_norm=weights[f"{name}.input_layernorm.weight"].detach(),
        qkv=torch.cat([merged(f"self_attn.{part}_proj") for part in "qkv"]),
        out=merged("self_attn.o_proj"),
        mlp_norm=weights[f"{name}.post_attention_layernorm.weight"].detach(),
        gate_up=torch.cat([merged(f"mlp.{part}_proj") for part in ("gate", "up")]),
        down=merged("mlp.down_proj"),
    )


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) in the layout of Hugging Face's Llama: halves, not neighbours."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
