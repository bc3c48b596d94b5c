"""The whole server with the in-memory engine: whatever is wrong with an adapter, the version before goes on answering,
and the reason is in the operators' API, in the replica's report and in the metrics.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from exchange.registry.checks import MAX_MANIFEST_BYTES
from exchange.registry.files import FilesystemRegistry
from schemas.events import ReplicaReported
from schemas.manifests import FileDigest, files_digest
from schemas.wire import decode_event
from server.engine.memory import InMemoryEngine
from tests.adapters import (
    CONFIG,
    WEIGHTS,
    adapter_files,
    config_of,
    floats,
    safetensors,
    tensors_of,
    weight_name,
    with_header,
)
from tests.unit.server.control.whole import open_server
from tests.unit.server.control.world import Operator, probe, publish, until

MAX_BYTES = 20_000
LAYER = "model.layers.0.self_attn.q_proj"


@dataclass
class Store:
    """A registry, and the folder that it lies in for those who reach in behind its back."""

    registry: FilesystemRegistry
    root: Path
    work: Path

    def publish(self, files: Mapping[str, bytes] | None = None, **changes: Any) -> str:
        """A version 2 by the registry's own hand; returns its digest."""
        return publish(self.registry, self.work, 2, files, **changes).digest

    def published(self, **changes: Any) -> tuple[str, Path]:
        """A sound version 2, and the folder where its files are kept."""
        digest = self.publish(**changes)
        return digest, self.root / "artifacts" / "adapters" / digest

    def manifest(self, **changes: Any) -> str:
        """A sound version 2 whose stored manifest is then changed, and the digest it promises afterwards."""
        self.publish()
        marker = self.root / "adapters" / "support" / "v2.json"
        body = json.loads(marker.read_text()) | changes
        marker.write_text(json.dumps(body))
        return str(body["digest"])

    def naming(self, name: str) -> str:
        """A manifest that names a file which the registry would never have taken."""
        files = {name: FileDigest(sha256="0" * 64, size=1)}
        described = {key: value.model_dump() for key, value in files.items()}
        return self.manifest(files=described, digest=files_digest(files))


def _cut(store: Store) -> str:
    digest, folder = store.published()
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    return digest


def _altered(store: Store) -> str:
    digest, folder = store.published()
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    return digest


def _extra(store: Store) -> str:
    digest, folder = store.published()
    (folder / "sitecustomize.py").write_text("raise SystemExit")
    return digest


def _lacking(store: Store) -> str:
    digest, folder = store.published()
    (folder / CONFIG).unlink()
    return digest


def _link(store: Store) -> str:
    digest, folder = store.published()
    (folder / WEIGHTS).rename(store.work / "elsewhere")
    (folder / WEIGHTS).symlink_to(store.work / "elsewhere")
    return digest


def _other_than_promised(store: Store) -> str:
    store.publish()
    return "f" * 64


def _endless_manifest(store: Store) -> str:
    digest = store.publish()
    with (store.root / "adapters" / "support" / "v2.json").open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    return digest


def _configured(**changes: Any) -> Callable[[Store], str]:
    return lambda store: store.publish(adapter_files(2, config=config_of(**changes)))


def _weights(data: bytes) -> Callable[[Store], str]:
    return lambda store: store.publish(adapter_files(2, weights=data))


def _with(name: str, tensor: tuple[str, list[int], bytes]) -> Callable[[Store], str]:
    return _weights(safetensors({**tensors_of(), name: tensor}))


def _called(part: str, other: str) -> Callable[[Store], str]:
    return _weights(safetensors({name.replace(part, other): one for name, one in tensors_of().items()}))


