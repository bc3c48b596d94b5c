"""The drill: back up while it runs, lose everything, restore; all of it verifies, and the erased stay erased."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from deploy.backup import backup, parts_of, restore_all
from deploy.init import write_home
from exchange.keys.sqlite import SqliteKeys
from exchange.log.spool import Spool
from exchange.log.sqlite import SqliteLog
from exchange.privacy.backups import check_backup, make_backup
from exchange.privacy.erasures import read_erasures
from exchange.registry.files import FilesystemRegistry
from exchange.settings import build_settings
from schemas.errors import ConfigError, Conflict, IntegrityError, NotFound, Unavailable
from schemas.wire import encode_event
from server.settings import ServerSettings
from tests.golden.samples import SAMPLES
from tests.unit.privacy.scan import scan
from tests.unit.privacy.test_bytes import PLANTS, WORDS, Site, open_site
from tests.unit.server.control.test_app import settings_for
from trainer.intake.ledger import Ledger
from trainer.settings import TrainerSettings


def settings_of(folder: Path) -> tuple[ServerSettings, TrainerSettings]:
    """As of a server and a trainer whose data `open_site` makes."""
    shared = {
        "log": f"sqlite:///{folder / 'log.db'}",
        "keys": f"sqlite:///{folder / 'keys.db'}",
        "registry": f"file://{folder / 'registry'}",
    }
    server = settings_for(folder, server=shared)
    return server, build_settings(TrainerSettings, {**shared, "state_dir": folder / "state", "model": "none"})


async def filled(folder: Path, *, erase: bool = False) -> None:
    """Two people's data and a version that learnt from them."""
    async with open_site(folder) as site:
        await site.visits()
        site.turn(1)
        if erase:
            await site.post("/v1/admin/erasures", {"user": WORDS["name"]}, admin=True)


