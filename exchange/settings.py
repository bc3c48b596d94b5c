"""What the settings of both processes share: one TOML file, overridden by the environment, unknown keys refused.

Knows how a settings model is filled, how relative paths are meant (from the file's folder) and how settings are shown
with secrets hidden. Knows no setting by name.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from schemas.errors import ConfigError

ENV_PREFIX = "ATTUNE_"
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
_SECRET_KEY = re.compile(r"(token|secret|password|key)$", re.IGNORECASE)


@dataclass(frozen=True)
class _Model:
    """Marks a string that is a folder if there is one, and else a name."""


ModelRef = Annotated[str, _Model()]
"""A base model: a folder (relative ones from the settings file's folder) or a Hugging Face name."""


class TomlSettings(BaseSettings):
    """Base of a process's settings. `ATTUNE_SECTION__KEY=...` in the environment wins over the file."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


S = TypeVar("S", bound=TomlSettings)


def load_toml_settings(model: type[S], path: Path) -> S:
    """The settings in the TOML file at `path`, overridden by the environment.

    Relative paths in them (`Path` fields, `sqlite:///` and `file:` URLs, `ModelRef`s that are folders), defaults
    included, are taken from the folder of the file.

    Raises:
        ConfigError: no such file, no TOML, an unknown key (named, with the nearest known one), a missing or wrong
            value.
    """
    values = read_toml(path, missing="`attune init` writes one.")
    return resolved(build_settings(model, values, name=path.name), path.absolute().parent)


def read_toml(path: Path, *, missing: str) -> dict[str, Any]:
    """The values in a settings file. Raises ConfigError, with the remedy `missing` where there is no such file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file {path}", remedy=missing) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error


def build_settings(model: type[S], values: Mapping[str, Any], *, name: str = "settings") -> S:
    """Settings from plain values and the environment. Raises ConfigError as `load_toml_settings` does."""
    try:
        return model(**values)
    except ValidationError as error:
        faults = [_fault(model, fault["type"], fault["loc"], fault["msg"]) for fault in error.errors()]
        first = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"{name}: {'; '.join(faults[:5])}", field=first) from error
    except SettingsError as error:
        raise ConfigError(f"the environment cannot be read: {error}", remedy="Lists and tables are JSON.") from error


def _fault(model: type[BaseModel], kind: str, location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location)
    if kind == "missing":
        return f"{where} is missing"
    if kind != "extra_forbidden":
        return f"{where}: {message}"
    known = _known_keys(model, location[:-1])
    nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(sorted(known))}"
    return f"unknown setting {where} ({hint})"


def _known_keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """The field names of the model found at `location` inside `model`."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _models_in(field.annotation) if field is not None else []
        if inner:
            model = inner[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models named in a type, also inside unions, containers and Annotated."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for part in get_args(annotation) for found in _models_in(part)]


M = TypeVar("M", bound=BaseModel)


def resolved(settings: M, base: Path) -> M:
    """A copy whose relative paths start at `base`."""
    update: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        marked = any(isinstance(mark, _Model) for mark in field.metadata)
        changed = _resolved_model(value, base) if marked else _resolved_value(value, base)
        if changed is not value:
            update[name] = changed
    return settings.model_copy(update=update) if update else settings


def _resolved_value(value: Any, base: Path) -> Any:
    if isinstance(value, BaseModel):
        return resolved(value, base)
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, str):
        return _resolved_url(value, base)
    return value


def _resolved_model(value: Any, base: Path) -> Any:
    folder = base / Path(value).expanduser()
    return str(folder) if folder.is_dir() else value


def _resolved_url(value: str, base: Path) -> str:
    """`sqlite:///x` is relative and `sqlite:////x` absolute; `file:///x` is absolute and `file:x` relative."""
    if value.startswith("sqlite:///"):
        return f"sqlite:///{base / value.removeprefix('sqlite:///')}"
    if value.startswith("file:") and not value.startswith("file:/"):
        return f"file://{base / value.removeprefix('file:')}"
    return value


def describe(settings: BaseModel) -> str:
    """Every setting as TOML, in the order of the model, with secrets and passwords in URLs hidden.

    What is not set (None) is shown as a comment.
    """
    lines: list[str] = []
    _describe(settings, "", lines)
    return "\n".join(lines).strip() + "\n"


def _describe(model: BaseModel, path: str, lines: list[str]) -> None:
    sections: list[tuple[str, BaseModel]] = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            sections.append((name, value))
        elif value is None:
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{name} = {_toml(value)}")
    for name, section in sections:
        inner = f"{path}.{name}" if path else name
        lines += ["", f"[{inner}]"]
        _describe(section, inner, lines)


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '"(hidden)"'
    if isinstance(value, BaseModel):
        return _toml(value.model_dump())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        hidden = {key: SecretStr("") for key, item in value.items() if item and _SECRET_KEY.search(str(key))}
        items = (
            f"{json.dumps(str(key))} = {_toml(hidden.get(key, item))}"
            for key, item in value.items()
            if item is not None
        )
        return f"{{ {', '.join(items)} }}" if value else "{}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(without_password(str(value)), ensure_ascii=False)


def without_password(url: str) -> str:
    """A URL, or any text with URLs in it, with the passwords in them hidden."""
    return _PASSWORD.sub(r"\1:(hidden)@", url)
