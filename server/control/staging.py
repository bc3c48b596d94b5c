"""From a version in the registry to an adapter in the engine that is proven to be the published one.

Knows digests, manifests and probes; knows nothing of routes or of when a version is wanted. What the files must be
is `server.files.adapter_files`' matter.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from exchange.registry.port import Registry
from schemas.base import version_name
from schemas.errors import AttuneError
from schemas.lifecycle import VersionState
from schemas.manifests import AdapterManifest, Probe
from server.engine.port import Engine
from server.files.adapter_files import UNSERVED, AdapterRefused, check_files, check_names

MAX_PROBES = 64


@dataclass(frozen=True)
class Staged:
    """An adapter in the engine: its name there, its digest, and its local files."""

    name: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Limits:
    """What this replica serves. `probe_tolerance` is in nats per token."""

    max_lora_rank: int
    max_adapter_bytes: int
    probe_tolerance: float


class AdapterStage:
    """Brings adapters into one engine and takes them out again. `cache` is a folder of this replica alone."""

    def __init__(self, engine: Engine, registry: Registry, cache: Path, limits: Limits) -> None:
        self._engine = engine
        self._registry = registry
        self._cache = cache
        self._limits = limits
        self._swept = False

    async def bring(self, policy: str, version: VersionState, name: str) -> Staged:
        """Fetch, check and load a version as `name`, and compare it with its manifest's probes.

        Raises:
            AdapterRefused: it contradicts the journal, the base model, the limits, its own manifest or its own
                probes, or its files are not those of a plain LoRA.
            NotFound, IntegrityError, Unavailable: as the registry says.
            AdapterError: the engine refuses the files.
        """
        manifest = await asyncio.to_thread(self._registry.adapter, policy, version.version)
        check_manifest(
            manifest, version, base=self._engine.base_fingerprint, template=self._engine.chat_template_hash,
            limits=self._limits,
        )  # fmt: skip
        path = await asyncio.to_thread(self._registry.fetch_adapter, policy, version.version, self._cache)
        await asyncio.to_thread(
            check_files, path, manifest, self._engine.base_layers, max_rank=self._limits.max_lora_rank
        )
        await self._engine.load_adapter(name, path)
        try:
            await self._probe(name, manifest.probes)
        except AttuneError:
            await self._engine.unload_adapter(name)
            raise
        return Staged(name=name, digest=manifest.digest, path=path)

    async def let_go(self, staged: Staged, *, keep_files: bool) -> None:
        """Unload a drained adapter, and delete its local files. Raises AdapterError where it is still in use."""
        await self._engine.unload_adapter(staged.name)
        if not keep_files and staged.path.is_relative_to(self._cache):
            await asyncio.to_thread(shutil.rmtree, staged.path, ignore_errors=True)

    async def sweep(self, kept: Collection[Staged]) -> None:
        """Once: delete what else lies in the cache, copies whole and half that a process left which was killed."""
        if self._swept:
            return
        paths = {staged.path for staged in kept}

        def remove() -> None:
            for left in self._cache.glob("*"):
                if left not in paths:
                    shutil.rmtree(left, ignore_errors=True)

        await asyncio.to_thread(remove)
        self._swept = True

    async def _probe(self, name: str, probes: tuple[Probe, ...]) -> None:
        if not probes:
            await self._engine.probe(name)
        for number, probe in enumerate(probes):
            found = await self._engine.score(name, list(probe.prompt_token_ids), list(probe.answer_token_ids))
            worst = largest_difference(found, probe.logprobs)
            if not worst <= self._limits.probe_tolerance:  # not a number is too far away as well
                raise AdapterRefused(
                    f"probe {number} of {name} is {worst:.4f} nats per token away from the trainer's logprobs "
                    f"({self._limits.probe_tolerance} allowed): the engine does not compute what was published",
                    remedy="Raise swap.probe_tolerance only for an engine of lower precision than the trainer's.",
                )


def largest_difference(found: list[float], expected: tuple[float, ...]) -> float:
    """The largest absolute difference of two lists of logprobs, in nats; infinite where their lengths differ."""
    if len(found) != len(expected):
        return float("inf")
    return max((abs(mine - theirs) for mine, theirs in zip(found, expected, strict=True)), default=0.0)


def check_manifest(
    manifest: AdapterManifest, version: VersionState, *, base: str, template: str, limits: Limits
) -> None:
    """Whether the manifest is the one that the journal speaks of, and made for this base model and these limits.

    Raises:
        AdapterRefused: it is not; the message says what differs.
    """
    name = version_name(manifest.policy, manifest.version)
    if manifest.version != version.version:
        raise AdapterRefused(f"the registry has {name} under version {version.version}")
    if manifest.digest != version.digest:
        promised = (version.digest or "none")[:12]
        raise AdapterRefused(f"{name} has the digest {manifest.digest[:12]}, and the journal promised {promised}")
    if manifest.base_fingerprint != base:
        raise AdapterRefused(
            f"{name} was trained on another base model ({manifest.base_fingerprint[:12]}, this is {base[:12]})",
            remedy="Server and trainer must be given the same model files.",
        )
    if manifest.chat_template_hash != template:
        raise AdapterRefused(
            f"{name} was trained with another chat template ({manifest.chat_template_hash[:12]}, this is "
            f"{template[:12]})",
            remedy="Server and trainer must render prompts alike.",
        )
    if head := UNSERVED & set(manifest.target_modules):
        raise AdapterRefused(f"{name} adapts {', '.join(sorted(head))}, which is served without adapters")
    if manifest.rank > limits.max_lora_rank:
        raise AdapterRefused(
            f"{name} has rank {manifest.rank}, and this server takes {limits.max_lora_rank} at most",
            remedy="Raise engine.max_lora_rank.",
        )
    size = sum(file.size for file in manifest.files.values())
    if size > limits.max_adapter_bytes:
        raise AdapterRefused(
            f"{name} has {size} bytes, and this server takes {limits.max_adapter_bytes} at most",
            remedy="Raise swap.max_adapter_bytes.",
        )
    check_names(manifest.files)
    check_probes(manifest.probes)


def check_probes(probes: tuple[Probe, ...]) -> None:
    """Whether the probes are few, and each has a prompt, an answer, and one possible logprob for each of its tokens.

    Raises:
        AdapterRefused: they are not. Whether the engine knows the tokens is the engine's to say.
    """
    if len(probes) > MAX_PROBES:
        raise AdapterRefused(f"the manifest has {len(probes)} probes, and {MAX_PROBES} are allowed")
    for number, probe in enumerate(probes):
        if not probe.prompt_token_ids or not len(probe.answer_token_ids) == len(probe.logprobs) > 0:
            raise AdapterRefused(f"probe {number} of the manifest lacks a prompt, an answer, or logprobs of the answer")
        if not all(math.isfinite(logprob) for logprob in probe.logprobs):
            raise AdapterRefused(f"probe {number} of the manifest expects logprobs that are no numbers")
