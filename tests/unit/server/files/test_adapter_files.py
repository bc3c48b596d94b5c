"""Which adapters are refused for their files, and in which words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exchange.registry.artifacts import describe_folder
from schemas.manifests import AdapterManifest, files_digest
from server.engine.memory import LAYERS
from server.files.adapter_files import MAX_CONFIG_BYTES, AdapterRefused, check_files, check_names
from server.files.base_layers import base_layers
from tests.adapters import (
    CONFIG,
    RANK,
    SHAPES,
    TARGETS,
    WEIGHTS,
    Tensors,
    adapter_files,
    config_of,
    floats,
    safetensors,
    tensors_of,
    weight_name,
    write_files,
)
from tests.golden.samples import SAMPLES
from tests.tiny_models import make_tiny_adapter, make_tiny_model

DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"


def check(folder: Path, files: Mapping[str, bytes], base: Any = LAYERS, **changes: Any) -> None:
    write_files(folder, files)
    sample = SAMPLES["adapter_manifest"]
    assert isinstance(sample, AdapterManifest)
    facts = {"rank": RANK, "target_modules": TARGETS, **changes}
    check_files(folder, sample.model_copy(update=facts), base, max_rank=16)


def changed(**tensors: tuple[str, list[int], bytes] | None) -> bytes:
    """The weights with some tensors (`side_layer` for short) replaced or left out."""
    made: Tensors = tensors_of()
    for short, tensor in tensors.items():
        side, _, layer = short.partition("_")
        name = weight_name({"down": DOWN, "query": QUERY}[layer], side)
        del made[name]
        if tensor is not None:
            made[name] = tensor
    return safetensors(made)


def renamed(**layers: str) -> bytes:
    """The weights with layers called otherwise."""
    made = {}
    for name, tensor in tensors_of().items():
        for short, other in layers.items():
            name = name.replace({"down": DOWN, "query": QUERY}[short], other)
        made[name] = tensor
    return safetensors(made)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({}, safetensors(tensors_of(0.0))),  # an adapter that changes nothing is one all the same
        ({"rank_pattern": {"q_proj": 1}}, changed(A_query=floats([1, 4], 1.0), B_query=floats([8, 1], 1.0))),
        ({"alpha_pattern": {"layers.0.mlp.down_proj": 8.0}, "use_rslora": True}, None),
        ({"task_type": None, "init_lora_weights": "gaussian", "revision": "main"}, None),
        ({"base_model_name_or_path": "someone/else"}, None),  # a name and no more: the fingerprint decides
        ({"base_model_name_or_path": "https://evil.example/model"}, None),
        ({"a_field_of_the_future": None, "another": False, "a_third": {}}, None),
        ({}, renamed(down="layers.0.mlp.down_proj")),  # a checkpoint's own prefix is no matter
    ],
)
def test_sound_adapters_pass(tmp_path: Path, config: dict[str, Any], weights: bytes | None) -> None:
    check(tmp_path, adapter_files(config=config_of(**config), weights=weights))


def test_what_peft_writes_passes_and_another_base_does_not(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    adapter = make_tiny_adapter(model, tmp_path / "adapter", seed=0)
    config = json.loads((adapter / CONFIG).read_text())
    facts = {"rank": 8, "target_modules": tuple(config["target_modules"])}
    check(adapter, {}, base_layers(model), **facts)
    check(adapter, {}, {}, **facts)  # of a base whose files say nothing
    with pytest.raises(AdapterRefused, match="12 of the 14 layers"):
        check(adapter, {}, LAYERS, **facts)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type: Input should be 'LORA'"),
        ({"peft_type": None}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"r": 0}, "r: "),
        ({"r": "2"}, "r: "),
        ({"r": True}, "r: "),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"target_modules": ["(a+)+$"]}, "target_modules"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"rank_pattern": {"(a+)+$": 2}}, "rank_pattern"),  # a regular expression that never ends
        ({"alpha_pattern": {"(a+)+$": 2.0}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 17}}, "asks for rank 17, and this server takes 16 at most. Raise engine.max_lora"),
        ({"rank_pattern": {"q_proj": 10**30}}, "asks for rank 1000000000"),
        ({"rank_pattern": {"q_proj": 4}}, "which is not rank 4"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save, which replaces whole layers"),
        ({"use_dora": True}, "sets use_dora, which makes it DoRA"),
        ({"lora_bias": True}, "sets lora_bias, which adds biases"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "sets auto_map, which names code to be run"),
        ({"auto_mapping": {"parent_library": "os"}}, "sets auto_mapping, which names code to be imported"),
        ({"layer_replication": [[0, 4]]}, "sets layer_replication"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "sets alora_invocation_tokens, which is not known here"),
        ({"target_parameters": ["w"]}, "sets target_parameters, which is not known here"),
        ({"something_new": 1}, "sets something_new, which is not known here"),
        ({"target_modules": ["q_proj"]}, "differ in target_modules: q_proj and down_proj, q_proj"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check(tmp_path, adapter_files(config=config_of(**config)))
    assert words in str(refused.value)
    assert CONFIG in str(refused.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[1]", "no JSON object"),
        (b'{"r": 2, "r": 3}', "a name comes twice"),
        (b'{"lora_alpha": NaN}', "NaN is no number"),
        (b"[" * 100_000, "no valid JSON"),
        (b'{"r": ' + b"9" * 10_000 + b"}", "no valid JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check(tmp_path, {**adapter_files(), CONFIG: data})
    assert words in str(refused.value)


def test_a_configuration_without_the_fields_that_matter_is_refused(tmp_path: Path) -> None:
    for field in ("peft_type", "r", "lora_alpha", "target_modules"):
        config = {name: value for name, value in config_of().items() if name != field}
        with pytest.raises(AdapterRefused, match=f"{field}: Field required"):
            check(tmp_path, adapter_files(config=config))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (safetensors({}), "holds no weights"),
        (changed(B_down=None), f"holds one of the two matrices of {DOWN}"),
        (
            safetensors({**tensors_of(), "lm_head.weight": floats([1], 0.0)}),
            "'lm_head.weight', which is no LoRA weight",
        ),
        (
            safetensors({**tensors_of(), f"base_model.model.{DOWN}.lora_magnitude_vector": floats([4], 0.0)}),
            "which is no LoRA weight",
        ),
        (
            safetensors({**tensors_of(), f"base_model.model.{DOWN}.lora_embedding_A": floats([4], 0.0)}),
            "no LoRA weight",
        ),
        (renamed(query="lm_head"), "adapts lm_head, which is served without adapters"),
        (renamed(query="model.layers.0.self_attn.v_proj"), "v_proj, which adapter_config.json does not name"),
        (
            renamed(query="model.layers.9.self_attn.q_proj"),
            "1 of the 2 layers that adapter_model.safetensors adapts are not in the base model: model.layers.9",
        ),
        (renamed(query="encoder.q_proj", down="encoder.down_proj"), "2 of the 2 layers"),
        (changed(A_query=floats([3, 4], 1.0)), "which is not rank 2 as adapter_config.json says"),
        (changed(B_query=floats([8, 3], 1.0)), "which is not rank 2"),
        (changed(A_query=floats([2 * 4], 1.0)), "which is not rank 2"),
        (changed(A_query=floats([2, 2, 2], 1.0)), "which is not rank 2"),
        (changed(A_query=floats([2, 5], 1.0)), "q_proj is for a layer of [8, 5], and the base model's has [8, 4]"),
        (changed(B_query=floats([7, 2], 1.0)), "q_proj is for a layer of [7, 4], and the base model's has [8, 4]"),
        (safetensors(tensors_of(rank=4)), "which is not rank 2"),
        (changed(A_down=floats([2, 16], float("nan"))), f"{weight_name(DOWN, 'A')} holds NaN or infinity"),
        (changed(B_query=floats([8, 2], float("-inf"))), f"{weight_name(QUERY, 'B')} holds NaN or infinity"),
        (safetensors(tensors_of())[:-1], "it was cut"),
        (b"\x80\x04\x95" + b"\0" * 6 + b"more", "is a pickle"),
        (safetensors({**tensors_of(), weight_name(DOWN, "A"): ("F64", [2, 16], b"\0" * 256)}), "is of type F64"),
    ],
)
def test_weights_that_cannot_be_served_are_refused(tmp_path: Path, weights: bytes, words: str) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check(tmp_path, adapter_files(weights=weights))
    assert words in str(refused.value)


def test_a_layer_of_transposed_weights_has_transposed_shapes(tmp_path: Path) -> None:
    flipped = {place: frozenset({(columns, rows)}) for place, ((rows, columns),) in LAYERS.items()}
    check(tmp_path, adapter_files(config=config_of(fan_in_fan_out=True)), flipped)
    with pytest.raises(AdapterRefused, match="is for a layer of"):
        check(tmp_path, adapter_files(config=config_of(fan_in_fan_out=True)))


def test_the_manifest_must_agree(tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused, match="differ in rank: 2 and 8"):
        check(tmp_path, adapter_files(), rank=8)
    with pytest.raises(AdapterRefused, match="differ in target_modules: down_proj, q_proj and k_proj"):
        check(tmp_path, adapter_files(), target_modules=("k_proj",))


def test_links_and_missing_files_are_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "adapter", adapter_files())
    (folder / WEIGHTS).rename(tmp_path / "elsewhere")
    with pytest.raises(AdapterRefused, match="not in the folder"):
        check(folder, {})
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterRefused, match="symbolic link"):
        check(folder, {})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([CONFIG], "it has no adapter_model.safetensors"),
        ([WEIGHTS], "it has no adapter_config.json"),
        ([CONFIG, "adapter_model.bin"], "it has no adapter_model.safetensors"),
        ([CONFIG, WEIGHTS, "adapter_model.bin"], "it holds adapter_model.bin, which no adapter needs"),
        ([CONFIG, WEIGHTS, "tokenizer.json", "modeling_evil.py"], "it holds modeling_evil.py, tokenizer.json"),
        ([CONFIG, WEIGHTS, "other.safetensors"], "it holds other.safetensors"),
        ([CONFIG, WEIGHTS, *(f"{number}.txt" for number in range(9))], "0.txt, 1.txt, 2.txt and 6 more"),
    ],
)
def test_files_that_no_adapter_has_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check_names(names)
    assert words in str(refused.value)


def test_notes_may_lie_beside(tmp_path: Path) -> None:
    check_names([CONFIG, WEIGHTS, "README.md", "notes/card.md"])


def test_made_up_adapters_are_described_as_they_are(tmp_path: Path) -> None:
    """The helper behind these tests: sound until a test breaks it."""
    folder = write_files(tmp_path, adapter_files(3))
    assert set(describe_folder(folder)) == {CONFIG, WEIGHTS}
    assert files_digest(describe_folder(folder))
    assert set(SHAPES) == {DOWN, QUERY}
