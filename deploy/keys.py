"""`attune keys ...`: make, list and revoke API keys in the server's key file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="API keys of a server: create, list, revoke.", no_args_is_help=True)
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The server's TOML file.")]
