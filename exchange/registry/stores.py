"""From the URL of a registry to the file system that it lies in. Knows fsspec; knows nothing of what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from exchange.settings import without_password
from schemas.errors import ConfigError


def store_at(url: str) -> tuple[Any, str]:
    """The file system and the root in it that a registry's URL means. Raises ConfigError as `FilesystemRegistry.at`."""
    if url.startswith("file:"):
        path = url.removeprefix("file://") if url.startswith("file://") else url.removeprefix("file:")
        if not path:
            raise ConfigError(f"{url!r} names no folder", field="registry", remedy="Write file:///PATH.")
        return LocalFileSystem(auto_mkdir=True), str(Path(path).absolute())
    if "://" not in url:
        raise ConfigError(
            f"{without_password(url)!r} is no registry",
            field="registry",
            remedy="Write memory:, file:///PATH or s3://BUCKET/PREFIX.",
        )
    try:
        # Without the cache of listings, so that versions of other processes are seen.
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        why = without_password(str(error))
        raise ConfigError(
            f"the registry {without_password(url)!r} cannot be opened: {why}", field="registry"
        ) from error
    return filesystem, root
