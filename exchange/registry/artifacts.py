"""Folders of files under one digest: which names are allowed, copying with every byte checked, the local cache.

Knows files and digests; knows neither where they are stored nor what they hold. A file that could run code when it is
loaded (a pickle, a script) has no allowed suffix.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from schemas.errors import AttuneError, IntegrityError, Unavailable
from schemas.manifests import FileDigest, files_digest

SUFFIXES = frozenset(
    {".csv", ".html", ".jinja", ".json", ".jsonl", ".md", ".parquet", ".png", ".safetensors", ".svg", ".toml", ".txt"}
)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_DEPTH = 8
_CHUNK = 2**20


def check_name(name: str) -> None:
    """Raises IntegrityError unless `name` is a plain relative path (`a/b.json`) with an allowed suffix."""
    parts = name.split("/")
    if len(parts) > _MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise IntegrityError(f"{name!r} is no name for a file of an artifact", field="files")
    if Path(name).suffix not in SUFFIXES:
        raise IntegrityError(
            f"{name!r} is of a kind that is not stored",
            field="files",
            remedy=f"Kinds are: {', '.join(sorted(SUFFIXES))}; weights go as .safetensors, never pickled.",
        )


def check_files(files: Mapping[str, FileDigest]) -> str:
    """The digest of `files`. Raises IntegrityError where there are none, or a name is not allowed."""
    if not files:
        raise IntegrityError("an artifact needs at least one file", field="files")
    for name in files:
        check_name(name)
    return files_digest(files)


def describe_folder(folder: Path) -> dict[str, FileDigest]:
    """Every file under `folder` by relative name, sorted, with its digest: what a manifest says of it.

    Raises:
        IntegrityError: a symbolic link, something not a plain file, or a name that is not allowed.
    """
    files: dict[str, FileDigest] = {}
    for name in _names(folder):
        check_name(name)
        with (folder / name).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = FileDigest(sha256=sha256, size=file.tell())
    return files


def source_file(folder: Path, name: str) -> BinaryIO:
    """One file of a folder to publish, open for reading. Raises IntegrityError where it is missing or a link leads
    to it.
    """
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise IntegrityError(f"{name} is or lies behind a symbolic link")
    if not path.is_file():
        raise IntegrityError(f"{name} is in the manifest but not in the folder")
    return path.open("rb")


def copy_checked(source: BinaryIO, sink: BinaryIO | None, name: str, expected: FileDigest) -> None:
    """Copy, and raise IntegrityError where the bytes are not the expected ones; no sink only checks."""
    seen = hashlib.sha256()
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > expected.size:
            break
        seen.update(chunk)
        if sink is not None:
            sink.write(chunk)
    if size != expected.size or seen.hexdigest() != expected.sha256:
        raise IntegrityError(f"the bytes of {name} are not those of its manifest")


def check_listing(found: Iterable[str], files: Mapping[str, FileDigest]) -> None:
    """Raises IntegrityError unless exactly the files of the manifest are there."""
    names = set(found)
    if missing := sorted(set(files) - names):
        raise IntegrityError(f"the stored artifact lacks {missing[0]}")
    if unknown := sorted(names - set(files)):
        raise IntegrityError(f"the stored artifact holds {unknown[0]!r}, which its manifest does not name")


def cached_copy(cache: Path, files: Mapping[str, FileDigest], fill: Callable[[Path], None], *, digest: str) -> Path:
    """The folder `cache/DIGEST` with exactly these files, every byte checked, whether it was there or not.

    `fill` writes the files into the empty folder it is given. A copy that was there but is damaged is made anew.
    """
    final = cache / digest
    with translated("the local cache"):
        if final.exists():
            if is_intact(final, files):
                return final
            discard(final)
        cache.mkdir(parents=True, exist_ok=True)
        staging = cache / f".staging-{uuid.uuid4().hex}"
        staging.mkdir()
        try:
            fill(staging)
            check_folder(staging, files)
            try:
                staging.rename(final)
            except OSError:
                # Another process was first; its copy serves if it is what it should be.
                if not final.is_dir():
                    raise
                check_folder(final, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return final


def check_folder(folder: Path, files: Mapping[str, FileDigest]) -> None:
    """Raises IntegrityError unless the folder holds exactly these files with these bytes."""
    check_listing(_names(folder), files)
    for name, expected in files.items():
        with source_file(folder, name) as source:
            copy_checked(source, None, name, expected)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of the operating system and of remote stores as Unavailable."""
    try:
        yield
    except AttuneError:
        raise
    except Exception as error:
        # Drivers of remote stores let through errors of the libraries below them; Python's own are faults of ours.
        if type(error).__module__ == "builtins" and not isinstance(error, OSError):
            raise
        raise Unavailable(f"{what} cannot be used: {error}") from error


def is_intact(folder: Path, files: Mapping[str, FileDigest]) -> bool:
    """Whether `check_folder` finds nothing wrong."""
    try:
        check_folder(folder, files)
    except AttuneError:
        return False
    return True


def discard(folder: Path) -> None:
    """Move a folder out of the way before deleting it, so that nobody finds half of it under its name."""
    aside = folder.with_name(f".discarded-{uuid.uuid4().hex}")
    folder.rename(aside)
    if aside.is_symlink() or not aside.is_dir():
        aside.unlink()
    else:
        shutil.rmtree(aside)


def _names(folder: Path) -> list[str]:
    """Relative names of all files under `folder`, sorted. Raises IntegrityError at a link or a special file."""
    names: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        for entry in (*folders, *files):
            path = Path(parent, entry)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise IntegrityError(f"{path.relative_to(folder).as_posix()} is a link or no plain file")
        names += [Path(parent, file).relative_to(folder).as_posix() for file in files]
    return sorted(names)
