"""The key store in memory: for tests and for trying things out. It ends with its process."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence

from exchange.keys.port import SubjectKey
from schemas.base import minted_by, new_id
from schemas.errors import Unavailable
from schemas.sealed import KEY_BYTES


class MemoryKeys:
    """A `KeyStore` in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._by_subject: dict[str, SubjectKey] = {}
        self._by_id: dict[str, SubjectKey] = {}

    def key_for(self, subject: str) -> SubjectKey:
        return self.keys_for((subject,))[0]

    def keys_for(self, subjects: Sequence[str]) -> list[SubjectKey]:
        with self._lock:
            self._require_open()
            return [self._by_subject.get(subject) or self._make(subject) for subject in subjects]

    def _make(self, subject: str) -> SubjectKey:
        key = SubjectKey(new_id("key"), secrets.token_bytes(KEY_BYTES))
        self._by_subject[subject] = self._by_id[key.key_id] = key
        return key

    def lookup(self, key_id: str) -> SubjectKey | None:
        with self._lock:
            self._require_open()
            return self._by_id.get(key_id)

    def destroy(self, subject: str, *, until_ms: int | None = None) -> tuple[str, ...]:
        with self._lock:
            self._require_open()
            key = self._by_subject.get(subject)
            if key is None or (until_ms is not None and key.key_id >= minted_by("key", until_ms)):
                return ()
            del self._by_subject[subject], self._by_id[key.key_id]
            return (key.key_id,)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the key store is closed")
