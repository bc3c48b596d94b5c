"""The registry port: immutable adapters, snapshots and guidance with their manifests, by name.

Knows files, digests and completeness; knows nothing of what the weights do. An artifact becomes visible only
when all of it is stored (marker last), and never changes afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from schemas.manifests import AdapterManifest, FileDigest, GuidanceKind, GuidanceManifest, SnapshotManifest


class Registry(Protocol):
    """Where adapters and other artifacts lie. Methods block."""

    def publish_adapter(self, folder: Path, manifest: AdapterManifest) -> None:
        """Store the files that the manifest names, out of `folder`, as `POLICY@vN`.

        Publishing the very same manifest again is harmless.

        Raises:
            IntegrityError: a file does not match the manifest, or the version exists with another content.
            Unavailable: the store cannot be reached or is full.
        """
        ...

    def adapter(self, policy: str, version: int) -> AdapterManifest:
        """The manifest of a complete version. Raises NotFound, or IntegrityError where it cannot be read."""
        ...

    def versions(self, policy: str) -> tuple[int, ...]:
        """The complete versions of a policy, ascending."""
        ...

    def fetch_adapter(self, policy: str, version: int, cache: Path) -> Path:
        """A local folder with the adapter's files, verified against the manifest; kept in `cache` by digest.

        Raises:
            NotFound: no such complete version.
            IntegrityError: bytes do not match their digest, or a name would leave the folder.
        """
        ...

    def publish_artifact(self, kind: str, folder: Path, files: Mapping[str, FileDigest]) -> str:
        """Store a content-addressed folder (`snapshots`, `reward-models`, `reports`); returns its digest."""
        ...

    def fetch_artifact(self, kind: str, digest: str, cache: Path) -> Path:
        """A local, verified copy of a content-addressed folder. Raises NotFound or IntegrityError."""
        ...

    def publish_snapshot(self, folder: Path, manifest: SnapshotManifest) -> None:
        """Store a snapshot's files and its manifest under the manifest's digest."""
        ...

    def read_artifact_file(self, kind: str, digest: str, name: str) -> bytes:
        """One file of a content-addressed folder, verified, without the others. Raises NotFound or IntegrityError."""
        ...

    def snapshot(self, digest: str) -> SnapshotManifest:
        """The manifest of a snapshot. Raises NotFound."""
        ...

    def snapshots(self) -> tuple[str, ...]:
        """The digests of all complete snapshots, of every policy, sorted."""
        ...

    def publish_guidance(self, folder: Path, manifest: GuidanceManifest) -> None:
        """Store the files of a version of guidance and its manifest under kind, policy and version.

        Publishing the very same manifest again is harmless.

        Raises:
            IntegrityError: a file does not match the manifest, or the version exists with another content.
        """
        ...

    def guidance(self, kind: GuidanceKind, policy: str, version: int) -> GuidanceManifest:
        """The manifest of a version; its files are the artifact `kind`/`digest`. Raises NotFound or IntegrityError."""
        ...

    def guidance_versions(self, kind: GuidanceKind, policy: str) -> tuple[int, ...]:
        """The complete versions of one kind of a policy's guidance, ascending."""
        ...
