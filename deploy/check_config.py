"""Reading a configuration file as its process would, and showing it with secrets hidden."""

from __future__ import annotations

from pathlib import Path

from deploy.settings_file import load_any
from exchange.settings import describe as describe_settings
from server.settings import ServerSettings


def describe(path: Path) -> str:
    """Every setting of a server's or trainer's file, defaults included, as TOML.

    Raises:
        ConfigError: what is wrong with it, by name.
    """
    settings = load_any(path).process
    whose = "server" if isinstance(settings, ServerSettings) else "trainer"
    return f"# {path}: a {whose}'s settings, defaults included\n{describe_settings(settings)}"
