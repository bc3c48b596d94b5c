"""What every contract shares: model configuration, ids, timestamps and version names."""

from __future__ import annotations

import re
import secrets
import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.errors import InvalidInput


class Record(BaseModel):
    """A stored contract. Unknown fields are ignored, so that an old reader accepts a newer minor version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Body(BaseModel):
    """An HTTP request body or a settings-like input. Unknown fields are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Millis = Annotated[int, Field(ge=0, lt=2**53, description="milliseconds since 1970-01-01 UTC")]
Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@/+=-]+$")]
Slug = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
PolicyName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ChoiceIndex = Annotated[int, Field(ge=0, lt=2**31, description="place among the choices of a completion")]
VersionNumber = Annotated[int, Field(ge=0, lt=2**31, description="0 is the base without an adapter")]


def now_ms() -> int:
    """Wall-clock time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def new_id(prefix: str, at_ms: int | None = None) -> str:
    """A fresh unguessable id, `PREFIX_` + 12 hex digits of time + 20 random ones: sorts by time of minting."""
    return f"{prefix}_{now_ms() if at_ms is None else at_ms:012x}{secrets.token_hex(10)}"


def minted_by(prefix: str, at_ms: int) -> str:
    """A text that every id of `new_id(prefix)` minted at or before `at_ms` sorts before, and every later one after."""
    return f"{prefix}_{at_ms + 1:012x}"


_VERSION_NAME = re.compile(r"(?P<policy>[a-z0-9][a-z0-9._-]{0,63})@v(?P<version>0|[1-9][0-9]{0,8})")


def version_name(policy: str, version: int) -> str:
    """The public name of one version of a policy, such as `support@v12`."""
    return f"{policy}@v{version}"


def parse_version_name(name: str) -> tuple[str, int]:
    """Split `support@v12` into `("support", 12)`.

    Raises:
        InvalidInput: the name is not of the form POLICY@vN.
    """
    match = _VERSION_NAME.fullmatch(name)
    if match is None:
        raise InvalidInput(
            f"{name!r} is not the name of a policy version", field="version", remedy="Write POLICY@vN, e.g. support@v3."
        )
    return match["policy"], int(match["version"])
