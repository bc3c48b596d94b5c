"""API keys, the service's secrets and pseudonyms."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.init import write_home
from deploy.keys import rotate_handles
from schemas.completion import ConsentLevel
from schemas.errors import ConfigError, HandleRefused, NotFound
from schemas.feedback import AnswerTarget
from schemas.handles import HandleClaims, issue_handle, verify_handle
from server import pseudonyms
from server.auth import ApiKey, KeyFile, Scope
from server.errors import Forbidden, Unauthorized
from server.secrets import derive_secrets, load_secrets, rotate_handle_key


def make(keys: KeyFile, tenant: str = "acme", scopes: tuple[Scope, ...] = (Scope.CHAT,)) -> tuple[ApiKey, str]:
    return keys.create(tenant=tenant, scopes=scopes, default_consent=ConsentLevel.STORE)


def test_a_key_is_found_by_its_text_alone_and_kept_hashed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    keys = KeyFile(path)
    key, text = make(keys)
    prefix, key_id, secret = text.split("_")
    assert (prefix, key_id) == ("ak", key.id)
    assert keys.authenticate(f"Bearer {text}") == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in path.read_text()
    assert key.secret_hash not in repr(key)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic {text}",
        "{text}",
        "Bearer {text}0",
        "Bearer ak_0_0",
        "Bearer ak_{id}_",
        "Bearer é",
    ],
)
def test_nothing_else_is(tmp_path: Path, header: str | None) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key, text = make(keys)
    with pytest.raises(Unauthorized):
        keys.authenticate(header and header.format(text=text, id=key.id))


def test_scopes_do_not_include_each_other(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key, text = make(keys, scopes=(Scope.ADMIN, Scope.READ))
    assert keys.authorize(f"Bearer {text}", Scope.FEEDBACK, Scope.READ) == key
    with pytest.raises(Forbidden, match="chat"):
        keys.authorize(f"Bearer {text}", Scope.CHAT)


def test_another_process_may_change_the_file(tmp_path: Path) -> None:
    server, command = KeyFile(tmp_path / "keys.json"), KeyFile(tmp_path / "keys.json")
    key, text = make(command)
    assert server.authenticate(f"Bearer {text}").id == key.id
    command.revoke(key.id)
    with pytest.raises(Unauthorized, match="not valid"):
        server.authenticate(f"Bearer {text}")
    assert [one.revoked_at is None for one in server.list()] == [False]
    with pytest.raises(NotFound):
        command.revoke("nobody")


def _make_many(path: Path) -> list[str]:
    return [make(KeyFile(path))[0].id for _ in range(10)]


def test_writers_that_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(3) as pool:  # each with its own file and lock, as processes have
        made = [key_id for ids in pool.map(_make_many, [path] * 3) for key_id in ids]
    assert {key.id for key in KeyFile(path).list()} == set(made)
    assert len(made) == 30


def test_a_broken_file_and_wrong_values_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(ConfigError, match="no file of API keys"):
        KeyFile(tmp_path / "keys.json")
    with pytest.raises(ConfigError, match="tenant"):
        make(KeyFile(tmp_path / "other.json"), tenant="not a tenant")


def test_secrets_are_made_once_and_stay(tmp_path: Path) -> None:
    first, second = load_secrets(tmp_path), load_secrets(tmp_path)
    assert first == second
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert first.split_salt not in repr(first)
    assert os.listdir(tmp_path) == ["secrets.json"]


def _salt(folder: Path) -> str:
    return load_secrets(folder).split_salt


def test_replicas_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(_salt, [tmp_path / "shared"] * 8))) == 1


def claims(expires_at: int = 2_000) -> HandleClaims:
    target = AnswerTarget(completion_id="cmpl_1", choice=0, version=3)
    return HandleClaims(
        tenant="acme",
        api_key_id="k",
        end_user=None,
        conversation="c",
        policy="support",
        target=target,
        expires_at=expires_at,
    )


def test_old_handles_verify_after_a_rotation_until_their_key_is_dropped(tmp_path: Path) -> None:
    old = load_secrets(tmp_path)
    handle = issue_handle(claims(), old.keyring)
    new_id = rotate_handle_key(tmp_path)
    new = load_secrets(tmp_path)
    assert new.active_handle_key == new_id != old.active_handle_key
    assert verify_handle(handle, new.keyring, now=1_000) == claims()
    assert (new.pseudonym_key, new.split_salt) == (old.pseudonym_key, old.split_salt)
    for _ in range(3):
        rotate_handle_key(tmp_path)
    with pytest.raises(HandleRefused) as refused:
        verify_handle(handle, load_secrets(tmp_path).keyring, now=1_000)
    assert refused.value.reason == "unknown_key"


def test_a_root_secret_gives_the_same_everywhere() -> None:
    one, two = derive_secrets("correct horse battery"), derive_secrets("correct horse battery")
    assert one == two
    handle = issue_handle(claims(), one.keyring)
    assert verify_handle(handle, two.keyring, now=0) == claims()
    assert derive_secrets("incorrect horse battery").pseudonym_key != one.pseudonym_key
    assert len({bytes(one.pseudonym_key), bytes(one.handle_keys[one.active_handle_key])}) == 2
    with pytest.raises(ConfigError, match="16 characters"):
        derive_secrets("short")


def test_a_broken_secrets_file_is_refused(tmp_path: Path) -> None:
    load_secrets(tmp_path)
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "active_handle_key": "gone"}))
    with pytest.raises(ConfigError, match="gone"):
        load_secrets(tmp_path)


def test_pseudonyms_keep_tenants_and_kinds_apart() -> None:
    key = b"k" * 32
    names = {
        pseudonyms.end_user(key, "acme", "ann"),
        pseudonyms.end_user(key, "other", "ann"),
        pseudonyms.end_user(key, "acmea", "nn"),
        pseudonyms.end_user(b"l" * 32, "acme", "ann"),
        pseudonyms.conversation(key, "acme", "ann"),
        pseudonyms.conversation(key, "other", "ann"),
    }
    assert len(names) == 6
    assert not any("ann" in name for name in names)
    assert pseudonyms.end_user(key, "acme", "ann") == pseudonyms.end_user(key, "acme", "ann")
    assert pseudonyms.cache_salt(key, "acme") != pseudonyms.cache_salt(key, "other")


def test_an_operator_rotates_handle_keys_unless_they_follow_from_a_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write_home(tmp_path, model="none", policy="support", log="sqlite:///log.db")
    before = load_secrets(tmp_path / "server-data")
    rotate_handles(home.server)
    after = load_secrets(tmp_path / "server-data")
    assert after.active_handle_key not in before.handle_keys
    assert after.active_handle_key in capsys.readouterr().out
    assert before.handle_keys.items() <= after.handle_keys.items(), "handles that are out there still hold"
    monkeypatch.setenv("ATTUNE_CHAT__SECRET", "a root of sixteen letters and more")
    with pytest.raises(ConfigError, match=r"chat\.secret"):
        rotate_handles(home.server)
