"""Which layers a base model has, and how large they are, from the headers of its weight files.

Knows names and shapes; loads no weight. A checkpoint may call the same layer by a longer or shorter path than the
model in memory does (`h.0.attn.c_attn`, `transformer.h.0.attn.c_attn`), so layers go by their place: the path from
the numbered block on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from server.files.tensor_files import read_header

Shape = tuple[int, int]
BaseLayers = Mapping[str, frozenset[Shape]]
"""Shapes of the weight matrices at a place; no shape where the file does not tell it (a quantised layer). A place has
several where towers of a model number their blocks alike. Empty: nothing is known of this base.
"""


def place(name: str) -> str:
    """A layer's name from its numbered block on: `model.layers.3.mlp.up_proj` -> `layers.3.mlp.up_proj`."""
    parts = name.split(".")
    block = next((index for index, part in enumerate(parts) if index and part.isdigit()), 1)
    return ".".join(parts[block - 1 :])


def base_layers(folder: Path) -> BaseLayers:
    """The layers of the model in `folder`; empty where its weights are not in safetensors.

    Raises:
        IntegrityError: a weight file's header cannot be read.
    """
    found: dict[str, set[Shape]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header, _ = read_header(file, path.name)
        for name, entry in header.items():
            layer, _, leaf = name.rpartition(".")
            shapes = found.setdefault(place(layer), set())
            match entry:
                case {"dtype": "F32" | "F16" | "BF16", "shape": [int(rows), int(columns)]} if leaf == "weight":
                    shapes.add((rows, columns))
    return {layer: frozenset(shapes) for layer, shapes in found.items()}
