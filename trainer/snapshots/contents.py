"""The files of a snapshot and what is sealed in them, for whoever has the keys.

Knows Parquet, seals and the key store; knows nothing of what the content is for. What cannot be opened because its
person was erased is `Unusable`, with the reason in one word.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from pydantic import ValidationError

from exchange.keys.port import KeyStore, SubjectKey
from schemas.base import Record
from schemas.completion import CompletionContent
from schemas.errors import IntegrityError, SealBroken
from schemas.manifests import SnapshotManifest
from schemas.sealed import Sealed, unseal
from trainer.snapshots.snapshot import ADDED_LATER, SCHEMAS, SLICED_BY

log = logging.getLogger(__name__)

Row = dict[str, Any]
_R = TypeVar("_R", bound=Record)


class Unusable(Exception):
    """This row cannot be used; the argument says why in one word. Never leaves `trainer.snapshots` and its callers."""


def read_tables(folder: Path, manifest: SnapshotManifest) -> dict[str, list[Row]]:
    """The rows of every file of a snapshot in `folder`, by file name.

    Raises:
        IntegrityError: a file is missing or is not the one the manifest names.
    """
    return {name: _read(folder, name, manifest) for name in SCHEMAS}


class Contents:
    """The sealed content of one snapshot, opened once each.

    Args:
        tables: as `read_tables` gives them.
    """

    def __init__(self, tables: Mapping[str, list[Row]], keys: KeyStore) -> None:
        self._keys = keys
        self._known_keys: dict[str, SubjectKey | None] = {}
        self._sealed = {row["completion_id"]: row for row in tables["completions.parquet"]}
        self._completions: dict[str, CompletionContent | str] = {}

    def completion(self, completion_id: str) -> CompletionContent:
        """What was asked and answered. Raises Unusable."""
        if completion_id not in self._completions:
            try:
                self._completions[completion_id] = self.opened(self._sealed[completion_id], CompletionContent)
            except Unusable as unusable:
                self._completions[completion_id] = str(unusable)
        content = self._completions[completion_id]
        if isinstance(content, str):
            raise Unusable(content)
        return content

    def slices(self, completion_id: str) -> tuple[str, ...]:
        """The groups that a completion belongs to, e.g. `language de`, as far as anybody named them."""
        row = self._sealed[completion_id]
        return tuple(f"{by} {row[by]}" for by in SLICED_BY if row[by])

    def opened(self, row: Row, model: type[_R]) -> _R:
        """The sealed part of a row, which has the columns event_id, subject, key_id and data. Raises Unusable."""
        sealed = Sealed(subject=row["subject"], key_id=row["key_id"], data=row["data"])
        if sealed.key_id not in self._known_keys:
            self._known_keys[sealed.key_id] = self._keys.lookup(sealed.key_id)
        key = self._known_keys[sealed.key_id]
        if key is None:
            raise Unusable("key_destroyed")
        try:
            return model.model_validate_json(unseal(sealed, key=key.secret, event_id=row["event_id"]))
        except SealBroken as error:
            log.warning("%s", error)
            raise Unusable("seal_broken") from error
        except ValidationError as error:
            raise Unusable("unreadable") from error


def _read(folder: Path, name: str, manifest: SnapshotManifest) -> list[Row]:
    if name in ADDED_LATER and name not in manifest.files:
        return []
    try:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise IntegrityError(f"the snapshot in {folder} has no {name}") from error
    if name not in manifest.files or manifest.files[name].sha256 != digest:
        raise IntegrityError(f"{folder / name} is not the file of snapshot {manifest.digest[:12]}")
    rows: list[Row] = pq.read_table(folder / name, schema=SCHEMAS[name]).to_pylist()
    return rows
