"""Bad adapters on real vLLM: what it would take, or choke on, never reaches it, and it lives on."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exchange.registry.artifacts import describe_folder
from exchange.registry.memory import MemoryRegistry
from schemas.errors import AttuneError
from schemas.lifecycle import Stage, VersionState
from schemas.manifests import AdapterManifest, Probe, files_digest
from server.control.staging import AdapterStage, Limits
from server.engine.errors import AdapterError
from server.files.adapter_files import AdapterRefused
from tests.engine_server import ENGINE_MARKS, EngineServer
from tests.golden.samples import SAMPLES

pytestmark = ENGINE_MARKS
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROMPT, ANSWER = (1, 3, 40, 90), (200, 33, 310)
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def free_slots(engine_server: EngineServer) -> None:
    for name in engine_server.engine.loaded():
        engine_server.call(engine_server.engine.unload_adapter(name))


def altered(adapter: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of an adapter with other weights."""
    shutil.copytree(adapter, folder)
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    return folder


def bring(server: EngineServer, folder: Path, work: Path, version: int, probes: tuple[Probe, ...] = ()) -> None:
    """Publish a folder and bring it into the engine, as a replica does."""
    sample, files = SAMPLES["adapter_manifest"], describe_folder(folder)
    assert isinstance(sample, AdapterManifest)
    config, digest = json.loads((folder / CONFIG).read_text()), files_digest(files)
    facts = {
        "version": version,
        "files": files,
        "digest": digest,
        "base_fingerprint": server.engine.base_fingerprint,
        "chat_template_hash": server.engine.chat_template_hash,
        "rank": config["r"],
        "target_modules": tuple(config["target_modules"]),
        "probes": probes,
    }
    registry = MemoryRegistry()
    registry.publish_adapter(folder, sample.model_copy(update=facts))
    state = VersionState(version=version, stage=Stage.CANDIDATE, since=0, digest=digest)
    limits = Limits(max_lora_rank=16, max_adapter_bytes=10**9, probe_tolerance=0.01)
    stage = AdapterStage(server.engine, registry, work, limits)
    server.call(stage.bring("support", state, f"support@bad-{uuid.uuid4().hex[:6]}"))


def _nan(tensors: Tensors) -> Tensors:
    next(iter(tensors.values()))[0, 0] = float("nan")
    return tensors


def _elsewhere(tensors: Tensors) -> Tensors:
    """Layers that vLLM passes over in silence, because the last parts of their names are known to it."""
    return {name.replace(".layers.", ".layers.9"): tensor for name, tensor in tensors.items()}


def _smaller(tensors: Tensors) -> Tensors:
    """Shapes that vLLM copies into a corner of the right ones in silence."""
    return {name: tensor[:, :-1].contiguous() if "lora_A" in name else tensor for name, tensor in tensors.items()}


def _larger(tensors: Tensors) -> Tensors:
    """Shapes that make vLLM fail half-way through, with the adapter in a slot."""
    return {
        name: torch.cat([tensor, tensor], dim=1) if "lora_A" in name else tensor for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, "holds NaN or infinity"),
        (_elsewhere, "14 of the 14 layers"),
        (_smaller, "is for a layer of"),
        (_larger, "is for a layer of"),
    ],
)
def test_what_vllm_would_take_is_refused_while_the_old_one_serves(
    engine_server: EngineServer,
    tiny_adapters: list[Path],
    tmp_path: Path,
    change: Callable[[Tensors], Tensors],
    words: str,
) -> None:
    engine = engine_server.engine
    bring(engine_server, tiny_adapters[0], tmp_path / "cache", 1)
    (old,) = engine.loaded()
    before = engine_server.call(engine.score(old, list(PROMPT), list(ANSWER)))
    with pytest.raises(AdapterRefused, match=words):
        bring(engine_server, altered(tiny_adapters[1], tmp_path / "bad", change), tmp_path / "cache", 2)
    assert engine.loaded() == [old]
    assert engine_server.call(engine.score(old, list(PROMPT), list(ANSWER))) == pytest.approx(before, abs=1e-5)
    assert not engine.errored


def test_an_adapter_that_changes_nothing_is_one_all_the_same(
    engine_server: EngineServer, tiny_adapters: list[Path], tmp_path: Path
) -> None:
    def silent(tensors: Tensors) -> Tensors:
        return {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in tensors.items()}

    base = engine_server.call(engine_server.engine.score("support@v0", list(PROMPT), list(ANSWER)))
    probe = Probe(prompt_token_ids=PROMPT, answer_token_ids=ANSWER, logprobs=tuple(base))
    bring(engine_server, altered(tiny_adapters[0], tmp_path / "silent", silent), tmp_path / "cache", 3, (probe,))
    assert len(engine_server.engine.loaded()) == 1


@pytest.mark.parametrize("answer", [(-1,), (2**31 - 1,), (5,) * 600])
def test_probes_that_the_engine_cannot_score_do_not_end_it(
    engine_server: EngineServer, tiny_adapters: list[Path], tmp_path: Path, answer: tuple[int, ...]
) -> None:
    probe = Probe(prompt_token_ids=PROMPT, answer_token_ids=answer, logprobs=(-1.0,) * len(answer))
    with pytest.raises(AttuneError, match=r"is not one of the model's|tokens cannot be scored"):
        bring(engine_server, tiny_adapters[0], tmp_path / "cache", 4, (probe,))
    assert engine_server.engine.loaded() == []
    assert engine_server.call(engine_server.engine.probe("support@v0"))
    assert not engine_server.engine.errored


def test_what_vllm_fails_on_half_way_keeps_no_slot(
    engine_server: EngineServer, tiny_adapters: list[Path], tmp_path: Path
) -> None:
    """Past the checks, straight into the engine."""
    engine, bad = engine_server.engine, altered(tiny_adapters[0], tmp_path / "bad", _larger)
    for number in range(4):
        with pytest.raises(AdapterError, match="cannot load adapter"):
            engine_server.call(engine.load_adapter(f"support@half-{number}", bad))
    expected = {}
    for number, path in enumerate(tiny_adapters[:3]):
        name = f"support@whole-{uuid.uuid4().hex[:6]}"
        engine_server.call(engine.load_adapter(name, path))
        expected[name] = engine_server.call(engine.score(name, list(PROMPT), list(ANSWER)))
        assert len(engine.loaded()) == number + 1
    for name, scores in expected.items():
        assert engine_server.call(engine.score(name, list(PROMPT), list(ANSWER))) == pytest.approx(scores, abs=1e-5)


def test_the_base_names_its_layers(engine_server: EngineServer) -> None:
    layers = engine_server.engine.base_layers
    assert layers["layers.0.self_attn.q_proj"] == {(128, 128)}
    assert layers["layers.1.mlp.down_proj"] == {(128, 256)}
