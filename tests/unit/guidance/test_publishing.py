"""Guidance in a registry: versions that never change, the newest in force, and what was in force when."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.init import write_home
from exchange.guidance import (
    find_guidance,
    in_force,
    publish_guidance,
    published_guidance,
    read_guidance,
)
from exchange.open import open_registry
from exchange.registry.memory import MemoryRegistry
from exchange.registry.port import Registry
from schemas.errors import Conflict, IntegrityError, InvalidInput, NotFound
from schemas.manifests import GuidanceKind, GuidanceManifest
from tests.unit.guidance.support import CONSTITUTION, GUIDELINES, PROMPTS

RULES, PRINCIPLES, ASKED = GuidanceKind.GUIDELINES, GuidanceKind.CONSTITUTION, GuidanceKind.PROMPTS


@pytest.fixture
def registry() -> Registry:
    return MemoryRegistry()


def test_the_newest_is_in_force_and_older_ones_stay(registry: Registry) -> None:
    first, fresh = publish_guidance(registry, RULES, "support", GUIDELINES)
    assert (first.version, fresh) == (1, True)
    assert publish_guidance(registry, RULES, "support", GUIDELINES) == (first, False)
    second, _ = publish_guidance(registry, RULES, "support", b"Be kind.", note="shorter")
    again, _ = publish_guidance(registry, RULES, "support", GUIDELINES)
    assert [one.version for one in (second, again)] == [2, 3]
    assert again.digest == first.digest != second.digest
    assert find_guidance(registry, RULES, "support", None) == again
    assert read_guidance(registry, find_guidance(registry, RULES, "support", 2)) == "Be kind."
    publish_guidance(registry, PRINCIPLES, "support", CONSTITUTION)
    assert [(one.kind, one.version) for one in published_guidance(registry, "support")] == [
        (RULES, 1),
        (RULES, 2),
        (RULES, 3),
        (PRINCIPLES, 1),
    ]
    with pytest.raises(NotFound, match="attune guidance publish prompts"):
        find_guidance(registry, ASKED, "support", None)
    with pytest.raises(InvalidInput, match="there is no text"):
        publish_guidance(registry, RULES, "support", b"")


def test_of_two_who_publish_at_once_one_is_told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_guidance(registry, RULES, "support", GUIDELINES)
    monkeypatch.setattr(registry, "guidance_versions", lambda kind, policy: ())
    with pytest.raises(Conflict, match="meanwhile"):
        publish_guidance(registry, RULES, "support", b"Be kind.")


def test_a_stored_file_that_keeps_no_contract_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "constitution.toml").write_bytes(b"principles = 5")
    made, _ = publish_guidance(registry, PRINCIPLES, "support", CONSTITUTION)
    from exchange.registry.artifacts import describe_folder
    from schemas.manifests import files_digest

    files = describe_folder(tmp_path)
    forged = made.model_copy(update={"version": 2, "files": files, "digest": files_digest(files)})
    registry.publish_guidance(tmp_path, forged)
    with pytest.raises(IntegrityError, match="principles"):
        read_guidance(registry, forged)


def version(kind: GuidanceKind, number: int, at: int) -> GuidanceManifest:
    return GuidanceManifest(
        kind=kind, policy="support", version=number, created_at=at, files={}, digest=f"{number:064x}"
    )


def test_a_version_is_in_force_until_the_next() -> None:
    published = (version(RULES, 3, 30), version(RULES, 1, 10), version(RULES, 2, 20), version(PRINCIPLES, 1, 25))

    def found(first: int, last: int) -> list[tuple[GuidanceKind, int]]:
        return [(one.kind, one.version) for one in in_force(published, first, last)]

    assert found(0, 9) == []
    assert found(5, 12) == [(RULES, 1)]
    assert found(20, 24) == [(RULES, 2)], "the second replaced the first at that moment"
    assert found(19, 30) == [(RULES, 1), (RULES, 2), (RULES, 3), (PRINCIPLES, 1)]
    assert found(100, 200) == [(RULES, 3), (PRINCIPLES, 1)]
    assert [one.since for one in in_force(published, 100, 200)] == [30, 25]


def test_the_commands_publish_list_and_show(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", model="none", policy="support", log="sqlite:///log.db")

    def attune(*words: str) -> str:
        files = ("-c", str(home.server))
        result = CliRunner().invoke(app, ["guidance", *words, *files], env={"COLUMNS": "200"}, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    file = tmp_path / "prompts.jsonl"
    file.write_bytes(PROMPTS)
    assert "prompts support@v1 published" in attune("publish", "prompts", "support", str(file), "-m", "first [ones]")
    assert "in force already" in attune("publish", "prompts", "support", str(file))
    file.write_bytes(PROMPTS.splitlines()[0])
    assert "prompts support@v2 published" in attune("publish", "prompts", "support", str(file))
    assert attune("show", "prompts", "support@v1").encode() == PROMPTS
    assert attune("show", "prompts", "support").encode() == PROMPTS.splitlines()[0]
    listed = attune("list", "support")
    assert "first [ones]" in listed
    assert listed.count("yes") == 1
    assert len(published_guidance(open_registry(f"file://{tmp_path}/home/registry"), "support")) == 2
    with pytest.raises(InvalidInput, match="no name of a policy"):
        attune("publish", "prompts", "../support", str(file))
    with pytest.raises(InvalidInput, match="cannot be read"):
        attune("publish", "prompts", "support", str(tmp_path / "none"))
