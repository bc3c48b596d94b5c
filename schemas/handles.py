"""Feedback handles: proof that the bearer was shown an answer.

A handle names key, tenant, user, conversation, policy and target, and expires. It is encrypted and authenticated
(AES-256-GCM) rather than merely signed: a signed one would show a rater which version made which candidate, and
a browser the pseudonym of its user. It needs no database look-up, so feedback may come before its completion event.
A comparison's handle names its candidates in the order shown, not sides.

Form: `ah1.KEYID.BASE64URL(nonce + ciphertext + tag)`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError

from schemas.base import Id, Millis, PolicyName, Record
from schemas.errors import ConfigError, HandleRefused
from schemas.feedback import Target

_PREFIX = "ah1"
_NONCE_BYTES = 12


class HandleClaims(Record):
    """What a handle asserts."""

    tenant: Id
    api_key_id: Id
    end_user: Id | None
    conversation: Id
    policy: PolicyName
    target: Target
    expires_at: Millis


@dataclass(frozen=True)
class Keyring:
    """Handle keys by id (32 bytes each). `active` makes new handles; the others still verify old ones."""

    active: str
    keys: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.active not in self.keys:
            raise ConfigError(f"the active handle key {self.active!r} is not in the keyring", field="active")
        for key_id, key in self.keys.items():
            if "." in key_id or len(key) != 32:
                raise ConfigError(f"handle key {key_id!r} must have an id without '.' and 32 bytes", field="keys")


def issue_handle(claims: HandleClaims, keyring: Keyring) -> str:
    """Make the handle for `claims` with the active key."""
    nonce = os.urandom(_NONCE_BYTES)
    header = f"{_PREFIX}.{keyring.active}"
    body = AESGCM(keyring.keys[keyring.active]).encrypt(nonce, claims.model_dump_json().encode(), header.encode())
    return f"{header}.{_text(nonce + body)}"


def verify_handle(handle: str, keyring: Keyring, *, now: int) -> HandleClaims:
    """The claims of a handle that this keyring issued and that has not expired at `now` (ms since the epoch).

    Raises:
        HandleRefused: with reason `malformed`, `unknown_key`, `forged` or `expired`.
    """
    parts = handle.split(".")
    if len(parts) != 3 or parts[0] != _PREFIX:
        raise HandleRefused("malformed", "this is not a feedback handle")
    _, key_id, encoded = parts
    key = keyring.keys.get(key_id)
    if key is None:
        raise HandleRefused("unknown_key", "this handle was made with a key that is no longer accepted")
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        if _text(data) != encoded:  # base64 has several texts for the same bytes; a handle has one
            raise ValueError("not as it was issued")
        plain = AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], f"{_PREFIX}.{key_id}".encode())
        claims = HandleClaims.model_validate_json(plain)
    except (InvalidTag, ValidationError, ValueError, binascii.Error) as error:
        raise HandleRefused("forged", "this handle was altered or not made by this service") from error
    if claims.expires_at <= now:
        raise HandleRefused("expired", "this handle has expired")
    return claims


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
