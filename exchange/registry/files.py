"""The registry in a folder or an object store, over fsspec.

    artifacts/KIND/DIGEST/...      the files of an artifact; adapters and snapshots are artifacts too
    artifacts/KIND/DIGEST.json     its index, written last: an artifact without one does not exist
    adapters/POLICY/vN.json        the manifest of a version, written after its artifact: it makes the version visible
    snapshots/DIGEST.json          the manifest of a snapshot, likewise
    guidance/KIND/POLICY/vN.json   the manifest of a version of guidance, likewise

Files are staged under a temporary name, checked against the manifest, fsynced and renamed (copied and deleted, where a
store has no rename: the marker still comes last). A manifest is created, never replaced.
"""

from __future__ import annotations

import errno
import io
import os
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from exchange.durable import sync_folder
from exchange.registry.artifacts import (
    cached_copy,
    check_files,
    check_listing,
    copy_checked,
    discard,
    is_intact,
    source_file,
    translated,
)
from exchange.registry.checks import (
    INDEX,
    MAX_MANIFEST_BYTES,
    check_manifest,
    check_place,
    guidance_name,
    read_adapter_manifest,
    read_guidance_manifest,
    read_snapshot_manifest,
)
from exchange.registry.stores import store_at
from schemas.base import version_name
from schemas.errors import IntegrityError, NotFound
from schemas.manifests import (
    AdapterManifest,
    FileDigest,
    GuidanceKind,
    GuidanceManifest,
    SnapshotManifest,
    canonical_json,
    files_digest,
)

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_SNAPSHOT_FILE = re.compile(r"([0-9a-f]{64})\.json")
_VERSION_FILE = re.compile(r"v(0|[1-9][0-9]{0,8})\.json")


