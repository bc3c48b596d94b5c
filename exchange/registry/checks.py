"""What every registry asks of a manifest, when it is published and when it is read back."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from exchange.registry.artifacts import check_files
from schemas.base import PolicyName, Sha256, Slug, version_name
from schemas.errors import IntegrityError, InvalidInput
from schemas.manifests import AdapterManifest, FileDigest, GuidanceManifest, SnapshotManifest
from schemas.wire import validation_summary

Named = TypeVar("Named", AdapterManifest, SnapshotManifest, GuidanceManifest)
MAX_MANIFEST_BYTES = 64 * 2**20
"""Far above any real one; a stored file that was swapped for an endless one must not fill the memory."""
INDEX: TypeAdapter[dict[str, FileDigest]] = TypeAdapter(dict[str, FileDigest])
_KIND: TypeAdapter[str] = TypeAdapter(Slug)
_DIGEST: TypeAdapter[str] = TypeAdapter(Sha256)
_POLICY: TypeAdapter[str] = TypeAdapter(PolicyName)


def check_manifest(manifest: Named) -> Named:
    """The manifest. Raises IntegrityError where its digest is not that of its files, or a name is not allowed."""
    if check_files(manifest.files) != manifest.digest:
        raise IntegrityError("the manifest's digest is not that of its files", field="digest")
    return manifest


def read_adapter_manifest(data: bytes, policy: str, version: int) -> AdapterManifest:
    """Parse and check a stored manifest. Raises IntegrityError where it is not that of this version."""
    name = version_name(policy, version)
    manifest = check_manifest(_parsed(AdapterManifest, data, f"the manifest of {name}"))
    if (manifest.policy, manifest.version) != (policy, version):
        raise IntegrityError(f"the manifest of {name} is that of {version_name(manifest.policy, manifest.version)}")
    return manifest


def read_snapshot_manifest(data: bytes, digest: str) -> SnapshotManifest:
    """Parse and check a stored manifest. Raises IntegrityError where it is not that of this snapshot."""
    manifest = check_manifest(_parsed(SnapshotManifest, data, f"the manifest of snapshot {digest}"))
    if manifest.digest != digest:
        raise IntegrityError(f"the manifest of snapshot {digest} is that of {manifest.digest}")
    return manifest


def guidance_name(kind: str, policy: str, version: int) -> str:
    """How messages call a version of guidance, e.g. `guidelines support@v2`."""
    return f"{kind} {version_name(policy, version)}"


def read_guidance_manifest(data: bytes, kind: str, policy: str, version: int) -> GuidanceManifest:
    """Parse and check a stored manifest. Raises IntegrityError where it is not that of this version."""
    name = guidance_name(kind, policy, version)
    manifest = check_manifest(_parsed(GuidanceManifest, data, f"the manifest of {name}"))
    if (manifest.kind, manifest.policy, manifest.version) != (kind, policy, version):
        raise IntegrityError(f"the manifest of {name} is that of another version")
    return manifest


def check_place(*, kind: str = "snapshots", digest: str | None = None, policy: str = "x", version: int = 0) -> None:
    """Raises InvalidInput where a kind, digest, policy or version could not be part of a path."""
    checks = [("kind", _KIND, kind), ("policy", _POLICY, policy)]
    if digest is not None:
        checks.append(("digest", _DIGEST, digest))
    for field, adapter, value in checks:
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            raise InvalidInput(f"{value!r} is no {field}", field=field) from error
    if version < 0:
        raise InvalidInput(f"{version} is no version", field="version")


def _parsed(model: type[Named], data: bytes, what: str) -> Named:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{what} cannot be read: {validation_summary(error)}") from error
