"""The registry in memory: for tests and for trying things out. It ends with its process."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from exchange.registry.artifacts import cached_copy, check_files, copy_checked, source_file, translated
from exchange.registry.checks import Named, check_manifest, check_place, guidance_name
from schemas.base import version_name
from schemas.errors import IntegrityError, NotFound
from schemas.manifests import AdapterManifest, FileDigest, GuidanceKind, GuidanceManifest, SnapshotManifest

Name = TypeVar("Name", tuple[str, int], tuple[str, str, int], str)


class MemoryRegistry:
    """A `Registry` in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._artifacts: dict[tuple[str, str], tuple[dict[str, FileDigest], dict[str, bytes]]] = {}
        self._adapters: dict[tuple[str, int], AdapterManifest] = {}
        self._snapshots: dict[str, SnapshotManifest] = {}
        self._guidance: dict[tuple[str, str, int], GuidanceManifest] = {}

    def publish_adapter(self, folder: Path, manifest: AdapterManifest) -> None:
        self._publish_named("adapters", folder, manifest, self._adapters, (manifest.policy, manifest.version))

    def adapter(self, policy: str, version: int) -> AdapterManifest:
        check_place(policy=policy, version=version)
        with self._lock:
            manifest = self._adapters.get((policy, version))
        if manifest is None:
            raise NotFound(f"{version_name(policy, version)} is not in the registry")
        return manifest

    def versions(self, policy: str) -> tuple[int, ...]:
        check_place(policy=policy)
        with self._lock:
            return tuple(sorted(version for name, version in self._adapters if name == policy))

    def fetch_adapter(self, policy: str, version: int, cache: Path) -> Path:
        return self.fetch_artifact("adapters", self.adapter(policy, version).digest, cache)

    def publish_artifact(self, kind: str, folder: Path, files: Mapping[str, FileDigest]) -> str:
        digest = check_files(files)
        check_place(kind=kind)
        stored: dict[str, bytes] = {}
        for name, expected in files.items():
            sink = io.BytesIO()
            with translated("the folder to publish"), source_file(folder, name) as source:
                copy_checked(source, sink, name, expected)
            stored[name] = sink.getvalue()
        with self._lock:
            self._artifacts.setdefault((kind, digest), (dict(files), stored))
        return digest

    def fetch_artifact(self, kind: str, digest: str, cache: Path) -> Path:
        check_place(kind=kind, digest=digest)
        with self._lock:
            found = self._artifacts.get((kind, digest))
        if found is None:
            raise NotFound(f"{kind}/{digest} is not in the registry")
        files, stored = found

        def fill(staging: Path) -> None:
            for name, data in stored.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

        return cached_copy(cache, files, fill, digest=digest)

    def publish_snapshot(self, folder: Path, manifest: SnapshotManifest) -> None:
        self._publish_named("snapshots", folder, manifest, self._snapshots, manifest.digest)

    def snapshot(self, digest: str) -> SnapshotManifest:
        check_place(digest=digest)
        with self._lock:
            manifest = self._snapshots.get(digest)
        if manifest is None:
            raise NotFound(f"snapshot {digest} is not in the registry")
        return manifest

    def read_artifact_file(self, kind: str, digest: str, name: str) -> bytes:
        check_place(kind=kind, digest=digest)
        with self._lock:
            _, stored = self._artifacts.get((kind, digest), ({}, {}))
        if name not in stored:
            raise NotFound(f"{name} of {kind}/{digest} is not in the registry")
        return stored[name]

    def snapshots(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self._snapshots))

    def publish_guidance(self, folder: Path, manifest: GuidanceManifest) -> None:
        name = (manifest.kind.value, manifest.policy, manifest.version)
        self._publish_named(manifest.kind.value, folder, manifest, self._guidance, name)

    def guidance(self, kind: GuidanceKind, policy: str, version: int) -> GuidanceManifest:
        check_place(policy=policy, version=version)
        with self._lock:
            manifest = self._guidance.get((kind.value, policy, version))
        if manifest is None:
            raise NotFound(f"{guidance_name(kind, policy, version)} is not in the registry")
        return manifest

    def guidance_versions(self, kind: GuidanceKind, policy: str) -> tuple[int, ...]:
        check_place(policy=policy)
        with self._lock:
            return tuple(sorted(number for of, name, number in self._guidance if (of, name) == (kind.value, policy)))

    def _publish_named(self, kind: str, folder: Path, manifest: Named, shelf: dict[Name, Named], name: Name) -> None:
        check_manifest(manifest)
        with self._lock:
            before = shelf.get(name)
        if before is None:
            self.publish_artifact(kind, folder, manifest.files)
            with self._lock:
                before = shelf.setdefault(name, manifest)
        if before != manifest:
            raise IntegrityError(f"{name} exists with another content, and what is published never changes")
