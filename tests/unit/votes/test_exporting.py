"""Labels out of a snapshot: in TRL's shapes and ours, what is left out, and that no file is replaced."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from deploy.votes.exporting import Exported, Shape, export, snapshot_named
from deploy.votes.reading import VoteReader
from exchange.open import open_registry
from schemas.errors import Conflict, InvalidInput, NotFound
from schemas.event import Event
from tests.factories import Maker
from tests.unit.trainer.data.support import SCOPE, ledger_of, log_of
from tests.unit.trainer.data.test_imported import SETTINGS, imported
from trainer.snapshots.snapshot import Snapshot, cut_snapshot

ASKED = [{"role": "user", "content": "hello"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def story(make: Maker) -> list[Event]:
    """Every kind of label, by people of their own. The made-up answers' texts are one t for each token."""
    liked, left, right, wrong, tied = (
        make.completion(number, user=user, answers=[range(10, 11 + number)])
        for number, user in enumerate(("ann", "bob", "bob", "cyn", "dan"))
    )
    return [
        *(liked, left, right, wrong, tied),
        make.thumb(liked, user="ann"),
        make.comparison([left, right], 1, user="bob"),
        make.comparison([left, tied], "tie", user="dan"),
        make.correction(wrong, "how it should be", user="cyn"),
        imported(make, "good", "bad", user="eve"),
        imported(make, "fine", liked=False, user="eve", target="vote_2"),
        make.completion(900_000, user="clock"),
    ]


def cut(folder: Path, *events: Event) -> Snapshot:
    with ledger_of(log_of(events)) as ledger:
        return cut_snapshot(ledger, SCOPE, SETTINGS, folder)


def written(tmp_path: Path, make: Maker, shape: Shape) -> tuple[list[dict[str, Any]], Exported]:
    folder, out = tmp_path / "snapshot", tmp_path / f"{shape}.jsonl"
    snapshot = cut(folder, *story(make))
    exported = export(folder, snapshot.manifest, make.keys, shape, out)
    return [json.loads(line) for line in out.read_text().splitlines()], exported


def test_preferences_in_trls_conversational_shape(tmp_path: Path) -> None:
    lines, exported = written(tmp_path, Maker(), Shape.TRL_PREFERENCE)
    assert lines == [
        {"prompt": ASKED, "chosen": said("ttt"), "rejected": said("tt")},
        {"prompt": ASKED, "chosen": said("how it should be"), "rejected": said("tttt")},
        {"prompt": ASKED, "chosen": said("good"), "rejected": said("bad")},
    ]
    assert (exported.written, exported.left_out) == ({"preferences": 3}, {"tie": 1, "thumbs_have_no_place": 2})


def test_thumbs_in_trls_unpaired_shape(tmp_path: Path) -> None:
    lines, _ = written(tmp_path, Maker(), Shape.TRL_UNPAIRED)
    assert lines == [
        {"prompt": ASKED, "completion": said("t"), "label": True},
        {"prompt": ASKED, "completion": said("fine"), "label": False},
    ]


def test_our_own_shape_holds_all_of_them_and_is_read_again(tmp_path: Path) -> None:
    lines, _ = written(tmp_path, Maker(), Shape.JSONL)
    assert [line["user"] for line in lines] == ["bob", "ann", "cyn", "eve", "eve"]
    read = [found.vote for found in VoteReader([tmp_path / "jsonl.jsonl"]).read()]
    assert [vote and (vote.answers, vote.liked, vote.user) for vote in read][:2] == [
        (("ttt", "tt"), None, "bob"), (("t",), True, "ann"),
    ]  # fmt: skip


def test_erased_people_are_left_out_and_counted(tmp_path: Path) -> None:
    make = Maker()
    folder, out = tmp_path / "snapshot", tmp_path / "out.jsonl"
    snapshot = cut(folder, *story(make))
    for person in ("bob", "eve"):
        make.keys.destroy(person)
    exported = export(folder, snapshot.manifest, make.keys, Shape.JSONL, out)
    assert exported.left_out["key_destroyed"] == 3
    assert {json.loads(line)["user"] for line in out.read_text().splitlines()} == {"ann", "cyn"}


def test_no_file_is_replaced_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    make = Maker()
    folder, out = tmp_path / "snapshot", tmp_path / "out.jsonl"
    snapshot = cut(folder, *story(make))
    export(folder, snapshot.manifest, make.keys, Shape.JSONL, out)
    before = out.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(Conflict, match="exists"):
        export(folder, snapshot.manifest, make.keys, Shape.TRL_UNPAIRED, out)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot", "out.jsonl"}


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_snapshot_is_named_by_digest_or_is_the_newest_of_its_policy(tmp_path: Path, kind: str) -> None:
    registry = open_registry("memory:" if kind == "memory" else f"file://{tmp_path / 'registry'}")
    with pytest.raises(NotFound, match="no snapshot of support"):
        snapshot_named(registry, "support", None)
    manifests = []
    for number, policy in enumerate(("support", "support", "sales")):
        make = Maker(policy)
        folder = tmp_path / str(number)
        with ledger_of(log_of([make.completion(10_000 * (number + 1))]), policy=policy) as ledger:
            manifests.append(cut_snapshot(ledger, SCOPE, SETTINGS, folder).manifest)
        registry.publish_snapshot(folder, manifests[-1])
    assert snapshot_named(registry, "support", None) == manifests[1]
    assert snapshot_named(registry, "support", manifests[0].digest) == manifests[0]
    with pytest.raises(NotFound):
        snapshot_named(registry, "support", "support@v1")
    with pytest.raises(InvalidInput):
        snapshot_named(registry, "support", "support@v0")
    with pytest.raises(InvalidInput):
        snapshot_named(registry, "support", "../snapshots")


def test_the_command_says_how_many_of_what(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from deploy.cli import app
    from deploy.init import write_home
    from exchange.open import open_keys

    home = write_home(tmp_path / "home", model="x", policy="support", log="sqlite:///log.db").server
    make = Maker()
    make.keys = open_keys(f"sqlite:///{home.parent / 'keys.db'}")  # type: ignore[assignment]
    snapshot = cut(tmp_path / "snapshot", *story(make))
    make.keys.close()
    open_registry(f"file://{home.parent / 'registry'}").publish_snapshot(tmp_path / "snapshot", snapshot.manifest)
    out = tmp_path / "out.jsonl"
    told = CliRunner().invoke(app, ["feedback", "export", "--out", str(out), "-c", str(home)])
    assert told.exit_code == 0, told.exception
    assert f"wrote 3 preferences of 6 labels to {out}" in told.stdout.replace("\n", "")
    assert "left out: 2 thumbs_have_no_place" in told.stdout
    assert "an erasure no longer reaches it" in told.stderr
    again = CliRunner().invoke(app, ["feedback", "export", "--out", str(out), "-c", str(home)])
    assert isinstance(again.exception, Conflict)
