"""After an erasure no readable byte of a person is left in any file of ours, and the loop goes on without them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from exchange.keys.sqlite import SqliteKeys
from exchange.log.port import EventLog
from exchange.log.sqlite import SqliteLog
from exchange.privacy.backups import KEYS, Part, check_backup, make_backup
from exchange.registry.files import FilesystemRegistry
from exchange.registry.port import Registry
from schemas.completion import ConsentLevel
from schemas.topics import DEAD_LETTER
from schemas.wire import LogRecord
from server.app import Application, Parts, build_app
from server.auth import KeyFile, Scope
from server.engine.memory import InMemoryEngine
from tests.unit.privacy.scan import Found, Plants, scan, token_run
from tests.unit.server.control.test_app import settings_for
from tests.unit.server.control.world import publish
from trainer.data import LoggedAnswer
from trainer.intake.clerk import ErasureClerk
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.settings import FeedbackSection
from trainer.snapshots.corpus import Corpus

WORDS = {
    "question": "zanzibar-quokka-4711",
    "system": "vermilion-heptagon-88",
    "correction": "marzipan-obelisk-903",
    "comment": "turquoise-walrus-5512",
    "idempotency": "mail-to-xylophone-77",
    "name": "ann-of-the-blue-yonder",
    "session": "visit-of-the-kumquat",
}
PLANTS = Plants(words=tuple(WORDS.values()), tokens=(token_run(WORDS["question"]), token_run(WORDS["system"])))


@dataclass
class Site:
    """One server and one trainer's data, all of it under one folder."""

    folder: Path
    http: httpx.AsyncClient
    application: Application
    log: EventLog
    registry: Registry
    keys: SqliteKeys
    engine: InMemoryEngine
    api_keys: KeyFile
    app_key: dict[str, str]
    admin_key: dict[str, str]

    async def post(self, path: str, body: dict[str, Any], *, admin: bool = False) -> dict[str, Any]:
        answer = await self.http.post(path, json=body, headers=self.admin_key if admin else self.app_key)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def visit(self, user: str, session: str, question: str, system: str, **said: str) -> None:
        """A chat with a thumb, a correction and a comparison."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        asked = {"model": "support", "messages": messages, "user": user, "session_id": session}
        handle = (await self.post("/v1/chat/completions", asked))["attune"]["handles"][0]
        about = {"handle": handle, "comment": said["comment"], "idempotency_key": said["idempotency"]}
        await self.post("/v1/feedback", {**about, "kind": "correction", "text": said["correction"]})
        await self.post("/v1/feedback", {"handle": handle, "kind": "thumbs", "value": "down"})
        await self.post("/v1/displayed", {"handle": handle})
        shown = await self.post("/v1/comparisons", {**asked, "k": 2})
        await self.post("/v1/feedback", {"handle": shown["handle"], "kind": "comparison", "winner": 0})
        self.settle()

    async def visits(self) -> None:
        """Ann with all that is planted, Bob with other words, and a record of hers that no reader understands."""
        texts = {name: WORDS[name] for name in ("question", "system", "comment", "idempotency", "correction")}
        await self.visit(WORDS["name"], WORDS["session"], **texts)
        await self.visit("bob", "visit-b", **{name: f"plain {name}" for name in texts})
        own = next(record for record in _records(self.log) if b'"content":{' in record.value)
        self.log.append([LogRecord(own.topic, own.key, own.value, (("ce_type", b"attune.unheard.of.v9"),))])

    def settle(self) -> None:
        assert self.application.recorder.flush(5)
        assert self.application.appender.flush(5)

    @contextmanager
    def trainer(self) -> Iterator[Corpus]:
        """The ledger, up with the log."""
        path = self.folder / "state" / "ledger.db"
        with Ledger(path, "support") as ledger:
            clerk = ErasureClerk(self.log, self.keys, "support", "trainer_1")
            with closing(Ingest(self.log, ledger, "support", clerk)) as ingest:
                while ingest.pump():
                    pass
            settings = FeedbackSection(feedback_window_ms=0, heldout_users=0, heldout_time=0)
            yield Corpus(ledger, self.keys, settings, self.engine.base_fingerprint, lambda _, text: list(text.encode()))

    def turn(self, version: int) -> tuple[str, tuple[LoggedAnswer, ...]]:
        """What a turn does with data: cut, publish, read; and a made-up adapter out of it."""
        with self.trainer() as corpus:
            folder = self.folder / "state" / f"turn-{version}" / "snapshot"
            manifest = corpus.cut(version - 1, folder, since=None).manifest
            self.registry.publish_snapshot(folder, manifest)
            data = corpus.read(folder, manifest)
        publish(self.registry, self.folder / "made", version, snapshot=manifest.digest)
        return manifest.digest, tuple(data.answers)

    def scan(self) -> Found:
        return scan(self.folder, PLANTS)


def _records(log: EventLog) -> list[LogRecord]:
    from exchange.log.port import TopicPartition
    from schemas.topics import TOPICS

    places = {TopicPartition(topic, number): 0 for topic in TOPICS for number in log.partitions(topic)}
    with closing(log.reader(places)) as reader:
        found = reader.poll(max_records=10_000)
    return [LogRecord(one.position.topic, one.key, one.value, one.headers) for one in found]


@asynccontextmanager
async def open_site(folder: Path) -> AsyncIterator[Site]:
    settings = settings_for(folder, server={"backups": folder / "backups", "policies": ("support",)})
    engine = InMemoryEngine(base_names=("support@v0",))
    registry = FilesystemRegistry.at(f"file://{folder}/registry")
    api_keys = KeyFile(settings.server.api_keys)
    scopes = (Scope.CHAT, Scope.FEEDBACK)
    _, app = api_keys.create(tenant="acme", scopes=scopes, default_consent=ConsentLevel.TRAIN)
    _, admin = api_keys.create(tenant="acme", scopes=(Scope.ADMIN,), default_consent=ConsentLevel.NONE)
    with SqliteLog(folder / "log.db") as log, closing(SqliteKeys(folder / "keys.db")) as keys:
        application = build_app(settings, Parts(engine, log, registry, keys, api_keys, CollectorRegistry()))
        transport = httpx.ASGITransport(application.app)
        async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
            bearer = [{"authorization": f"Bearer {text}"} for text in (app, admin)]
            yield Site(folder, http, application, log, registry, keys, engine, api_keys, *bearer)


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[None]:
    """Everything that any part of Attune logs lies in a file too."""
    (tmp_path / "logs").mkdir()
    handler = logging.FileHandler(tmp_path / "logs" / "attune.log")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield
    root.removeHandler(handler)
    root.setLevel(level)
    handler.close()


def back_up(site: Site, name: str) -> Path:
    folder = site.folder / "backups" / name
    make_backup(
        folder,
        [
            Part("ledger.db", "database", site.folder / "state" / "ledger.db"),
            Part("log.db", "database", site.folder / "log.db"),
            Part("registry", "folder", site.folder / "registry"),
            Part(KEYS, "database", site.folder / "keys.db"),
        ],
    )
    return folder


async def test_after_an_erasure_no_readable_byte_is_left_and_the_loop_goes_on(tmp_path: Path, logged: None) -> None:
    async with open_site(tmp_path) as site:
        await site.visits()
        _, answers = site.turn(1)
        backup = back_up(site, "before")
        assert len({answer.group for answer in answers}) == 2
        assert any(record.topic == DEAD_LETTER.name for record in _records(site.log))

        # The scan sees what is there to see: with her key in a file, her content opens.
        before = site.scan()
        read = {what.split(" as ")[0] for what in before.readable if "sealed content" in what}
        assert {WORDS[name] for name in ("question", "system", "correction", "comment")} <= read
        assert any(what.startswith("tokens") for what in read)
        assert before.opened == before.sealed
        assert not [what for what in before.readable if "sealed content" not in what], "nothing lies about unsealed"

        told = await site.post("/v1/admin/erasures", {"user": WORDS["name"]}, admin=True)
        assert told["applied"][0]["counts"] == {"keys": 1, "backup_keys": 1}
        assert told["influenced"] == [{"policy": "support", "direct": ["support@v1"], "inherited": [], "unknown": []}]
        _, left = site.turn(2)
        assert {answer.group for answer in left} == {answer.group for answer in answers} - {told["subject"]}
        assert left, "training goes on"
        after = site.scan()
        assert after.readable == []
        assert 0 < after.opened < after.sealed, "others can still be read"
        check_backup(backup)

        status = await site.http.get(f"/v1/admin/erasures/{told['id']}", headers=site.admin_key)
        assert status.json()["waiting_for"] == []
        assert status.json()["applied"][1]["counts"]["rows"] >= 7
        assert status.json()["influenced"][0]["direct"] == ["support@v1"], "v2 was made without her"
    # And once all is closed: WAL files folded in, journals gone.
    assert scan(tmp_path, PLANTS).readable == []


def _keep(*_: object, **__: object) -> tuple[str, ...]:
    return ()


def _unlink_only(path: Path) -> Callable[..., tuple[str, ...]]:
    """A destruction that forgets the row and leaves its bytes: SQLite without secure_delete."""
    import sqlite3

    def destroy(subject: str, **_: object) -> tuple[str, ...]:
        with closing(sqlite3.connect(path)) as careless:
            careless.execute("PRAGMA secure_delete = OFF")
            careless.execute("DELETE FROM keys WHERE subject = ?", (subject,))
            careless.commit()
        return ()

    return destroy


@pytest.mark.parametrize("how", ["kept", "left in free bytes", "left in a backup"])
async def test_the_scan_fails_where_a_key_is_left(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_site(tmp_path) as site:
        await site.visits()
        site.turn(1)
        if how == "left in a backup":
            monkeypatch.setattr("server.control.erasures.destroy_in_backups", lambda *_: 0)
            back_up(site, "before")
        else:
            destroy = _keep if how == "kept" else _unlink_only(tmp_path / "keys.db")
            monkeypatch.setattr(site.keys, "destroy", destroy)
        await site.post("/v1/admin/erasures", {"user": WORDS["name"]}, admin=True)
        site.turn(2)
        assert any(WORDS["question"] in what for what in site.scan().readable)


def test_the_needles_find_every_way_to_write_a_word(tmp_path: Path) -> None:
    import base64

    plants = Plants(words=("zanzibar-quokka",), tokens=((1, 70_000, 3),))
    ids = b"\x01\0\0\0\x70\x11\x01\0\x03\0\0\0"
    word = b"zanzibar-quokka"
    for number, data in enumerate(
        [
            b"..zanzibar-quokka..",
            "zanzibar-quokka".encode("utf-16"),
            b"xy" + word.hex().encode(),
            *(base64.b64encode(b"#" * shift + word + b"!?") for shift in range(4)),
            b"..." + ids,
            *(base64.urlsafe_b64encode(b"#" * shift + ids + b"!") for shift in range(4)),
            b"[1, 70000, 3]",
            b"[1,70000,3]",
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(data)
        assert scan(folder, plants).readable, data
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "file").write_bytes(b"nothing of the kind" * 100)
    assert scan(tmp_path / "clean", plants).readable == []
