"""What an adapter's files must be before an engine may see them.

Knows PEFT's layout, what of it this server can serve, and the base model's layers; knows no engine and no registry.
Reads one small JSON file, the header of the weights, and the weights themselves in pieces. Whatever it does not know
is refused: a field that changes how an adapter computes must not be passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from exchange.registry.artifacts import source_file, translated
from schemas.errors import AttuneError, IntegrityError
from schemas.manifests import AdapterManifest
from schemas.wire import validation_summary
from server.files.base_layers import BaseLayers, place
from server.files.tensor_files import Tensor, is_finite, parse_strict, read_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
UNSERVED = frozenset({"lm_head", "embed_tokens"})
"""Layers that the engine serves without adapters."""
MAX_CONFIG_BYTES = 2**20
MAX_HEADER_BYTES = 16 * 2**20
_NAMED = 3
"""How many of many names a message gives."""

_WEIGHT = re.compile(r"base_model\.model\.(?P<layer>[A-Za-z0-9_.]{1,300})\.lora_(?P<side>[AB])\.weight")
_Layer = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,300}$")]
"""A plain name. PEFT and vLLM read the keys of patterns as regular expressions, and a wicked one never ends."""

_SAYS_NOTHING = frozenset(
    {
        *("base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout"),
        *("exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"),
        "ensure_weight_tying",
    }
)
"""Fields that tell how an adapter was made. Nothing is loaded by them: the base model is known by its fingerprint."""
_WHY = {
    "auto_map": "names code to be run",
    "auto_mapping": "names code to be imported",
    "layer_replication": "changes the layers of the base model",
    "lora_bias": "adds biases, which cannot be served",
    "modules_to_save": "replaces whole layers of the base model",
    "trainable_token_indices": "replaces embeddings of the base model",
    "use_dora": "makes it DoRA, which cannot be served",
}


class AdapterRefused(AttuneError):
    """An adapter is not what the journal promised, or not one that this replica can serve. Trying again won't help."""


@dataclass(frozen=True)
class Lora:
    """What the weights must keep to: the ranks by layer, and the layers that the configuration names."""

    rank: int
    rank_pattern: Mapping[str, int]
    targets: tuple[str, ...]
    transposed: bool

    def rank_of(self, layer: str) -> int:
        """The rank of a layer: that of the first pattern it ends with, as PEFT has it."""
        return next((rank for name, rank in self.rank_pattern.items() if _ends(layer, name)), self.rank)


