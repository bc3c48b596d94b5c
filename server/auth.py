"""API keys: who calls, for which tenant, and what they may do. Kept hashed in one JSON file.

Knows keys, scopes and the file; knows no route. A secret is 256 random bits, so a plain SHA-256 hides it: there is
nothing to guess that a slow hash would protect. The file is read again when it changes, so keys come and go without a
restart.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError
from starlette.requests import Request

from exchange.durable import sync_folder
from schemas.base import Body, Id, Millis, Sha256, Slug, now_ms
from schemas.completion import ConsentLevel
from schemas.errors import ConfigError, NotFound
from schemas.wire import validation_summary
from server.errors import Forbidden, Unauthorized

ALL_ALIASES = "*"


class Scope(StrEnum):
    """What a key may do; none includes another."""

    CHAT = "chat"
    FEEDBACK = "feedback"
    READ = "read"
    ADMIN = "admin"


class ApiKey(Body):
    """One API key without its secret."""

    id: Id
    tenant: Id = Field(description="whose users and conversations its requests speak of")
    scopes: tuple[Scope, ...]
    aliases: tuple[str, ...] = Field(default=(ALL_ALIASES,), description="policies it may use; * is all")
    default_consent: ConsentLevel = Field(description="of requests that do not say")
    retention: Slug = Field(default="standard", description="retention class of what its requests leave")
    may_claim_sources: bool = Field(default=False, description="may send feedback as rater, ai or implicit")
    may_name_completions: bool = Field(
        default=False, description="may send feedback on a completion by its id, without the handle"
    )
    label: str = Field(default="", max_length=200, description="for operators")
    created_at: Millis
    revoked_at: Millis | None = None
    secret_hash: Sha256 = Field(repr=False)

    def may_use(self, policy: str) -> bool:
        """Whether this key may use the policy."""
        return ALL_ALIASES in self.aliases or policy in self.aliases

    def checked(self, policy: str, served: Iterable[str]) -> str:
        """The policy's name. Raises NotFound where it is not served here, or does not exist for this key."""
        mine = [name for name in served if self.may_use(name)]
        if policy not in mine:
            raise NotFound("no such policy for this API key", field="policy", remedy=f"Yours are: {', '.join(mine)}.")
        return policy


class _File(Body):
    keys: tuple[ApiKey, ...] = ()


class KeyFile:
    """The API keys in a JSON file that only its owner may read. Several processes may use and change it at once."""

    def __init__(self, path: Path) -> None:
        """A missing file is a file without keys.

        Raises:
            ConfigError: the file cannot be read or is not of this form.
        """
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._refresh()

    def create(
        self,
        *,
        tenant: str,
        scopes: tuple[Scope, ...],
        default_consent: ConsentLevel,
        aliases: tuple[str, ...] = (ALL_ALIASES,),
        may_claim_sources: bool = False,
        may_name_completions: bool = False,
        retention: str = "standard",
        label: str = "",
    ) -> tuple[ApiKey, str]:
        """Make a key; returns it with its text `ak_ID_SECRET`, which is not kept anywhere.

        Raises:
            ConfigError: a value is not allowed, or the file cannot be written.
        """
        key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
        try:
            key = ApiKey(
                id=key_id,
                tenant=tenant,
                scopes=scopes,
                aliases=aliases,
                default_consent=default_consent,
                may_claim_sources=may_claim_sources,
                may_name_completions=may_name_completions,
                retention=retention,
                label=label,
                created_at=now_ms(),
                secret_hash=_hashed(secret),
            )
        except ValidationError as error:
            raise ConfigError(f"no API key can be made of this: {validation_summary(error)}") from error
        with self._changing() as keys:
            keys[key_id] = key
        return key, f"ak_{key_id}_{secret}"

    def list(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first."""
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: key.created_at)

    def revoke(self, key_id: str) -> ApiKey:
        """Make a key useless for good; it stays in the list. Raises NotFound where there is none of that id."""
        with self._changing() as keys:
            if key_id not in keys:
                raise NotFound(f"there is no API key {key_id!r}", remedy="List them with `attune keys list`.")
            if keys[key_id].revoked_at is None:
                keys[key_id] = keys[key_id].model_copy(update={"revoked_at": now_ms()})
            return keys[key_id]

    def authenticate(self, authorization: str | None) -> ApiKey:
        """The key in an `Authorization` header. Raises Unauthorized where it is missing, unknown or revoked."""
        if not authorization:
            raise Unauthorized("no API key was sent")
        scheme, _, text = authorization.partition(" ")
        parts = text.strip().split("_")
        if scheme.lower() != "bearer" or len(parts) != 3 or parts[0] != "ak":
            raise Unauthorized("this is not an API key of this service")
        self._refresh()
        key = self._keys.get(parts[1])
        # An unknown id takes the same way as a wrong secret.
        expected = key.secret_hash if key is not None else "0" * 64
        same = hmac.compare_digest(_hashed(parts[2]), expected)
        if key is None or not same or key.revoked_at is not None:
            raise Unauthorized("this API key is not valid")
        return key

    def authorize(self, authorization: str | None, *scopes: Scope) -> ApiKey:
        """The key in the header, if it has one of `scopes`.

        Raises:
            Unauthorized: it is missing, unknown or revoked.
            Forbidden: it has none of these scopes.
        """
        key = self.authenticate(authorization)
        if not set(scopes) & set(key.scopes):
            raise Forbidden(
                f"this API key lacks the scope {' or '.join(scopes)}", remedy="Ask an operator for a key that has it."
            )
        return key

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._keys = {key.id: key for key in self._read().keys}
                self._stamp = stamp
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
        except OSError as error:
            raise ConfigError(f"the API keys in {self._path} cannot be read: {error.strerror}") from error

    def _read(self) -> _File:
        try:
            return _File.model_validate_json(self._path.read_bytes())
        except ValidationError as error:
            raise ConfigError(f"{self._path} is no file of API keys: {validation_summary(error)}") from error

    @contextmanager
    def _changing(self) -> Iterator[dict[str, ApiKey]]:
        """The keys, to be changed by one process at a time and written whole."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(f".{self._path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = {key.id: key for key in self._read().keys} if self._path.exists() else {}
                yield keys
                write_private(self._path, _File(keys=tuple(keys.values())).model_dump_json(indent=1).encode())
        except OSError as error:
            raise ConfigError(f"the API keys in {self._path} cannot be written: {error.strerror}") from error
        self._refresh()


def require(keys: KeyFile, *scopes: Scope) -> Callable[[Request], ApiKey]:
    """A FastAPI dependency: the caller's key, which must have one of `scopes`."""

    def authorized(request: Request) -> ApiKey:
        return keys.authorize(request.headers.get("authorization"), *scopes)

    return authorized


def write_private(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step, durable, readable by the owner alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
    sync_folder(path.parent)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
