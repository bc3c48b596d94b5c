"""Fixtures shared by all tests: one real engine per session, started only if a test asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_server import EngineServer, serve_engine

GENERATION_DEFAULTS = {"top_p": 0.8, "top_k": 20}
"""What the shared tiny model's generation_config.json adds to every request that does not say otherwise."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose generation_config.json has sampling defaults, as many real models do."""
    from tests.tiny_models import make_tiny_model  # loads torch, which most tests do without

    folder = make_tiny_model(tmp_path_factory.mktemp("base") / "llama")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | GENERATION_DEFAULTS))
    return folder


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four random adapters of `tiny_model`, different from each other."""
    from tests.tiny_models import make_tiny_adapter

    folder = tmp_path_factory.mktemp("adapters")
    return [make_tiny_adapter(tiny_model, folder / f"adapter-{seed}", seed) for seed in range(4)]


@pytest.fixture(scope="session")
def engine_server(tiny_model: Path) -> Iterator[EngineServer]:
    """vLLM on `tiny_model` behind HTTP, shared by the whole session; its base is `support@v0`."""
    with serve_engine(tiny_model) as server:
        yield server
