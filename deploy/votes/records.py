"""Reads a JSONL file, or one that is a single JSON array, item by item, however large it is.

Knows JSON and bounds: no item is held that is larger than `MAX_ITEM_CHARS`, and no more than one at a time. Knows
nothing of what the items mean.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from schemas.errors import InvalidInput

MAX_ITEM_CHARS = 16_000_000
"""Open WebUI puts the whole chat, with every branch of it, beside each vote."""
_CHUNK = 1 << 16
_SPACE = " \t\r\n"
Advance = Callable[[int], None]
"""Called with the number of bytes of the file that were read so far."""


@dataclass(frozen=True)
class Item:
    """One value of a file, where it stands, and what is wrong with it where it could not be read."""

    place: str
    value: Any = None
    fault: str | None = None


def read_items(path: Path, advance: Advance = lambda _: None) -> Iterator[Item]:
    """Every item of a file, in order. What cannot be read is an item with a fault.

    Raises:
        InvalidInput: the file cannot be opened, or is neither JSONL nor a JSON array.
    """
    try:
        with path.open("rb") as file:
            first = _first_character(file)
            if first not in (b"[", b"{", b""):
                raise InvalidInput(
                    f"{path.name} is neither JSONL nor a JSON array",
                    field="file",
                    remedy="Export as JSON or JSONL; CSV leaves out what is needed.",
                )
            yield from _array(file, advance) if first == b"[" else _lines(file, advance)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", field="file") from error


def _first_character(file: BinaryIO) -> bytes:
    start = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return start[:1]


def _lines(file: BinaryIO, advance: Advance) -> Iterator[Item]:
    number = 0
    while line := file.readline(MAX_ITEM_CHARS + 1):
        number += 1
        place = f"line {number}"
        if len(line) > MAX_ITEM_CHARS:
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK)
            yield Item(place, fault=f"longer than {MAX_ITEM_CHARS} bytes")
        elif text := line.removeprefix(b"\xef\xbb\xbf").strip():
            yield _parsed(place, text)
        advance(file.tell())


def _parsed(place: str, text: bytes) -> Item:
    try:
        return Item(place, json.loads(text.decode("utf-8")))
    except UnicodeDecodeError:
        return Item(place, fault="no valid UTF-8")
    except (ValueError, RecursionError) as error:
        return Item(place, fault=f"no JSON: {_words(error)}")


def _words(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or out of range"


def _array(file: BinaryIO, advance: Advance) -> Iterator[Item]:
    """The items of one JSON array. After a fault there is no telling where the next item begins, so it is the last."""
    window = _Window(file, advance)
    decoder = json.JSONDecoder()
    window.skip(_SPACE + "\ufeff")
    window.take()  # the bracket
    number = 0
    try:
        while (character := window.skip(_SPACE)) != "]":
            number += 1
            if number > 1:
                if character != ",":
                    yield Item(f"item {number}", fault="no comma between two items; what follows was not read")
                    return
                window.take()
                character = window.skip(_SPACE)
            if character != "{":
                yield Item(f"item {number}", fault="no JSON object; what follows was not read")
                return
            yield Item(f"item {number}", window.decode(decoder))
        window.take()
        if window.skip(_SPACE):
            yield Item("end", fault="something follows the JSON array")
    except UnicodeDecodeError:
        yield Item(f"item {number}", fault="no valid UTF-8; what follows was not read")
    except (ValueError, RecursionError) as error:
        yield Item(f"item {number}", fault=f"no JSON: {_words(error)}; what follows was not read")


class _Window:
    """The part of a text file that is looked at."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file = file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._advance = advance
        self._buffer = ""
        self._at = 0

    def skip(self, characters: str) -> str:
        """Move past any of `characters`; the character that is there then, or nothing at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in characters:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more(_CHUNK):
                return ""

    def take(self) -> None:
        """Move past one character."""
        self._at += 1

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """The JSON object that begins here. Raises ValueError where there is none, or none that is small enough."""
        self._buffer, self._at = self._buffer[self._at :], 0
        while True:
            try:
                value, self._at = decoder.raw_decode(self._buffer)
                return value
            except json.JSONDecodeError:
                # It may only not have come whole. Twice as much each time: no character is parsed more than twice.
                if len(self._buffer) > MAX_ITEM_CHARS or not self._more(max(_CHUNK, len(self._buffer))):
                    raise

    def _more(self, size: int) -> bool:
        read = self._file.read(size)
        self._buffer, self._at = self._buffer[self._at :] + self._utf8.decode(read, final=not read), 0
        self._advance(self._file.tell())
        return bool(read)