class FilesystemRegistry:
    """A `Registry` under `root` of an fsspec file system. Thread-safe; any number of processes may share the store."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)
        self._what = f"the registry {root}"

    @classmethod
    def at(cls, url: str) -> Self:
        """The registry at a URL that fsspec knows; `file:relative` is relative to the working folder.

        Raises:
            ConfigError: no such kind of store, or its driver is not installed.
        """
        return cls(*store_at(url))

    def publish_adapter(self, folder: Path, manifest: AdapterManifest) -> None:
        check_manifest(manifest)
        marker = f"{self._root}/adapters/{manifest.policy}/v{manifest.version}.json"
        self._publish_named("adapters", folder, manifest, marker, version_name(manifest.policy, manifest.version))

    def adapter(self, policy: str, version: int) -> AdapterManifest:
        check_place(policy=policy, version=version)
        data = self._read(f"{self._root}/adapters/{policy}/v{version}.json", version_name(policy, version))
        return read_adapter_manifest(data, policy, version)

    def versions(self, policy: str) -> tuple[int, ...]:
        check_place(policy=policy)
        return self._numbered(f"{self._root}/adapters/{policy}")

    def snapshots(self) -> tuple[str, ...]:
        names = self._listed(f"{self._root}/snapshots")
        return tuple(sorted(match[1] for name in names if (match := _SNAPSHOT_FILE.fullmatch(name))))

    def _numbered(self, folder: str) -> tuple[int, ...]:
        """The numbers of the manifests `vN.json` in a folder, ascending."""
        matches = (_VERSION_FILE.fullmatch(name) for name in self._listed(folder))
        return tuple(sorted(int(match[1]) for match in matches if match))

    def _listed(self, folder: str) -> list[str]:
        """The names in a folder; none where it does not exist."""
        with translated(self._what):
            try:
                return [entry.rsplit("/", 1)[-1] for entry in self._fs.ls(folder, detail=False)]
            except FileNotFoundError:
                return []

    def fetch_adapter(self, policy: str, version: int, cache: Path) -> Path:
        manifest = self.adapter(policy, version)
        return self._fetch("adapters", manifest.files, cache)

    def publish_artifact(self, kind: str, folder: Path, files: Mapping[str, FileDigest]) -> str:
        digest = check_files(files)
        check_place(kind=kind)
        final = f"{self._root}/artifacts/{kind}/{digest}"
        marker = f"{final}.json"
        with translated(self._what):
            for name, expected in files.items():
                with source_file(folder, name) as source:
                    copy_checked(source, None, name, expected)
            if self._fs.exists(marker):
                return digest
            staging = f"{self._root}/artifacts/{kind}/.staging-{uuid.uuid4().hex}"
            try:
                for name, expected in files.items():
                    self._stage(folder, name, expected, staging)
                self._rename(staging, final, files)
            finally:
                if self._fs.exists(staging):
                    self._fs.rm(staging, recursive=True)
            index = INDEX.dump_json(dict(sorted(files.items())))
            self._create(marker, index)
        return digest

    def fetch_artifact(self, kind: str, digest: str, cache: Path) -> Path:
        check_place(kind=kind, digest=digest)
        return self._fetch(kind, self._index(kind, digest), cache)

    def read_artifact_file(self, kind: str, digest: str, name: str) -> bytes:
        check_place(kind=kind, digest=digest)
        expected = self._index(kind, digest).get(name)
        sink = io.BytesIO()
        with translated(self._what):
            try:
                if expected is None:
                    raise FileNotFoundError(name)
                with self._fs.open(f"{self._root}/artifacts/{kind}/{digest}/{name}", "rb") as source:
                    copy_checked(source, sink, name, expected)
            except FileNotFoundError as error:
                raise NotFound(f"{name} of {kind}/{digest} is not in the registry") from error
        return sink.getvalue()

    def _index(self, kind: str, digest: str) -> Mapping[str, FileDigest]:
        data = self._read(f"{self._root}/artifacts/{kind}/{digest}.json", f"{kind}/{digest}")
        try:
            files = INDEX.validate_json(data)
        except ValidationError as error:
            raise IntegrityError(f"the index of {kind}/{digest} cannot be read") from error
        if check_files(files) != digest:
            raise IntegrityError(f"the index of {kind}/{digest} is that of another artifact")
        return files

    def publish_snapshot(self, folder: Path, manifest: SnapshotManifest) -> None:
        check_manifest(manifest)
        marker = f"{self._root}/snapshots/{manifest.digest}.json"
        self._publish_named("snapshots", folder, manifest, marker, f"snapshot {manifest.digest}")

    def snapshot(self, digest: str) -> SnapshotManifest:
        check_place(digest=digest)
        data = self._read(f"{self._root}/snapshots/{digest}.json", f"snapshot {digest}")
        return read_snapshot_manifest(data, digest)

    def publish_guidance(self, folder: Path, manifest: GuidanceManifest) -> None:
        check_manifest(manifest)
        kind, policy, version = manifest.kind, manifest.policy, manifest.version
        marker = f"{self._root}/guidance/{kind}/{policy}/v{version}.json"
        self._publish_named(kind.value, folder, manifest, marker, guidance_name(kind, policy, version))

    def guidance(self, kind: GuidanceKind, policy: str, version: int) -> GuidanceManifest:
        check_place(policy=policy, version=version)
        path = f"{self._root}/guidance/{kind}/{policy}/v{version}.json"
        return read_guidance_manifest(self._read(path, guidance_name(kind, policy, version)), kind, policy, version)

    def guidance_versions(self, kind: GuidanceKind, policy: str) -> tuple[int, ...]:
        check_place(policy=policy)
        return self._numbered(f"{self._root}/guidance/{kind}/{policy}")

    def _publish_named(
        self,
        kind: str,
        folder: Path,
        manifest: AdapterManifest | SnapshotManifest | GuidanceManifest,
        marker: str,
        name: str,
    ) -> None:
        """Store the files, then create the manifest, unless the name is taken by another content."""
        data = canonical_json(manifest)
        with translated(self._what):
            taken = self._fs.exists(marker) and self._fs.cat_file(marker) != data
        if not taken:
            self.publish_artifact(kind, folder, manifest.files)
            with translated(self._what):
                taken = not self._create(marker, data) and self._fs.cat_file(marker) != data
        if taken:
            raise IntegrityError(f"{name} exists with another content, and what is published never changes")

    def _read(self, path: str, name: str) -> bytes:
        with translated(self._what):
            try:
                data = bytes(self._fs.cat_file(path, end=MAX_MANIFEST_BYTES + 1))
            except FileNotFoundError as error:
                raise NotFound(f"{name} is not in the registry") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"the manifest of {name} is larger than {MAX_MANIFEST_BYTES} bytes")
        return data

    def _fetch(self, kind: str, files: Mapping[str, FileDigest], cache: Path) -> Path:
        digest = files_digest(files)
        stored = f"{self._root}/artifacts/{kind}/{digest}"

        def fill(staging: Path) -> None:
            self._check_stored(stored, files)
            for name, expected in files.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._fs.open(f"{stored}/{name}", "rb") as source, target.open("wb") as sink:
                    copy_checked(source, sink, name, expected)

        with translated(self._what):
            return cached_copy(cache, files, fill, digest=digest)

    def _check_stored(self, stored: str, files: Mapping[str, FileDigest]) -> None:
        """Raises IntegrityError unless exactly the files of the manifest lie there, and none is a link."""
        found = self._fs.find(stored, withdirs=True, detail=True)
        for path, info in found.items():
            if info.get("islink") or info["type"] not in ("file", "directory"):
                raise IntegrityError(f"{path.removeprefix(stored)} is a link or no plain file")
        prefix = f"{self._fs._strip_protocol(stored)}/"
        check_listing((path.removeprefix(prefix) for path, info in found.items() if info["type"] == "file"), files)

    def _stage(self, folder: Path, name: str, expected: FileDigest, staging: str) -> None:
        target = f"{staging}/{name}"
        with source_file(folder, name) as source:
            if not self._local:
                with self._fs.open(target, "wb") as sink:
                    copy_checked(source, sink, name, expected)
                return
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with Path(target).open("xb") as local_sink:
                copy_checked(source, local_sink, name, expected)
                local_sink.flush()
                os.fsync(local_sink.fileno())
            self._sync_up(Path(target))

    def _rename(self, staging: str, final: str, files: Mapping[str, FileDigest]) -> None:
        if not self._local:
            for name in files:
                self._fs.mv(f"{staging}/{name}", f"{final}/{name}")
            return
        while True:
            try:
                Path(staging).rename(final)
                break
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            # What is there is of a publisher racing with this one, or of one that ended before its marker.
            if is_intact(Path(final), files):
                return
            with suppress(FileNotFoundError):  # the other one discards it too
                discard(Path(final))
        self._sync_up(Path(final))

    def _create(self, path: str, data: bytes) -> bool:
        """Create a file whole, or not at all; False where it exists."""
        try:
            if not self._local:
                self._fs.pipe_file(path, data, mode="create")
                return True
            staging = Path(f"{path}.{uuid.uuid4().hex}.tmp")
            staging.parent.mkdir(parents=True, exist_ok=True)
            try:
                with staging.open("xb") as sink:
                    sink.write(data)
                    sink.flush()
                    os.fsync(sink.fileno())
                os.link(staging, path)  # unlike a rename, it refuses to replace
            finally:
                staging.unlink(missing_ok=True)
            self._sync_up(staging)
        except FileExistsError:
            return False
        return True

    def _sync_up(self, path: Path) -> None:
        """Make a path durable: its name in its folder, that folder's in its own, up to the root."""
        root = Path(self._root)
        for folder in path.parents:
            sync_folder(folder)
            if folder == root:
                break
