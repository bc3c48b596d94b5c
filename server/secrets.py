"""The server's own secrets: keys of feedback handles, the pseudonym key, the salt of the traffic split.

All replicas of a service must hold the same ones: either a file that the first one makes (two that start at once agree
on one), or all derived from one root secret in the settings. Knows files and bytes; what the secrets are for lies
elsewhere. Losing the pseudonym key makes every user a stranger, so back the file up.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Base64Bytes, Field, ValidationError

from schemas.base import Body
from schemas.errors import ConfigError
from schemas.handles import Keyring
from schemas.wire import validation_summary
from server.auth import write_private

FILE_NAME = "secrets.json"
KEY_BYTES = 32
MIN_ROOT_CHARACTERS = 16


class Secrets(Body):
    """The secrets of one service. Never shown."""

    active_handle_key: str = Field(description="id of the key that makes new handles")
    handle_keys: dict[str, Base64Bytes] = Field(repr=False, description="by id; all of them verify")
    pseudonym_key: Base64Bytes = Field(repr=False)
    split_salt: str = Field(repr=False)

    @property
    def keyring(self) -> Keyring:
        """The handle keys as `schemas.handles` takes them. Raises ConfigError where they do not fit together."""
        return Keyring(active=self.active_handle_key, keys=self.handle_keys)


def load_secrets(folder: Path) -> Secrets:
    """The secrets in `folder`, made on the first call; of several processes that make them at once, one wins.

    Raises:
        ConfigError: the file cannot be made or read, or is not of this form.
    """
    path = folder / FILE_NAME
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _create(path)
        return _read(path)
    except OSError as error:
        raise ConfigError(f"the secrets in {path} cannot be made or read: {error.strerror}") from error


def derive_secrets(root: str) -> Secrets:
    """The secrets that follow from a root secret, the same wherever it is known (HKDF-SHA256, RFC 5869).

    Raises:
        ConfigError: the root secret is too short to be one.
    """
    if len(root) < MIN_ROOT_CHARACTERS:
        raise ConfigError(
            f"chat.secret must have at least {MIN_ROOT_CHARACTERS} characters",
            field="chat.secret",
            remedy="Make one with `openssl rand -hex 32`.",
        )
    handle_key = _derived(root, "handles")
    key_id = f"r{hashlib.sha256(handle_key).hexdigest()[:8]}"
    return _secrets(key_id, {key_id: handle_key}, _derived(root, "pseudonyms"), _derived(root, "split").hex())


def rotate_handle_key(folder: Path, *, keep: int = 3) -> str:
    """Make a new active handle key and keep the newest `keep` old ones for verification; returns its id.

    Running servers go on with what they have read: restart them one after the other.

    Raises:
        ConfigError: there is no file, or it cannot be written.
    """
    path = folder / FILE_NAME
    try:
        with path.with_name(f".{FILE_NAME}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            old = _read(path)
            key_id = f"k{secrets.token_hex(4)}"
            kept = dict(list(old.handle_keys.items())[-keep:])
            new = _secrets(key_id, {**kept, key_id: _random()}, old.pseudonym_key, old.split_salt)
            write_private(path, _bytes(new))
    except OSError as error:
        raise ConfigError(f"the secrets in {path} cannot be changed: {error.strerror}") from error
    return key_id


def _create(path: Path) -> None:
    key_id = f"k{secrets.token_hex(4)}"
    made = _secrets(key_id, {key_id: _random()}, _random(), secrets.token_hex(16))
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{FILE_NAME}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_bytes(made))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # unlike a rename it never replaces what another process made
    except FileExistsError:
        pass
    finally:
        os.unlink(name)


def _read(path: Path) -> Secrets:
    try:
        found = Secrets.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} is no file of secrets: {validation_summary(error)}") from error
    _ = found.keyring  # refused now rather than at the first answer
    return found


def _secrets(key_id: str, handle_keys: dict[str, bytes], pseudonym_key: bytes, split_salt: str) -> Secrets:
    # `model_construct`, as validation would take the bytes for base64 text.
    return Secrets.model_construct(
        active_handle_key=key_id, handle_keys=handle_keys, pseudonym_key=pseudonym_key, split_salt=split_salt
    )


def _bytes(made: Secrets) -> bytes:
    return made.model_dump_json(indent=1).encode()


def _random() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _derived(root: str, purpose: str) -> bytes:
    info = f"attune {purpose}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(root.encode())
