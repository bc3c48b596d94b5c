"""Anyone's preferences as data: a TOML file says who the users are (`[[taste]]`) and what they really value (`[gold]`).

Three populations ship with the demo: mixed (the default), brief and warm, which want opposite things of the same base.
Knows the format; docs/demo.md explains it. What a taste does is in `users`, what gold is in `gold`.
"""

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploy.demo.gold import Weights
from deploy.demo.users import Taste
from schemas.errors import ConfigError

SHIPPED = ("mixed", "brief", "warm")
MAX_BYTES = 64 * 1024
REMEDY = "docs/demo.md explains the format; deploy/demo/tastes holds three such files."


@dataclass(frozen=True)
class Preferences:
    """One population. `name` is the file's, without its ending."""

    name: str
    gold: Weights
    tastes: tuple[Taste, ...]


class _File(BaseModel):
    """A whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gold: Weights = Weights()
    taste: tuple[Taste, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [taste.name for taste in self.taste]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one taste is named {', '.join(twice)}")
        return self


@cache
def shipped(name: str) -> Preferences:
    """One of the populations that ship with the demo.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in SHIPPED:
        remedy = f"It is one of {', '.join(SHIPPED)}; your own goes with --users FILE."
        raise ConfigError(f"there is no taste {name!r}", field="taste", remedy=remedy)
    file = resources.files("deploy.demo").joinpath("tastes", f"{name}.toml")
    return parse(file.read_text(encoding="utf-8"), name)


def load(path: Path) -> Preferences:
    """The population in a file.

    Raises:
        ConfigError: no such file, too large, no TOML, or a field is unknown, missing or out of its range; `field`
            names it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", field="users", remedy=REMEDY) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes", field="users", remedy=REMEDY)
    return parse(text, path.stem)


def parse(text: str, name: str) -> Preferences:
    """The population in the text of a file called `name`. Raises ConfigError, as `load` does."""
    try:
        read = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is no TOML: {error}", field="users", remedy=REMEDY) from error
    except ValidationError as error:
        raise _refusal(error, name) from error
    return Preferences(name, read.gold, read.taste)


def _refusal(error: ValidationError, name: str) -> ConfigError:
    """The first fault, with the field's path (`taste.0.brevity`) and what to do about it."""
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        where = f"{name}: {field}" if field else name
        return ConfigError(f"{where}: {fault['msg']}", field=field or "users", remedy=REMEDY)
    tables: dict[str, type[BaseModel]] = {"gold": Weights, "taste": Taste}
    known = list(tables.get(str(fault["loc"][0]), _File).model_fields if len(fault["loc"]) > 1 else _File.model_fields)
    nearest = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
    remedy = f"Did you mean {nearest[0]}?" if nearest else f"Known here: {', '.join(known)}."
    return ConfigError(f"{name}: {field} is no field that is known", field=field, remedy=remedy)