A, B = weight_name(LAYER, "A"), weight_name(LAYER, "B")
BAD: dict[str, tuple[Callable[[Store], str], str]] = {
    "cut in the store": (_cut, "the bytes of adapter_model.safetensors are not those of its manifest"),
    "altered byte in the store": (_altered, "the bytes of adapter_model.safetensors are not those of its manifest"),
    "cut before it was published": (_weights(safetensors(tensors_of())[:-1]), "it was cut, or lies"),
    "empty weights": (_weights(b""), "no safetensors file, or cut"),
    "a file that the manifest does not name": (_extra, "holds 'sitecustomize.py', which its manifest does not name"),
    "a file that is missing": (_lacking, "lacks adapter_config.json"),
    "a file too many": (
        lambda store: store.publish({**adapter_files(2), "tokenizer.json": b"{}"}),
        "it holds tokenizer.json, which no adapter needs",
    ),
    "a link": (_link, "is a link or no plain file"),
    "not what the journal promised": (_other_than_promised, "and the journal promised ffffffffffff"),
    "wrong base": (lambda store: store.publish(base_fingerprint="a" * 64), "trained on another base model"),
    "wrong template": (lambda store: store.publish(chat_template_hash="b" * 64), "with another chat template"),
    "wrong rank in the manifest": (lambda store: store.publish(rank=4), "differ in rank: 2 and 4"),
    "wrong rank in the weights": (_weights(safetensors(tensors_of(rank=4))), "which is not rank 2"),
    "rank over the limit": (lambda store: store.publish(rank=64), "has rank 64, and this server takes 16 at most"),
    "rank of one layer over the limit": (_configured(rank_pattern={"q_proj": 99}), "asks for rank 99"),
    "wrong modules in the manifest": (lambda store: store.publish(target_modules=("k_proj",)), "in target_modules"),
    "wrong modules in the weights": (
        _called("self_attn.q_proj", "self_attn.v_proj"),
        "adapter_config.json does not name",
    ),
    "half a module": (_with(weight_name("model.layers.0.v_proj", "A"), floats([2, 4], 1.0)), "one of the two matrices"),
    "the output head": (lambda store: store.publish(target_modules=("lm_head",)), "adapts lm_head"),
    "no module bound": (
        _called("layers.0", "layers.7"),
        "2 of the 2 layers that adapter_model.safetensors adapts are not in the",
    ),
    "wrong shape": (_with(A, floats([2, 5], 1.0)), "is for a layer of [8, 5], and the base model's has [8, 4]"),
    "NaN": (_with(A, floats([2, 4], float("nan"))), "holds NaN or infinity"),
    "infinity": (_with(B, floats([8, 2], float("inf"))), "holds NaN or infinity"),
    "a pickle by its name": (lambda store: store.naming("adapter_model.bin"), "never pickled"),
    "a pickle by another name": (_weights(pickle.dumps([0.0] * 100)), "is a pickle (PyTorch's own format)"),
    "PyTorch's zip by another name": (
        _weights(b"PK\x03\x04" + b"\x14\0\0\0" * 9),
        "is a pickle (PyTorch's own format)",
    ),
    "a path that climbs out": (lambda store: store.naming("../../api-keys.json"), "is no name for a file"),
    "an absolute path": (lambda store: store.naming("/etc/passwd.txt"), "is no name for a file"),
    "a nul in a path": (lambda store: store.naming("a\0.json"), "is no name for a file"),
    "a manifest that is none": (lambda store: store.manifest(rank="many"), "cannot be read: rank"),
    "an endless manifest": (_endless_manifest, "is larger than"),
    "larger than the limit": (
        lambda store: store.publish({**adapter_files(2), "notes.md": b"x" * MAX_BYTES}),
        f"and this server takes {MAX_BYTES} at most. Raise swap.max_adapter_bytes",
    ),
    "another method": (_configured(peft_type="IA3"), "peft_type: Input should be 'LORA'"),
    "whole layers": (_configured(modules_to_save=["lm_head"]), "sets modules_to_save, which replaces whole layers"),
    "DoRA": (_configured(use_dora=True), "sets use_dora"),
    "biases": (_configured(lora_bias=True), "sets lora_bias"),
    "code": (_configured(auto_map={"AutoModel": "evil.Evil"}), "sets auto_map, which names code to be run"),
    "a regular expression without end": (_configured(rank_pattern={"(a+)+$": 2}), "rank_pattern"),
    "an endless header": (_weights(b"\xff" * 7 + b"\x7f{}"), "announces a header of"),
    "overlapping tensors": (
        _weights(safetensors(tensors_of(), **{B: {"dtype": "F32", "shape": [8, 2], "data_offsets": [0, 64]}})),
        "overlap another tensor's",
    ),
    "a header that is no JSON": (_weights(with_header(b"{{}}")), "is no valid JSON"),
    "an unexpected type": (_with(A, ("F64", [2, 4], b"\0" * 64)), "is of type F64. Types are: F32, F16, BF16"),
    "too many probes": (
        lambda store: store.publish(probes=(probe("support@v2"),) * 65),
        "has 65 probes, and 64 are allowed",
    ),
    "probes of strange tokens": (
        lambda store: store.publish(
            probes=(probe("support@v2").model_copy(update={"answer_token_ids": (-1, 2**31 - 1)}),)
        ),
        "none of the vocabulary",
    ),
    "probes that do not come true": (
        lambda store: store.publish(probes=(probe("support@v9"),)),
        "the engine does not compute what was published",
    ),
}