def lose(folder: Path, *kept: str) -> None:
    for path in folder.iterdir():
        if path.name not in ("vault", *kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


async def test_everything_comes_back_and_verifies(tmp_path: Path) -> None:
    server, trainer = settings_of(tmp_path)
    async with open_site(tmp_path) as site:  # while it is in use
        await site.visits()
        site.turn(1)
        make_backup(tmp_path / "vault", parts_of(server, trainer))
        await site.visit("carl", "later", "q", "s", comment="c", idempotency="i", correction="x")
    assert (tmp_path / "vault").stat().st_mode & 0o077 == 0
    lose(tmp_path)
    shutil.copy(tmp_path / "vault" / "log.db", tmp_path / "look.db")  # opening a log changes its header
    with SqliteLog(tmp_path / "look.db") as log:
        records = len(read_everything(log))
    lose(tmp_path)
    assert restore_all(tmp_path / "vault", server, trainer) == [
        "ledger.db",
        "log.db",
        "registry",
        "secrets.json",
        "api-keys.json",
        "keys.db",
    ]
    assert (tmp_path / "keys.db").stat().st_mode & 0o777 == 0o600
    registry = FilesystemRegistry.at(server.server.registry)
    manifest = registry.adapter("support", 1)
    registry.fetch_adapter("support", 1, tmp_path / "check")
    registry.fetch_artifact("snapshots", manifest.snapshot, tmp_path / "check")
    with SqliteLog(tmp_path / "log.db") as log:
        assert len(read_everything(log)) == records
    with Ledger(tmp_path / "state" / "ledger.db", "support") as ledger:
        assert len(ledger.known().completions) == 6
    async with open_site(tmp_path) as site:  # with the same secrets, so people keep their pseudonyms
        before = people(site)
        await site.visit(WORDS["name"], "s", "q", "s", comment="c", idempotency="i", correction="x")
        _, answers = site.turn(2)
        assert {answer.group for answer in answers} == before
        assert len(answers) == 9


def read_everything(log: SqliteLog) -> list[object]:
    from tests.unit.privacy.test_bytes import _records

    return list(_records(log))


def people(site: Site) -> set[str]:
    with site.trainer() as corpus:
        return {facts.subject() for facts in corpus.ledger.known().completions}


async def test_who_was_erased_after_the_backup_stays_erased_when_the_keys_come_back(tmp_path: Path) -> None:
    server, trainer = settings_of(tmp_path)
    await filled(tmp_path)
    make_backup(tmp_path / "vault", parts_of(server, trainer))  # out of reach of erasures
    async with open_site(tmp_path) as site:
        told = await site.post("/v1/admin/erasures", {"user": WORDS["name"]}, admin=True)
    with closing(SqliteKeys(tmp_path / "vault" / "keys.db")) as old:
        assert old.lookup(key_of(tmp_path / "vault", told["subject"])) is not None, "the old copy still has her key"
    (tmp_path / "keys.db").unlink()
    assert restore_all(tmp_path / "vault", server, trainer, ["keys.db"]) == ["keys.db"]
    shutil.rmtree(tmp_path / "vault")
    found = scan(tmp_path, PLANTS)
    assert found.readable == []
    assert found.opened > 0, "the others' keys are back"


def key_of(backup: Path, subject: str) -> str:
    import sqlite3

    with closing(sqlite3.connect(backup / "keys.db")) as database:
        return str(database.execute("SELECT key_id FROM keys WHERE subject = ?", (subject,)).fetchone()[0])


async def test_nothing_is_overwritten_and_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    server, trainer = settings_of(tmp_path)
    await filled(tmp_path)
    make_backup(tmp_path / "vault", parts_of(server, trainer))
    with pytest.raises(Conflict, match="already there"):
        make_backup(tmp_path / "vault", parts_of(server, trainer))
    (tmp_path / "log.db").unlink()
    (tmp_path / "log.db-wal").touch()
    with pytest.raises(Conflict, match=r"log\.db-wal is already there"):
        restore_all(tmp_path / "vault", server, trainer, ["log.db"])
    (tmp_path / "log.db-wal").unlink()
    with pytest.raises(Conflict, match="already there"):
        restore_all(tmp_path / "vault", server, trainer)
    assert not (tmp_path / "log.db").exists(), "all or nothing"
    with pytest.raises(ConfigError, match="no part ledger"):
        restore_all(tmp_path / "vault", server, trainer, ["ledger"])
    lose(tmp_path)
    path = tmp_path / "vault" / "ledger.db"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"ledger\.db"):
        restore_all(tmp_path / "vault", server, trainer)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"ledger\.db"):
        restore_all(tmp_path / "vault", server, trainer)
    (tmp_path / "vault" / "backup.json").unlink()
    with pytest.raises(NotFound, match="no complete backup"):
        restore_all(tmp_path / "vault", server, trainer)
    assert {path.name for path in tmp_path.iterdir()} == {"vault"}


async def test_keys_do_not_come_back_while_the_log_cannot_say_who_was_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, trainer = settings_of(tmp_path)
    await filled(tmp_path, erase=True)
    make_backup(tmp_path / "vault", parts_of(server, trainer))
    check_backup(tmp_path / "vault")
    lose(tmp_path, "log.db", "log.db-wal", "log.db-shm")

    def away(url: str, **_: object) -> None:
        raise Unavailable(url)

    monkeypatch.setattr("deploy.backup.open_log", away)
    with pytest.raises(Unavailable):
        restore_all(tmp_path / "vault", server, trainer, ["keys.db"])
    assert not list(tmp_path.glob("*keys.db*"))
    with SqliteLog(tmp_path / "log.db") as log:
        assert len(read_erasures(log)) == 1


def test_what_waits_in_the_spool_is_said_to_be_in_no_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = write_home(tmp_path / "home", model="none", policy="support", log="sqlite:///log.db")
    backup(tmp_path / "first", home.server)
    assert "bytes of events" not in capsys.readouterr().out
    with Spool(tmp_path / "home" / "server-data" / "spool") as spool:
        assert spool.append([encode_event(SAMPLES["feedback_thumbs"])]) == [None]
        backup(tmp_path / "second", home.server)
        assert f"{spool.size_bytes:,} bytes of events wait in the spool" in capsys.readouterr().out
