"""Names that stand for people and conversations: keyed hashes, so that nobody can go back without the key.

Knows tenants and what their apps call users and sessions; keeps none of it. All are namespaced by tenant, so nobody
can address another tenant's people or conversations.
"""

from __future__ import annotations

import hashlib
import hmac

_HEX = 40


def _keyed(key: bytes, *parts: str) -> str:
    # Each part's length goes before it, so that no two lists of parts give the same bytes.
    data = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def end_user(key: bytes, tenant: str, user: str) -> str:
    """The pseudonym of a tenant's user."""
    return f"user_{_keyed(key, 'user', tenant, user)[:_HEX]}"


def conversation(key: bytes, tenant: str, session: str) -> str:
    """The id of the conversation that a tenant's app calls `session`."""
    return f"conv_{_keyed(key, 'conversation', tenant, session)[:_HEX]}"


def cache_salt(key: bytes, tenant: str, own: str = "") -> str:
    """A salt that keeps a tenant's prefix cache apart; `own` is what the client asked for itself."""
    return _keyed(key, "cache", tenant, own)


def derived_id(key: bytes, prefix: str, *parts: str) -> str:
    """An id that is the same on every replica for the same parts, and that nobody else can guess."""
    return f"{prefix}_{_keyed(key, 'id', prefix, *parts)[:_HEX]}"
