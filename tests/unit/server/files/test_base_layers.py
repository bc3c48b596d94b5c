"""What a base model's files say of its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.files.base_layers import base_layers, place
from tests.adapters import floats, safetensors
from tests.tiny_models import make_tiny_adapter, make_tiny_model


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("model.layers.3.mlp.up_proj", "layers.3.mlp.up_proj"),
        ("transformer.h.0.attn.c_attn", "h.0.attn.c_attn"),
        ("h.0.attn.c_attn", "h.0.attn.c_attn"),
        ("model.layers.3.experts.7.up_proj", "layers.3.experts.7.up_proj"),
        ("lm_head", "lm_head"),
        ("model.embed_tokens", "model.embed_tokens"),
        ("0.linear", "0.linear"),
        ("", ""),
    ],
)
def test_a_layer_goes_by_its_place(name: str, where: str) -> None:
    assert place(name) == where


def test_shapes_come_from_all_files_and_quantised_layers_have_none(tmp_path: Path) -> None:
    one = {"model.layers.0.up.weight": floats([6, 4], 0.0), "model.norm.weight": floats([4], 0.0)}
    two = {
        "model.layers.1.up.qweight": ("I32", [2, 4], b"\0" * 32),
        "vision.layers.0.up.weight": floats([3, 2], 0.0),
    }
    (tmp_path / "model-1.safetensors").write_bytes(safetensors(one))
    (tmp_path / "model-2.safetensors").write_bytes(safetensors(two))
    found = base_layers(tmp_path)
    assert found["layers.0.up"] == {(6, 4), (3, 2)}
    assert found["layers.1.up"] == frozenset()
    assert found["model.norm"] == frozenset()
    assert base_layers(tmp_path / "nothing") == {}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma"])
def test_every_layer_that_peft_adapts_is_found_with_its_shape(tmp_path: Path, architecture: str) -> None:
    from safetensors import safe_open

    model = make_tiny_model(tmp_path / "model", architecture)  # type: ignore[arg-type]
    adapter = make_tiny_adapter(model, tmp_path / "adapter", seed=0)
    layers = base_layers(model)
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name, shape in shapes.items():
        if name.endswith("lora_A.weight"):
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            out = shapes[name.replace("lora_A", "lora_B")][0]
            assert (out, shape[1]) in layers[place(layer)]
