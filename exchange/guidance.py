"""Guidance in the registry: publish a version, find the one in force, read it, and say what was in force when.

A version never changes; going back to an older text is publishing it again. Knows the registry and what files of
guidance must hold; knows nothing of who reads them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from exchange.registry.port import Registry
from schemas.base import now_ms
from schemas.errors import Conflict, IntegrityError, InvalidInput, NotFound
from schemas.guidance import FILES, checked_text
from schemas.manifests import FileDigest, GuidanceInForce, GuidanceKind, GuidanceManifest, files_digest


def publish_guidance(
    registry: Registry, kind: GuidanceKind, policy: str, raw: bytes, *, note: str = ""
) -> tuple[GuidanceManifest, bool]:
    """Publish a file as the next version; the newest as it is, and False, where it says the same already.

    Raises:
        InvalidInput: the file does not hold what its kind must.
        Conflict: somebody else published meanwhile.
        Unavailable: the registry cannot be reached.
    """
    data = checked_text(kind, raw).encode()
    files = {FILES[kind]: FileDigest(sha256=hashlib.sha256(data).hexdigest(), size=len(data))}
    before = newest_guidance(registry, kind, policy)
    if before is not None and before.files == files:
        return before, False
    manifest = GuidanceManifest(
        kind=kind,
        policy=policy,
        version=1 if before is None else before.version + 1,
        # A clock that went back must not put a version in force before the one that it follows.
        created_at=max(now_ms(), 0 if before is None else before.created_at),
        files=files,
        digest=files_digest(files),
        note=note,
    )
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / FILES[kind]).write_bytes(data)
        try:
            registry.publish_guidance(Path(name), manifest)
        except IntegrityError as error:
            raise Conflict(
                "somebody else published a version meanwhile", remedy="Look at it, and try again."
            ) from error
    return manifest, True


def newest_guidance(registry: Registry, kind: GuidanceKind, policy: str) -> GuidanceManifest | None:
    """The version in force; None where none was published. Raises IntegrityError, Unavailable."""
    versions = registry.guidance_versions(kind, policy)
    return registry.guidance(kind, policy, versions[-1]) if versions else None


def find_guidance(registry: Registry, kind: GuidanceKind, policy: str, version: int | None) -> GuidanceManifest:
    """A version, or without a number the one in force.

    Raises:
        NotFound: there is no such version, or none at all.
        IntegrityError, Unavailable: it cannot be read.
    """
    if version is not None:
        return registry.guidance(kind, policy, version)
    found = newest_guidance(registry, kind, policy)
    if found is None:
        raise NotFound(f"no {kind} of {policy} is published", remedy=f"`attune guidance publish {kind}` publishes one.")
    return found


def read_guidance(registry: Registry, manifest: GuidanceManifest) -> str:
    """The text of a version, checked as when it was published. Raises IntegrityError, NotFound, Unavailable."""
    data = registry.read_artifact_file(manifest.kind.value, manifest.digest, FILES[manifest.kind])
    try:
        return checked_text(manifest.kind, data)
    except InvalidInput as error:
        raise IntegrityError(f"the stored {manifest.kind} cannot be used: {error.message}") from error


def published_guidance(registry: Registry, policy: str) -> tuple[GuidanceManifest, ...]:
    """Every version of a policy's guidance, by kind and number. Raises IntegrityError, Unavailable."""
    return tuple(
        registry.guidance(kind, policy, version)
        for kind in GuidanceKind
        for version in registry.guidance_versions(kind, policy)
    )


def in_force(published: Sequence[GuidanceManifest], first: int, last: int) -> tuple[GuidanceInForce, ...]:
    """What was in force at any moment from `first` to `last`, ms since the epoch: each version until the next."""
    found: list[GuidanceManifest] = []
    for kind in GuidanceKind:
        mine = sorted((one for one in published if one.kind is kind), key=lambda one: one.version)
        for one, later in zip_longest(mine, mine[1:]):
            if one.created_at <= last and (later is None or later.created_at > first):
                found.append(one)
    return tuple(
        GuidanceInForce(kind=one.kind, version=one.version, digest=one.digest, since=one.created_at) for one in found
    )
