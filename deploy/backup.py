"""`attune backup` and `attune restore`: event log, ledger, registry, keys and secrets, copied while everything runs.

Knows which files belong to a server and a trainer, and in which order they are copied; `exchange.privacy.backups`
copies. What lies outside (Kafka, object stores) is backed up by its own means.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exchange.keys.sqlite import SqliteKeys
from exchange.log.segments import found_segments
from exchange.open import open_log
from exchange.privacy.backups import KEYS, Part, check_backup, check_room, make_backup, restore
from exchange.privacy.erasures import read_erasures, replay_erasures
from schemas.errors import ConfigError
from server.secrets import FILE_NAME as SECRETS
from server.settings import ServerSettings
from server.settings import load_settings as load_server
from trainer.settings import TrainerSettings
from trainer.settings import load_settings as load_trainer

Folder = Annotated[Path, typer.Argument(help="The backup.")]
ServerFile = Annotated[Path, typer.Option("--config", "-c", help="The server's TOML file.")]
TrainerFile = Annotated[
    Path | None, typer.Option("--trainer", "-t", help="The trainer's TOML file; without it, its ledger is left out.")
]
_SQLITE, _FILE = "sqlite:///", "file:"


def parts_of(server: ServerSettings, trainer: TrainerSettings | None) -> list[Part]:
    """What to copy, in this order: whatever is copied later may speak of what came before, never the other way round.

    The ledger must not have read further than the log; the journal on the log must not name adapters that the registry
    lacks; no content must come without its key.
    """
    section = server.server
    parts = []
    if trainer is not None:
        parts.append(Part("ledger.db", "database", trainer.state_dir / "ledger.db"))
        parts.append(Part("last.json", "file", trainer.state_dir / "last.json"))
    if section.log.startswith(_SQLITE):
        parts.append(Part("log.db", "database", Path(section.log.removeprefix(_SQLITE))))
    if section.registry.startswith(_FILE):
        path = section.registry.removeprefix("file://") if section.registry.startswith("file://") else None
        parts.append(Part("registry", "folder", Path(path or section.registry.removeprefix(_FILE)).absolute()))
    parts.append(Part("secrets.json", "file", section.data_dir / SECRETS))
    parts.append(Part("api-keys.json", "file", section.api_keys))
    if not section.keys.startswith(_SQLITE):
        raise ConfigError(f"the key store {section.keys} cannot be backed up", field="keys")
    parts.append(Part(KEYS, "database", Path(section.keys.removeprefix(_SQLITE))))
    return parts


def backup(folder: Folder, config: ServerFile = Path("server.toml"), trainer: TrainerFile = None) -> None:
    """Copy log, ledger, registry, keys and secrets into a new folder. It holds keys: keep it as you keep those."""
    settings = load_server(config)
    manifest = make_backup(folder, parts_of(settings, None if trainer is None else load_trainer(trainer)))
    size = sum(file.size for file in manifest.files.values())
    console = Console()
    console.print(f"{folder}: {len(manifest.files)} files, {size:,} bytes", highlight=False)
    if settings.server.backups is None or folder.absolute().parent != settings.server.backups.absolute():
        console.print("erasures will not reach this copy ([server] backups is another folder)", highlight=False)
    if waiting := found_segments(settings.server.data_dir / "spool"):
        size = sum(segment.size for segment in waiting)
        words = f"{size:,} bytes of events wait in the spool and are in no copy: bring the event log back, then back up"
        console.print(words, highlight=False, soft_wrap=True)


def restore_backup(
    folder: Folder,
    config: ServerFile = Path("server.toml"),
    trainer: TrainerFile = None,
    only: Annotated[list[str] | None, typer.Option(help="Parts to restore, e.g. keys.db; default: all.")] = None,
) -> None:
    """Check a backup and put it where the settings say; nothing is overwritten, and the erased stay erased."""
    settings = load_server(config)
    done = restore_all(folder, settings, None if trainer is None else load_trainer(trainer), only)
    Console().print(f"restored {', '.join(done)}", highlight=False)


def restore_all(
    folder: Path, server: ServerSettings, trainer: TrainerSettings | None, only: list[str] | None = None
) -> list[str]:
    """Restore parts of a backup; returns the names of those that were in it.

    The keys come last, and only once every erasure on the log has been replayed on them.

    Raises:
        NotFound, IntegrityError: it is no whole backup.
        Conflict: something is in the way; nothing was written.
        Unavailable: a file cannot be written, or the log cannot be read: then the keys are not restored.
    """
    manifest = check_backup(folder)
    parts = parts_of(server, trainer)
    unknown = sorted(set(only or ()) - {part.name for part in parts})
    if unknown:
        known = ", ".join(part.name for part in parts)
        raise ConfigError(f"there is no part {unknown[0]}", field="only", remedy=f"Parts are: {known}.")
    wanted = [part for part in parts if only is None or part.name in only]
    for part in wanted:
        if (folder / part.name).exists():
            check_room(part)  # before anything is written
    done = [part.name for part in wanted if part.name != KEYS and restore(folder, part)]
    for part in wanted:
        if part.name == KEYS and restore(folder, part, lambda staged: _replay(server, staged)):
            done.append(part.name)
    made = datetime.fromtimestamp(manifest.made_at / 1000, tz=UTC)
    Console(stderr=True).print(f"backup of {made:%Y-%m-%d %H:%M}Z", highlight=False)
    return done


def _replay(server: ServerSettings, staged: Path) -> None:
    with open_log(server.server.log, kafka=server.kafka) as log, closing(SqliteKeys(staged)) as keys:
        replay_erasures(read_erasures(log), keys)