@dataclass
class Served:
    """A server whose stable version is 1, and an operator's key for it."""

    http: httpx.AsyncClient
    log: MemoryLog
    operator: Operator
    store: Store
    engine: InMemoryEngine

    async def state(self) -> dict[str, Any]:
        return dict((await self.http.get("/v1/admin/policies/support")).json())

    async def answers(self) -> str:
        """Which version answers a chat."""
        body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
        answer = await self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.headers["attune-version"]

    async def metric(self, line: str) -> bool:
        return line in (await self.http.get("/metrics")).text.splitlines()

    def last_report(self) -> ReplicaReported:
        records = self.log.reader({TopicPartition("attune.replicas", 0): 0}).poll()
        report = decode_event(records[-1].value, records[-1].headers)
        assert isinstance(report, ReplicaReported)
        return report


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    root = folder / "registry"
    store, log = Store(FilesystemRegistry.at(f"file://{root}"), root, folder), MemoryLog()
    operator = Operator(log)
    operator.candidate(1, publish(store.registry, folder, 1).digest)
    operator.promote(1)
    limits = {"max_adapter_bytes": MAX_BYTES}
    async with open_server(folder, log=log, registry=store.registry, swap=limits) as server:
        await until(lambda: server.engine.loaded() == ["support@v1"])
        yield Served(server.http, log, operator, store, server.engine)
        assert server.application.swapper.alive


@pytest.mark.parametrize("name", BAD)
async def test_the_version_before_serves_on_and_the_reason_is_said(tmp_path: Path, name: str) -> None:
    make, words = BAD[name]
    async with serving(tmp_path) as served:
        served.operator.candidate(2, make(served.store))
        promoted = await served.http.post("/v1/admin/policies/support/promote", json={"version": "support@v2"})
        assert (promoted.status_code, promoted.json()["in_effect"]) == (202, False), promoted.text
        state = await served.state()
        assert words in state["refused"]["support@v2"]
        assert (state["stable"], state["routed"]["stable"]) == ("support@v2", "support@v1")
        assert state["serving"] == ["support@v0", "support@v1"]
        assert await served.answers() == "support@v1"
        assert served.engine.loaded() == ["support@v1"]
        assert await served.metric('attune_adapters_refused{policy="support"} 1.0')
        assert await served.metric('attune_served_version{arm="stable",policy="support"} 1.0')
        assert await served.metric('attune_adapter_load_seconds_count{outcome="refused",policy="support"} 1.0')
        await until(lambda: words in served.last_report().refused.get(2, ""))
        assert served.last_report().stable == 1
        assert [path.name for path in tmp_path.glob("data/adapters/.*")] == []  # nothing half fetched is left


async def test_once_it_is_taken_back_nothing_is_left_of_it_and_a_sound_version_comes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.operator.candidate(2, served.store.publish(rank=64))
        await served.http.post("/v1/admin/policies/support/promote", json={"version": "support@v2"})
        back = await served.http.post("/v1/admin/policies/support/rollback", json={"reason": "cannot be served"})
        assert (back.status_code, back.json()["stable"]) == (200, "support@v1"), back.text
        await until(lambda: served.last_report().generation >= back.json()["generation"])
        assert served.last_report().refused == {}
        assert await served.metric('attune_adapters_refused{policy="support"} 0.0')
        served.operator.candidate(3, publish(served.store.registry, tmp_path, 3).digest)
        promoted = await served.http.post("/v1/admin/policies/support/promote", json={"version": "support@v3"})
        assert (promoted.status_code, promoted.json()["in_effect"]) == (200, True), promoted.text
        assert await served.answers() == "support@v3"


async def test_a_bad_canary_takes_no_share(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.operator.candidate(2, BAD["NaN"][0](served.store))
        served.operator.canary(2, share=1.0)
        await until(lambda: 2 in served.last_report().refused)
        assert {await served.answers() for _ in range(10)} == {"support@v1"}
        pinned = {"model": "support@v2", "messages": [{"role": "user", "content": "hello"}]}
        assert (await served.http.post("/v1/chat/completions", json=pinned)).status_code == 404
