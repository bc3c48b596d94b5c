"""Sealed content: personal data encrypted under a key of the person it belongs to.

Messages, texts, token ids (they are the text), comments and corrections travel and rest only in this form.
Destroying the subject's key makes every copy unreadable, wherever it lies. AES-256-GCM; the id of the event
is the associated data, so sealed parts cannot be moved from one event to another.
"""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field

from schemas.base import Id, Record
from schemas.errors import SealBroken

KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealed(Record):
    """An encrypted part of an event."""

    subject: Id = Field(description="pseudonym of the person, or id of the conversation that stands for them")
    key_id: Id = Field(description="which key of the subject; a key made anew after an erasure has another id")
    data: str = Field(description="base64 of nonce (12 bytes) + AES-256-GCM ciphertext + tag (16 bytes)")


def seal(plaintext: bytes, *, key: bytes, key_id: str, subject: str, event_id: str) -> Sealed:
    """Encrypt `plaintext` (any length) under `key` (32 bytes), bound to `event_id`."""
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = AESGCM(key).encrypt(nonce, plaintext, event_id.encode())
    return Sealed(subject=subject, key_id=key_id, data=base64.b64encode(nonce + ciphertext).decode("ascii"))


def unseal(sealed: Sealed, *, key: bytes, event_id: str) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        SealBroken: wrong key, altered bytes, or a part that belongs to another event.
    """
    try:
        data = base64.b64decode(sealed.data, validate=True)
        return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], event_id.encode())
    except (InvalidTag, ValueError, binascii.Error) as error:
        raise SealBroken(f"sealed content of event {event_id} cannot be opened with key {sealed.key_id}") from error