class _Config(BaseModel):
    """The fields that are understood. Others may be there as long as they are empty, or say nothing."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: list[_Layer] = Field(min_length=1, max_length=10_000)
    rank_pattern: dict[_Layer, Annotated[int, Field(ge=1)]] | None = Field(default=None, max_length=10_000)
    alpha_pattern: dict[_Layer, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(
        default=None, max_length=10_000
    )
    bias: Literal["none"] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True  # others change the base model's weights


def check_names(names: Iterable[str]) -> None:
    """Whether these are the files of an adapter: PEFT's two, and notes in Markdown.

    Raises:
        AdapterRefused: one is missing, or something else lies there (a tokenizer, code, other weights).
    """
    found = set(names)
    if missing := sorted({CONFIG, WEIGHTS} - found):
        raise AdapterRefused(f"it has no {missing[0]}", remedy=f"An adapter is {CONFIG} and {WEIGHTS}.")
    if others := sorted(name for name in found - {CONFIG, WEIGHTS} if not name.endswith(".md")):
        raise AdapterRefused(
            f"it holds {_few(others)}, which no adapter needs",
            remedy=f"An adapter is {CONFIG} and {WEIGHTS}; notes may lie beside them as .md.",
        )


def check_files(folder: Path, manifest: AdapterManifest, base: BaseLayers, *, max_rank: int) -> None:
    """Whether the files in `folder` are a LoRA for this base that is what its manifest says. Blocks.

    Raises:
        AdapterRefused: they are not; the message says which file, what is wrong with it and what to do.
        Unavailable: they cannot be read.
    """
    try:
        with translated("the local cache"):
            _check_files(folder, manifest, base, max_rank)
    except IntegrityError as error:
        raise AdapterRefused(error.message, remedy=error.remedy) from error


def _check_files(folder: Path, manifest: AdapterManifest, base: BaseLayers, max_rank: int) -> None:
    with source_file(folder, CONFIG) as file:
        lora = _read_config(file, manifest, max_rank)
    with source_file(folder, WEIGHTS) as file:
        tensors = read_tensors(file, WEIGHTS, MAX_HEADER_BYTES)
        _check_layers(_pairs(tensors), lora, base)
        for tensor in tensors:
            if not is_finite(file, tensor):
                raise AdapterRefused(
                    f"{WEIGHTS}: {tensor.name} holds NaN or infinity",
                    remedy="The training run diverged: publish another version.",
                )


def _read_config(file: BinaryIO, manifest: AdapterManifest, max_rank: int) -> Lora:
    data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterRefused(f"{CONFIG} is larger than {MAX_CONFIG_BYTES} bytes")
    raw = parse_strict(data, CONFIG)
    for field in sorted(set(raw) - set(_Config.model_fields) - _SAYS_NOTHING):
        if raw[field]:
            why = _WHY.get(field, "is not known here and may change what it computes")
            raise AdapterRefused(
                f"{CONFIG} sets {field[:100]}, which {why}", remedy="Publish a plain LoRA: leave the field out."
            )
    try:
        config = _Config.model_validate(raw)
    except ValidationError as error:
        raise AdapterRefused(
            f"{CONFIG} describes no adapter that can be served: {validation_summary(error)}",
            remedy="Publish a plain LoRA of a causal language model.",
        ) from error
    _check_against_manifest(config, manifest)
    patterns = config.rank_pattern or {}
    if (largest := max([config.r, *patterns.values()])) > max_rank:
        raise AdapterRefused(
            f"{CONFIG} asks for rank {largest}, and this server takes {max_rank} at most",
            remedy="Raise engine.max_lora_rank.",
        )
    return Lora(config.r, patterns, tuple(config.target_modules), config.fan_in_fan_out)


def _check_against_manifest(config: _Config, manifest: AdapterManifest) -> None:
    for what, found, promised in (
        ("rank", config.r, manifest.rank),
        ("target_modules", sorted(set(config.target_modules)), sorted(set(manifest.target_modules))),
    ):
        if found != promised:
            raise AdapterRefused(
                f"{CONFIG} and the manifest differ in {what}: {_few(found)} and {_few(promised)}",
                remedy="Publish the folder together with the manifest that was made for it.",
            )


def _pairs(tensors: Iterable[Tensor]) -> dict[str, dict[str, Tensor]]:
    """The two matrices of every adapted layer."""
    layers: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _WEIGHT.fullmatch(tensor.name)
        if match is None:
            raise AdapterRefused(
                f"{WEIGHTS} holds {tensor.name[:200]!r}, which is no LoRA weight",
                remedy="Names are base_model.model.LAYER.lora_A.weight and .lora_B.weight.",
            )
        layers.setdefault(match["layer"], {})[match["side"]] = tensor
    if not layers:
        raise AdapterRefused(f"{WEIGHTS} holds no weights: the adapter would change nothing")
    if halves := sorted(layer for layer, sides in layers.items() if len(sides) != 2):
        raise AdapterRefused(f"{WEIGHTS} holds one of the two matrices of {_few(halves)}")
    return layers


def _check_layers(layers: Mapping[str, Mapping[str, Tensor]], lora: Lora, base: BaseLayers) -> None:
    if unserved := sorted(layer for layer in layers if layer.rpartition(".")[2] in UNSERVED):
        raise AdapterRefused(f"{WEIGHTS} adapts {_few(unserved)}, which is served without adapters")
    if stray := sorted(layer for layer in layers if not any(_ends(layer, name) for name in lora.targets)):
        raise AdapterRefused(f"{WEIGHTS} adapts {_few(stray)}, which {CONFIG} does not name")
    if base and (unbound := sorted(layer for layer in layers if place(layer) not in base)):
        raise AdapterRefused(
            f"{len(unbound)} of the {len(layers)} layers that {WEIGHTS} adapts are not in the base model: "
            f"{_few(unbound)}",
            remedy="Publish an adapter that was trained on this base model.",
        )
    for layer, sides in layers.items():
        rank, a, b = lora.rank_of(layer), sides["A"].shape, sides["B"].shape
        if len(a) != 2 or len(b) != 2 or (a[0], b[1]) != (rank, rank):
            raise AdapterRefused(
                f"{WEIGHTS}: {layer} has matrices of {list(a)} and {list(b)}, which is not rank {rank} as {CONFIG} says"
            )
        shape = (a[1], b[0]) if lora.transposed else (b[0], a[1])
        if (known := base.get(place(layer))) and shape not in known:
            raise AdapterRefused(
                f"{WEIGHTS}: {layer} is for a layer of {list(shape)}, and the base model's has "
                f"{_few(list(one) for one in sorted(known))}",
                remedy="Publish an adapter that was trained on this base model.",
            )


def _ends(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _few(names: Any) -> str:
    """A few of many names, and how many more there are."""
    if not isinstance(names, Iterable) or isinstance(names, str):
        return str(names)
    said = [str(name)[:200] for name in names]
    more = f" and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return ", ".join(said[:_NAMED]) + more
