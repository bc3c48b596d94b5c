"""Reading a configuration file as its process would, and showing it with secrets hidden."""

from __future__ import annotations

import tomllib
from pathlib import Path

from exchange.settings import describe as describe_settings
from schemas.errors import ConfigError
from server.settings import load_settings as load_server
from trainer.settings import load_settings as load_trainer


def describe(path: Path) -> str:
    """Every setting of a server's or trainer's file, defaults included, as TOML.

    Raises:
        ConfigError: what is wrong with it, by name.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    is_server = bool({"server", "engine", "chat", "swap"} & values.keys())
    settings = load_server(path) if is_server else load_trainer(path)
    whose = "server" if is_server else "trainer"
    return f"# {path}: a {whose}'s settings, defaults included\n{describe_settings(settings)}"
